"""The report of a sweep at any time, while it runs, too: ``mnist-sweep report FOLDER``."""

import argparse

from mnist_sweep import cli
from mnist_sweep.errors import RequestError, RunFailure


def perform(options: argparse.Namespace) -> int:
    """Write ``report.html`` into a sweep's folder, by what its study says now, and print its path."""
    from mnist_sweep.sweep import catalogue, session
    from mnist_sweep.tracking import MLflowRun

    folder = options.folder
    command, study = catalogue.read(folder)
    if not session.has_best(study):
        raise RequestError(f"{folder}: no trial has come to a value yet; allowed: a sweep with at least one that has")
    output, seconds = folder.parent.parent, float(study.recall("seconds", study.recall("search_seconds", 0.0)))
    unchanged = MLflowRun(None, output, folder.name)  # which a sweep that runs may be writing
    page = session.report(command, study, study.recall("winner"), folder, seconds, unchanged)
    if page is None:
        raise RunFailure("error", f"{folder}: the report could not be made")
    print(page)
    return cli.DONE


if __name__ == "__main__":
    cli.module_main("report")
