"""MLflow's UI on the runs and sweeps of this folder: ``mnist-sweep ui [--open] [--host HOST] [--port 5000]``."""

import argparse
import contextlib
import logging
import os
import shlex
import socket
import subprocess
import sys
import time
import webbrowser
from urllib.parse import urlsplit

from mnist_sweep import cli, tracking
from mnist_sweep.errors import RequestError, without_passwords

log = logging.getLogger(__name__)

#: One process serves one person, where MLflow would start 15: four servers, and those of jobs for language models.
_ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def perform(options: argparse.Namespace) -> int:
    """Become MLflow's server, after the address of the page with the runs has been told."""
    uri, port = options.tracking_uri, str(options.port)
    if tracking.is_server(uri):
        raise RequestError(f"--tracking-uri={uri}: is a server, whose own page is at this address; allowed: a database")
    if not tracking.is_there(uri):
        allowed = "the store of a run or a sweep (python -m mnist_sweep makes one in mlruns/)"
        raise RequestError(f"--tracking-uri={uri}: there is no such file; allowed: {allowed}")
    tracking.follow(uri)
    command = ["mlflow", "ui", "--backend-store-uri", uri, "--host", options.host, "--port", port, "--workers", "1"]
    command += options.rest
    page = server = f"http://{'127.0.0.1' if options.host == '0.0.0.0' else options.host}:{port}"
    with tracking.harmless("the page of the runs could not be found out"):
        page = tracking.page_of(uri, server)
    log.info("%s   (Ctrl-C ends it; by hand: %s)", page, shlex.join(command))
    os.environ.update(_ENVIRONMENT)
    if options.open:
        opens = "import sys; from mnist_sweep.ui import open_page; open_page(sys.argv[1])"
        subprocess.Popen([sys.executable, "-c", opens, page])
    if without_passwords(uri) != uri:  # arguments are seen by everybody on this machine
        os.environ["MLFLOW_BACKEND_STORE_URI"] = uri
        del command[2:4]
    os.execv(sys.executable, [sys.executable, "-m", *command])


def open_page(page: str, patience: float = 300.0) -> None:
    """Open a page in the user's browser as soon as its server answers, within so many seconds."""
    address = urlsplit(page)
    end = time.monotonic() + patience
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            socket.create_connection((str(address.hostname), int(address.port or 80)), timeout=1).close()
            webbrowser.open(page)
            return
        time.sleep(0.2)


if __name__ == "__main__":
    cli.module_main("ui")
