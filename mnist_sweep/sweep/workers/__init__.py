"""Where the runs of a sweep are performed: the interface that this machine, or a cluster, serves with five verbs.

Plain data crosses the border: overrides down, numbers up. What workers log, from INFO on, is logged again in the
driver's process under the same logger's name.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Task:
    """One run for a worker.

    Attributes:
        id: given by whoever submits it; comes back with every event.
        overrides: of the run, its name among them.
        config_dir: the further folder of configs that they are composed with.
        parent: MLflow's id of the parent run.
        tags: for MLflow.
        resume: go on from the last checkpoint in the run's folder.
        limit_seconds: that the run may take; None = no limit.
    """

    id: int
    overrides: list[str]
    config_dir: str | None = None
    parent: str | None = None
    tags: dict[str, Any] = field(default_factory=dict)
    resume: bool = False
    limit_seconds: float | None = None


@dataclass(frozen=True)
class Reported:
    """A run has come to the end of an epoch, counted from 1, and waits to hear whether it goes on."""

    task: int
    epoch: int
    values: dict[str, float]


@dataclass(frozen=True)
class Ready:
    """A worker is free for a task.

    Attributes:
        worker: its place, counted from 0; a process that replaces another one has the same.
        memory_mb: resident memory of its process, MB of 2**20 bytes.
    """

    worker: int
    memory_mb: float


@dataclass(frozen=True)
class Ended:
    """A run came to its end, one way or the other.

    Attributes:
        result: the fields of a `mnist_sweep.result.Result`.
        worker: the place of the one that performed it.
    """

    task: int
    result: dict[str, Any]
    worker: int


@dataclass(frozen=True)
class Refused:
    """A run could not be begun; one line says why. The worker lives on."""

    task: int
    detail: str


@dataclass(frozen=True)
class Died:
    """A task ended without a result, or a worker that was at nothing ended; another one takes its place by itself.

    Attributes:
        task: what the worker was at; None = nothing.
        detail: how it ended, in one line: ``killed by signal 9``, ``exit code 1``, the exception that it let out, or
            `NOT_BEGUN`.
    """

    task: int | None
    detail: str


#: Of a task that was stopped so early that there is nothing of it; its worker lives.
NOT_BEGUN = "stopped before it began"

Event = Ready | Ended | Refused | Died
#: Answers a report: whether the run goes on. A signal waits meanwhile, see `mnist_sweep.errors.uninterrupted`.
Decide = Callable[[Reported], bool]
#: What a worker does with a task: it calls the function after each epoch, and returns the fields of a Result.
Performer = Callable[[Task, Callable[[int, dict[str, float]], bool]], dict[str, Any]]


class Launcher(Protocol):
    """Workers, and five verbs: free, submit, wait, stop, close. Every submitted task ends in exactly one event.

    Attributes:
        workers: tasks that can be performed at one time.
    """

    workers: int

    def free(self) -> int:
        """Tasks that can be submitted now."""
        ...

    def submit(self, task: Task) -> None:
        """Give a task to a free worker.

        Raises:
            ValueError: no worker is free.
        """
        ...

    def wait(self, timeout: float | None, decide: Decide) -> list[Event]:
        """What has happened: at least one event, unless the time is over or nothing is left that could happen.

        What it raises loses no event: the next call returns those that were known.

        Args:
            timeout: seconds; None = no limit.
            decide: called for each report of a run meanwhile. What it raises comes out here; its run stays without an
                answer, for `stop`.

        Raises:
            RunFailure: workers cannot be started.
            Interrupted: a signal came.
        """
        ...

    def stop(self, task: int, *, hard: bool = False) -> None:
        """End a run; nothing happens where it has ended already, or is being stopped.

        Args:
            task: its id.
            hard: kill its process, `Died` follows; else the run is interrupted at its next batch and records that,
                `Ended` follows, or `Died` where nothing had been begun.
        """
        ...

    def close(self) -> None:
        """End all workers, and with them what they are at. Nothing else can be done afterwards."""
        ...
