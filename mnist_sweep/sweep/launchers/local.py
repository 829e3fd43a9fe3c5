"""Warm worker processes on this machine."""

import contextlib
import logging
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from mnist_sweep.errors import RunFailure
from mnist_sweep.sweep.launchers import Decide, Died, Ended, Event, Refused, Reported, Task
from mnist_sweep.sweep.launchers.worker import TRAIN, main

#: So many workers in a row that die before they are ready mean that none ever will be.
_MOST_STILLBORN = 3
#: Seconds that an idle worker may take to leave.
_FAREWELL = 10.0

# Not a fork: torch's thread pools do not survive one. (https://docs.python.org/3/library/multiprocessing.html)
_SPAWN = multiprocessing.get_context("spawn")


@dataclass
class _Worker:
    """A process as the driver sees it."""

    index: int
    process: SpawnProcess
    connection: Connection
    task: int | None = None
    ready: bool = False
    first_memory_mb: float | None = None
    leaving: bool = False
    last_words: str = ""


class Local:
    """A launcher with worker processes on this machine.

    Args:
        workers: processes, each of which performs one task at a time.
        threads: of the processor, for each.
        gpus: as CUDA_VISIBLE_DEVICES names them; the workers take them in turn. Empty = as the environment has it.
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
        self._threads, self._gpus, self._growth = threads, gpus, memory_growth_mb
        self._performer = performer
        self._warm = (warm_up, config_dir) if warm_up is not None else None
        self._stillborn = 0
        self._workers = [self._started(index) for index in range(workers)]

    def free(self) -> int:
        """Workers that are ready for a task."""
        return sum(worker.ready for worker in self._workers)

    def submit(self, task: Task) -> None:
        """Give a task to a free worker.

        Raises:
            ValueError: no worker is free.
        """
        worker = next((worker for worker in self._workers if worker.ready), None)
        if worker is None:
            raise ValueError("no worker is free")
        worker.ready, worker.task = False, task.id
        with contextlib.suppress(OSError):  # it has died: `wait` finds out
            worker.connection.send(("task", task))

    def wait(self, timeout: float | None, decide: Decide) -> list[Event]:
        """What has happened, see `Launcher.wait`."""
        events: list[Event] = []
        by_connection = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(by_connection), timeout):
            assert isinstance(connection, Connection)
            events += self._heard(by_connection[connection], decide)
        return events

    def stop(self, task: int, *, hard: bool = False) -> None:
        """End a run, see `Launcher.stop`."""
        for worker in self._workers:
            if worker.task == task:
                if hard:
                    worker.process.kill()
                else:
                    with contextlib.suppress(OSError):
                        worker.connection.send(("stop", task))

    def close(self) -> None:
        """Ask the idle workers to leave, kill the others."""
        for worker in self._workers:
            if worker.task is None:
                with contextlib.suppress(OSError):
                    worker.connection.send(("exit",))
            else:
                worker.process.kill()
        for worker in self._workers:
            worker.process.join(_FAREWELL)
            self._buried(worker)
        self._workers = []

    def _started(self, index: int) -> _Worker:
        environment = {"OMP_NUM_THREADS": str(self._threads)}
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[index % len(self._gpus)]
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(
            target=main, args=(theirs, self._performer, environment, self._warm), name=f"worker {index}", daemon=True
        )
        with _interrupts_blocked():
            process.start()
        theirs.close()  # so that the end of the process is the end of the connection
        return _Worker(index, process, ours)

    def _heard(self, worker: _Worker, decide: Decide) -> Iterator[Event]:
        """What a worker has said, or that it is gone."""
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            yield from self._gone(worker)
            return
        match message:
            case ("ready", memory_mb):
                self._ready(worker, memory_mb)
            case ("report", task, epoch, values):
                go_on = decide(Reported(task, epoch, values))
                with contextlib.suppress(OSError):
                    worker.connection.send(("answer", go_on))
            case ("ended", task, result):
                worker.task = None
                worker.leaving = result.get("reason") == "out_of_memory"
                yield Ended(task, result)
            case ("interrupted", task):
                worker.task = None
                yield Died(task, "interrupted before it began")
            case ("refused", task, detail):
                worker.task = None
                yield Refused(task, detail)
            case ("log", name, level, text):
                logging.getLogger(name).log(level, "%s", text)
            case ("error", detail):
                worker.last_words = detail

    def _ready(self, worker: _Worker, memory_mb: float) -> None:
        self._stillborn = 0
        if worker.first_memory_mb is None:
            worker.first_memory_mb = memory_mb
        if worker.leaving or memory_mb > worker.first_memory_mb + self._growth:
            worker.leaving = True
            with contextlib.suppress(OSError):
                worker.connection.send(("exit",))
        else:
            worker.ready = True

    def _gone(self, worker: _Worker) -> Iterator[Event]:
        """A worker's process has ended: another one takes its place."""
        worker.process.join(_FAREWELL)
        code = worker.process.exitcode
        how = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        detail = worker.last_words or how
        self._buried(worker)
        if worker.first_memory_mb is None:
            self._stillborn += 1
            if self._stillborn >= _MOST_STILLBORN:
                self._workers.remove(worker)
                raise RunFailure("crashed", f"a worker cannot start: {detail}")
        self._workers[self._workers.index(worker)] = self._started(worker.index)
        if not worker.leaving:
            yield Died(worker.task, detail)

    @staticmethod
    def _buried(worker: _Worker) -> None:
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
    before: set[Any] = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
