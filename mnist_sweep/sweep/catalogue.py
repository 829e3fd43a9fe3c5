"""The sweeps of an output folder, running or not: found, read and deleted."""

import contextlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import optuna

from mnist_sweep import tracking
from mnist_sweep.config import schema
from mnist_sweep.config.command import CommandLine
from mnist_sweep.errors import RequestError
from mnist_sweep.result import is_run_of
from mnist_sweep.run_folder import RunFolder
from mnist_sweep.sweep import storage
from mnist_sweep.sweep.record import state_of
from mnist_sweep.sweep.space import Space
from mnist_sweep.sweep.study import BASELINE, IDENTITY, Study, objectives


class Listed(NamedTuple):
    """A sweep in a list, in words."""

    name: str
    state: str  #: running, finished, interrupted or failed
    trials: str
    best: str
    winner: str
    dataset: str


def sweeps(output: Path) -> list[Listed]:
    """The sweeps of an output folder, by name: those with a study there, or with a folder.

    A RequestError says that there is no such folder, or that a study cannot be read.
    """
    if not output.is_dir():
        raise RequestError(f"{output}: no such folder; allowed: the output of a run or a sweep, such as mlruns")
    folders = [file.parent for file in sorted((output / "runs").glob("*/config.yaml"))]
    named = {folder.name: config for folder in folders if (config := _config(folder))}
    earlier = [file.parent.name for file in (output / "runs").glob("*/sweep.json")]  # of versions without a config.yaml
    named = {name: _settings(output, name) for name in earlier} | named
    if (output / "optuna.db").exists():
        named = {name: _settings(output, name) for name in _studies(_settings(output, "any"))} | named
    return [_listed(output, name, config) for name, config in sorted(named.items())]


def _config(folder: Path) -> schema.Config | None:
    """The config of the sweep of this folder, which need not be one."""
    config = None
    with contextlib.suppress(RequestError):  # the code of a network of one's own is gone
        config = RunFolder(folder).config()
    return config if config and config.sweep else None


def _settings(output: Path, name: str) -> schema.Config:
    """The config of a sweep, as far as it says where everything is; of one that left none, the default."""
    default = CommandLine.of(["+sweep=optuna"]).with_({"output": str(output), "sweep.name": name})
    return _config(output / "runs" / name) or default.config


def _studies(config: schema.Config) -> list[str]:
    assert config.sweep is not None
    return storage.study_names(config.sweep)


def _listed(output: Path, name: str, config: schema.Config) -> Listed:
    assert config.sweep is not None
    content: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        content = json.loads((output / "runs" / name / "sweep.json").read_text(encoding="utf-8"))
    state = "running" if storage.at_work(config.sweep, output) else content.get("status", "interrupted")
    if name not in _studies(config):
        return Listed(name, "study is gone", "–", "–", "–", config.data.label)
    study = storage.load_study(config.sweep, name)
    counts = Counter(map(state_of, study.get_trials(deepcopy=False)))
    best, winner = "–", study.user_attrs.get("winner")
    if len(study.directions) > 1:
        best = f"{len(study.best_trials)} Pareto-optimal"
    elif counts["complete"]:
        with contextlib.suppress(ValueError):  # none keeps the constraints
            best = f"{config.objective if not config.sweep.objectives else config.sweep.objectives[0].metric} "
            best += f"{study.best_value:.4f} (trial {study.best_trial.number})"
    told = "–"
    if winner:
        told = f"trial {winner['trial']}, test/accuracy {winner['test_accuracy']['mean']:.4f}"
    shown = "complete", "pruned", "failed", "paused", "stopped", "running"
    words = ", ".join(f"{counts[word]} {word}" for word in shown if counts[word]) or "none"
    return Listed(name, state, words, best, told, config.data.label)


def read(folder: Path) -> tuple[CommandLine, Study]:
    """The command line and the study of a sweep's folder, wherever it is now; nothing of the study is changed.

    A RequestError says that it is no sweep's folder, or that its study is gone.
    """
    overrides, config = RunFolder(folder).overrides(), RunFolder(folder).config()
    if not overrides or not config or not config.sweep:
        allowed = "the folder of a sweep, such as mlruns/runs/sweep"
        raise RequestError(f"{folder}: holds no sweep's config.yaml and overrides.yaml; allowed: {allowed}")
    # the config as it was composed: a folder of --config-dir may be gone, or say something else by now
    command = CommandLine.of(overrides).without("hydra").composed_as(config)
    if config.sweep.name not in storage.study_names(config.sweep):
        raise RequestError(
            f"{folder}: its study is not in {config.sweep.storage}; allowed: a sweep whose study is there"
        )
    with storage.database(config.sweep) as kept:
        limits, space = config.sweep.constraints or {}, Space.of(command)
        study = Study(kept, config.sweep.name, objectives(config), limits, space, config.seed)
    own = [trial.user_attrs[IDENTITY] for trial in study.trials() if BASELINE in trial.user_attrs]
    study.own = own[-1] if own else None
    return command, study


@dataclass(frozen=True)
class Held:
    """A sweep that no process is at, to be deleted."""

    config: schema.Config
    name: str
    id: str | None  #: by which its runs are known in MLflow
    folders: list[Path]  #: those of its runs, and its own

    def delete(self) -> str:
        """Delete MLflow's runs, the folders and the study, so that it can be done again where it failed."""
        assert self.config.sweep is not None
        runs = tracking.delete_runs(self.config.tracking, self.id) if self.id else 0
        for folder in self.folders:
            if folder.name != self.name:
                shutil.rmtree(folder)
        with storage.database(self.config.sweep) as kept:
            if self.name in optuna.get_all_study_names(kept):
                optuna.delete_study(study_name=self.name, storage=kept)
        for folder in self.folders:  # its own, which says where the study is
            if folder.exists():
                shutil.rmtree(folder)
        in_mlflow = f"{runs} runs in MLflow (mlflow gc frees their space; registered models stay)"
        return f"deleted {self.name}: its study, {len(self.folders)} folders, {in_mlflow}"


@contextlib.contextmanager
def held(output: Path, name: str) -> Iterator[Held]:
    """A sweep of an output folder; a RequestError where there is none of this name, or a process is at it."""
    known = sweeps(output)
    if name not in [each.name for each in known]:
        there = ", ".join(each.name for each in known) or "none"
        raise RequestError(f"delete {name}: no such sweep in {output}; there: {there}")
    config = _settings(output, name)
    assert config.sweep is not None
    with storage.locked(config.sweep, output):
        id_ = None
        if name in _studies(config):
            id_ = storage.load_study(config.sweep, name).user_attrs.get("id")
        runs = [folder for folder in sorted((output / "runs").glob(f"{name}*")) if folder.is_dir()]
        own = [folder for folder in runs if is_run_of(name, folder.name)]
        others = {each.name for each in known}  # another sweep may be named like a run of this one
        folders = [folder for folder in runs if folder.name == name]
        yield Held(config, name, id_, [*folders, *(folder for folder in own if folder.name not in others)])
