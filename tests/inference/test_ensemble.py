"""Networks that are averaged: which they are, what they say together, what is kept of them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import mlflow.pytorch
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mnist_sweep import cli, run_report
from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.image_sets import IMAGE_SETS
from mnist_sweep.errors import Interrupted, RequestError
from mnist_sweep.inference.ensemble import members
from mnist_sweep.result import BEST, Result
from mnist_sweep.run import train
from mnist_sweep.run_folder import RunFolder
from mnist_sweep.tracking.store import client_of
from mnist_sweep.training import data, datasets, trained_model
from mnist_sweep.training.evaluate import evaluate
from tests.conftest import SMALL
from tests.own_sets import folder as pictures_of
from tests.own_sets import of_folder
from tests.sweep.studies import result_of

pytestmark = pytest.mark.slow

ITEMS = [*SMALL, "data.limit=1000", "optimizer.lr=0.01", "data.batch_size=50"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of a sweep, one of another split, one that was pruned."""
    output = tmp_path_factory.mktemp("members")
    more = {"study-0000": [], "study-0001-seed4": ["seed=4"], "other": ["data.split_seed=1"]}
    for name, items in more.items():
        train(CommandLine.of([*ITEMS, *items, f"output={output}", f"name={name}"]))
    runs = output / "runs"
    shutil.copytree(runs / "study-0000", runs / "study-0002")
    replace(Result.read(runs / "study-0000"), status="pruned", folder=str(runs / "study-0002")).write()
    (runs / "study").mkdir()
    (runs / "study" / "sweep.json").write_text("{}")
    return runs


