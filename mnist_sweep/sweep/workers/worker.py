"""What a worker does: one task after another, until the sweep says so or is gone."""

import contextlib
import gc
import logging
import os
import queue
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

import psutil

from mnist_sweep.config.command import CommandLine
from mnist_sweep.errors import SIGNALS, Interrupted, RequestError, one_line
from mnist_sweep.result import Result
from mnist_sweep.sweep.workers.messages import Task, Train

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setup:
    """What a worker needs to know before its first task.

    Attributes:
        train: performs a task.
        common: what all tasks have in common. Their imports are made and their data set is loaded before the first task;
            None = when it comes.
        memory_growth_mb: the worker leaves, between two tasks, when its resident memory has grown by so much, in MB of
            2**20 bytes; None = never.
    """

    train: Train
    common: CommandLine | None = None
    memory_growth_mb: float | None = None


class Worker:
    """A worker as it sees itself: one thread listens to the sweep, the calling thread performs the tasks.

    A stop sets a flag, which the run looks at. The sweep's own stop names the task, so that one which comes late hits
    nothing. Anybody else's, by a signal, also ends the worker after its task.

    Args:
        connection: to the sweep.
        gone: called when the sweep is gone.
    """

    def __init__(self, connection: Connection, gone: Callable[[], None] | None = None) -> None:
        self._connection, self._gone = connection, gone or self.terminate
        self._sending = threading.Lock()
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()  # None: leave, or look at the flags
        self._answers: queue.SimpleQueue[tuple[int, int, bool] | None] = queue.SimpleQueue()
        self._given: int | None = None  # the task that the sweep has sent last
        self._stopped: int | None = None  # by the sweep, that task
        self._terminated: int | None = None  # by somebody else

    def live(self) -> None:
        """Perform tasks until there are no more, and say how it ended."""
        detail = ""
        try:
            setup = self._connection.recv()
            threading.Thread(target=self._listen, daemon=True).start()
            if setup.common:
                warm_up(setup.common)
            self._serve(setup)
        except SystemExit as end:
            detail = f"exit code {end.code}"
        except Exception as error:  # a bug, or an import that fails
            detail = one_line(error)
        self.send("left", detail)

    def send(self, *message: Any) -> None:
        """Tell the sweep; where it is gone, `gone` has been called or will be."""
        with self._sending, contextlib.suppress(OSError):
            self._connection.send(message)

    def terminate(self, signum: int = signal.SIGTERM, _: FrameType | None = None) -> None:
        """Stop the task and leave after it. Also a signal handler."""
        self._terminated = signum
        self._tasks.put(None)
        self._answers.put(None)

    def stopped(self) -> int | None:
        """The signal that stops the task; None where it goes on."""
        return self._terminated or self._stopped

    def _listen(self) -> None:
        while True:
            try:
                message = self._connection.recv()
            except (EOFError, OSError):
                self._gone()
                return
            match message:
                case Task():
                    self._given, self._stopped = message.id, None
                    self._tasks.put(message)
                case ("stop", task) if task == self._given:
                    self._stopped = signal.SIGTERM
                    self._answers.put(None)
                case ("answer", *answer):
                    self._answers.put((answer[0], answer[1], answer[2]))
                case None:
                    self._tasks.put(None)

    def _serve(self, setup: Setup) -> None:
        most = _memory_mb() + setup.memory_growth_mb if setup.memory_growth_mb is not None else float("inf")
        while self._terminated is None and _memory_mb() <= most:
            self.send("ready")
            if (task := self._tasks.get()) is None:
                return
            try:
                result = self._perform(setup.train, task)
            except RequestError as error:
                self.send("refused", str(error))
                continue
            self.send("finished", result)
            if result and result.reason == "out_of_memory":
                return

    def _perform(self, train: Train, task: Task) -> Result | None:
        def on_epoch(epoch: int, values: dict[str, float]) -> bool:
            self.send("report", epoch, values)
            while (signum := self.stopped()) is None:
                answer = self._answers.get()
                if answer and answer[:2] == (task.id, epoch):  # a stopped run leaves an answer that nobody takes
                    return answer[2]
            raise Interrupted(signum)

        try:
            return None if self.stopped() else train(task, on_epoch, self.stopped)
        except Interrupted:
            return None
        except RequestError:
            raise
        except Exception:
            log.exception("a bug in what performs task %d", task.id)
            raise


def train(task: Task, on_epoch: Callable[[int, dict[str, float]], bool], stopped: Callable[[], int | None]) -> Result | None:
    """Train the network of a task's command line.

    Returns:
        The result, also of a run that failed or was stopped; None where it was stopped before it began.

    Raises:
        RequestError: the command line cannot be composed, or the run cannot be begun.
    """
    from mnist_sweep import run
    from mnist_sweep.run_folder import RunFolder

    try:
        return run.train(
            task.command,
            on_epoch=on_epoch,
            parent=task.parent,
            tags=task.tags,
            pictures=task.pictures,
            resume=task.resume,
            limit_seconds=task.limit_seconds,
            stopped=stopped,
        )
    except Interrupted:
        return RunFolder.of(task.command.config).result()


def warm_up(common: CommandLine) -> None:
    """Import what a run needs and load the data set, once for all tasks."""
    import torch

    from mnist_sweep import run, tracking  # noqa: F401
    from mnist_sweep.training import data

    data.parts(common.config.data)
    if common.config.tracking.name == "mlflow":
        tracking.warm_up()
    if common.config.trainer.accelerator != "cpu" and torch.cuda.is_available():
        torch.zeros(1, device="cuda")  # CUDA's own memory must not count as growth
    gc.collect()
    gc.freeze()  # what has been imported stays, and need not be gone through after each task


def main(descriptor: int) -> None:
    """Be a worker process.

    Args:
        descriptor: of the connection to the sweep.
    """
    # nobody waits for a result any more, and the cores are somebody else's now
    worker = Worker(Connection(descriptor), gone=lambda: os._exit(1))
    for signum in SIGNALS:
        signal.signal(signum, worker.terminate)
    root = logging.getLogger()
    root.handlers = [_Forward(worker)]
    root.setLevel(logging.INFO)
    try:
        worker.live()
    finally:
        gc.unfreeze()  # or libraries would complain at the end that they leak


class _Forward(logging.Handler):
    """Gives log records to the sweep, whose terminal it is."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(logging.INFO)
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        self._worker.send("log", record.name, record.levelno, self.format(record))


def _memory_mb() -> float:
    """Resident memory of this process, MB of 2**20 bytes."""
    return float(psutil.Process().memory_info().rss) / 2**20
