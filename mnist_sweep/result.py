"""What a run returns, and the names of the runs of a sweep."""

import contextlib
import functools
import json
import os
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

Status = Literal["finished", "pruned", "failed", "interrupted"]
#: What a run or a trial came to in ``sweep.json`` and in MLflow's tag ``state``, by the status of its result.
STATES: dict[Status, str] = {
    "finished": "complete", "pruned": "pruned", "failed": "failed", "interrupted": "stopped",
}  # fmt: skip

#: The best epoch's checkpoint, within a run's folder.
BEST = Path("checkpoints") / "best.ckpt"


@dataclass(frozen=True)
class Result:
    """What a run returns: plain numbers and paths."""

    status: Status  #: how the run ended
    reason: str | None  #: of a failure, one word: diverged, out_of_memory, infeasible, timeout, crashed or error
    detail: str | None  #: of a failure, one line
    objective: float | None  #: the best epoch's value of the config's objective; None where no epoch ended
    metrics: dict[str, float]  #: by name, the best epoch's, and the test set's where it was opened
    best_epoch: int | None  #: counted from 1; None where no epoch ended
    epochs: int  #: that were run
    seconds: float  #: of the whole run, all its attempts
    train_seconds: float  #: of the epochs, validation included; what an attempt lost is not counted
    parameters: int | None  #: trainable numbers of the network
    dataset: str  #: the data set really used
    seed: int
    device: str  #: ``cpu``, or the name of the GPU
    threads: int  #: of the processor
    precision: str  #: ``32`` or ``bf16``
    mlflow_run_id: str | None  #: None without tracking
    overrides: list[str]  #: of the command
    command: str  #: repeats the run exactly on the same kind of machine
    folder: str  #: of the run
    checkpoint: str | None  #: the best epoch's, within the folder; None where no epoch ended
    history: list[dict[str, float]] = field(default_factory=list)  #: the metrics of each epoch
    learning_rates: list[float] = field(default_factory=list)  #: with which each epoch began
    multiply_adds: int | None = None  #: of the network, for one image
    attempts: int = 1  #: more where a run went on after a pause, an interruption, or the death of its process
    seeds: int = 1  #: that its metrics are the means over; the runs of the others lie beside its folder
    duplicate_of: str | None = None  #: name of the equal run whose numbers these are; None for a run that was trained
    test_opened_at: str | None = None  #: when the test set was opened for it (ISO 8601, UTC)
    confusion: list[list[int]] | None = None  #: of the best epoch on validation, counts, a row for each true class
    objective_metric: str | None = None  #: what the best epoch was chosen by
    params: dict[str, Any] = field(default_factory=dict)  #: the config's values by dotted name
    schema_version: int = 1  #: of ``result.json``
    working_folder: str = field(default_factory=lambda: str(Path.cwd()), compare=False)  #: of relative paths

    @property
    def path(self) -> Path:
        """Where it is kept: ``result.json`` in the run's folder."""
        return Path(self.folder) / "result.json"

    def write(self) -> Path:
        """Keep it; the file is there whole or not at all."""
        return write_json(self.path, asdict(replace(self, working_folder=str(Path.cwd()))))

    @classmethod
    def read(cls, folder: Path) -> "Result":
        """The result in a run's folder; a FileNotFoundError, ValueError or TypeError where there is none to be read."""
        content = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        return replace(_result().validate_python(content), folder=str(folder))  # which may have been moved since

    @classmethod
    def found(cls, folder: Path) -> "Result | None":
        """The same; None where there is none that can be read."""
        with contextlib.suppress(FileNotFoundError, RecursionError, ValueError, TypeError):
            return cls.read(folder)
        return None


@functools.cache
def _result() -> TypeAdapter[Result]:
    return TypeAdapter(Result)


def write_json(path: Path, content: Any) -> Path:
    """Write plain data to a file that is there whole or not at all, also when the power fails."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(f"{text}\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return path


def run_name(sweep: str, trial: int, seed: int | None = None) -> str:
    """The name of a trial's run and its folder; with a seed, of a run of the winner's retraining."""
    return f"{sweep}-{trial:04d}" + ("" if seed is None else f"-seed{seed}")


def is_run_of(sweep: str, name: str) -> bool:
    """Whether a folder is named like a trial's run of this sweep, or like one that was trained to judge the winner."""
    runs = r"-(\d{4,}(-seed\d+(-without-.+)?)?|baseline-seed\d+)"
    return re.fullmatch(re.escape(sweep) + runs, name) is not None
