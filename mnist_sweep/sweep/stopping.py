"""When a sweep has had enough: its time, its target, or the same failure again and again."""

import math
import time

from mnist_sweep.config.metrics import Direction
from mnist_sweep.config.sweep_options import Sweep
from mnist_sweep.errors import RunFailure
from mnist_sweep.result import Result


class Stopping:
    """Decides when no further trial is begun although the total is not reached.

    Args:
        settings: ``sweep.budget_minutes``, ``budget_epochs``, ``target``, ``max_consecutive_failures``.
        direction: of the objective.
        spent: seconds that earlier sessions took.
    """

    def __init__(self, settings: Sweep, direction: Direction, spent: float) -> None:
        self.settings, self.direction = settings, direction
        self._spent, self._started = spent, time.monotonic()
        self._reached: float | None = None
        self._failure: tuple[str, str] | None = None
        self._repeated = 0

    def seconds(self) -> float:
        """That all sessions have taken."""
        return self._spent + time.monotonic() - self._started

    def value(self, value: float) -> None:
        """Take note of a complete trial's objective."""
        target = self.settings.target
        if target is not None and (value >= target if self.direction == "maximize" else value <= target):
            self._reached = value

    def ended(self, result: Result) -> None:
        """Take note of how a trial ended.

        Raises:
            RunFailure: this was the last of so many failures of the same kind in a row.
        """
        if result.status != "failed":
            self._failure, self._repeated = None, 0
            return
        reason, detail = str(result.reason), str(result.detail)
        kind = (reason, detail if reason == "error" else "")  # other details hold numbers of the trial
        self._repeated = self._repeated + 1 if kind == self._failure else 1
        self._failure = kind
        if self._repeated >= self.settings.max_consecutive_failures:
            raise RunFailure(reason, f"{self._repeated} trials in a row failed with the same error: {detail}")

    def left(self, epochs: int) -> float:
        """The epochs that are left, after so many; infinity without a limit."""
        return math.inf if self.settings.budget_epochs is None else self.settings.budget_epochs - epochs

    def over(self, epochs: int = 0) -> str | None:
        """Why no further trial is begun, after so many epochs of all trials; None while trials go on."""
        if self._reached is not None:
            return f"the target {self.settings.target:g} is reached ({self._reached:.4f})"
        minutes = self.settings.budget_minutes
        if minutes is not None and self.seconds() >= 60 * minutes:
            return f"the budget of {minutes:g} minutes is spent"
        if self.left(epochs) <= 0:
            return f"the budget of {self.settings.budget_epochs} epochs is spent"
        return None
