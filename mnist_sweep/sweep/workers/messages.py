"""What a sweep and its workers say to each other: plain data, a command line down, numbers up."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mnist_sweep.config.command import CommandLine
from mnist_sweep.result import Result

#: Whether a run goes on after an epoch; a run that pauses can be resumed.
Decision = bool | Literal["pause"]


@dataclass(frozen=True)
class Task:
    """One run for a worker."""

    id: int  # no two tasks that run at the same time share one
    command: CommandLine  # with the run's name
    parent: str | None = None  # MLflow's id of the parent run
    tags: dict[str, Any] = field(default_factory=dict)  # for MLflow
    resume: bool = False  # go on from the last checkpoint in the run's folder
    limit_seconds: float | None = None  # that the run may take
    seeds: int = 1  # the run's own and those after it: a run that finishes is judged by its mean over them
    pictures: bool = False  # whether a finished run makes its pictures and exports its model
    folder: Path | None = None  # of the run, where it is not to be below the output
    data_root: str | None = None  # where the images are, where that is not ``data.root``


@dataclass(frozen=True)
class Report:
    """The run of a task, by its id, has ended an epoch, counted from 1, and waits for `answer`: whether it goes on."""

    task: int
    epoch: int
    values: dict[str, float]
    answer: Callable[[Decision], None] = field(compare=False, repr=False)


@dataclass(frozen=True)
class Finished:
    """A run has come to its end; the result is None where it was stopped before it recorded anything."""

    task: Task
    result: Result | None


#: Called with each epoch and its metrics; whether the run goes on. Raises Interrupted where the run was stopped.
OnEpoch = Callable[[int, dict[str, float]], Decision]
#: Gives the signal that stops the run, or None.
Stopped = Callable[[], int | None]
#: Performs a task. Returns what the run recorded, also of one that failed or was stopped; None where it is nothing.
Train = Callable[[Task, OnEpoch, Stopped], Result | None]
