"""MLflow's UI on the right store: ``python -m mnist_sweep.ui [--port 5000]``."""

import logging
import os
import shlex
import socket
import sys
from collections.abc import Sequence

from mnist_sweep import cli as console
from mnist_sweep import tracking
from mnist_sweep.errors import RequestError

log = logging.getLogger("mnist_sweep.ui")  # __name__ is __main__ here

HOST = "127.0.0.1"
#: One process serves one person, where MLflow would start 15: four servers, and those of jobs for language models.
_ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def command(uri: str, port: int) -> list[str]:
    """What starts the UI by hand; only this machine can reach it."""
    return ["mlflow", "ui", "--backend-store-uri", uri, "--host", HOST, "--port", str(port), "--workers", "1"]


def perform(arguments: Sequence[str]) -> int:
    """Become MLflow's server.

    Raises:
        RequestError: there is no account yet, or what is there is none, or a server has it, or the port is taken.
    """
    parser = console.parser("ui", "Open MLflow's UI on the runs and sweeps of this folder.")
    parser.add_argument("--port", type=int, default=5000, help="of the page (default: %(default)s)")
    console.add_store(parser)
    options = parser.parse_args(arguments)
    uri = options.tracking_uri
    if tracking.is_server(uri):
        raise RequestError(f"--tracking-uri={uri}: is a server, whose own page is at this address; allowed: a database")
    if not tracking.is_there(uri):
        raise RequestError(
            f"--tracking-uri={uri}: there is no such file; allowed: the store of a run or a sweep "
            "(python -m mnist_sweep makes one in mlruns/)"
        )
    check_port(options.port)
    by_hand = command(uri, options.port)
    log.info("http://%s:%d   (Ctrl-C ends it; by hand: %s)", HOST, options.port, shlex.join(by_hand))
    os.environ.update(_ENVIRONMENT)
    os.execv(sys.executable, [sys.executable, "-m", *by_hand])


def check_port(port: int) -> None:
    """Raise a RequestError for a port that cannot be had."""
    if not 0 < port < 65536:
        raise RequestError(f"--port={port}: allowed: 1 … 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise RequestError(f"--port={port}: cannot be had ({error.strerror}); allowed: another one") from error


if __name__ == "__main__":
    console.leave(lambda: console.run(lambda: perform(sys.argv[1:])))
