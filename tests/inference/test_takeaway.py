"""What one takes away from a sweep: the report, the champion, and the commands that use it, as real processes."""

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mnist_sweep import run, tracking, ui
from mnist_sweep.config.command import compose
from mnist_sweep.errors import RequestError
from mnist_sweep.inference import export, predict
from mnist_sweep.result import BEST
from mnist_sweep.tracking.store import client_of
from mnist_sweep.training import data
from mnist_sweep.training import trained_model as inspection
from tests import styles
from tests.conftest import ROOT, SMALL
from tests.servers import serving

NAME = "mnist_sweep_mnist5k"


def call(folder: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m mnist_sweep.MODULE ARGUMENTS`` in a folder."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, timeout=400, check=False,
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with a sweep of five small trials, and its ``sweep.json``."""
    folder = tmp_path_factory.mktemp("swept")
    small = ["data=mnist5k", "data.limit=1500", "trainer.max_epochs=3", "model.filters=[8,16]", "model.hidden=[32]"]
    sweep = ["+sweep=optuna", "sweep.trials=5", "sweep.winner.seeds=1", "sweep.winner.top=1", "sweep/pruner=none"]
    done = call(folder, "mnist_sweep", *sweep, *small, "optimizer=adam")
    assert done.returncode == 0, done.stderr
    return folder, json.loads((folder / done.stdout.strip()).read_text())


@pytest.fixture(scope="module")
def checkpoint(swept: tuple[Path, dict[str, Any]]) -> Path:
    folder, content = swept
    return folder / str(content["winner"]["checkpoints"][0])


@pytest.fixture(scope="module")
def digits_of_mnist5k() -> tuple[Any, Any]:
    """40 images (N, 28, 28) and their classes."""
    _, validation = data.training_and_validation("mnist5k", "data", 0, None)
    return validation.images[:500:12, 0].numpy(), validation.labels[:500:12].numpy()


@pytest.mark.untraced  # for the sweep that all here look at
def test_the_winner_is_registered_as_champion(swept: tuple[Path, dict[str, Any]]) -> None:
    folder, content = swept
    model = content["winner"]["model"]
    assert model == {"name": NAME, "version": 1, "champion": True, "uri": f"models:/{NAME}/1"}
    client = client_of(f"sqlite:///{folder}/mlruns/mlflow.db")
    version = client.get_model_version_by_alias(NAME, "champion")
    assert version.run_id in content["winner"]["mlflow_run_ids"]
    assert float(version.tags["test/accuracy"]) == content["winner"]["test_accuracy"]["each"][0]
    (output,) = client.get_run(version.run_id).outputs.model_outputs
    logged = client.get_logged_model(output.model_id)
    assert logged.artifact_location == version.source
    assert json.loads(logged.tags["mlflow.modelVersions"]) == [{"name": NAME, "version": 1}]
    measured = {metric.key: metric.value for metric in logged.metrics}
    assert measured["test/accuracy"] == content["winner"]["test_accuracy"]["each"][0]
    assert {"val/accuracy", "train/loss"} <= set(measured)
    history = client.get_metric_history(version.run_id, "val/accuracy")
    assert [metric.step for metric in history] == [1, 2, 3]  # linking them to the model has not doubled any
    path = Path(logged.artifact_location.removeprefix("file://"))
    assert "torch==" in (path / "requirements.txt").read_text()
    assert not list(path.rglob("*.pkl"))


def test_the_champion_changes_only_for_a_better_one(tmp_path: Path) -> None:
    given = [*SMALL[:-1], f"output={tmp_path}"]
    runs = []
    for name in ("one", "two", "three", "four"):
        items = [*given, f"name={name}"]
        runs.append(run.run(compose(items), items))
    settings = compose(given).tracking

    def register(index: int, accuracy: float, digest: str = "a") -> Any:
        return tracking.register(settings, runs[index].mlflow_run_id, "mnist5k", digest, accuracy)

    client = client_of(f"sqlite:///{tmp_path}/mlflow.db")

    def champion() -> str:
        return str(client.get_model_version_by_alias(NAME, "champion").version)

    assert register(0, 0.90)["champion"]
    assert not register(1, 0.90)["champion"]
    assert champion() == "1"
    assert register(2, 0.91)["champion"]
    assert champion() == "3"
    assert not register(3, 0.99, digest="another test set")["champion"]
    assert champion() == "3"
    assert register(2, 0.91)["version"] == 3  # again: the same version
    client.set_registered_model_alias(NAME, "champion", "1")  # as if it had died before it decided
    assert register(2, 0.91) == {"name": NAME, "version": 3, "champion": True, "uri": f"models:/{NAME}/3"}
    assert champion() == "3"
    assert tracking.register(compose(["tracking=none"]).tracking, None, "mnist5k", "a", 1.0) is None
    assert tracking.registered_name("mnist") == "mnist_sweep"


def test_the_report_and_the_account_of_the_sweep(swept: tuple[Path, dict[str, Any]]) -> None:
    folder, content = swept
    page = (folder / "mlruns" / "runs" / "sweep" / "report.html").read_text()
    assert len(page) < 5_000_000
    assert "http://" not in page.split('<script type="text/plain"', maxsplit=1)[0].replace("http://www.w3.org", "")
    assert f"{content['winner']['test_accuracy']['mean']:.4f}" in page
    client = client_of(f"sqlite:///{folder}/mlruns/mlflow.db")
    parent = client.get_run(content["mlflow_run_id"])
    kept = {Path(file.path).name for file in client.list_artifacts(parent.info.run_id, "study")}
    for name in ("history", "importances", "parallel_coordinates", "slices_1", "learning_curves", "timeline"):
        assert {f"{name}.html", f"{name}.png"} <= kept
    assert {"confusion_of_the_best.png", "hyperparameters_by_class.png"} <= kept
    best = client.get_metric_history(parent.info.run_id, "best/val/accuracy")
    values = [metric.value for metric in sorted(best, key=lambda metric: metric.step)]
    assert values == sorted(values)
    assert len({metric.step for metric in best}) == len(best)
    assert values[-1] == content["best"]["value"]
    assert content["winner"]["command"] in parent.data.tags["mlflow.note.content"]
    trial = client.get_run(content["best"]["mlflow_run_id"])
    assert "| block 1 | 8 × " in trial.data.tags["mlflow.note.content"]
    assert trial.inputs.dataset_inputs[0].dataset.name == "mnist5k"
    assert trial.data.metrics["system/system_memory_usage_percentage"] > 0
    assert 0 <= trial.data.metrics["val/calibration_error"] <= 1


def test_predict_answers_line_by_line(
    swept: tuple[Path, dict[str, Any]],
    checkpoint: Path,
    digits_of_mnist5k: tuple[Any, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, _ = swept
    images, labels = digits_of_mnist5k
    paths = styles.write(tmp_path / "some", "enlarged", images)
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty").mkdir()
    asked = [str(tmp_path / "some"), str(tmp_path / "text.png"), str(tmp_path / "empty"), str(tmp_path / "none.png")]
    done = call(folder, "mnist_sweep.inference.predict", *asked)
    assert done.returncode == 1
    complaints = done.stderr.strip().splitlines()
    assert len(complaints) == 3
    for complaint, word in zip(complaints, ("no pictures", "not a PNG", "no such file"), strict=True):
        assert word in complaint
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(answer["image"]) for answer in answers] == paths
    for answer in answers:
        assert sum(answer["probabilities"]) == pytest.approx(1, abs=1e-5)
        assert answer["digit"] == int(np.argmax(answer["probabilities"]))
    assert np.mean([answer["digit"] for answer in answers] == labels) > 0.8
    capsys.readouterr()
    assert predict.perform([str(paths[0]), "--checkpoint", str(checkpoint)]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["probabilities"] == pytest.approx(answers[0]["probabilities"], abs=1e-6)


def test_predict_without_a_model_says_what_makes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (28, 28)).save(tmp_path / "it.png")
    done = call(tmp_path, "mnist_sweep.inference.predict", "it.png")
    assert done.returncode == 2
    assert "python -m mnist_sweep +sweep=optuna makes one" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match=r"python -m mnist_sweep \+sweep=optuna makes one"):
        export.perform(["--to", "onnx", "it.onnx"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["it.png"]


def test_wrong_addresses_and_arguments_get_one_line(
    swept: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(swept[0])
    Image.new("L", (28, 28)).save(tmp_path / "it.png")
    for arguments, word in (
        (["--model", "models:/nothing@champion"], f"models:/{NAME}@champion"),
        (["--model", f"models:/{NAME}/9"], "no such model"),
        (["--model", "nothing"], "models:/NAME@ALIAS"),
        (["--checkpoint", "none.ckpt"], "no such file"),
        (["--nothing"], "--nothing"),
    ):
        with pytest.raises(RequestError, match=word) as caught:
            predict.perform([str(tmp_path / "it.png"), *arguments])
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("the server was begun"))
    with pytest.raises(RequestError, match="allowed: 1 … 65535"):
        ui.perform(["--port", "99999"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match="there is no such file"):
        ui.perform([])


def test_onnx_and_safetensors_are_the_network(
    swept: tuple[Path, dict[str, Any]],
    checkpoint: Path,
    digits_of_mnist5k: tuple[Any, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import onnxruntime
    from safetensors.torch import load_file

    folder, _ = swept
    done = call(folder, "mnist_sweep.inference.export", "--to", "onnx", str(tmp_path / "it.onnx"))
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "it.onnx"))
    assert "1000 images, greatest difference" in done.stderr
    images = digits_of_mnist5k[0][:, None].astype(np.float32) / 255
    session = onnxruntime.InferenceSession(tmp_path / "it.onnx")
    (found,) = session.run(None, {"images": images})
    classifier = inspection.load(checkpoint)
    wanted = inspection.probabilities(classifier, torch.from_numpy(digits_of_mnist5k[0]).unsqueeze(1))
    assert np.abs(found - wanted).max() < 1e-4
    monkeypatch.chdir(folder)
    with pytest.raises(RequestError, match="is there already"):
        export.perform(["--to", "onnx", str(tmp_path / "it.onnx")])
    assert export.perform(["--to", "safetensors", str(tmp_path / "it.safetensors")]) == 0
    kept = load_file(tmp_path / "it.safetensors")
    assert {key: value.tolist() for key, value in classifier.state_dict().items()} == {
        key: value.tolist() for key, value in kept.items()
    }


@pytest.fixture(scope="module")
def served(swept: tuple[Path, dict[str, Any]]) -> Iterator[str]:
    """The address of MLflow's own server of the champion."""
    folder, _ = swept
    command = ["mlflow", "models", "serve", "-m", f"models:/{NAME}@champion", "--env-manager", "local"]
    with serving(folder, *command, path="/ping", MLFLOW_TRACKING_URI=f"sqlite:///{folder}/mlruns/mlflow.db") as url:
        yield url


def test_a_served_champion_answers_with_ten_numbers_an_image(
    served: str, checkpoint: Path, digits_of_mnist5k: tuple[Any, Any]
) -> None:
    pixels = digits_of_mnist5k[0][:, None]
    body = json.dumps({"inputs": (pixels / 255).tolist()}).encode()
    request = urllib.request.Request(f"{served}/invocations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        found = np.array(json.loads(answer.read())["predictions"])
    assert found.shape == (len(pixels), 10)
    wanted = inspection.probabilities(inspection.load(checkpoint), torch.from_numpy(pixels))
    assert np.abs(found - wanted).max() < 1e-4


def test_digits_in_four_styles(mnist: Path, tmp_path: Path) -> None:
    """A network of two epochs on a part of MNIST loses next to nothing by the pictures' way to it."""
    items = [
        f"data.root={mnist}",
        "data.limit=12000",
        "trainer.max_epochs=2",
        "model.filters=[16,32]",
        "tracking=none",
        f"output={tmp_path}",
    ]
    given = [*items, "name=network"]
    result = run.run(compose(given), given)
    classifier = inspection.load(Path(result.folder) / BEST)
    training, _ = data.training_and_validation("mnist", str(mnist), 0, None)
    images, labels = training.images[20_000:20_200, 0].numpy(), training.labels[20_000:20_200].numpy()
    direct = inspection.probabilities(classifier, torch.from_numpy(images).unsqueeze(1)).argmax(axis=1)
    itself = (direct == labels).mean()
    for style, allowed in (("original", 0.005), ("inverted", 0.005), ("enlarged", 0.03), ("noisy", 0.03)):
        paths = styles.write(tmp_path / style, style, images)
        said = [answer.digit if answer else -1 for answer in predict.answers(classifier, paths)]
        assert (np.array(said) == labels).mean() >= itself - allowed, style
    shutil.rmtree(tmp_path)
