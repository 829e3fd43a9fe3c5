"""What a sweep and its workers say to each other: plain data, a command line down, numbers up."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mnist_sweep.config.command import CommandLine
from mnist_sweep.result import Result


@dataclass(frozen=True)
class Task:
    """One run for a worker.

    Attributes:
        id: chosen by whoever submits it. No two tasks that run at the same time have the same.
        command: of the run, with its name.
        parent: MLflow's id of the parent run.
        tags: for MLflow.
        resume: go on from the last checkpoint in the run's folder.
        limit_seconds: that the run may take; None = no limit.
        pictures: whether a finished run makes its pictures and exports its model.
    """

    id: int
    command: CommandLine
    parent: str | None = None
    tags: dict[str, Any] = field(default_factory=dict)
    resume: bool = False
    limit_seconds: float | None = None
    pictures: bool = False


@dataclass(frozen=True)
class Report:
    """A run has come to the end of an epoch and waits for an answer.

    Attributes:
        task: its id.
        epoch: counted from 1.
        values: the epoch's metrics by name.
        answer: to be called with whether the run goes on.
    """

    task: int
    epoch: int
    values: dict[str, float]
    answer: Callable[[bool], None] = field(compare=False, repr=False)


@dataclass(frozen=True)
class Finished:
    """A run has come to its end.

    Attributes:
        task: as it was submitted last; ``resume`` is set where its worker died and it was tried once more.
        result: None where it was stopped before it could record anything.
    """

    task: Task
    result: Result | None


#: Called by a run with an epoch and its metrics; whether the run goes on. Raises Interrupted where it was stopped.
OnEpoch = Callable[[int, dict[str, float]], bool]
#: What performs a task. The last argument gives the signal that stops the run, or None. Returns what the run recorded,
#: also of one that failed or was stopped; None where nothing was recorded.
Train = Callable[[Task, OnEpoch, Callable[[], int | None]], Result | None]
