"""Runs trials on workers and returns one result each, even if a worker crashes."""

import dataclasses
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Self

from mnist_sweep.errors import RequestError, RunFailure, check_interrupted
from mnist_sweep.result import Result
from mnist_sweep.sweep.workers.messages import Finished, Report, Task, Train
from mnist_sweep.sweep.workers.start import Process, Thread
from mnist_sweep.sweep.workers.worker import Setup

log = logging.getLogger(__name__)

#: A run ends itself when its time is over. One that hangs is killed so many seconds later.
_GRACE = 30.0
#: Seconds that a stopped run may take to record itself before its process is killed.
_PATIENCE = 60.0
#: So many processes in one place that end before they are ready mean that none ever will be.
_MOST_FAILED_STARTS = 3


@dataclasses.dataclass(eq=False)
class _Worker:
    """A worker as the sweep sees it.

    Attributes:
        place: counted from 0. A worker that replaces another one has the same.
        handle: its process or thread.
        failed_starts: workers before it in this place that ended before they were ready.
        begun: it has been ready once.
        ready: it is free for a task.
        task: the one that it performs.
        deadline: when a task that hangs is killed, on the monotonic clock.
        overdue: it was killed for that.
    """

    place: int
    handle: Process | Thread
    failed_starts: int = 0
    begun: bool = False
    ready: bool = False
    task: Task | None = None
    deadline: float = math.inf
    overdue: bool = False


