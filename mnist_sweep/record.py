"""The record of one run: its folder, its account in MLflow and, last, ``result.json``.

Without torch, so that the record of a run that is not performed here can be written by whoever watches it.
"""

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mnist_sweep import datasets, overrides, provenance, schema
from mnist_sweep.errors import RequestError, uninterrupted
from mnist_sweep.result import Result, Status, write_json
from mnist_sweep.tracking import Account, State, find_run

_STATES: dict[Status, State] = {
    "finished": "FINISHED",
    "pruned": "KILLED",
    "interrupted": "KILLED",
    "failed": "FAILED",
}


def folder_of(config: schema.Config) -> Path:
    """The run's folder."""
    return Path(config.output) / "runs" / str(config.name)


def last_checkpoint(folder: Path) -> Path:
    """Where a run keeps all that it needs to go on: the state after its last epoch."""
    return folder / "checkpoints" / "last.ckpt"


class Record:
    """What one run leaves.

    Args:
        config: its ``name`` is set.
        given: the overrides that composed it.
        config_dir: the further folder of configs that they were composed with.
        device: ``cpu``, or the name of the GPU.
        threads: of the processor.

    Attributes:
        overrides: everything that bears on the numbers, written out.
        command: repeats the run.
        folder: of the run.
        attempt: 1, or more for a run that was taken up again.
        account: in MLflow; there from `open` on.
    """

    account: Account

    def __init__(
        self, config: schema.Config, given: Sequence[str], config_dir: str | None, device: str, threads: int
    ) -> None:
        self.config, self.device, self.threads = config, device, threads
        self.overrides = _exact(config, given, device, threads)
        self.command = overrides.command(self.overrides, config_dir)
        self.folder = folder_of(config)
        self.attempt = 1

    def open(self, parent: str | None, tags: Mapping[str, Any], *, resume: bool = False) -> None:
        """Make the folder and the run in MLflow, or go on with those of an earlier attempt.

        Args:
            parent: MLflow's id of the parent run.
            tags: for MLflow.
            resume: the folder may be there already.

        Raises:
            RequestError: it is, but should not be.
        """
        config, earlier = self.config, None
        if resume and self.folder.exists():
            self.attempt = 1 + _attempts(self.folder)
            (self.folder / "result.json").unlink(missing_ok=True)
            earlier = find_run(config.tracking, str(tags.get("study")), str(config.name))
        try:
            self.folder.mkdir(parents=True, exist_ok=resume)
        except FileExistsError as error:
            raise RequestError(f"name={config.name}: {self.folder} is there already; choose another name") from error
        _dump(self.folder / "config.yaml", config.plain())
        _dump(self.folder / "overrides.yaml", list(self.overrides))
        self.progress([], None)
        with uninterrupted():  # so that no run is left open that nobody knows of
            self.account = Account(config.tracking, Path(config.output), str(config.name), parent, tags, earlier)

    def describe(self) -> None:
        """Parameters, provenance and configs, into the account."""
        account, commit = self.account, provenance.commit()
        account.parameters(self.config.parameters())
        account.tags(
            {
                "command": self.command,
                "device": self.device,
                "threads": self.threads,
                "dataset": self.config.data.name,
                "dataset.digest": datasets.verify(self.config.data),
                "attempts": self.attempt if self.attempt > 1 else None,
                **{f"git.{key}": value for key, value in commit.items()},
                "mlflow.source.git.commit": commit.get("commit"),
                **{f"version.{key}": value for key, value in provenance.versions().items()},
            }
        )
        account.file(self.folder / "config.yaml")
        account.file(self.folder / "overrides.yaml")

    def progress(self, history: Sequence[Mapping[str, float]], parameters: int | None) -> None:
        """Note how far the run has come, in case its process dies."""
        path = _progress(self.folder)
        path.parent.mkdir(exist_ok=True)
        content = {
            "attempts": self.attempt,
            "device": self.device,
            "threads": self.threads,
            "parameters": parameters,
            "history": list(history),
        }
        write_json(path, content, sync=False)

    def result(self, status: Status, **measured: Any) -> Result:
        """A result with what the record knows of it.

        Args:
            status: how the run ended.
            measured: the other fields.
        """
        config = self.config
        history = measured.get("history", [])
        best = best_epoch([epoch[config.objective] for epoch in history], config)
        known: dict[str, Any] = {
            "reason": None,
            "detail": None,
            "objective": history[best - 1][config.objective] if best else None,
            "metrics": dict(history[best - 1]) if best else {},
            "best_epoch": best,
            "epochs": len(history),
            "seconds": 0.0,
            "train_seconds": 0.0,
            "parameters": None,
            "multiply_adds": sum(layer.multiply_adds for layer in config.model.layers()),
            "dataset": config.data.name,
            "seed": config.seed,
            "device": self.device,
            "threads": self.threads,
            "precision": str(config.trainer.precision),
            "mlflow_run_id": self.account.run_id,
            "overrides": self.overrides,
            "command": self.command,
            "folder": str(self.folder),
            "checkpoint": None,
            "attempts": self.attempt,
        }
        return Result(status=status, **(known | measured))

    def close(self, result: Result) -> Result:
        """End the run in MLflow and write ``result.json``: the account and the file agree."""
        with uninterrupted():
            if result.checkpoint and result.status in ("finished", "interrupted"):
                self.account.file(self.folder / result.checkpoint, "checkpoints")
            word = "interrupted" if result.status == "interrupted" else None
            self.account.end(_STATES[result.status], result.reason or word, result.detail)
            result.write()
            if result.status != "interrupted":
                for path in (last_checkpoint(self.folder), _progress(self.folder)):
                    path.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # it holds the best checkpoint, where there is one
                    (self.folder / "checkpoints").rmdir()
        return result


