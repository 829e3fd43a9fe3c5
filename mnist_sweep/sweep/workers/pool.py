"""Runs trials on workers and returns one result each, even if a worker crashes."""

import contextlib
import dataclasses
import logging
import math
import subprocess
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any, Self

from mnist_sweep.errors import RequestError, RunFailure, check_interrupted
from mnist_sweep.result import Result
from mnist_sweep.sweep.workers.messages import Finished, Report, Task, Train
from mnist_sweep.sweep.workers.worker import Worker

log = logging.getLogger(__name__)

#: Is told which tasks run, and what has happened.
Show = Callable[[Sequence[Task], Sequence[Report | Finished]], None]
#: A run ends itself when its time is over. One that hangs is killed so many seconds later.
_GRACE = 30.0
#: Seconds that a stopped run may take to record itself before its process is killed.
_PATIENCE = 60.0
#: So many workers in one place that end in a row, none of which becomes ready again, mean that none ever will.
_MOST_DEATHS = 3


@dataclass(eq=False)
class Handle:
    """A worker as the sweep sees it."""

    connection: Connection
    process: subprocess.Popen[bytes] | None = None  # a thread has none
    ready: bool = False  # free for a task
    task: Task | None = None
    attempt: int = 0  # at this task
    begun: float = math.inf  # the attempt, on the monotonic clock
    first_mb: float = math.inf  # resident memory when it was ready, MB of 2**20 bytes

    @property
    def can_be_killed(self) -> bool:
        """Whether `close` ends it in the middle of a task."""
        return self.process is not None

    def begin(self, task: Task, attempt: int) -> None:
        """Give it a task; it is ready for one."""
        self.task, self.ready, self.attempt, self.begun = task, False, attempt, time.monotonic()
        self.send(task)

    def send(self, message: Any) -> None:
        """Tell the worker, unless it has died, which its connection shows."""
        with contextlib.suppress(OSError):
            self.connection.send(message)

    def close(self) -> str:
        """Hang up, which ends a thread after its task; kill a process. Returns how it ended, in a few words."""
        self.connection.close()
        if self.process is None:
            return "its thread ended"
        self.process.kill()
        code = self.process.wait()
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


