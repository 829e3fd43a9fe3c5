"""A run's folder: its config and overrides, a history, checkpoints and, last, ``result.json``."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from mnist_sweep.config import options, overrides, schema
from mnist_sweep.errors import RequestError
from mnist_sweep.result import BEST, Result


@contextlib.contextmanager
def lock(file: Path, message: str) -> Iterator[None]:
    """Hold a file, so that only one process works on what it stands for.

    Args:
        file: is made, and its folder; it is gone afterwards.
        message: says, in one line, what another process is at and what is allowed.

    Raises:
        RequestError: another process holds the file, or it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(file)
        held.acquire(timeout=0)
    except Timeout as error:
        raise RequestError(message) from error
    except OSError as error:  # which a Timeout is, too
        raise RequestError(
            f"{file} cannot be written ({error.strerror or error}); allowed: a folder that can"
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # while the lock is held: another process must not find it and then lose it
            file.unlink()
        held.release()


@dataclass
class Progress:
    """How far a run has come, by its ``history.jsonl``, or by its ``result.json`` where it was interrupted.

    Attributes:
        attempts: that were begun; 0 for a run without a folder.
        device, threads, mlflow_run_id: see `Result`.
        seconds, train_seconds: of all attempts.
        history: the metrics of each epoch.
        times: when each epoch ended, milliseconds since 1970.
    """

    attempts: int = 0
    device: str = "cpu"
    threads: int = 1
    mlflow_run_id: str | None = None
    seconds: float = 0.0
    train_seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    times: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Attributes:
        path: ``<output>/runs/<name>``; its last part is the run's name.
    """

    path: Path

    @classmethod
    def of(cls, config: schema.Config) -> "RunFolder":
        """The folder of the run of this config, which has a name."""
        return cls(Path(config.output) / "runs" / str(config.name))

    @property
    def best(self) -> Path:
        """The best epoch's checkpoint."""
        return self.path / BEST

    @property
    def last(self) -> Path:
        """The state after the last epoch, from which a run that did not end goes on."""
        return self.path / "checkpoints" / "last.ckpt"

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Hold the run: two processes that resume it would write over each other. See `lock` for what it raises."""
        name = self.path.name
        return lock(
            self.path.with_name(f".{name}.lock"),
            f"name={name}: another process is at this run; allowed: another name, or this one after its end",
        )

    def begin(self, config: schema.Config, items: Sequence[str], *, resume: bool = False) -> Progress:
        """Make the folder, or go on in that of an earlier attempt.

        Args:
            config: of the run.
            items: the overrides that repeat it.
            resume: the folder may be there already.

        Returns:
            The progress of the earlier attempts.

        Raises:
            RequestError: the folder is there but should not be, is of another config, or cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=resume)
            if resume and (changed := self.differences(config)):
                raise RequestError(
                    f"name={config.name}: the run in {self.path} was begun otherwise ({'; '.join(changed)}); "
                    "allowed: its own settings, or another name"
                )
            _write_yaml(self.path / "config.yaml", config.plain())
            _write_yaml(self.path / "overrides.yaml", list(items))
        except FileExistsError as error:
            raise RequestError(
                f"name={config.name}: {self.path} is there already; allowed: a name not yet taken"
            ) from error
        except OSError as error:
            raise RequestError(
                f"output={config.output}: {self.path} cannot be written ({error.strerror}); allowed: a folder that can"
            ) from error
        return self.progress()

    def config(self) -> schema.Config | None:
        """The run's config, as if it had been started where its folder is now; None where none can be read."""
        try:
            config = schema.Config.model_validate(_read_yaml(self.path / "config.yaml"))
        except ValueError:  # of another version of this program, or damaged
            return None
        there, here = config.output, str(self.path.parent.parent)
        moved: dict[str, Any] = {"output": here, "name": self.path.name}
        if isinstance(config.tracking, options.MLflow):
            uri = config.tracking.uri.replace(f"sqlite:///{there}/", f"sqlite:///{here}/")
            moved["tracking"] = config.tracking.model_copy(update={"uri": uri})
        return config.model_copy(update=moved)

    def overrides(self) -> list[str]:
        """The overrides that repeat the run."""
        return list(_read_yaml(self.path / "overrides.yaml") or [])

    def differences(self, config: schema.Config) -> list[str]:
        """How the run in the folder was begun otherwise, in what bears on its numbers: ``KEY: VALUE → VALUE``."""
        there = _read_yaml(self.path / "config.yaml")
        if there is None:
            return []
        try:
            before = schema.Config.model_validate(there).relevant()
        except ValueError as error:  # of another version of this program
            return [" ".join(str(error).split())[:200]]
        now = config.relevant()
        if now["trainer.precision"] == "auto":  # which came to what stands there
            now["trainer.precision"] = before["trainer.precision"]
        return [
            f"{key}: {overrides.text(before.get(key))} → {overrides.text(now.get(key))}"
            for key in sorted({*before, *now})
            if before.get(key) != now.get(key)
        ]

    def note(self, **line: Any) -> None:
        """Append a line to ``history.jsonl``: how an attempt begins (``attempts``), or what an ``epoch`` came to."""
        with (self.path / "history.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def progress(self) -> Progress:
        """How far the run has come."""
        found = Progress()
        with contextlib.suppress(FileNotFoundError):
            for text in (self.path / "history.jsonl").read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError, KeyError):  # a process was killed while it wrote the line
                    _add(found, json.loads(text))
        if result := self.result():
            for key in ("attempts", "device", "threads", "mlflow_run_id", "seconds", "train_seconds"):
                setattr(found, key, getattr(result, key))
        return found

    def result(self) -> Result | None:
        """The run's result; None where there is none that can be read."""
        return Result.found(self.path)

    def ended(self) -> Result | None:
        """The result of a run that came to its end by itself, finished or pruned; else None."""
        result = self.result()
        return result if result and result.status in ("finished", "pruned") else None

    def clear(self) -> None:
        """Remove what only a run that goes on needs, and the files that a process was writing when it died."""
        for pattern in ("checkpoints/last.*", "checkpoints/.*", ".*.json.*"):
            for path in self.path.glob(pattern):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it holds the best checkpoint, where there is one
            (self.path / "checkpoints").rmdir()


def _add(progress: Progress, line: dict[str, Any]) -> None:
    """Bring progress up to date by a line of ``history.jsonl``; an epoch that was trained again takes its old place."""
    if "epoch" in line:
        before = line.pop("epoch") - 1
        progress.times = [*progress.times[:before], line.pop("time")]
        progress.seconds, progress.train_seconds = line.pop("seconds"), line.pop("train_seconds")
        progress.history = [*progress.history[:before], line]
    else:
        for key, value in line.items():
            setattr(progress, key, value)


def _write_yaml(path: Path, content: Any) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _read_yaml(path: Path) -> Any:
    """Plain data; None where the file is not there or damaged, as by a process that was killed while it wrote."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