def abandon(
    config: schema.Config,
    given: Sequence[str],
    *,
    config_dir: str | None,
    parent: str | None,
    tags: Mapping[str, Any],
    reason: str,
    detail: str,
) -> Result:
    """The record of a run whose process died or hung: failed, with as much of its history as it noted.

    Args:
        config, given, config_dir: as for `Record`.
        parent, tags: as for `Record.open`.
        reason: one word for programs: ``crashed``, ``timeout`` or ``error``.
        detail: one line for people.
    """
    noted = _noted(folder_of(config))
    record = Record(config, given, config_dir, noted.get("device", "cpu"), noted.get("threads", 1))
    record.open(parent, tags, resume=True)
    record.attempt = max(1, record.attempt - 1)  # looking after it is no attempt
    known = {"history": noted.get("history", []), "parameters": noted.get("parameters")}
    return record.close(record.result("failed", reason=reason, detail=detail, **known))


def repeat(
    config: schema.Config,
    given: Sequence[str],
    earlier: Result,
    *,
    config_dir: str | None,
    parent: str | None,
    tags: Mapping[str, Any],
) -> Result:
    """The record of a run that is not performed because an equal one was: the same numbers, marked as taken over.

    Args:
        config, given, config_dir: as for `Record`.
        earlier: of the equal run.
        parent, tags: as for `Record.open`.
    """
    original = earlier.duplicate_of or Path(earlier.folder).name
    record = Record(config, given, config_dir, earlier.device, earlier.threads)
    record.open(parent, {**tags, "duplicate_of": original})
    record.describe()
    for epoch, values in enumerate(earlier.history, start=1):
        record.account.metrics(values, epoch)
    own: dict[str, Any] = {
        "seconds": 0.0,
        "train_seconds": 0.0,
        "checkpoint": None,
        "duplicate_of": original,
        "seed": config.seed,
    }
    own |= {"overrides": record.overrides, "command": record.command, "folder": str(record.folder)}
    own |= {"mlflow_run_id": record.account.run_id, "attempts": 1}
    return record.close(dataclasses.replace(earlier, **own))


def best_epoch(values: Sequence[float], config: schema.Config) -> int | None:
    """The epoch, counted from 1, with the best value; of equal ones the first, as ModelCheckpoint keeps it."""
    if not values:
        return None
    best = max(values) if config.direction == "maximize" else min(values)
    return values.index(best) + 1


def _exact(config: schema.Config, given: Sequence[str], device: str, threads: int) -> list[str]:
    """The overrides with everything that bears on the numbers written out, so that they repeat the run anywhere."""
    exact = {
        "seed": config.seed,
        "data.fallback": None,
        "trainer.threads": threads,
        "trainer.precision": config.trainer.precision,
        "trainer.accelerator": "cpu" if device == "cpu" else "gpu",
    }
    if datasets.SOURCES[config.data.name].torchvision:
        exact["data.root"] = str(Path(config.data.root).resolve())
    return overrides.replaced(
        overrides.without(given, "name"), [overrides.override(key, value) for key, value in exact.items()]
    )


def _progress(folder: Path) -> Path:
    return folder / "checkpoints" / "progress.json"


def _noted(folder: Path) -> dict[str, Any]:
    """What a run noted of its progress; empty where it did not come as far."""
    try:
        noted: dict[str, Any] = json.loads(_progress(folder).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return noted


def _attempts(folder: Path) -> int:
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
        return Result.read(folder).attempts
    return int(_noted(folder).get("attempts", 0))


def _dump(path: Path, content: Any) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
