"""Warm worker processes on this machine."""

import contextlib
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from mnist_sweep.errors import RunFailure, uninterrupted
from mnist_sweep.sweep.workers import NOT_BEGUN, Decide, Died, Ended, Event, Ready, Refused, Reported, Task
from mnist_sweep.sweep.workers.process import FAREWELL, TRAIN, main

#: So many processes in one worker's place that die in a row before they are ready mean that none ever will be.
_MOST_STILLBORN = 3

#: oneDNN and torch's layer over it keep what they prepared for each shape of tensor, by default for the last 1,024 of
#: them each: over a sweep of many networks hundreds of megabytes. One network of ten convolutions needs about 100.
_SMALL_CACHES = {"LRU_CACHE_CAPACITY": "256", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256"}

#: glibc asks Linux for large pages, of 2 MB, for all that it allocates, where the system grants them to who asks
#: ("Memory Allocation Tunables" in glibc's manual). Elsewhere nothing comes of it.
_LARGE_PAGES = "glibc.malloc.hugetlb=1"

# Not a fork: torch's thread pools do not survive one. (https://docs.python.org/3/library/multiprocessing.html)
_SPAWN = multiprocessing.get_context("spawn")


@dataclass
class _Worker:
    """A process as the driver sees it.

    Attributes:
        place: counted from 0; which GPU it has.
        process: of the worker.
        connection: to it.
        stillborn: processes before it in this place that died before they were ready.
        task: that it is at.
        ready: free for a task.
        first_memory_mb: when it was ready for the first time; None = not yet.
        leaving: ends by itself, and takes no more tasks.
        last_words: the exception that ended it.
    """

    place: int
    process: SpawnProcess
    connection: Connection
    stillborn: int = 0
    task: int | None = None
    ready: bool = False
    first_memory_mb: float | None = None
    leaving: bool = False
    last_words: str = ""

    def send(self, *message: Any) -> None:
        """Tell the process, unless it has died; `Local.wait` finds out."""
        with contextlib.suppress(OSError):
            self.connection.send(message)


class Local:
    """A launcher with worker processes on this machine.

    Args:
        workers: processes, each of which performs one task at a time.
        threads: of the processor, for each.
        gpus: as CUDA_VISIBLE_DEVICES names them; the workers take them in turn. Empty = the CPU.
        memory_growth_mb: a worker whose resident memory is so much more than when it was new is replaced, between two
            tasks; so is one that ran out of memory.
        performer: dotted name of what performs a task, ``package.module:function``.
        warm_up: overrides of a config whose data set each worker loads before it is ready; None = nothing.
        config_dir: the further folder of configs for these.
    """

    def __init__(
        self,
        workers: int,
        *,
        threads: int,
        gpus: Sequence[str] = (),
        memory_growth_mb: float,
        performer: str = TRAIN,
        warm_up: list[str] | None = None,
        config_dir: str | None = None,
    ) -> None:
        self.workers = workers
        self._threads, self._gpus, self._growth = threads, gpus, memory_growth_mb
        self._performer = performer
        self._warm = (warm_up, config_dir) if warm_up is not None else None
        self._events: list[Event] = []
        self._failure: RunFailure | None = None
        self._workers: list[_Worker] = []
        with uninterrupted():  # so that no process is started that nobody knows of
            try:
                for place in range(workers):
                    self._workers.append(self._started(place))
            except BaseException:
                self.close()
                raise

    def free(self) -> int:
        """Tasks that can be submitted now."""
        return sum(worker.ready for worker in self._workers)

    def submit(self, task: Task) -> None:
        """Give a task to a free worker.

        Raises:
            ValueError: no worker is free.
        """
        worker = next((worker for worker in self._workers if worker.ready), None)
        if worker is None:
            raise ValueError("no worker is free")
        with uninterrupted():
            worker.ready, worker.task = False, task.id
            worker.send("task", task)

    def wait(self, timeout: float | None, decide: Decide) -> list[Event]:
        """What has happened, see `Launcher.wait`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        left = timeout
        while True:
            if self._failure and not self._workers and not self._events:
                raise self._failure
            by_connection = {worker.connection: worker for worker in self._workers}
            heard = wait(list(by_connection), 0 if self._events else left)
            with uninterrupted():  # a signal ends the waiting, and never loses half a message or an event
                for connection in heard:
                    assert isinstance(connection, Connection)
                    self._hear(by_connection[connection], decide)
            if self._events or left == 0:
                events, self._events = self._events, []
                return events
            if deadline is not None:
                left = max(0.0, deadline - time.monotonic())

    def stop(self, task: int, *, hard: bool = False) -> None:
        """End a run, see `Launcher.stop`."""
        for worker in self._workers:
            if worker.task == task:
                if hard:
                    worker.process.kill()
                else:
                    with uninterrupted():
                        worker.send("stop", task)

    def close(self) -> None:
        """Ask the idle workers to leave, kill the others."""
        with uninterrupted():
            for worker in self._workers:
                if worker.ready or worker.leaving:
                    worker.send("exit")
                else:
                    worker.process.kill()
            deadline = time.monotonic() + FAREWELL
            for worker in self._workers:
                worker.process.join(max(0.0, deadline - time.monotonic()))
                _bury(worker)
            self._workers.clear()

    def _started(self, place: int, stillborn: int = 0) -> _Worker:
        # without one it is hidden from torch, which would look for it in each step
        gpu = self._gpus[place % len(self._gpus)] if self._gpus else ""
        environment = {"OMP_NUM_THREADS": str(self._threads), "CUDA_VISIBLE_DEVICES": gpu, **_SMALL_CACHES}
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(
            target=main, args=(theirs, self._performer, environment, self._warm), name=f"worker {place}", daemon=True
        )
        # closed here, so that the end of the process is the end of the connection
        with theirs, _interrupts_blocked(), _large_pages():
            process.start()
        return _Worker(place, process, ours, stillborn)

    def _hear(self, worker: _Worker, decide: Decide) -> None:
        """What a worker says, or that it is gone."""
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            self._replace(worker)
            return
        match message:
            case ("ready", memory_mb):
                self._ready(worker, memory_mb)
            case ("report", asked, task, epoch, values):
                worker.send("answer", asked, decide(Reported(task, epoch, values)))
            case ("ended", task, result):
                worker.task = None
                worker.leaving |= result.get("reason") == "out_of_memory"
                self._events.append(Ended(task, result, worker.place))
            case ("not begun", task):
                worker.task = None
                self._events.append(Died(task, NOT_BEGUN))
            case ("refused", task, detail):
                worker.task = None
                self._events.append(Refused(task, detail))
            case ("leaving",):
                worker.ready, worker.leaving = False, True
            case ("log", name, level, text):
                logging.getLogger(name).log(level, "%s", text)
            case ("error", detail):
                worker.last_words = detail

    def _ready(self, worker: _Worker, memory_mb: float) -> None:
        if worker.first_memory_mb is None:
            worker.first_memory_mb = memory_mb
        if worker.leaving or memory_mb > worker.first_memory_mb + self._growth:
            worker.leaving = True
            worker.send("exit")
        else:
            worker.ready = True
            self._events.append(Ready(worker.place, memory_mb))

    def _replace(self, worker: _Worker) -> None:
        """Start another process in the place of one that has ended."""
        worker.process.join(FAREWELL)
        code = worker.process.exitcode
        how = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        detail = worker.last_words or how
        _bury(worker)
        index = self._workers.index(worker)
        del self._workers[index]
        if worker.task is not None or not worker.leaving:
            self._events.append(Died(worker.task, detail))
        stillborn = worker.stillborn + 1 if worker.first_memory_mb is None else 0
        if stillborn < _MOST_STILLBORN:
            self._workers.insert(index, self._started(worker.place, stillborn))
        elif self._failure is None:  # once: the others go on, so that what they are at can be ended in good order
            shared = 0 < len(self._gpus) < self.workers
            advice = f"; with sweep.workers={len(self._gpus)} each has a GPU of its own" if shared else ""
            self._failure = RunFailure("crashed", f"a worker cannot start: {detail}{advice}")
            raise self._failure


def _bury(worker: _Worker) -> None:
    """Leave nothing of a worker, neither a zombie nor an open pipe."""
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()
    worker.connection.close()
    worker.process.close()


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """A process started within never sees the Ctrl-C of the terminal: it inherits the mask from its first instruction.

    Only the driver decides what becomes of the runs. For the driver itself the signal waits until the end of the block.
    """
    resource_tracker.ensure_running()  # which else would be started within, and unblocks SIGINT (CPython 3.11)
    before: set[Any] = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _large_pages() -> Iterator[None]:
    """A process started within keeps its memory in large pages; what the user has set for the library stays in force.

    The library reads it as a process begins, before a worker could set it for itself.
    """
    name = "GLIBC_TUNABLES"
    given = os.environ.get(name)
    os.environ[name] = f"{_LARGE_PAGES}:{given}" if given else _LARGE_PAGES
    try:
        yield
    finally:
        if given is None:
            del os.environ[name]
        else:
            os.environ[name] = given
