"""One command line → one `Result`: the training, the folder and the MLflow run put together."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mnist_sweep.config.command import CommandLine
from mnist_sweep.errors import signalled
from mnist_sweep.result import Result

#: Called after each epoch with the epoch, counted from 1, and its metrics by name; returns whether the run goes on.
OnEpoch = Callable[[int, dict[str, float]], bool]


def train(
    command: CommandLine,
    *,
    on_epoch: OnEpoch | None = None,
    parent: str | None = None,
    tags: Mapping[str, Any] | None = None,
    test: bool = False,
    pictures: bool = True,
    progress: bool = False,
    resume: bool = False,
    limit_seconds: float | None = None,
    stopped: Callable[[], int | None] = signalled,
) -> Result:
    """Train one network, and keep its folder, its MLflow run and, last, ``result.json``.

    Args:
        command: its config has a ``name``, and its data set is on disk.
        on_epoch: is called after each epoch and may stop the run, which is then ``pruned``.
        parent: MLflow's id of the parent run.
        tags: for MLflow.
        test: measure the best checkpoint on the test set at the end. No trial does.
        pictures: keep pictures, tables, a note and the model in MLflow. Trials keep their metrics, their confusion
            matrix and their best checkpoint only.
        progress: show the epochs and, on a terminal, bars.
        resume: go on where an earlier attempt in the same folder stopped, from its last checkpoint where it has one;
            a run that came to its end is not trained again.
        limit_seconds: that this call may take, after which the run fails with ``timeout``; None = no limit.
        stopped: is asked between groups of batches; a signal's number interrupts the run.

    Returns:
        The result, also of a run that failed.

    Raises:
        RequestError: the folder is there already, another process is at the run, or there is no GPU where one was
            asked for.
        RunFailure: ``result.json`` cannot be written.
        Interrupted: after everything has been recorded.
    """
    raise NotImplementedError


def open_test(folders: Sequence[Path], on_open: Callable[[str], None] | None = None) -> list[Result]:
    """Open the test set, once, for runs that ended without it: what the winner of a sweep is judged by.

    The best checkpoint of each is read once and measured; its MLflow run and its ``result.json`` are completed. A run
    that has been measured is not measured again.

    Args:
        folders: of finished runs.
        on_open: is called with the moment (ISO 8601, UTC) before anything is measured, also if that then fails.

    Returns:
        Their results, with the test set's metrics.

    Raises:
        RequestError: a run has not finished, or its result or its checkpoint is gone or damaged; then none is measured.
    """
    raise NotImplementedError
