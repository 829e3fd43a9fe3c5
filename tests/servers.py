"""Servers as processes of their own, for as long as a test needs them."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
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
def serving(folder: Path, *command: str, path: str, port: int = 0, **environment: str) -> Iterator[str]:
    """The address of ``python -m COMMAND --port PORT``, in a folder, as soon as it answers at a path."""
    port = port or free_port()
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


#: Where Debian has the programs of PostgreSQL's server; elsewhere they are in the path.
_POSTGRES = [*sorted(str(path) for path in Path("/usr/lib/postgresql").glob("*/bin")), os.environ["PATH"]]
PG_CTL = shutil.which("pg_ctl", path=os.pathsep.join(_POSTGRES))


class Postgres:
    """A server of PostgreSQL, with the user and the password ``sweep``, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.port, self._folder = free_port(), folder / "data"
        # it refuses to run as root
        self._user = "postgres" if os.getuid() == 0 else None
        if self._user:
            shutil.chown(folder, self._user)
        (folder / "password").write_text("sweep")
        (folder / "password").chmod(0o644)
        first = ["-U", "sweep", "--pwfile", str(folder / "password"), "-A", "scram-sha-256", "--no-sync"]
        self._call("initdb", "-D", str(self._folder), *first)
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://sweep:sweep@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        self._call("pg_ctl", "-D", str(self._folder), "-o", options, "-l", str(self._folder / "log"), "-w", "start")

    def stop(self) -> None:
        """End it at once, and with it what its clients are doing."""
        self._call("pg_ctl", "-D", str(self._folder), "-m", "immediate", "-w", "stop")

    def _call(self, program: str, *arguments: str) -> None:
        assert PG_CTL is not None
        found = str(Path(PG_CTL).with_name(program))
        subprocess.run([found, *arguments], user=self._user, cwd="/", check=True, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """A server of PostgreSQL for as long as the context lasts."""
    with tempfile.TemporaryDirectory() as folder:
        server = Postgres(Path(folder))
        try:
            yield server
        finally:
            server.stop()
