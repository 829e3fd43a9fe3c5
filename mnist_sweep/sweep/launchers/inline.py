"""Runs in the sweep's own process, one at a time: for a debugger, and where processes are not wanted."""

from collections import deque

from mnist_sweep.errors import Interrupted, RequestError
from mnist_sweep.sweep.launchers import Decide, Ended, Event, Performer, Refused, Reported, Task
from mnist_sweep.sweep.launchers.worker import TRAIN, found


class Inline:
    """A launcher without workers: a task is performed while `wait` is called.

    Args:
        performer: dotted name of what performs a task, ``package.module:function``.
    """

    def __init__(self, performer: str = TRAIN) -> None:
        self._perform: Performer = found(performer)
        self._task: Task | None = None
        self._events: deque[Event] = deque()

    def free(self) -> int:
        """One, but while a task waits to be performed."""
        return 0 if self._task else 1

    def submit(self, task: Task) -> None:
        """Remember a task for the next `wait`."""
        if self._task:
            raise ValueError("no worker is free")
        self._task = task

    def wait(self, timeout: float | None, decide: Decide) -> list[Event]:
        """Perform the task.

        Raises:
            Interrupted: a signal came; what became of the task is told by the next call.
        """
        if self._task:
            task, self._task = self._task, None
            try:
                result = self._perform(task, lambda epoch, values: decide(Reported(task.id, epoch, values)))
            except RequestError as error:
                self._events.append(Refused(task.id, str(error)))
            except Interrupted as interruption:
                if interruption.result is not None:
                    self._events.append(Ended(task.id, interruption.result))
                raise
            else:
                self._events.append(Ended(task.id, result))
        events = list(self._events)
        self._events.clear()
        return events

    def stop(self, task: int, *, hard: bool = False) -> None:
        """Nothing: a task that runs is interrupted by the signal that the sweep itself got."""

    def close(self) -> None:
        """Forget what was not begun."""
        self._task = None
