"""Where the runs of a sweep are performed: the interface that this machine, or a cluster, serves with five verbs.

Plain data crosses the border: overrides down, numbers up.
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
        deadline: seconds that the run may take; None = no limit.
    """

    id: int
    overrides: list[str]
    config_dir: str | None = None
    parent: str | None = None
    tags: dict[str, Any] = field(default_factory=dict)
    resume: bool = False
    deadline: float | None = None


@dataclass(frozen=True)
class Reported:
    """A run has come to the end of an epoch, counted from 1, and waits to hear whether it goes on."""

    task: int
    epoch: int
    values: dict[str, float]


@dataclass(frozen=True)
class Ended:
    """A run came to its end, one way or the other.

    Attributes:
        result: the fields of a `mnist_sweep.result.Result`.
    """

    task: int
    result: dict[str, Any]


@dataclass(frozen=True)
class Refused:
    """A run could not be begun; one line says why."""

    task: int
    detail: str


@dataclass(frozen=True)
class Died:
    """A worker ended without a result; another one takes its place by itself.

    Attributes:
        task: what it was at; None = nothing.
        detail: how it ended, such as ``killed by signal 9``.
    """

    task: int | None
    detail: str


Event = Ended | Refused | Died
#: Answers a report: whether the run goes on.
Decide = Callable[[Reported], bool]
#: What a worker does with a task: it calls the function after each epoch, and returns the fields of a Result.
Performer = Callable[[Task, Callable[[int, dict[str, float]], bool]], dict[str, Any]]


class Launcher(Protocol):
    """Workers, and five verbs: free, submit, wait, stop, close."""

    def free(self) -> int:
        """Workers that are ready for a task."""
        ...

    def submit(self, task: Task) -> None:
        """Give a task to a free worker.

        Raises:
            ValueError: no worker is free.
        """
        ...

    def wait(self, timeout: float | None, decide: Decide) -> list[Event]:
        """What has happened: returns as soon as there is an event or another free worker, or the time is over.

        Args:
            timeout: seconds; None = no limit.
            decide: called for each report of a run meanwhile.

        Raises:
            RunFailure: no worker can be started.
        """
        ...

    def stop(self, task: int, *, hard: bool = False) -> None:
        """End a run; nothing happens where it has ended already.

        Args:
            task: its id.
            hard: kill its process, `Died` follows; else the run is interrupted and records that, `Ended` follows.
        """
        ...

    def close(self) -> None:
        """End all workers, and with them what they are at. Nothing else can be done afterwards."""
        ...
