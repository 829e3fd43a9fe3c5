"""A run's folder: its config and overrides, a history, checkpoints and, last, ``result.json``.

A sweep's folder has a config and overrides, too.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from mnist_sweep.config import options, overrides, schema
from mnist_sweep.errors import MASK, RequestError, why, without_passwords
from mnist_sweep.result import BEST, Result


@contextlib.contextmanager
def lock(file: Path, message: str) -> Iterator[None]:
    """Hold a file, so that only one process works on what it stands for. It is gone afterwards.

    A RequestError says, with the message, that another process holds it, or that it cannot be written.
    """
    held = FileLock(file, timeout=0, mode=0o666)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        held.acquire()
    except Timeout as error:
        raise RequestError(message) from error
    except OSError as error:  # which a Timeout is, too
        raise RequestError(f"{file} cannot be written ({why(error)}); allowed: a folder that can") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # while it is held: a process that opens it now finds it gone, and waits not
            file.unlink()
        held.release()


@dataclass
class Progress:
    """How far a run has come; see `Result` for what is not said here."""

    attempts: int = 0  #: 0 = none was begun
    device: str = "cpu"
    threads: int = 1
    mlflow_run_id: str | None = None
    key: str | None = None  #: by which MLflow's run is found where its id is not known
    seconds: float = 0.0
    train_seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


_LINE, _VALUES = TypeAdapter(dict[str, Any]), TypeAdapter(dict[str, float])
_PROGRESS = TypeAdapter(Progress)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, ``<output>/runs/<name>``."""

    path: Path

    @classmethod
    def of(cls, config: schema.Config) -> "RunFolder":
        """The folder of the run of this config, which has a name."""
        return cls(Path(config.output) / "runs" / str(config.name))

    @property
    def best(self) -> Path:
        """The best epoch's checkpoint."""
        return self.path / BEST

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Hold the run: two processes that resume it would write over each other. See `lock` for what it raises."""
        name, allowed = self.path.name, "another name, or this one after its end"
        taken = f"name={name}: another process is at this run; allowed: {allowed}"
        return lock(self.path.with_name(f".{name}.lock"), taken)

    def begin(self, config: schema.Config, items: Sequence[str], *, resume: bool = False) -> None:
        """Make the folder with a config and the overrides that repeat it, or go on in that of an earlier attempt.

        A RequestError says that it is there but should not be, is of another config, or cannot be written.
        """
        where = f"name={config.name}: {self.path}"
        try:
            self.path.mkdir(parents=True, exist_ok=resume)
            if resume:
                self._same(config)
            self.describe(config, items)
        except FileExistsError as error:
            raise RequestError(f"{where} is there already; allowed: a name not yet taken") from error
        except OSError as error:
            where = f"output={config.output}: {self.path}"
            raise RequestError(f"{where} cannot be written ({why(error)}); allowed: a folder that can") from error

    def describe(self, config: schema.Config, items: Sequence[str]) -> None:
        """Write ``config.yaml`` and ``overrides.yaml``, of a run or a sweep; an OSError where that fails."""
        for file, content in (("config.yaml", config.plain()), ("overrides.yaml", list(items))):
            part = self.path / f".{file}.part"  # else a process that is killed here would leave a file without content
            part.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
            part.replace(self.path / file)

    def check(self, config: schema.Config) -> None:
        """Raise a RequestError unless the run is new, or is to go on with the config that it was begun with."""
        if not self.path.exists():
            return
        where, weights = f"name={config.name}: {self.path}", f"trainer.init_from={self.best}"
        if ended := self.ended():
            another = f"another name, which {weights} lets begin with the weights of this one"
            raise RequestError(f"{where} is there already and has {ended.status}; allowed: {another}")
        if not (self.path / "config.yaml").is_file():
            raise RequestError(f"{where} is there already; allowed: a name not yet taken")
        there = self.config()
        if there and there.data.name != config.data.name and there.data.name == config.data.fallback:
            return  # it went on with the fallback; what it comes to now is known later
        self._same(config)

    def _same(self, config: schema.Config) -> None:
        """Raise a RequestError where the run was begun with another config."""
        if changed := self.differences(config):
            where = f"name={config.name}: {self.path} was begun otherwise ({'; '.join(changed)})"
            raise RequestError(f"{where}; allowed: its own settings, or another name")

    def config(self, session: schema.Config | None = None) -> schema.Config | None:
        """The run's config, as if it had been started where its folder is now; None where none can be read.

        With a `session` of its sweep, tracking and images are those of the session, which may be on another machine.
        """
        try:
            config = schema.Config.model_validate(self._read("config.yaml"))
        except ValueError:  # of another version of this program, or damaged
            return None
        there, here = config.output, str(self.path.parent.parent)
        said = overrides.assigned(self.overrides())
        places = {key: str(said.get(f"data.{key}", "")) for key in config.data.places}
        places = {key: path for key, path in places.items() if Path(path).is_absolute()}  # else the config knows better
        moved: dict[str, Any] = {"output": here, "name": self.path.name}
        moved["data"] = config.data.model_copy(update=places)
        if isinstance(config.tracking, options.MLflow):
            uri = config.tracking.uri.replace(f"sqlite:///{there}/", f"sqlite:///{here}/")
            if without_passwords(given := os.environ.get("MLFLOW_TRACKING_URI", "")) == uri:
                uri = given  # with the password that the file lacks
            moved["tracking"] = config.tracking.model_copy(update={"uri": uri})
        if config.sweep:  # which has no name but that of its folder
            uri = config.sweep.storage.replace(f"sqlite:///{there}/", f"sqlite:///{here}/")
            uri = uri.replace(f":{MASK}@", "@")  # then the database's own PGPASSWORD serves
            moved |= {"name": None, "sweep": config.sweep.model_copy(update={"storage": uri})}
        if session:
            moved["tracking"] = session.tracking
            places = {key: getattr(session.data, key) for key in session.data.places}
            moved["data"] = config.data.model_copy(update=places)
        return config.model_copy(update=moved)

    def overrides(self) -> list[str]:
        """The overrides that repeat the run."""
        items = self._read("overrides.yaml")
        return [str(item) for item in items] if isinstance(items, list) else []

    def differences(self, config: schema.Config) -> list[str]:
        """How the run in the folder was begun otherwise, in what bears on its numbers: ``KEY: VALUE → VALUE``."""
        there = self._read("config.yaml")
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

    def _read(self, file: str) -> Any:
        """Plain data; None where the file is not there or damaged, as by a process that was killed while it wrote."""
        try:
            return yaml.safe_load((self.path / file).read_text(encoding="utf-8"))
        except (OSError, RecursionError, ValueError, yaml.YAMLError):
            return None

    def note(self, **line: Any) -> None:
        """Append a line to ``history.jsonl``: what an ``epoch`` came to, or fields of `Progress`."""
        with (self.path / "history.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def progress(self) -> Progress:
        """How far the run has come, by ``history.jsonl``; an epoch that was trained again takes its old place."""
        found = Progress()
        with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
            for text in (self.path / "history.jsonl").read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(RecursionError, ValueError):  # a process was killed while it wrote the line
                    line = _LINE.validate_json(text)
                    done, known = line.pop("epoch", 0), {key: line.pop(key) for key in vars(found) if key in line}
                    _PROGRESS.validate_python(known)
                    if done:
                        values = _VALUES.validate_python(line)
                        found.history[int(done) - 1 :] = [values]
                    for key, value in known.items():
                        setattr(found, key, value)
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
        for pattern in ("checkpoints/last.*", "checkpoints/*.part", ".*.json.*", ".*.part"):
            for path in self.path.glob(pattern):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it holds the best checkpoint, where there is one
            (self.path / "checkpoints").rmdir()
