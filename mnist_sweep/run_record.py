"""The record of one run: its folder, its account in MLflow and, last, ``result.json``.

Without torch, so that the record of a run that is not performed here can be written by whoever watches it.
"""

import contextlib
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from mnist_sweep.config import overrides, schema
from mnist_sweep.errors import RequestError, RunFailure, uninterrupted
from mnist_sweep.result import BEST, Result, Status, best_epoch, clear, noted, notes, write_json
from mnist_sweep.tracking import Account, State, find_run, provenance
from mnist_sweep.training import datasets

_STATES: dict[Status, State] = {
    "finished": "FINISHED",
    "pruned": "KILLED",
    "interrupted": "KILLED",
    "failed": "FAILED",
}


def folder_of(config: schema.Config) -> Path:
    """The run's folder."""
    return Path(config.output) / "runs" / str(config.name)


@contextlib.contextmanager
def alone(config: schema.Config) -> Iterator[None]:
    """Hold a run's folder: two processes that take up one run would measure it twice and write over each other.

    Raises:
        RequestError: another process is at this run, or the lock beside its folder cannot be written.
    """
    folder = folder_of(config)
    file = folder.with_name(f".{folder.name}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RequestError(
            f"name={config.name}: another process is at this run; allowed: another name, or this one after its end"
        ) from error
    except OSError as error:  # which a Timeout is, too
        raise RequestError(
            f"output={config.output}: {file} cannot be written ({error.strerror}); allowed: a folder that can"
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # while it is held: who has opened it meanwhile finds it gone
            file.unlink()
        lock.release()


def begun(folder: Path) -> tuple[schema.Config, list[str]] | None:
    """The config and the overrides of the run in a folder; None where there is none that can be read."""
    config, items = _loaded(folder / "config.yaml"), _loaded(folder / "overrides.yaml")
    try:
        return schema.Config.model_validate(config), [*items]
    except (ValueError, TypeError):  # of another version of this program, or damaged
        return None


def _loaded(path: Path) -> Any:
    """Plain data; None where it is not there or damaged, as by a process that was killed while it wrote."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None


def differences(config: schema.Config) -> list[str]:
    """How the run in a config's folder was begun otherwise, in what bears on its numbers: ``KEY: VALUE → VALUE``."""
    there = _loaded(folder_of(config) / "config.yaml")
    if there is None:
        return []
    try:
        before = schema.Config.model_validate(there).material()
    except ValueError as error:  # of another version of this program
        return [" ".join(str(error).split())[:200]]
    now = config.material()
    if now["trainer.precision"] == "auto":  # which came to what stands there
        now["trainer.precision"] = before["trainer.precision"]
    return [
        f"{key}: {overrides.text(before.get(key))} → {overrides.text(now.get(key))}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]


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
        begun: whether the folder is there, and this run's.
        attempt: 1, or more for a run that was taken up again.
        account: in MLflow; not tracked until it is opened.
    """

    def __init__(
        self, config: schema.Config, given: Sequence[str], config_dir: str | None, device: str, threads: int
    ) -> None:
        self.config, self.device, self.threads = config, device, threads
        self.overrides = _exact(config, given, device, threads)
        self.command = overrides.command(self.overrides, config_dir)
        self.folder = folder_of(config)
        self.account = Account(schema.NoTracking(name="none"), Path(config.output), str(config.name))
        self.begun = False
        self.attempt = 1
        self._started = time.monotonic()
        self._noted: dict[str, Any] = {}
        self._logged: list[dict[str, float]] = []
        self._taken_up = False

    def make_folder(self, *, resume: bool = False) -> None:
        """Make the folder, or take up that of an earlier attempt.

        Args:
            resume: the folder may be there already.

        Raises:
            RequestError: it is, but should not be, or that attempt was at another config.
        """
        config = self.config
        try:
            self.folder.mkdir(parents=True)
        except FileExistsError as error:
            if not resume:
                raise RequestError(
                    f"name={config.name}: {self.folder} is there already; allowed: a name not yet taken"
                ) from error
            if changed := differences(config):
                raise RequestError(
                    f"name={config.name}: the run in {self.folder} was begun otherwise ({'; '.join(changed)}); "
                    "allowed: its own settings, or another name"
                ) from error
            self._taken_up, self._noted = True, noted(self.folder)
            self.attempt = 1 + self._noted.get("attempts", 0)
        self.begun = True
        _dump(self.folder / "config.yaml", config.plain())
        _dump(self.folder / "overrides.yaml", list(self.overrides))
        self._note()
        (self.folder / "result.json").unlink(missing_ok=True)  # of an interruption; what it said is noted

    def open(self, parent: str | None, tags: Mapping[str, Any]) -> None:
        """Make the run in MLflow, or go on with that of an earlier attempt.

        Args:
            parent: MLflow's id of the parent run.
            tags: for MLflow; with the study's id as ``study.id`` the run is found again.
        """
        config, earlier = self.config, self._noted.get("mlflow_run_id")
        if self._taken_up and earlier is None and "study.id" in tags:  # died before it could note the id
            earlier = find_run(config.tracking, str(tags["study.id"]), str(config.name))
        with uninterrupted():  # so that no run is left open that nobody knows of
            self.account = Account(config.tracking, Path(config.output), str(config.name), parent, tags, earlier)
            self._note(mlflow_run_id=self.account.run_id)

    def describe(self) -> None:
        """Parameters, provenance and configs, into the account."""
        account, commit = self.account, provenance.commit()
        account.parameters(self.config.parameters())
        source, digest = datasets.SOURCES[self.config.data.name], datasets.verify(self.config.data)
        held = {"training images": min(self.config.data.limit or source.train, source.train)}
        held |= {"validation images": source.validation, "split seed": self.config.data.split_seed}
        files = str(datasets.folder(self.config.data).resolve())
        # MLflow knows a data set by name and digest, and keeps the first profile
        part = f"{digest} {self.config.data.limit} {self.config.data.split_seed}".encode()
        identity = hashlib.md5(part, usedforsecurity=False).hexdigest()
        account.dataset(self.config.data.name, identity, files, "training", held)
        account.tags(
            {
                "command": self.command,
                "device": self.device,
                "threads": self.threads,
                "dataset": self.config.data.name,
                "dataset.digest": digest,
                "attempts": self.attempt if self.attempt > 1 else None,
                **{f"git.{key}": value for key, value in commit.items()},
                "mlflow.source.git.commit": commit.get("commit"),
                **{f"version.{key}": value for key, value in provenance.versions().items()},
            }
        )
        account.file(self.folder / "config.yaml")
        account.file(self.folder / "overrides.yaml")

    def epoch(self, history: Sequence[dict[str, float]], parameters: int | None, train_seconds: float) -> None:
        """After each epoch: its metrics, into the account, and how far the run has come, in case its process dies.

        Args:
            history: the metrics of all epochs. Those that the account does not have are logged, which it knows itself:
                the store may have missed epochs of an earlier attempt, or the account be younger than the run.
            parameters: trainable numbers of the network.
            train_seconds: spent on the epochs.
        """
        done = len(self._logged)
        new = {n: values for n, values in enumerate(history, start=1) if n > done or self._logged[n - 1] != values}
        self.account.epochs(new)
        self._logged = list(history)
        self._note(history=self._logged, parameters=parameters, train_seconds=train_seconds)

    def seconds(self) -> float:
        """That the run has taken, with those of earlier attempts."""
        return float(self._noted.get("seconds", 0.0)) + time.monotonic() - self._started

    def _note(self, **known: Any) -> None:
        """Write down what is known of the run beside its checkpoints."""
        path = notes(self.folder)
        path.parent.mkdir(exist_ok=True)
        self._noted |= known
        own = {"attempts": self.attempt, "device": self.device, "threads": self.threads, "seconds": self.seconds()}
        write_json(path, self._noted | own, sync=False)

    def result(self, status: Status, **measured: Any) -> Result:
        """A result with what the record knows of it.

        Args:
            status: how the run ended.
            measured: the other fields.
        """
        config = self.config
        history = measured.get("history", [])
        best = best_epoch([epoch[config.objective] for epoch in history], config.direction)
        known: dict[str, Any] = {
            "reason": None,
            "detail": None,
            "objective": history[best - 1][config.objective] if best else None,
            "metrics": dict(history[best - 1]) if best else {},
            "best_epoch": best,
            "epochs": len(history),
            "seconds": round(self.seconds(), 3),
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
            "checkpoint": str(BEST) if (self.folder / BEST).is_file() else None,
            "attempts": self.attempt,
        }
        return Result(status=status, **(known | measured))

    def close(self, result: Result) -> Result:
        """End the run in MLflow and write ``result.json``: the account and the file agree.

        Raises:
            RunFailure: ``result.json`` cannot be written, as on a full disk; then the run has failed in MLflow, too.
        """
        with uninterrupted():
            if result.status == "finished":
                best = {"best_epoch": result.best_epoch, f"best.{self.config.objective}": result.objective}
                self.account.tags(best)
            if result.checkpoint and result.status in ("finished", "interrupted"):
                self.account.file(self.folder / result.checkpoint, "checkpoints")
            word = "interrupted" if result.status == "interrupted" else None
            self.account.end(_STATES[result.status], result.reason or word, result.detail)
            try:
                result.write()
            except OSError as error:
                detail = f"{result.path} cannot be written ({error.strerror or error})"
                self.account.end("FAILED", "error", detail)
                raise RunFailure("error", detail) from error
            if result.status != "interrupted":
                clear(self.folder)
        return result


def ended(config: schema.Config) -> Result | None:
    """The result of a run that came to its end by itself, finished or pruned; else None."""
    result = Result.found(folder_of(config))
    return result if result and result.status in ("finished", "pruned") else None


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


def _dump(path: Path, content: Any) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
