"""What a worker does: one task after another, until the sweep is gone."""

import contextlib
import gc
import logging.handlers
import math
import os
import queue
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

import psutil

from mnist_sweep.config.command import CommandLine
from mnist_sweep.errors import SIGNALS, Interrupted, RequestError, RunFailure, one_line
from mnist_sweep.result import Result
from mnist_sweep.sweep.workers.messages import Decision, OnEpoch, Stopped, Task

log = logging.getLogger(__name__)

#: The environment of a process, where the user's does not say otherwise.
WORKER_ENVIRONMENT = {
    # oneDNN and torch's layer over it keep what they prepared for the last 1,024 shapes of tensors: over a sweep
    # hundreds of megabytes. One network of ten convolutions needs about 100.
    "LRU_CACHE_CAPACITY": "256",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # large pages, where the system grants them to who asks
    "MLFLOW_CONFIGURE_LOGGING": "false",  # what it logs goes to the sweep, not to the terminal
}


class Worker:
    """A worker as it sees itself: one thread listens to the sweep, the calling thread performs the tasks.

    A stop sets a flag that the run looks at. The sweep's own stop names its task, so that one which comes late hits
    nothing. A signal, from anybody else, also ends the worker after its task. `gone`, or else `terminate`, is called
    when the sweep is gone.
    """

    def __init__(self, connection: Connection, gone: Callable[[], None] | None = None) -> None:
        self._connection, self._gone = connection, gone or self.terminate
        self._sending = threading.RLock()  # a signal's handler may log in the middle of a message
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()  # None = look at the flags
        self._task: int | None = None  # the one that the sweep has sent last
        self._stopped: int | None = None  # by the sweep, that task
        self._terminated: int | None = None  # by somebody else

    def live(self) -> None:
        """Perform tasks as long as there are any, then say how it ended."""
        detail = ""
        try:
            train, common = self._connection.recv()
            threading.Thread(target=self._listen, daemon=True).start()
            if common:
                warm_up(common)
            self.send("ready", _memory_mb())
            while not self._terminated:
                result, task = None, self._inbox.get()
                if isinstance(task, Task):  # else an answer that nobody waits for any more
                    try:
                        with contextlib.suppress(Interrupted):
                            result = train(task, self._on_epoch, self._signal)
                    except (RequestError, RunFailure) as error:
                        self.send("unrecorded", error.detail if isinstance(error, RunFailure) else str(error))
                    self.send("finished", result, math.inf if self._terminated else _memory_mb())
        except SystemExit as end:
            detail = f"exit code {end.code}"
        except Exception as error:  # a bug, or an import that fails
            if self._task is not None:
                log.exception("a bug in what performs task %d", self._task)
            detail = one_line(error)
        self.send("left", detail)

    def send(self, *message: Any) -> None:
        """Tell the sweep, unless it is gone."""
        with self._sending, contextlib.suppress(OSError):
            self._connection.send(message)

    def put_nowait(self, record: logging.LogRecord) -> None:
        """Give a log record to the sweep, whose terminal it is; a QueueHandler calls this."""
        self.send("log", record)

    def terminate(self, signum: int = signal.SIGTERM, _: FrameType | None = None) -> None:
        """Stop the task and leave after it; a signal's handler, too."""
        self._terminated = signum
        self._inbox.put(None)

    def _listen(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                match message := self._connection.recv():
                    case Task():
                        self._task, self._stopped = message.id, None
                    case ("stop", task) if task == self._task:
                        self._stopped = signal.SIGTERM
                self._inbox.put(message)
        self._gone()

    def _on_epoch(self, epoch: int, values: dict[str, float]) -> Decision:
        self.send("report", epoch, values)
        while not (signum := self._signal()):
            match self._inbox.get():
                case ("answer", task, of, decision) if (task, of) == (self._task, epoch):
                    answer: Decision = decision
                    return answer
        raise Interrupted(signum)

    def _signal(self) -> int | None:
        return self._terminated or self._stopped


def main(descriptor: int) -> None:
    """Be a worker's process, which ends at once without its connection to the sweep, of this file descriptor."""
    worker = Worker(Connection(descriptor), gone=lambda: os._exit(1))
    for signum in SIGNALS:
        signal.signal(signum, worker.terminate)
    logging.root.handlers = [logging.handlers.QueueHandler(worker)]  # type: ignore[arg-type]
    logging.root.setLevel(logging.INFO)
    worker.live()
    os._exit(0)  # there is nothing left to do, and some library's thread might wait for ever


def train(task: Task, on_epoch: OnEpoch, stopped: Stopped) -> Result | None:
    """Train what a task asks for; see `Train`."""
    from mnist_sweep import run
    from mnist_sweep.run_folder import RunFolder
    from mnist_sweep.run_record import abandon
    from mnist_sweep.training import trainer

    common: dict[str, Any] = {"parent": task.parent, "tags": task.tags}
    more: dict[str, Any] = {"resume": task.resume, "limit_seconds": task.limit_seconds, "pictures": task.pictures}
    folder = RunFolder(task.folder) if task.folder else RunFolder.of(task.command.config)
    more["data_root"] = task.data_root
    try:
        first = run.train(task.command, on_epoch=on_epoch, stopped=stopped, folder=folder, **common, **more)
        if task.seeds == 1 or first.status != "finished":
            return first
        from mnist_sweep.sweep.workers.seeds import over_seeds

        def train_seed(command: CommandLine) -> Result:
            beside = RunFolder(folder.path.with_name(str(command.config.name)))
            return run.train(command, stopped=stopped, folder=beside, **common, **{**more, "resume": True})

        return over_seeds(task, first, train_seed)
    except Interrupted:
        result = folder.result()
        return result if task.seeds == 1 or not result or result.status != "finished" else None
    except RequestError as error:
        return abandon(task.command, reason="error", detail=str(error), folder=folder, seeds=task.seeds, **common)
    finally:
        trainer.release_memory()


def warm_up(common: CommandLine) -> None:
    """Import what a run needs and load the data set, once for all tasks that have this in common."""
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


def _memory_mb() -> float:
    return float(psutil.Process().memory_info().rss) / 2**20
