"""Servers as processes of their own, for as long as a test needs them."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import ROOT


def free_port() -> int:
    """A port that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextlib.contextmanager
def serving(folder: Path, *command: str, path: str, **environment: str) -> Iterator[str]:
    """The address of ``python -m COMMAND --port PORT``, in a folder, as soon as it answers at a path."""
    port = free_port()
    beside = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # programs that servers call
    given = {"PYTHONPATH": str(ROOT), "PATH": beside, **environment}
    given |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (
        (folder / f"{command[0]}.log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-m", *command, "--port", str(port)],
            cwd=folder, env={**os.environ, **given}, stdout=log, stderr=log, start_new_session=True,
        ) as server,
    ):  # fmt: skip
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(900):
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}{path}", timeout=5):
                    break
                assert server.poll() is None, Path(log.name).read_text()
                time.sleep(0.2)
            else:
                raise AssertionError(Path(log.name).read_text())
            yield url
        finally:
            os.killpg(server.pid, signal.SIGTERM)
