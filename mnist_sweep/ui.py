"""MLflow's UI on the runs and sweeps of this folder: ``mnist-sweep ui [--port 5000]``."""

import argparse
import logging
import os
import shlex
import sys

from mnist_sweep import cli, tracking
from mnist_sweep.errors import RequestError

log = logging.getLogger(__name__)

#: One process serves one person, where MLflow would start 15: four servers, and those of jobs for language models.
_ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def perform(options: argparse.Namespace) -> int:
    """Become MLflow's server."""
    uri, port = options.tracking_uri, str(options.port)
    if tracking.is_server(uri):
        raise RequestError(f"--tracking-uri={uri}: is a server, whose own page is at this address; allowed: a database")
    if not tracking.is_there(uri):
        allowed = "the store of a run or a sweep (python -m mnist_sweep makes one in mlruns/)"
        raise RequestError(f"--tracking-uri={uri}: there is no such file; allowed: {allowed}")
    tracking.follow(uri)
    command = ["mlflow", "ui", "--backend-store-uri", uri, "--host", cli.HOST, "--port", port, "--workers", "1"]
    log.info("http://%s:%s   (Ctrl-C ends it; by hand: %s)", cli.HOST, port, shlex.join(command))
    os.environ.update(_ENVIRONMENT)
    os.execv(sys.executable, [sys.executable, "-m", *command])


if __name__ == "__main__":
    cli.module_main("ui")
