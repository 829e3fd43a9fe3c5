"""What runs in a worker's process: tasks one after another, until the driver says so or is gone.

Nothing heavy is imported before the worker knows its threads and its GPU.
"""

import contextlib
import gc
import importlib
import logging
import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any

import psutil

from mnist_sweep.errors import Interrupted, RequestError, interruptible, masked, uninterrupted
from mnist_sweep.sweep.workers import Performer, Task

log = logging.getLogger(__name__)

#: The performer that trains.
TRAIN = f"{__name__}:train"
#: Seconds that a worker may take to leave, with all that its libraries want to do at the end.
FAREWELL = 10.0


def train(task: Task, report: Callable[[int, dict[str, float]], bool]) -> dict[str, Any]:
    """Perform a task for real: compose its overrides and run them.

    Returns:
        The fields of the result, also of a run that failed.

    Raises:
        RequestError: the overrides cannot be composed, or the run cannot be begun.
        Interrupted: with what the run recorded as its ``result``.
    """
    from mnist_sweep.config.command import compose
    from mnist_sweep.result import Result
    from mnist_sweep.run import run
    from mnist_sweep.run_record import folder_of
    from mnist_sweep.training import trainer as training

    config = compose(task.overrides, task.config_dir)
    try:
        return asdict(
            run(
                config,
                task.overrides,
                config_dir=task.config_dir,
                report=report,
                parent=task.parent,
                tags=task.tags,
                resume=task.resume,
                limit_seconds=task.limit_seconds,
            )
        )
    except Interrupted as interruption:
        with contextlib.suppress(FileNotFoundError):
            interruption.result = asdict(Result.read(folder_of(config)))
        raise
    finally:
        training.release_memory()


def warm_up(overrides: list[str], config_dir: str | None) -> None:
    """Import what a run needs and load the data set of these overrides, once for all tasks."""
    import torch

    from mnist_sweep import tracking
    from mnist_sweep.config import schema
    from mnist_sweep.config.command import compose
    from mnist_sweep.training import data

    config = compose(overrides, config_dir)
    data.parts(config.data)
    importlib.import_module("mnist_sweep.run")
    if isinstance(config.tracking, schema.MLflow):
        tracking.warm_up()
    if config.trainer.accelerator != "cpu" and torch.cuda.is_available():
        torch.zeros(1, device="cuda")  # CUDA's own memory must not count as growth


def found(performer: str) -> Performer:
    """The function of a dotted name ``package.module:function``."""
    module, _, name = performer.partition(":")
    function: Performer = getattr(importlib.import_module(module), name)
    return function


def memory_mb() -> float:
    """Resident memory of this process, MB of 2**20 bytes."""
    return float(psutil.Process().memory_info().rss) / 2**20


