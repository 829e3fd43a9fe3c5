"""What a run returns, and how it is kept on disk."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Status = Literal["finished", "pruned", "failed", "interrupted"]


@dataclass(frozen=True)
class Result:
    """What a run returns: plain numbers and paths.

    Attributes:
        status: how the run ended.
        reason: of a failure, one word: ``diverged``, ``out_of_memory``, ``error``, ``crashed``; else None.
        detail: of a failure, one line; else None.
        objective: the best epoch's value of the config's objective; None where no epoch ended.
        metrics: by name, the best epoch's for training and validation, and the test set's where it was opened.
        best_epoch: the best epoch, counted from 1; None where no epoch ended.
        epochs: epochs that were run.
        seconds: the whole run.
        train_seconds: the epochs, validation included.
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

    @property
    def path(self) -> Path:
        """Where it is kept: ``result.json`` in the run's folder."""
        return Path(self.folder) / "result.json"

    def write(self) -> Path:
        """Keep it; the file is there whole or not at all."""
        return write_json(self.path, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "Result":
        """What a run left in its folder.

        Raises:
            FileNotFoundError: the run did not come to its end.
        """
        return cls(**json.loads((folder / "result.json").read_text(encoding="utf-8")))


def write_json(path: Path, content: Any) -> Path:
    """Write a JSON file that is there whole or not at all, also when the power fails: new file, sync, rename."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with part.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    return path
