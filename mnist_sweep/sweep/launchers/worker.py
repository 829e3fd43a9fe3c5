"""What runs in a worker's process: tasks one after another, until the driver says so or is gone.

Nothing heavy is imported before the worker knows its threads and its GPU.
"""

import contextlib
import importlib
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

import psutil

from mnist_sweep.composition import compose
from mnist_sweep.errors import Interrupted, RequestError, interruptible
from mnist_sweep.sweep.launchers import Performer, Task

#: The performer that trains.
TRAIN = f"{__name__}:train"


def train(task: Task, report: Callable[[int, dict[str, float]], bool]) -> dict[str, Any]:
    """Perform a task for real: compose its overrides and run them.

    Returns:
        The fields of the result, also of a run that failed.

    Raises:
        RequestError: the overrides cannot be composed, or the run cannot be begun.
        Interrupted: with what the run recorded as its ``result``.
    """
    from mnist_sweep.result import Result
    from mnist_sweep.run import folder_of, run

    config = compose(task.overrides, task.config_dir)
    try:
        result = run(
            config,
            task.overrides,
            config_dir=task.config_dir,
            report=report,
            parent=task.parent,
            tags=task.tags,
            resume=task.resume,
            deadline=task.deadline,
        )
    except Interrupted as interruption:
        with contextlib.suppress(FileNotFoundError):
            interruption.result = asdict(Result.read(folder_of(config)))
        raise
    return asdict(result)


def warm_up(overrides: list[str], config_dir: str | None) -> None:
    """Import what a run needs and load the data set of these overrides, once for all tasks."""
    from mnist_sweep import data, schema, tracking

    config = compose(overrides, config_dir)
    data.training_and_validation(config.data.name, config.data.root, config.data.split_seed, config.data.limit)
    importlib.import_module("mnist_sweep.run")
    if isinstance(config.tracking, schema.MLflow):
        tracking.warm_up()


def found(performer: str) -> Performer:
    """The function of a dotted name ``package.module:function``."""
    module, _, name = performer.partition(":")
    function: Performer = getattr(importlib.import_module(module), name)
    return function


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
        worker.serve(perform)
    except Exception as error:  # a bug, or an import that fails: the driver hears of it before the process ends
        worker.send("error", " ".join(f"{type(error).__name__}: {error}".split())[:500])
        sys.exit(1)


class _Worker:
    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.sending = threading.Lock()
        self.inbox: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.current: int | None = None
        self.changing = threading.Lock()  # of `current`
        # Only within a task does SIGTERM mean anything, see `listen`; one that comes late must not end the worker.
        signal.signal(signal.SIGTERM, lambda *_: None)
        threading.Thread(target=self.listen, daemon=True).start()
        root = logging.getLogger()
        root.handlers = [_Forward(self)]
        root.setLevel(logging.INFO)

    def send(self, *message: Any) -> None:
        with self.sending:
            self.connection.send(message)

    def listen(self) -> None:
        """Read what the driver says, also while a task is performed."""
        while True:
            try:
                word, *content = self.connection.recv()
            except (EOFError, OSError):
                os._exit(1)  # the driver is gone: nobody waits for a result, and the cores are somebody else's now
            if word == "task":
                self.inbox.put(content[0])
            elif word == "answer":
                self.answers.put(content[0])
            elif word == "stop":
                with self.changing:
                    if self.current == content[0]:  # into the main thread, whatever it waits for
                        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
            elif word == "exit":
                self.inbox.put(None)

    def serve(self, perform: Performer) -> None:
        """Perform tasks until there are no more."""
        while True:
            self.send("ready", psutil.Process().memory_info().rss / 2**20)
            task = self.inbox.get()
            if task is None:
                return
            with self.changing:
                self.current = task.id
            try:
                self.send(*self.outcome(perform, task))
            finally:
                with self.changing:
                    self.current = None

    def outcome(self, perform: Performer, task: Task) -> tuple[Any, ...]:
        """The message that ends a task."""

        def report(epoch: int, values: dict[str, float]) -> bool:
            while not self.answers.empty():  # of a report that an interruption left without a reader
                self.answers.get()
            self.send("report", task.id, epoch, values)
            return self.answers.get()

        try:
            with interruptible():
                return "ended", task.id, perform(task, report)
        except RequestError as error:
            return "refused", task.id, str(error)
        except Interrupted as interruption:
            if interruption.result is None:
                return "interrupted", task.id
            return "ended", task.id, interruption.result


class _Forward(logging.Handler):
    """Gives log records to the driver, whose terminal it is."""

    def __init__(self, worker: _Worker) -> None:
        super().__init__(logging.INFO)
        self.worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            self.worker.send("log", record.name, record.levelno, self.format(record))