@pytest.fixture
def pair(folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Copies of two members that a test may spoil."""
    (tmp_path / "runs").mkdir()
    copies = tmp_path / "runs" / "first", tmp_path / "runs" / "second"
    for copy, name in zip(copies, ("study-0000", "study-0001-seed4"), strict=True):
        shutil.copytree(folder / name, copy)
    return copies


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["study-0000", "other"], r"data\.split_seed=0 \| 1: the runs differ; allowed: one for all"),
        (["study-0000", "other/../study-0000"], "1 finished run; allowed: at least two"),
        (["study-0000", "nowhere"], r"nowhere: no result\.json that can be read; allowed: the folder of a"),
        (["study-0000", "study-0002"], r"study-0002: the run is pruned; allowed: a finished one"),
        (["study", "study-0000"], "a sweep among 2 folders; allowed: one, or folders of runs"),
        (["study", "--name", "study-0000"], "study-0000: is there already; allowed: another --name"),
        (["study", "--name", "../up"], r"--name=\.\./up: String should match pattern"),
        (["study", "--name", "x" * 300], "--name=x+: String should have at most 200 char"),
        (["study", "--top", "1"], "--top=1: allowed: at least 2"),
        (["study-0000", "x" * 300], "File name too long"),
    ],
)
def test_what_does_not_go_together_is_refused(
    folder: Path, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(RequestError, match=said):
        cli.perform("ensemble", arguments)


@pytest.mark.parametrize(
    ("items", "said"),
    [
        (["data.validation_share=0.3"], r"data\.validation_share=0\.1 \| 0\.3: the runs differ; allowed: one for all"),
        (["data.test_share=0.4"], r"data\.test_share=0\.2 \| 0\.4: the runs differ"),
        (["data.size=[4,4]"], r"data\.contents\.size=\[4,4\] \| \[8,8\]: the runs differ"),
        (["data.channels=1"], r"data\.contents\.channels=1 \| 3: the runs differ"),
        ([], r"data\.contents\.digest=\S+ \| \S+: the runs differ"),
    ],
)
def test_runs_on_other_images_of_ones_own_do_not_go_together(items: list[str], said: str, tmp_path: Path) -> None:
    path = pictures_of(tmp_path / "set", {"a": 9, "b": 9})
    for name, more in (("one", []), ("other", items)):
        request = of_folder(path, *more, "model=mlp", f"output={tmp_path}", f"name={name}")
        run = RunFolder.of(request.config)
        run.begin(request.config, request.overrides)
        run.best.parent.mkdir()
        run.best.touch()
        result_of(tmp_path, name, 0.9).write()
        Image.new("RGB", (8, 8)).save(path / "a" / "more.png")
    with pytest.raises(RequestError, match=said):
        members([tmp_path / "runs" / "one", tmp_path / "runs" / "other"], 2)


@pytest.fixture(scope="module")
def made(folder: Path) -> tuple[Result, str]:
    """The ensemble of the sweep, and MLflow's store."""
    store = f"sqlite:///{folder.parent}/mlflow.db"
    assert cli.perform("ensemble", [str(folder / "study"), "--tracking-uri", store]) == cli.DONE
    return Result.read(folder / "study-ensemble"), store


def test_an_ensemble_says_the_mean_of_its_members(folder: Path, made: tuple[Result, str], tmp_path: Path) -> None:
    result, _ = made
    _, validation = data.training_and_validation("mnist5k", "data", 0, 1000)
    members = [trained_model.read(folder / name / BEST) for name in ("study-0000", "study-0001-seed4")]
    both = trained_model.read(Path(result.folder) / BEST)
    mean = np.mean([one.probabilities(validation.images) for one in members], axis=0)
    assert np.allclose(both.probabilities(validation.images), mean, atol=1e-6)
    for part, images in (("val", validation), ("test", data.test_set("mnist5k", "data"))):
        found = evaluate(both.network, images, part).metrics
        assert {name: result.metrics[name] for name in found} == pytest.approx(found)
    assert result.parameters == 2 * sum(layer.parameters for layer in both.config.layers())
    exported = tmp_path / "both.safetensors"
    arguments = ["--to", "safetensors", str(exported), "--checkpoint", str(Path(result.folder) / BEST)]
    assert cli.perform("export", arguments) == cli.DONE
    assert len(load_file(exported)) == 2 * len(members[0].network.state_dict())


def test_an_ensemble_is_a_model_in_mlflow_like_any_other(
    made: tuple[Result, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result, store = made
    client: Any = client_of(store)
    found = client.get_run(result.mlflow_run_id)
    assert found.info.status == "FINISHED"
    assert set(found.data.tags["members"].split()) == {"study-0000", "study-0001-seed4"}
    assert found.data.metrics["test/accuracy"] == result.metrics["test/accuracy"]
    files = {file.path for file in client.list_artifacts(result.mlflow_run_id)}
    assert {"validation", "test"} <= files
    champion = client.get_model_version_by_alias("mnist_sweep_mnist5k", "champion")
    assert champion.run_id == result.mlflow_run_id
    served: Any = mlflow.pytorch.load_model(champion.source)
    pixels = data.training_and_validation("mnist5k", "data", 0, 1000)[1].images[:5]
    wanted = trained_model.read(Path(result.folder) / BEST).probabilities(pixels)
    with torch.no_grad():
        assert np.allclose(served(pixels.float() / 255).numpy(), wanted, atol=1e-5)
    Image.fromarray(pixels[0, 0].numpy()).save(tmp_path / "digit.png")
    assert cli.perform("predict", [str(tmp_path / "digit.png"), "--tracking-uri", store]) == cli.DONE
    assert json.loads(capsys.readouterr().out)["probabilities"] == pytest.approx(wanted[0].tolist(), abs=1e-5)


def test_what_is_refused_or_fails_leaves_nothing_and_the_same_command_can_be_given_again(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair
    monkeypatch.chdir(first)
    store = f"sqlite:///{first.parent.parent}/store.db"
    command = [".", "../second", "--tracking-uri", store]

    other = replace(IMAGE_SETS["mnist5k"], files={"mnist_5k.csv.gz": "0" * 32})
    for target, name, effect, said in (
        (datasets, "IMAGE_SETS", {"mnist5k": other}, r"mnist_5k\.csv\.gz is damaged"),
        (datasets, "missing", lambda _: [Path("gone")], r"data\.root=.*: gone is not there; allowed: this command"),
        (data, "test_set", Mock(side_effect=Interrupted(2)), "SIGINT"),
        (run_report, "keep_part", Mock(side_effect=ValueError("a bug")), "a bug"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, effect)
            with pytest.raises((RequestError, Interrupted, ValueError), match=said):
                cli.perform("ensemble", command)
        assert sorted(path.name for path in first.parent.iterdir()) == ["first", "second"]
    client: Any = client_of(store)
    (failed,) = client.search_runs([client.get_experiment_by_name("mnist_sweep").experiment_id])
    assert (failed.info.status, failed.data.tags["detail"]) == ("FAILED", "ValueError: a bug")
    assert cli.perform("ensemble", command[:2]) == cli.DONE
    assert Result.read(first.parent / "first-ensemble").mlflow_run_id is None, "like its members, which are not tracked"
    (second / BEST).write_bytes(b"broken")
    with pytest.raises(RequestError, match=r"second/checkpoints/best\.ckpt: refused: it is no checkpoint"):
        cli.perform("ensemble", [str(first), str(second), "--name", "new"])
    (second / "config.yaml").unlink()  # as of an ensemble
    with pytest.raises(RequestError, match=r"second/config\.yaml: no config .*; allowed: the folder of a single run"):
        cli.perform("ensemble", [str(second), str(first), "--name", "new"])
