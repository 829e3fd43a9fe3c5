"""Runs in the sweep's own process, one at a time: for a debugger, and where processes are not wanted."""

import logging
import signal

from mnist_sweep.errors import Interrupted, RequestError, uninterrupted
from mnist_sweep.sweep.workers import NOT_BEGUN, Decide, Died, Ended, Event, Performer, Ready, Refused, Reported, Task
from mnist_sweep.sweep.workers.process import TRAIN, found, memory_mb, one_line

log = logging.getLogger(__name__)


class Inline:
    """A launcher without workers: a task is performed while `wait` is called, however long that takes.

    Args:
        performer: dotted name of what performs a task, ``package.module:function``.
    """

    def __init__(self, performer: str = TRAIN) -> None:
        self.workers = 1
        self._perform: Performer = found(performer)
        self._waiting: Task | None = None
        self._running: int | None = None
        self._stop: Interrupted | None = None  # what ends the running task
        self._events: list[Event] = [Ready(0, memory_mb())]

    def free(self) -> int:
        """One, but while a task waits to be performed."""
        return 0 if self._waiting else 1

    def submit(self, task: Task) -> None:
        """Remember a task for the next `wait`."""
        if self._waiting:
            raise ValueError("no worker is free")
        self._waiting = task

    def wait(self, timeout: float | None, decide: Decide) -> list[Event]:
        """Perform the task, see `Launcher.wait`; without one, return at once."""
        task, self._waiting = self._waiting, None
        if task:
            self._performed(task, decide)
        events, self._events = self._events, []
        return events

    def stop(self, task: int, *, hard: bool = False) -> None:
        """Forget a task that waits, interrupt one that reports; a process that goes on cannot kill itself."""
        if self._waiting and self._waiting.id == task:
            self._waiting = None
            self._events += [Died(task, NOT_BEGUN), Ready(0, memory_mb())]
        elif self._running == task and not self._stop:
            self._stop = Interrupted(signal.SIGTERM)

    def close(self) -> None:
        """Forget what was not begun."""
        self._waiting = None

    def _performed(self, task: Task, decide: Decide) -> None:
        faults: list[Exception] = []

        def report(epoch: int, values: dict[str, float]) -> bool:
            try:
                with uninterrupted():
                    go_on = decide(Reported(task.id, epoch, values))
            except Exception as error:  # the driver's fault, which the run must not take for its own
                faults.append(error)
                self.stop(task.id)
            if self._stop:
                raise self._stop
            return go_on

        event: Event = Died(task.id, "ended without a result")
        self._running, self._stop = task.id, None
        try:
            event = Ended(task.id, self._perform(task, report), 0)
        except RequestError as error:
            event = Refused(task.id, str(error))
        except Interrupted as interruption:
            recorded = interruption.result
            event = Died(task.id, NOT_BEGUN) if recorded is None else Ended(task.id, recorded, 0)
            if interruption is not self._stop:  # but a signal, which is meant for the driver
                raise
        except SystemExit as error:  # which would end a worker's process
            event = Died(task.id, f"exit code {error.code}")
        except Exception as error:
            log.exception("a bug in what performs task %d", task.id)
            event = Died(task.id, one_line(error))
        finally:
            self._running = None
            self._events += [event, Ready(0, memory_mb())]
        if faults:
            raise faults[0]
