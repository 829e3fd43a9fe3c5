"""A trial of several seeds on its worker: what becomes of it where a later seed fails, and where its folders are."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from mnist_sweep import run
from mnist_sweep.config.command import CommandLine
from mnist_sweep.errors import RequestError
from mnist_sweep.result import Result
from mnist_sweep.run_folder import RunFolder
from mnist_sweep.run_record import abandon
from mnist_sweep.sweep.workers import Task, actor, cluster, worker
from mnist_sweep.sweep.workers.seeds import over_seeds
from tests.conftest import command
from tests.sweep.studies import result_of

#: The values of the runs by seed.
VALUES = {0: 0.9, 1: 0.8, 2: 0.7}


def finished(request: CommandLine, folder: RunFolder | None = None, **_: Any) -> Result:
    """A run that has finished, without training."""
    config = request.config
    there = folder or RunFolder.of(config)
    made = result_of(Path(), str(config.name), VALUES[config.seed], seed=config.seed)
    result = dataclasses.replace(made, folder=str(there.path))
    there.path.mkdir(parents=True, exist_ok=True)
    result.write()
    return result


def test_a_trial_whose_later_seed_died_has_failed(tmp_path: Path) -> None:
    """Its own run, of the first seed, stays what it is."""
    first = finished(command(tmp_path, "it"))
    about: dict[str, Any] = {"parent": None, "tags": {}, "reason": "crashed", "detail": "its worker died twice"}
    failed = abandon(command(tmp_path, "it"), seeds=2, **about)
    assert (failed.status, failed.reason, failed.detail) == ("failed", "crashed", "its worker died twice")
    assert abandon(command(tmp_path, "it"), **about) == Result.read(tmp_path / "runs" / "it") == first


def test_a_trial_whose_later_seed_is_refused_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(request: CommandLine, **more: Any) -> Result:
        if request.config.seed == 1:
            raise RequestError("name=it-seed1: is there already")
        return finished(request, **more)

    monkeypatch.setattr(run, "train", train)
    task = Task(0, command(tmp_path, "it"), seeds=2)
    result = worker.train(task, Mock(), lambda: None)
    assert result
    assert (result.status, result.reason, result.detail) == ("failed", "error", "name=it-seed1: is there already")


def test_each_seed_has_the_config_that_was_sent(tmp_path: Path) -> None:
    """As on a machine that does not have the user's own configs."""
    config = command(tmp_path, "it", "model.dropout=0.125").config
    sent = CommandLine.of(["experiment=gone", f"output={tmp_path}", "name=it"]).composed_as(config)
    train = Mock(side_effect=finished)
    result = over_seeds(Task(0, sent, seeds=3), finished(sent), train)
    assert (result.status, result.seeds) == ("finished", 3)
    assert result.objective == pytest.approx(0.8)
    later = [call.args[0].config for call in train.call_args_list]
    assert [(each.seed, each.name) for each in later] == [(1, "it-seed1"), (2, "it-seed2")]
    assert [each.model for each in later] == [config.model] * 2


def test_the_runs_of_all_seeds_reach_the_driver_and_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a machine without the sweep's disk; the trial's own result is that of its first seed there, too."""
    monkeypatch.setattr(run, "train", finished)
    home, away = tmp_path / "home", tmp_path / "away"
    driver, there = cluster._Cluster.__new__(cluster._Cluster), actor.Actor.__new__(actor.Actor)
    driver._runs, there._train, there._data_root = home / "runs", worker.train, None
    monkeypatch.setattr(tempfile, "tempdir", str(away))
    there._channel = channel = actor._Channel()
    away.mkdir()
    task = Task(0, command(home, "it"), seeds=3)
    result = there._perform(driver.sent(task), Mock(), lambda: None)
    assert result
    assert result.folder == str(home / "runs" / "it")
    assert result.objective == pytest.approx(0.8)
    assert [*away.iterdir()] == []
    for message in (channel.outbox.get_nowait(), ("finished", result, 0.0)):
        driver._pass_on(message, Mock())
    names = ["it", "it-seed1", "it-seed2"]
    assert [Result.read(home / "runs" / name).objective for name in names] == [0.9, 0.8, 0.7]
    again = driver.sent(dataclasses.replace(task, resume=True))
    assert isinstance(again, actor.Sent)
    assert {*again.files} == {f"{name}/result.json" for name in names}
