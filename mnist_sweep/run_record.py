"""A run's folder and its MLflow run, kept together: both begin, say the same and end together.

Without torch, so that a sweep's own process can record a run whose process died.
"""

from collections.abc import Mapping
from typing import Any

from mnist_sweep.config.command import CommandLine
from mnist_sweep.result import Result


def abandon(command: CommandLine, *, parent: str | None, tags: Mapping[str, Any], reason: str, detail: str) -> Result:
    """Record a run whose process died or was given up: failed, with as much of its history as it wrote down.

    Args:
        command: of the run; its config has a name.
        parent: MLflow's id of the parent run.
        tags: for MLflow; with the study's id as ``study.id`` an MLflow run is found again.
        reason: one word for programs: ``crashed``, ``timeout``, ``infeasible`` or ``error``.
        detail: one line for people.

    Returns:
        The result; the run's own, where its process died after it had come to its end.
    """
    raise NotImplementedError
