"""Starts a worker: a process of its own, or a thread of this one.

An executor of the standard library would hide what a sweep needs: it has no channel for reports and stops while a task
runs, and the death of one process breaks all of it. A process that is started by its command line has its environment
before any library reads it, and a session of its own, so that the terminal's Ctrl-C does not reach it. No script needs
a guard, since the process does not import the user's main module.
"""

import contextlib
import math
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mnist_sweep.config.command import CommandLine
from mnist_sweep.sweep.workers.messages import Task, Train
from mnist_sweep.sweep.workers.worker import Worker

#: The environment of a process, where the user's does not say otherwise.
_ENVIRONMENT = {
    # oneDNN and torch's layer over it keep what they prepared for the last 1,024 shapes of tensors: over a sweep
    # hundreds of megabytes. One network of ten convolutions needs about 100.
    "LRU_CACHE_CAPACITY": "256",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # large pages, where the system grants them to who asks
    "MLFLOW_CONFIGURE_LOGGING": "false",  # what it logs goes to the sweep, not to the terminal
}


@dataclass(eq=False)
class Handle:
    """A worker as the sweep sees it."""

    connection: Connection
    process: subprocess.Popen[bytes] | None = None  # a thread has none, and cannot be killed
    ready: bool = False  # free for a task
    task: Task | None = None
    attempt: int = 0  # at this task
    begun: float = math.inf  # the attempt, on the monotonic clock
    first_mb: float = math.inf  # resident memory when it was ready, MB of 2**20 bytes

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


def thread(train: Train) -> Handle:
    """Start a worker in a thread of this process."""
    ours, theirs = Pipe()
    threading.Thread(target=Worker(theirs).live, daemon=True).start()
    ours.send((train, None))
    return Handle(ours)


def process(train: Train, environment: Mapping[str, str], common: CommandLine | None) -> Handle:
    """Start a worker in a process of its own.

    Args:
        train: performs the tasks. The process finds it again by its module and its name.
        environment: variables to set before it starts.
        common: what all tasks have in common; their data set is loaded before the worker is ready.
    """
    ours, theirs = Pipe()
    path = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
    with theirs:  # closed here, so that the end of the process is the end of the connection
        code = f"from mnist_sweep.sweep.workers.worker import main; main({theirs.fileno()})"
        popen = subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            env={**_ENVIRONMENT, **os.environ, "PYTHONPATH": path, **environment},
        )
    handle = Handle(ours, popen)
    handle.send((train, common))
    return handle
