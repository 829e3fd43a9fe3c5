"""What a run returns, and the names of the runs of a sweep."""

import contextlib
import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Status = Literal["finished", "pruned", "failed", "interrupted"]

#: The best epoch's checkpoint, within a run's folder.
BEST = Path("checkpoints") / "best.ckpt"


@dataclass(frozen=True)
class Result:
    """What a run returns: plain numbers and paths.

    Attributes:
        status: how the run ended.
        reason: of a failure, one word: ``diverged``, ``out_of_memory``, ``infeasible``, ``timeout``, ``crashed`` or
            ``error``; else None.
        detail: of a failure, one line; else None.
        objective: the best epoch's value of the config's objective; None where no epoch ended.
        metrics: by name, the best epoch's for training and validation, and the test set's where it was opened.
        best_epoch: the best epoch, counted from 1; None where no epoch ended.
        epochs: epochs that were run.
        seconds: the whole run, all its attempts.
        train_seconds: the epochs, validation included; what an attempt lost is not counted.
        parameters: trainable numbers of the network.
        dataset: the data set really used.
        seed: of the run.
        device: ``cpu``, or the name of the GPU.
        threads: of the processor.
        precision: ``32`` or ``bf16``.
        mlflow_run_id: None without tracking.
        overrides: of the command.
        command: repeats the run exactly on the same kind of machine.
        folder: of the run.
        checkpoint: the best epoch's, within the folder; None where no epoch ended.
        history: the metrics of each epoch.
        multiply_adds: of the network, for one image.
        attempts: 1, or more where a run was resumed after its process had died or was interrupted.
        duplicate_of: name of the equal run whose numbers these are; None for a run that was trained.
        test_opened_at: when the test set was opened for it (ISO 8601, UTC); None where it was not.
        confusion: of the best epoch on the validation set, counts, a row for each true class.
    """

    status: Status
    reason: str | None
    detail: str | None
    objective: float | None
    metrics: dict[str, float]
    best_epoch: int | None
    epochs: int
    seconds: float
    train_seconds: float
    parameters: int | None
    dataset: str
    seed: int
    device: str
    threads: int
    precision: str
    mlflow_run_id: str | None
    overrides: list[str]
    command: str
    folder: str
    checkpoint: str | None
    history: list[dict[str, float]] = field(default_factory=list)
    multiply_adds: int | None = None
    attempts: int = 1
    duplicate_of: str | None = None
    test_opened_at: str | None = None
    confusion: list[list[int]] | None = None

    @property
    def path(self) -> Path:
        """Where it is kept: ``result.json`` in the run's folder."""
        return Path(self.folder) / "result.json"

    def write(self) -> Path:
        """Keep it; the file is there whole or not at all."""
        return write_json(self.path, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "Result":
        """The result in a run's folder.

        Raises:
            FileNotFoundError: the run did not come to its end.
            ValueError, TypeError: it is damaged, or of another version of this program.
        """
        return cls(**json.loads((folder / "result.json").read_text(encoding="utf-8")))

    @classmethod
    def found(cls, folder: Path) -> "Result | None":
        """The same; None where there is none that can be read."""
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
            return cls.read(folder)
        return None


def write_json(path: Path, content: Any) -> Path:
    """Write plain data to a file that is there whole or not at all, also when the power fails."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with part.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    return path


def run_name(sweep: str, trial: int, seed: int | None = None) -> str:
    """The name of a trial's run and its folder; with a seed, of a run of the winner's retraining."""
    return f"{sweep}-{trial:04d}" + ("" if seed is None else f"-seed{seed}")


def trial_of(name: str) -> int:
    """The number of the trial whose run has this name."""
    return int(name.rpartition("-")[2])


def is_run_of(sweep: str, name: str) -> bool:
    """Whether a folder is named like a run of this sweep."""
    return re.fullmatch(rf"{re.escape(sweep)}-\d{{4,}}(-seed\d+)?", name) is not None
