"""Tell MLflow what it could not be told while its server was away: ``mnist-sweep sync [--output FOLDER]``."""

import argparse
import logging
from pathlib import Path

from mnist_sweep import cli, tracking
from mnist_sweep.run_folder import RunFolder

log = logging.getLogger(__name__)


def perform(options: argparse.Namespace) -> int:
    """Send what is kept beside the runs of a folder, the sweeps before their trials; print what became of each."""
    kept = sorted(path.parent for path in Path(options.output, "runs").glob("*/unsent.jsonl"))
    if not kept:
        print(f"nothing is left to be sent in {options.output}")
        return cli.DONE
    from mnist_sweep import run_report  # and with it torch, which takes seconds

    tracking.be_patient()
    sent = [run_report.send(RunFolder(folder), options.tracking_uri) for folder in kept]
    for folder, whole in zip(kept, sent, strict=True):
        print(f"{folder}: {'sent' if whole else 'not sent'}")
    return cli.DONE if all(sent) else cli.FAILED


if __name__ == "__main__":
    cli.module_main("sync")
