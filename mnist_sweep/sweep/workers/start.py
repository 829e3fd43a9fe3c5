"""Starts a worker: as a process of its own, or as a thread of this one.

A process is started by its command line and talks through a pipe. An executor of the standard library would hide both
things that a sweep needs: it gives no channel back while a task runs, for reports and stops, and a death of one of its
processes breaks it as a whole. A process of our own has its environment before it starts, which libraries read as they
are loaded; its session is its own, so that the terminal's Ctrl-C does not reach it; and since it does not import the
user's main module, no script needs a guard around it.
"""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mnist_sweep.sweep.workers.worker import Setup, Worker

#: Seconds that a process may take to leave, with all that its libraries want to do at the end.
_FAREWELL = 10.0

#: oneDNN and torch's layer over it keep what they prepared for each shape of tensor, by default for the last 1,024 of
#: them each: over a sweep of many networks hundreds of megabytes. One network of ten convolutions needs about 100.
_SMALL_CACHES = {"LRU_CACHE_CAPACITY": "256", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256"}

#: glibc asks Linux for large pages, of 2 MB, for all that it allocates, where the system grants them to who asks
#: ("Memory Allocation Tunables" in glibc's manual). Elsewhere nothing comes of it.
_LARGE_PAGES = "glibc.malloc.hugetlb=1"


class _Handle:
    """A worker's connection, as the sweep holds it."""

    connection: Connection

    def send(self, message: Any) -> None:
        """Tell the worker, unless it has died, which its connection shows."""
        with contextlib.suppress(OSError):
            self.connection.send(message)


class Process(_Handle):
    """A worker in a process of its own.

    Args:
        setup: of the worker.
        environment: variables to set before it starts.
    """

    def __init__(self, setup: Setup, environment: Mapping[str, str]) -> None:
        self.connection, theirs = Pipe()
        tunables = filter(None, [_LARGE_PAGES, os.environ.get("GLIBC_TUNABLES")])
        found = {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
        with theirs:  # closed here, so that the end of the process is the end of the connection
            self.popen = subprocess.Popen(
                [sys.executable, "-P", "-m", "mnist_sweep.sweep.workers", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env={**os.environ, **_SMALL_CACHES, "GLIBC_TUNABLES": ":".join(tunables), **found, **environment},
            )
        self.send(setup)

    def kill(self) -> None:
        """End the process at once."""
        self.popen.kill()

    def join(self) -> str:
        """Wait until the process has ended and say how."""
        try:
            code = self.popen.wait(_FAREWELL)
        except subprocess.TimeoutExpired:  # a thread of some library waits for ever
            self.popen.kill()
            code = self.popen.wait()
        self.connection.close()
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


class Thread(_Handle):
    """A worker in a thread of this process: for a debugger, and where processes are not wanted."""

    def __init__(self, setup: Setup) -> None:
        self.connection, theirs = Pipe()
        threading.Thread(target=Worker(theirs).live, daemon=True, name="worker").start()
        self.send(setup)

    def kill(self) -> None:
        """Do nothing: a thread cannot be killed."""

    def join(self) -> str:
        """Hang up, which stops the worker's task."""
        self.connection.close()
        return "its thread ended"