def one_line(error: Exception) -> str:
    """An exception for people who are not looking for a bug."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def main(
    connection: Connection,
    performer: str,
    environment: Mapping[str, str],
    warm: tuple[list[str], str | None] | None,
) -> None:
    """The life of a worker.

    Args:
        connection: to the driver.
        performer: dotted name of what performs a task.
        environment: variables to set before anything heavy is imported.
        warm: arguments of `warm_up`, or None.
    """
    os.environ.update(environment)
    worker = _Worker(connection)
    try:
        perform = found(performer)
        if warm:
            warm_up(*warm)
            gc.collect()
            gc.freeze()  # what has been imported stays, and need not be gone through after each task
        _forward_all()
        worker.serve(perform)
    except Exception as error:  # a bug, or an import that fails: the driver hears of it before the process ends
        worker.send("error", one_line(error))
        sys.exit(1)
    finally:
        gc.unfreeze()  # or libraries would complain at the end that they leak
        hurry = threading.Timer(FAREWELL, os._exit, (1,))  # a library's thread may wait for ever at the end
        hurry.daemon = True
        hurry.start()


class _Worker:
    """A worker as it sees itself. One thread listens to the driver; tasks are performed in the main thread.

    SIGTERM ends what the worker is at. The driver's own comes as a message with the task's id, which the listening
    thread turns into a signal to the main thread, where that task is the one being performed: so one that comes late
    hits nothing. Anybody else's also ends the worker, after its task.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.sending = threading.Lock()
        self.inbox: queue.SimpleQueue[Task | None] = queue.SimpleQueue()  # None: leave
        self.answers: queue.SimpleQueue[tuple[int, bool]] = queue.SimpleQueue()
        self.asked = 0  # reports so far; each answer says to which it belongs
        self.given: int | None = None  # the last task that the driver sent
        self.stopped = False  # by the driver, the last task
        self.performing = False
        self.interrupt: Callable[[int, FrameType | None], Any] | None = None  # the first signal within a task goes here
        root = logging.getLogger()
        root.handlers = [_Forward(self)]
        root.setLevel(logging.INFO)
        threading.Thread(target=self.listen, daemon=True).start()

    def send(self, *message: Any) -> None:
        """Tell the driver. A signal must not leave half a message in the pipe, nor the lock taken."""
        in_main = threading.current_thread() is threading.main_thread()  # where alone signals raise anything
        with uninterrupted() if in_main else contextlib.nullcontext(), self.sending:
            self.connection.send(message)

    def listen(self) -> None:
        """Read what the driver says, also while a task is performed."""
        driver = multiprocessing.parent_process()
        watched: list[Any] = [self.connection, *([driver.sentinel] if driver else [])]
        while True:
            try:
                if self.connection not in wait(watched):
                    raise EOFError
                word, *content = self.connection.recv()
            except (EOFError, OSError):
                os._exit(1)  # the driver is gone: nobody waits for a result, and the cores are somebody else's now
            if word == "task":
                self.given, self.stopped = content[0].id, False
                self.inbox.put(content[0])
            elif word == "answer":
                self.answers.put((content[0], content[1]))
            elif word == "stop" and content[0] == self.given:
                self.stopped = True  # before the look at `performing`: `outcome` looks at them in the other order
                if self.performing:  # into the main thread, whatever it waits for
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
            elif word == "exit":
                self.inbox.put(None)

    def terminated(self, signum: int, frame: FrameType | None) -> None:
        """Handle SIGTERM: the first one within a task interrupts it, more of them do not hurry it."""
        if not self.stopped:
            self.inbox.put(None)
        interrupt, self.interrupt = self.interrupt, None
        if interrupt:
            interrupt(signum, frame)

    def serve(self, perform: Performer) -> None:
        """Perform tasks until there are no more."""
        signal.signal(signal.SIGTERM, self.terminated)
        while True:
            if self.inbox.empty():  # else it has been told to leave
                self.send("ready", memory_mb())
            task = self.inbox.get()
            if task is None:
                self.send("leaving")
                return
            self.send(*self.outcome(perform, task))

    def outcome(self, perform: Performer, task: Task) -> tuple[Any, ...]:
        """The message that ends a task."""

        def report(epoch: int, values: dict[str, float]) -> bool:
            self.asked += 1
            self.send("report", self.asked, task.id, epoch, values)
            while True:  # an interrupted report leaves an answer without a reader
                asked, go_on = self.answers.get()
                if asked == self.asked:
                    return go_on

        try:
            with interruptible():
                handler = signal.signal(signal.SIGTERM, self.terminated)
                assert callable(handler)
                self.interrupt, self.performing = handler, True
                try:
                    if self.stopped:
                        signal.raise_signal(signal.SIGTERM)
                    return "ended", task.id, perform(task, report)
                finally:  # before `interruptible` is left, whose state must not be touched any more
                    self.interrupt, self.performing = None, False
        except RequestError as error:
            return "refused", task.id, str(error)
        except Interrupted as interruption:
            if interruption.result is None:
                return "not begun", task.id
            return "ended", task.id, interruption.result
        except Exception as error:
            if masked(error):
                return "not begun", task.id
            log.exception("a bug in what performs task %d", task.id)
            raise


class _Forward(logging.Handler):
    """Gives log records to the driver, whose terminal it is."""

    def __init__(self, worker: _Worker) -> None:
        super().__init__(logging.INFO)
        self.worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            self.worker.send("log", record.name, record.levelno, self.format(record))


def _forward_all() -> None:
    """Take the terminal from libraries that write to it themselves, as MLflow does."""
    for logger in logging.Logger.manager.loggerDict.values():
        if isinstance(logger, logging.Logger) and any(isinstance(h, logging.StreamHandler) for h in logger.handlers):
            logger.handlers = []
            logger.propagate = True