class Workers:
    """Workers that are started as soon as there is something to do, and are gone when the context ends.

    A run whose worker dies is tried once more from its last checkpoint. A run that hangs is killed. A worker whose memory
    has grown is replaced between two runs.

    Args:
        size: runs at a time.
        start: starts the worker of a place, counted from 0.
        hint: what else to try where workers cannot start.

    Attributes:
        running: the tasks that have been submitted and have not finished, by id.
    """

    def __init__(self, size: int, start: Callable[[int], Process | Thread], hint: str = "") -> None:
        self.size = size
        self.running: dict[int, Task] = {}
        self._start, self._hint = start, hint
        self._workers: list[_Worker] = []
        self._events: list[Report | Finished] = []
        self._again: deque[Task] = deque()  # their worker died; they wait for another one
        self._retried: set[int] = set()
        self._failure: RunFailure | None = None
        self._stopping = False

    @classmethod
    def inline(cls, train: Train) -> Self:
        """One worker in a thread of this process. It cannot be killed."""
        return cls(1, lambda _: Thread(Setup(train)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            if worker.ready:
                worker.handle.send(None)
            else:
                worker.handle.kill()
        for worker in self._workers:
            worker.handle.join()
        self._workers.clear()

    def open(self) -> None:
        """Start the workers, so that they are ready sooner."""
        if not self._workers and self._failure is None:
            self._workers = [_Worker(place, self._start(place)) for place in range(self.size)]

    def free(self) -> int:
        """Tasks that can be submitted now."""
        self.open()
        ready = sum(worker.ready for worker in self._workers)
        return 0 if self._failure else max(0, ready - len(self._again))

    def submit(self, task: Task) -> None:
        """Give a task to a free worker.

        Raises:
            ValueError: no worker is free.
        """
        if not self.free():
            raise ValueError("no worker is free")
        self.running[task.id] = task
        self._give(task)

    def events(self, timeout: float) -> list[Report | Finished]:
        """What has happened: at least one event, unless the time is over.

        Args:
            timeout: seconds.

        Raises:
            RunFailure: no worker can be started, or a task can no longer be composed. No event is lost: `stop` returns
                the rest.
        """
        self.open()
        deadline = time.monotonic() + timeout
        while True:
            left = max(0.0, deadline - time.monotonic())
            self._listen(0.0 if self._events else left)
            if self._failure and not self._events:
                raise self._failure
            if self._events or not left:
                events, self._events = self._events, []
                return events

    def perform(self, tasks: Sequence[Task]) -> dict[int, Result]:
        """Perform all of these, as many at a time as there are workers.

        Returns:
            The results by the tasks' ids.

        Raises:
            RunFailure: as in `events`.
            Interrupted: after those that were running have recorded themselves.
        """
        left, results = deque(tasks), dict[int, Result]()
        try:
            while left or self.running:
                check_interrupted()
                while left and self.free():
                    self.submit(left.popleft())
                for event in self.events(0.5):
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
        """Interrupt all that runs and wait until each has recorded itself; what does not is killed after a minute.

        Returns:
            What has finished and was not returned by `events`. A result is None where nothing was recorded.
        """
        self._stopping = True
        while self._again:
            self._finish(self._again.popleft(), None)
        for worker in self._workers:
            if worker.task:
                worker.handle.send(("stop", worker.task.id))
        deadline = time.monotonic() + _PATIENCE
        while self.running and time.monotonic() < deadline:
            self._listen(0.5)
        for worker in self._workers:
            if worker.task:
                worker.handle.kill()
                self._release(worker, None)
        self._stopping = False
        events, self._events = self._events, []
        return [event for event in events if isinstance(event, Finished)]

    def _give(self, task: Task) -> None:
        worker = next(worker for worker in self._workers if worker.ready)
        worker.ready, worker.task = False, task
        worker.deadline = time.monotonic() + (math.inf if task.limit_seconds is None else task.limit_seconds + _GRACE)
        worker.handle.send(task)

    def _listen(self, timeout: float) -> None:
        """Hear what the workers say within this time, in seconds, and kill those that hang."""
        for worker in self._workers:
            if worker.task and time.monotonic() > worker.deadline:
                worker.overdue = True
                worker.handle.kill()
        by_connection = {worker.handle.connection: worker for worker in self._workers}
        for connection in wait(list(by_connection), timeout):
            assert isinstance(connection, Connection)
            self._hear(by_connection[connection])
        while self._again and any(worker.ready for worker in self._workers):
            self._give(self._again.popleft())

    def _hear(self, worker: _Worker) -> None:
        """Take one message, or the end of a process."""
        try:
            message: tuple[Any, ...] = worker.handle.connection.recv()
        except (EOFError, OSError):
            self._replace(worker)
            return
        task = worker.task
        match message:
            case ("ready",):
                worker.begun = worker.ready = True
            case ("report", epoch, values) if task:
                self._events.append(Report(task.id, epoch, values, self._reply(worker, task.id, epoch)))
            case ("finished", result) if task:
                self._release(worker, result)
            case ("refused", detail) if task:
                self._release(worker, self._abandon(task, "error", detail))
            case ("left", detail):
                self._replace(worker, detail)
            case ("log", name, level, text):
                logging.getLogger(name).log(level, "%s", text)

    def _reply(self, worker: _Worker, task: int, epoch: int) -> Callable[[bool], None]:
        return lambda go_on: worker.handle.send(("answer", task, epoch, go_on))

    def _replace(self, worker: _Worker, detail: str = "") -> None:
        """Start another worker in the place of one that has ended, and decide what becomes of its task."""
        ended = worker.handle.join()
        detail = detail or ended
        if task := worker.task:
            if self._stopping:
                self._release(worker, None)
            elif worker.overdue:
                late = f"longer than {task.limit_seconds:g} s, and did not answer any more"
                self._release(worker, self._abandon(task, "timeout", late))
            elif task.id in self._retried:
                self._release(worker, self._abandon(task, "crashed", f"its worker died twice ({detail})"))
            else:
                log.warning("a worker died (%s); %s is tried once more", detail, _name(task))
                self._retried.add(task.id)
                self._again.append(dataclasses.replace(task, resume=True))
        index = self._workers.index(worker)
        failed_starts = 0 if worker.begun else worker.failed_starts + 1
        if failed_starts < _MOST_FAILED_STARTS:
            self._workers[index] = _Worker(worker.place, self._start(worker.place), failed_starts)
        else:
            del self._workers[index]
            self._failure = RunFailure("crashed", f"a worker cannot start: {detail}{self._hint}")

    def _release(self, worker: _Worker, result: Result | None) -> None:
        assert worker.task
        self._finish(worker.task, result)
        worker.task = None

    def _finish(self, task: Task, result: Result | None) -> None:
        del self.running[task.id]
        self._retried.discard(task.id)
        self._events.append(Finished(task, result))

    def _abandon(self, task: Task, reason: str, detail: str) -> Result | None:
        """Record a run that could not record itself."""
        from mnist_sweep.run_record import abandon

        try:
            return abandon(task.command, parent=task.parent, tags=task.tags, reason=reason, detail=detail)
        except RequestError as error:  # a file of the configs has changed; other tasks would fare no better
            line = f"{_name(task)} could be composed when it was proposed, and now cannot: {error}"
            self._failure = RunFailure("error", line)
            return None


def _name(task: Task) -> str:
    return str(task.command.config.name)
