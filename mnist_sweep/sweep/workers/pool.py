"""Runs given to a launcher's workers, and what comes back: a result for each, whatever became of its worker."""

import dataclasses
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from mnist_sweep.config.command import compose
from mnist_sweep.errors import RequestError, RunFailure, uninterrupted
from mnist_sweep.result import Result
from mnist_sweep.sweep.workers import Died, Ended, Event, Launcher, Refused, Reported, Task

log = logging.getLogger(__name__)

#: A run ends itself when its time is over; one that hangs is killed so many seconds later.
_GRACE = 30.0
#: So long a stopped run may take to record itself before its process is killed.
_PATIENCE = 60.0
#: So long after that it is waited to hear of its end.
_LAST_WAIT = 60.0

#: The result of a task; None where it was killed before it could record anything.
Outcome = tuple[Task, Result | None]


class Crew:
    """The workers of a launcher. A run whose worker dies is tried once more, from its last checkpoint.

    A context manager: at its end the workers are gone.

    Args:
        launch: opens the launcher: when `open` says so, or else as soon as there is something to do.
    """

    def __init__(self, launch: Callable[[], Launcher]) -> None:
        self._launch = launch
        self._launcher: Launcher | None = None
        self.running: dict[int, Task] = {}
        self._began: dict[int, float] = {}
        self._again: deque[Task] = deque()
        self._attempts: dict[int, int] = {}
        self._killed: dict[int, str] = {}
        self._stopping = False
        self._broken: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._launcher is not None:
            self._launcher.close()

    def open(self) -> None:
        """Open the launcher, so that its workers are ready sooner."""
        if self._launcher is None:
            self._launcher = self._launch()

    @property
    def launcher(self) -> Launcher:
        """Opened."""
        self.open()
        assert self._launcher is not None
        return self._launcher

    def free(self) -> int:
        """Tasks that can be submitted now."""
        if self._broken:
            return 0
        return max(0, self.launcher.free() - len(self._again))

    def submit(self, task: Task) -> None:
        """Give a task to a free worker."""
        with uninterrupted():  # what runs and what is known to run are one
            self.running[task.id] = task
            self._began[task.id] = time.monotonic()
            self._attempts[task.id] = self._attempts.get(task.id, 0) + 1
            self.launcher.submit(task)

    def wait(self, timeout: float | None, decide: Callable[[Reported], bool]) -> list[Outcome]:
        """What has come to its end meanwhile.

        Args:
            timeout: seconds.
            decide: whether a run may go on after an epoch.

        Raises:
            RunFailure: no worker can be started, or a task can no longer be composed.
            Interrupted: by a signal; `stop` comes next.
        """
        if self._broken:
            raise RunFailure("error", self._broken)
        self._kill_late()
        events = self.launcher.wait(timeout, decide)
        outcomes = [outcome for event in events for outcome in self._ended(event)]
        while self._again and self.launcher.free():
            self.submit(self._again.popleft())
        return outcomes

    def perform(self, tasks: Sequence[Task]) -> dict[int, Result]:
        """Perform all of these, as many at a time as there are workers.

        Returns:
            Their results by the tasks' ids.

        Raises:
            RunFailure: as in `wait`.
            Interrupted: after those that were running have recorded themselves.
        """
        left, results = deque(tasks), dict[int, Result]()
        try:
            while left or self.running:
                while left and self.free():
                    self.submit(left.popleft())
                for task, result in self.wait(1.0, lambda _: True):
                    if result is None or result.status == "interrupted":  # by somebody else than this process
                        left.append(dataclasses.replace(task, resume=True))
                    else:
                        results[task.id] = result
        finally:
            with uninterrupted():
                self.stop()
        return results

    def stop(self) -> list[Outcome]:
        """Interrupt all that runs; each records itself as interrupted, or is killed after a minute.

        What no worker knows of, since a signal came just when it ended, is given up after another minute.
        """
        self._stopping = True
        outcomes: list[Outcome] = [(self.running.pop(task.id), None) for task in self._again]
        self._again.clear()
        for task in [*self.running]:
            self.launcher.stop(task)
        deadline = time.monotonic() + _PATIENCE
        while self.running:
            if time.monotonic() > deadline + _LAST_WAIT:
                outcomes += [(self.running.pop(number), None) for number in [*self.running]]
                break
            if time.monotonic() > deadline:
                for task in [*self.running]:
                    self.launcher.stop(task, hard=True)
            for event in self.launcher.wait(1.0, lambda _: False):
                outcomes += self._ended(event)
        self._stopping = False
        return outcomes

    def _ended(self, event: Event) -> list[Outcome]:
        match event:
            case Ended(task=number, result=result):
                task = self.running.pop(number)
                del self._attempts[number]  # one that was interrupted may come again, and no worker of it has died
                return [(task, Result(**result))]
            case Refused(task=number, detail=detail):
                task = self.running.pop(number)
                return [(task, self._abandon(task, "error", detail))]
            case Died(task=number, detail=detail) if number is not None:
                if self._attempts[number] == 1 and not self._stopping and number not in self._killed:
                    log.warning("a worker died (%s); %s is tried once more", detail, _name(self.running[number]))
                    self._again.append(dataclasses.replace(self.running[number], resume=True))
                    return []
                task = self.running.pop(number)
                if self._stopping:
                    return [(task, None)]
                if number in self._killed:
                    return [(task, self._abandon(task, "timeout", self._killed[number]))]
                return [(task, self._abandon(task, "crashed", f"its worker died twice ({detail})"))]
        return []

    def _kill_late(self) -> None:
        now = time.monotonic()
        for number, task in self.running.items():
            if (
                task.limit_seconds
                and number not in self._killed
                and now > self._began[number] + task.limit_seconds + _GRACE
            ):
                self._killed[number] = f"longer than {task.limit_seconds:g} s, and did not answer any more"
                self.launcher.stop(number, hard=True)

    def _abandon(self, task: Task, reason: str, detail: str) -> Result | None:
        """The record of a run that could not write its own."""
        from mnist_sweep import unperformed

        try:
            config = compose(task.overrides, task.config_dir)
        except RequestError as error:  # a file of the configs has changed meanwhile: other tasks would fare no better
            self._broken = f"{_name(task)} could be composed when it was proposed, and now cannot: {error}"
            return None
        return unperformed.abandon(
            config,
            task.overrides,
            config_dir=task.config_dir,
            parent=task.parent,
            tags=task.tags,
            reason=reason,
            detail=detail,
        )


def _name(task: Task) -> str:
    names = [item.partition("=")[2] for item in task.overrides if item.startswith("name=")]
    return Path(names[0]).name if names else f"task {task.id}"