class Workers:
    """Workers that start as soon as there is something to do, and are gone when the context ends.

    A run whose worker dies is tried once more, from its last checkpoint, by the first worker that is free. A worker
    that ran out of memory is replaced after its task; so is one that has grown.

    Args:
        size: runs at a time.
        start: starts the worker of a place, counted from 0.
        memory_growth_mb: that a worker may hold more than when new, MB of 2**20 bytes.
        hint: what else to try where workers cannot start.
        room: how many there may be now, where that changes.
        end: is called when all are gone.
    """

    def __init__(
        self,
        size: int,
        start: Callable[[int], Handle],
        memory_growth_mb: float = math.inf,
        hint: str = "",
        room: Callable[[], int] | None = None,
        end: Callable[[], None] | None = None,
    ) -> None:
        self.size, self._room, self._end = size, room, end
        self._start, self._growth, self._hint = start, memory_growth_mb, hint
        self._workers: dict[int, Handle] = {}  # by place
        self._deaths: Counter[int] = Counter()  # in a row, by place
        self._again: deque[tuple[Task, int]] = deque()  # of workers that died, each with the number of its next attempt
        self._events: list[Report | Finished] = []
        self._failure: RunFailure | None = None
        self._stopping = False

    @classmethod
    def inline(cls, train: Train) -> Self:
        """One worker in a thread of this process."""

        def start(_: int) -> Handle:
            ours, theirs = Pipe()
            threading.Thread(target=Worker(theirs).live, daemon=True).start()
            ours.send((train, None))
            return Handle(ours)

        return cls(1, start)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.close()
        if self._end:
            self._end()

    def _assign(self) -> None:
        """Give the tasks of workers that died to those that are ready."""
        for worker in self._workers.values():
            if worker.ready and self._again:
                worker.begin(*self._again.popleft())

    @property
    def running(self) -> dict[int, Task]:
        """The tasks that have not finished, by id."""
        again = {task.id: task for task, _ in self._again}
        return again | {worker.task.id: worker.task for worker in self._workers.values() if worker.task}

    def open(self) -> None:
        """Start the workers, so that they are ready sooner."""
        self.size = max(self.size, self._room() if self._room else 0)
        for place in range(len(self._workers), self.size):
            self._workers[place] = self._start(place)

    def free(self) -> int:
        """Tasks that can be submitted now."""
        self.open()
        return 0 if self._failure else sum(worker.ready for worker in self._workers.values())

    def submit(self, task: Task) -> None:
        """Give a task to a free worker; raises a ValueError where none is."""
        if not self.free():
            raise ValueError("no worker is free")
        worker = next(worker for worker in self._workers.values() if worker.ready)
        worker.begin(task, attempt=1)

    def events(self, timeout: float) -> list[Report | Finished]:
        """What has happened, as soon as there is an event or a worker becomes free, or after so many seconds.

        A RunFailure says that no worker can be started, or a run can no longer be recorded. `stop` comes next.
        """
        free, deadline = self.free(), time.monotonic() + timeout
        self._listen(timeout)
        while not (self._events or self._failure or self.free() > free) and (left := deadline - time.monotonic()) > 0:
            self._listen(left)
        if self._failure and not self._events:
            raise self._failure
        events, self._events = self._events, []
        return events

    def perform(self, tasks: Sequence[Task], show: Show | None = None) -> dict[int, Result]:
        """Perform all of these, as many at a time as there are workers; their results by the tasks' ids.

        `show` hears twice a second at least what runs and what has happened.

        Raises RunFailure as `events` does, and Interrupted after those that were running have recorded themselves.
        """
        left, results = deque(tasks), dict[int, Result]()
        try:
            while left or self.running:
                check_interrupted()
                while left and self.free():
                    self.submit(left.popleft())
                events = self.events(0.5)
                if show:
                    show([*self.running.values()], events)
                for event in events:
                    if isinstance(event, Report):
                        event.answer(True)
                    elif event.result is None or event.result.status == "interrupted":  # by somebody else
                        left.append(dataclasses.replace(event.task, resume=True))
                    else:
                        results[event.task.id] = event.result
        finally:
            self.stop()
        return results

    def stop(self) -> list[Finished]:
        """Interrupt all that runs and wait until each has recorded itself. What has not after a minute is killed.

        Returns what has finished since the last `events`.
        """
        self._stopping, deadline = True, time.monotonic() + _PATIENCE
        for worker in self._workers.values():
            if worker.task:
                worker.send(("stop", worker.task.id))
        self._events += [Finished(task, None) for task, _ in self._again]
        self._again.clear()
        while self.running and time.monotonic() < deadline:
            self._listen(0.5)
        for place, worker in self._workers.items():
            if worker.task:
                self._replace(place)
        self._stopping, events, self._events = False, self._events, []
        return [event for event in events if isinstance(event, Finished)]

    def _listen(self, timeout: float) -> None:
        """Hear what the workers say within this time, in seconds, and kill those that hang."""
        heard = wait([worker.connection for worker in self._workers.values()], timeout)
        for place, worker in self._workers.items():
            task = worker.task if worker.can_be_killed else None
            if worker.connection in heard:
                self._hear(place, worker)
            elif (
                task
                and task.limit_seconds
                and time.monotonic() > worker.begun + task.limit_seconds * task.seeds + _GRACE
            ):
                worker.close()
                detail = f"longer than {task.limit_seconds:g} s, and did not answer any more"
                self._finish(worker, self._abandon(task, "timeout", detail))
                self._replace(place)

    def _hear(self, place: int, worker: Handle) -> None:
        """Take one message, or the end of a process."""
        message: tuple[Any, ...] = "left", ""
        with contextlib.suppress(EOFError, OSError):
            message = worker.connection.recv()
        match message:
            case ("ready", memory_mb):
                self._deaths[place] = 0
                worker.ready, worker.first_mb = True, memory_mb
            case ("report", epoch, values) if worker.task:
                about = "answer", worker.task.id, epoch
                report = Report(worker.task.id, epoch, values, lambda go_on: worker.send((*about, go_on)))
                self._events.append(report)
            case ("unrecorded", detail):  # as on a full disk; the run goes on in another session
                self._failure = RunFailure("error", detail)
            case ("finished", result, memory_mb):
                self._finish(worker, result)
                worker.ready = True
                if memory_mb > worker.first_mb + self._growth or (result and result.reason == "out_of_memory"):
                    self._replace(place)
            case ("left", detail):
                self._replace(place, detail)
            case ("log", record):
                logging.getLogger(record.name).handle(record)
        self._assign()

    def _replace(self, place: int, detail: str = "") -> None:
        """Start another worker in the place of one, and decide what becomes of its task."""
        old, new = self._workers[place], self._start(place)
        ended = old.close()
        detail, self._workers[place] = detail or ended, new
        self._deaths[place] += 1
        if self._deaths[place] == _MOST_DEATHS:
            self._failure = RunFailure("crashed", f"a worker cannot start: {detail}{self._hint}")
        if old.task is None:
            return
        if self._stopping:
            self._finish(old, None)
        elif old.attempt == 2:
            self._finish(old, self._abandon(old.task, "crashed", f"its worker died twice ({detail})"))
        else:
            log.warning("a worker died (%s); %s is tried once more", detail, old.task.command.assigned()["name"])
            self._again.append((dataclasses.replace(old.task, resume=True), old.attempt + 1))

    def _finish(self, worker: Handle, result: Result | None) -> None:
        if worker.task:
            self._events.append(Finished(worker.task, result))
        worker.task = None

    def _abandon(self, task: Task, reason: str, detail: str) -> Result | None:
        """Record a run that could not record itself."""
        from mnist_sweep.run_record import abandon

        try:
            about: dict[str, Any] = {"parent": task.parent, "tags": task.tags, "seeds": task.seeds}
            return abandon(task.command, reason=reason, detail=detail, **about)
        except (RequestError, RunFailure) as error:  # a file of the configs has changed, or the disk is full
            name = task.command.assigned()["name"]
            self._failure = RunFailure("error", f"the failure of {name} cannot be recorded: {error}")
            return None
