"""A run in MLflow. Nothing here fails a run: the first error of a store ends tracking for that run, with a warning."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mnist_sweep.config import schema

State = Literal["FINISHED", "FAILED", "KILLED"]


class MLflowRun:
    """One run in MLflow, from its start to its end; without tracking, nothing.

    Args:
        settings: the config's ``tracking``; None is the same as ``tracking=none``.
        output: the folder of everything that is written; artifacts go below it where the store is a database.
        name: of the run.
        parent: MLflow's id of the parent run.
        tags: that the run has from its first moment, so that it can be found if the process dies in the next.
        resume: MLflow's id of an earlier run to go on with; where it is gone, there is a new one.

    Attributes:
        run_id: MLflow's id of the run; None without tracking.
        tracked: whether anything is kept.
    """

    run_id: str | None
    tracked: bool

    def __init__(
        self,
        settings: schema.Tracking | None,
        output: Path,
        name: str,
        *,
        parent: str | None = None,
        tags: Mapping[str, Any] | None = None,
        resume: str | None = None,
    ) -> None:
        raise NotImplementedError

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Log parameters by dotted name. They cannot be changed: of a resumed run's, the first value stays."""

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags; None values are left out."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics; the step is the epoch, counted from 1."""

    def figure(self, figure: Any, file: str) -> None:
        """Keep a matplotlib or plotly figure under this name (.png or .html)."""

    def document(self, content: Any, file: str) -> None:
        """Keep plain data under this name (.json or .yaml)."""

    def text(self, content: str, file: str) -> None:
        """Keep a text under this name."""

    def file(self, path: Path, folder: str | None = None) -> None:
        """Keep a copy of a file, in a folder of the run's artifacts."""

    def table(self, columns: Mapping[str, Sequence[Any]], file: str) -> None:
        """Keep a table by its columns, as MLflow's UI shows them (.json)."""

    def note(self, markdown: str) -> None:
        """Set what MLflow's UI shows as the run's description."""

    def dataset(self, name: str, digest: str, source: str, context: str, profile: Mapping[str, Any]) -> None:
        """Log a data set as an input of the run."""

    def model(self, module: Any, images: Any, checkpoint: Path, parameters: Mapping[str, str], step: int) -> None:
        """Keep a network (images → probabilities) as the run's model, with our own checkpoint of it."""

    def end(self, state: State, reason: str | None = None, detail: str | None = None) -> None:
        """Close the run; a failure's reason and detail become tags."""


def warm_up() -> None:
    """Import MLflow, which takes seconds."""


def find_run(settings: schema.Tracking, study: str, name: str) -> str | None:
    """MLflow's id of a run of a study, by the study's id, the newest of this name; None where there is none."""


def close_running(settings: schema.Tracking, study: str, reason: str, keep: str | None, state: State) -> None:
    """Close the runs of a study, by its id, whose process died, but for the run `keep`."""
