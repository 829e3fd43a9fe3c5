"""``import mnist_sweep``, and what one takes away from the sweep that the notebook makes."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mnist_sweep as ms
from mnist_sweep.api import prepare
from mnist_sweep.config.command import CommandLine
from mnist_sweep.errors import RequestError, RunFailure
from mnist_sweep.sweep import session
from mnist_sweep.tracking.store import client_of
from mnist_sweep.training import data, datasets, trained_model
from mnist_sweep.training.pictures import PictureError
from tests import styles
from tests.conftest import ROOT, SMALL
from tests.notebook import Shown, shown
from tests.servers import serving

pytestmark = pytest.mark.slow

__all__ = ["shown"]  # a fixture

NAME = "mnist_sweep_mnist5k"


def test_a_plan_is_not_taken_for_a_sweep(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"sweep\.plan=true: .*allowed: sweep\.plan=false"):
        ms.sweep(*SMALL, f"output={tmp_path}", "sweep.plan=true")
    assert list(tmp_path.iterdir()) == []


def test_the_notebook_shows_each_part_of_the_interface(shown: Shown) -> None:
    trained, history, trials, best, winner, _, shape, prediction = shown.outputs
    assert trained.startswith("('finished', 0.")
    assert "val/accuracy" in history
    assert all(word in trials for word in ("number", "value", "params_optimizer.lr", "complete"))
    assert str(shown.sweep["best"]["value"]) in best
    assert str(shown.sweep["winner"]["test_accuracy"]["mean"]) in winner
    assert shape == "torch.Size([2, 10])"
    assert prediction.startswith("[Prediction(image='seven.png'")
    files = {path.name for path in shown.folder.iterdir() if path.suffix != ".log"}  # those are of other tests' servers
    assert files == {"mlruns", "seven.png"}


def test_the_winner_is_registered_as_champion_with_its_model(shown: Shown) -> None:
    winner = shown.sweep["winner"]
    client: Any = client_of(shown.store)
    network = {key: winner["network"][key] for key in ("run", "seed")}
    model = {"name": NAME, "version": 1, "champion": True, "uri": f"models:/{NAME}/1"}
    assert winner["model"] == {**model, **network}
    version = client.get_model_version_by_alias(NAME, "champion")
    assert version.run_id in winner["mlflow_run_ids"]
    assert float(version.tags["test/accuracy"]) == winner["test_accuracy"]["each"][0]
    (output,) = client.get_run(version.run_id).outputs.model_outputs
    logged = client.get_logged_model(output.model_id)
    assert json.loads(logged.tags["mlflow.modelVersions"]) == [{"name": NAME, "version": 1}]
    assert {"val/accuracy", "train/loss", "test/accuracy"} <= {metric.key for metric in logged.metrics}
    history = client.get_metric_history(version.run_id, "val/accuracy")
    assert [metric.step for metric in history] == [1, 2, 3, 4], "linking them to the model has not doubled any"
    path = Path(logged.artifact_location.removeprefix("file://"))
    assert "torch==" in (path / "requirements.txt").read_text()
    assert not list(path.rglob("*.pkl"))


def test_the_champion_recognises_pictures_from_a_file_and_on_a_server(shown: Shown, tmp_path: Path) -> None:
    _, validation = data.training_and_validation("mnist5k", "data", 0, None)
    images, labels = validation.images[:500:12], validation.labels[:500:12].numpy()
    checkpoint = shown.folder / shown.sweep["winner"]["checkpoints"][0]
    wanted = trained_model.read(checkpoint).probabilities(images)
    paths = styles.write(tmp_path / "some", "enlarged", images[:, 0].numpy())
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": shown.store}
    done = subprocess.run(
        [sys.executable, "-m", "mnist_sweep.predict", str(tmp_path / "some")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(answer["image"]) for answer in answers] == paths
    assert np.mean([answer["digit"] for answer in answers] == labels) > 0.8
    served = ["mlflow", "models", "serve", "-m", f"models:/{NAME}@champion", "--env-manager", "local"]
    body = json.dumps({"inputs": (images.float() / 255).tolist()}).encode()
    with serving(shown.folder, *served, path="/ping", MLFLOW_TRACKING_URI=shown.store) as url:
        request = urllib.request.Request(f"{url}/invocations", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = np.array(json.loads(answer.read())["predictions"])
    assert np.abs(found - wanted).max() < 1e-4


def test_a_run_from_python(tmp_path: Path) -> None:
    result = ms.train(*SMALL, f"output={tmp_path}")
    assert result.status == "finished"
    assert result.path.is_file()
    assert "test/accuracy" in result.metrics
    network = ms.load(result.path.parent / str(result.checkpoint))
    assert network(torch.rand(2, 1, 28, 28)).sum(dim=1).tolist() == pytest.approx([1, 1])
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(PictureError, match=r"text\.png: not a PNG or JPEG picture"):
        ms.predict(network, [tmp_path / "text.png"])


def test_a_second_sweep_reads_the_configs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = list[float]()

    def sweep(command: CommandLine) -> Path:
        found.append(session.prepared(command)[2].config.parameters()["model.dropout"])
        raise RunFailure("error", "enough")

    monkeypatch.setattr(session, "sweep", sweep)
    own = tmp_path / "mine" / "experiment" / "own.yaml"
    own.parent.mkdir(parents=True)
    for dropout in (0.125, 0.375):
        own.write_text(f"# @package _global_\nmodel: {{dropout: {dropout}}}\n")
        with pytest.raises(RunFailure, match="enough"):
            ms.sweep("experiment=own", *SMALL, f"output={tmp_path}", config_dir=own.parents[1])
    assert found == [0.125, 0.375]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda output: ms.train("optimizer.lrr=1", output), "the nearest known one is optimizer.lr"),
        (lambda output: ms.train("+sweep=optuna", output), r"allowed: mnist_sweep\.sweep"),
        (lambda output: ms.sweep("sweep.space.optimizer.lr.high=x", output), r"sweep\.space\.optimizer\.lr=.*high"),
        (lambda _: ms.train("output=/dev/null"), "/dev/null cannot be written"),
        (lambda _: ms.load("nowhere.ckpt"), "nowhere.ckpt: no such file"),
    ],
)
def test_a_wrong_request_is_refused_and_leaves_nothing(call: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=said):
        call(f"output={tmp_path}/mlruns")
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_is_a_keyboard_interrupt_once_the_run_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def obtained(_: Any) -> str:
        signal.raise_signal(signal.SIGINT)
        return "mnist5k"

    before = signal.getsignal(signal.SIGINT)  # which a process in the background ignores
    monkeypatch.setattr(datasets, "obtain", obtained)
    with pytest.raises(KeyboardInterrupt):
        ms.train(*SMALL, "name=it", f"output={tmp_path}")
    assert json.loads((tmp_path / "runs" / "it" / "result.json").read_text())["status"] == "interrupted"
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("named", ["data=kmnist", "data={name: kmnist}", "data.name=kmnist"])
def test_the_fallback_takes_the_place_of_the_data_set_however_it_was_named(
    named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "obtain", lambda _: "mnist5k")
    config = prepare(CommandLine.of([named, "seed=3"])).config
    assert (config.data.name, config.seed) == ("mnist5k", 3)
    assert config.name
