"""What a person sees of a sweep while it lasts: one live view on a terminal, one line a trial elsewhere."""

import contextlib
import logging
import sys
import time
from collections.abc import Mapping
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mnist_sweep.config import schema
from mnist_sweep.result import Result
from mnist_sweep.sweep.candidates import Proposal
from mnist_sweep.sweep.stopping import Budget
from mnist_sweep.sweep.study import Study
from mnist_sweep.sweep.summary import in_digits, short

log = logging.getLogger(__name__)


class View:
    """Hears of every trial. A context manager.

    Args:
        config: of the sweep.
        study: what has been recorded.
        budget: of the sweep.
        total: trials that it comes to.
    """

    def __init__(self, config: schema.Config, study: Study, budget: Budget, total: int) -> None:
        assert config.sweep is not None
        self.total = total
        self.settings, self.study, self.budget = config.sweep, study, budget
        self.metric = study.goals[0].metric
        self.better = max if study.goals[0].direction == "maximize" else min
        self.started = time.monotonic()
        self.already = study.counted()
        self.running: dict[int, tuple[Proposal, int, float | None]] = {}
        self.best_at: dict[int, float] = {}  # the best value of all trials by epoch
        for trial in study.trials():
            for epoch, value in trial.intermediate_values.items():
                self.best_at[epoch] = self.better(value, self.best_at.get(epoch, value))
        self.live: Live | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self.live = Live(self._picture(), console=Console(stderr=True), refresh_per_second=4, transient=True)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            with contextlib.suppress(OSError):  # the terminal has been closed
                self.live.stop()

    def tick(self) -> None:
        """Draw the view again."""
        if self.live:
            self.live.update(self._picture())

    def began(self, number: int, proposal: Proposal) -> None:
        """A trial has been given to a worker."""
        if not self.running and self.study.counted() == self.already:
            self.started = time.monotonic()  # the workers are there
        self.running[number] = proposal, 0, None

    def reported(self, number: int, epoch: int, values: Mapping[str, float]) -> None:
        """A trial has come to the end of an epoch."""
        proposal, _, _ = self.running[number]
        value = values.get(self.metric)
        self.running[number] = proposal, epoch, value
        if value is not None:
            self.best_at[epoch] = self.better(value, self.best_at.get(epoch, value))

    def parked(self, number: int) -> None:
        """A trial has been interrupted, and goes on later."""
        self.running.pop(number, None)

    def ended(self, number: int, result: Result) -> None:
        """A trial has ended and is recorded."""
        self.running.pop(number, None)
        trial = self.study.trials()[number]
        values = zip(self.study.goals, trial.values or [], strict=False)
        measured = "  ".join(f"{goal.metric} {in_digits(value)}" for goal, value in values) or "no value"
        why = f" ({result.reason}: {result.detail})" if result.reason else ""
        same = f", equal to {result.duplicate_of}" if result.duplicate_of else ""
        log.info(
            "%3d of %d  trial %d %s%s%s  %s  %s  %d epoch%s, %.1f s",
            self.study.counted(),
            self.total,
            number,
            result.status,
            why,
            same,
            measured,
            self._best(),
            result.epochs,
            "s" * (result.epochs != 1),
            result.seconds,
        )

    def _best(self) -> str:
        if self.study.several:
            return f"front of {len(self.study.front())}"
        best = self.study.best()
        return f"best {in_digits(best.values[0])} (trial {best.number})" if best else "no best yet"

    def _left(self) -> str:
        """The time left: what a trial took so far, pruned ones included, for those that remain."""
        done = self.study.counted() - self.already
        if not done:
            return "time left: known when the first has ended" if self.running else "starting the workers"
        seconds = (time.monotonic() - self.started) / done * max(0, self.total - self.study.counted())
        if self.settings.budget_minutes is not None:
            seconds = min(seconds, max(0.0, 60 * self.settings.budget_minutes - self.budget.seconds()))
        minutes, rest = divmod(round(seconds), 60)
        return f"about {minutes}:{rest:02d} left"

    def _picture(self) -> Group:
        counts = self.study.counts()
        words = [
            f"{counts.get(state, 0)} {word}"
            for state, word in _WORDS.items()
            if counts.get(state) or state == "running"
        ]
        head = Text(f"{self.study.counted()} of {self.total} trials: {', '.join(words)}; {self._left()}")
        lines: list[Text | Table] = [head, Text(self._best(), style="bold")]
        if not self.study.several and (best := self.study.best()):
            lines.append(Text(best.user_attrs["result"]["command"], style="dim"))
        table = Table(box=None, pad_edge=False, expand=True)
        for column in ("trial", "epoch", self.metric, "best at that epoch"):
            table.add_column(column, no_wrap=True, min_width=len(column))
        table.add_column("proposed", overflow="ellipsis", no_wrap=True, ratio=1)
        for number, (proposal, epoch, value) in sorted(self.running.items()):
            table.add_row(
                str(number),
                f"{epoch} of {proposal.epochs}",
                in_digits(value) if value is not None else "",
                in_digits(self.best_at[epoch]) if epoch in self.best_at else "",
                "  ".join(map(short, proposal.drawn)),
            )
        return Group(*lines, table)


_WORDS = {"complete": "done", "pruned": "pruned", "fail": "failed", "infeasible": "impossible", "running": "running"}
