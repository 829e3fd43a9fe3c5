"""Networks that answer together: who they are, what they say, what is kept of them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mnist_sweep import run, run_report
from mnist_sweep.config.command import compose
from mnist_sweep.errors import Interrupted, RequestError
from mnist_sweep.inference import ensemble, export, predict
from mnist_sweep.result import BEST, Result
from mnist_sweep.tracking.store import client_of
from mnist_sweep.training import data, datasets
from mnist_sweep.training import trained_model as inspection
from tests.conftest import SMALL

ITEMS = [*SMALL, "data.limit=1000", "optimizer.lr=0.01", "data.batch_size=50"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs, two of them as a sweep's would be called, one of another split, one that did not finish."""
    output = tmp_path_factory.mktemp("members")
    more = {"study-0000": [], "study-0001-seed4": ["seed=4"], "other": ["data.split_seed=1"], "study-0002": ["seed=2"]}
    for name, items in more.items():
        given = [*ITEMS, *items, f"output={output}", f"name={name}"]
        assert run.run(compose(given), given, report=lambda *_, at=name: at != "study-0002").status in (
            "finished",
            "pruned",
        )
    (output / "runs" / "study").mkdir()
    (output / "runs" / "study" / "sweep.json").write_text("{}")
    return output / "runs"


def test_members_are_the_best_finished_runs_of_a_sweep(folder: Path) -> None:
    found = ensemble.members([folder / "study"], 5)
    assert {Path(result.folder).name for result in found} == {"study-0000", "study-0001-seed4"}
    assert found[0].metrics["val/accuracy"] >= found[1].metrics["val/accuracy"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["study-0000", "other"], r"data\.split_seed=0 \| 1: the runs differ; allowed: one for all"),
        (["study-0000"], "1 finished run; allowed: at least two"),
        (["study-0000", "nowhere"], r"nowhere: no result\.json that can be read; allowed: the folder of a"),
        (["study-0000", "study-0002"], r"study-0002: the run is pruned; allowed: a finished one"),
        (["study", "study-0000"], "a sweep among 2 folders; allowed: one sweep, or folders of runs"),
    ],
)
def test_members_that_do_not_go_together_are_refused(folder: Path, names: list[str], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        ensemble.members([folder / name for name in names], 5)


@pytest.fixture(scope="module")
def made(folder: Path) -> tuple[Result, str]:
    """The ensemble of the study, and MLflow's store."""
    store = f"sqlite:///{folder.parent}/mlflow.db"
    assert ensemble.perform([str(folder / "study"), "--tracking-uri", store]) == 0
    return Result.read(folder / "study-ensemble"), store


def test_an_ensemble_says_the_mean_of_its_members(folder: Path, made: tuple[Result, str]) -> None:
    result, _ = made
    _, validation = data.training_and_validation("mnist5k", "data", 0, 1000)
    images = validation.images
    members = [
        inspection.probabilities(inspection.load(folder / name / BEST), images)
        for name in ("study-0000", "study-0001-seed4")
    ]
    both = inspection.load(Path(result.folder) / BEST)
    said = inspection.probabilities(both, images)
    assert np.allclose(said, np.mean(members, axis=0), atol=1e-6)
    with torch.no_grad():
        assert np.allclose(inspection.served(both)(images.float() / 255).numpy(), said, atol=1e-6)
    right = (said.argmax(axis=1) == validation.labels.numpy()).mean()
    assert result.metrics["val/accuracy"] == pytest.approx(right)
    assert result.metrics["val/loss"] == pytest.approx(
        -np.log(said[np.arange(len(said)), validation.labels.numpy()]).mean(), rel=1e-4
    )
    test = data.test_set("mnist5k", "data")
    answers = inspection.probabilities(both, test.images).argmax(axis=1)
    assert result.metrics["test/accuracy"] == pytest.approx((answers == test.labels.numpy()).mean())
    assert result.parameters == 2 * sum(layer.parameters for layer in compose(ITEMS).model.layers())
    assert len(inspection.activation_maps(both, images[:2])) == 1  # of its first member


def test_an_ensemble_is_a_model_in_mlflow_like_any_other(made: tuple[Result, str]) -> None:
    import mlflow.pytorch

    result, store = made
    client = client_of(store)
    found = client.get_run(result.mlflow_run_id)
    assert found.info.status == "FINISHED"
    assert found.data.metrics["test/accuracy"] == result.metrics["test/accuracy"]
    files = {file.path for file in client.list_artifacts(result.mlflow_run_id)}
    assert {"confusion_matrix_validation.png", "confusion_matrix_test.png", "mistakes_test.png"} <= files
    champion = client.get_model_version_by_alias("mnist_sweep_mnist5k", "champion")
    assert champion.run_id == result.mlflow_run_id
    served: Any = mlflow.pytorch.load_model(champion.source)
    images = torch.rand(5, 1, 28, 28)
    with torch.no_grad():
        wanted = inspection.served(inspection.load(Path(result.folder) / BEST))(images)
        assert torch.allclose(served(images), wanted, atol=1e-5)


def test_an_ensemble_recognises_pictures_and_is_exported(
    made: tuple[Result, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    result, store = made
    _, validation = data.training_and_validation("mnist5k", "data", 0, 1000)
    Image.fromarray(validation.images[0, 0].numpy()).save(tmp_path / "digit.png")
    assert predict.perform([str(tmp_path / "digit.png"), "--tracking-uri", store]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert sum(answer["probabilities"]) == pytest.approx(1, abs=1e-5)
    both = inspection.load(Path(result.folder) / BEST)
    assert export.onnx(both, tmp_path / "both.onnx") < 1e-5
    export.safetensors(both, tmp_path / "both.safetensors")
    assert (tmp_path / "both.safetensors").stat().st_size > 0


def test_a_wrong_name_and_a_top_of_one_are_refused(folder: Path) -> None:
    with pytest.raises(RequestError, match=r"study-0000: is there already; allowed: another --name"):
        ensemble.perform([str(folder / "study"), "--name", "study-0000"])
    for name, fault in (("../up", "should match pattern"), ("..", "should match"), ("x" * 300, "at most 100 char")):
        with pytest.raises(RequestError, match=f"--name={name}: String should .*{fault.removeprefix('should ')}"):
            ensemble.perform([str(folder / "study"), "--name", name])
    with pytest.raises(RequestError, match="--top=1: allowed: at least 2"):
        ensemble.perform([str(folder / "study"), "--top", "1"])


@pytest.fixture
def pair(folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Copies of two members that a test may spoil."""
    (tmp_path / "runs").mkdir()
    found = tmp_path / "runs" / "first", tmp_path / "runs" / "second"
    for copy, name in zip(found, ("study-0000", "study-0001-seed4"), strict=True):
        shutil.copytree(folder / name, copy)
    return found


def test_what_is_refused_or_fails_leaves_nothing_and_the_same_command_can_be_given_again(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = pair
    monkeypatch.chdir(first)
    store = f"sqlite:///{first.parent.parent}/store.db"
    command, made = [".", "../second", "--tracking-uri", store], first.parent / "first-ensemble"

    def fails(error: BaseException) -> Any:
        def raising(*_: Any) -> None:
            raise error

        return raising

    for module, name, error in (
        (datasets, "verify", RequestError("data.root=there: a file is damaged")),
        (data, "test_set", Interrupted(2)),
        (run_report, "keep_ensemble", ValueError("a bug")),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, fails(error))
            with pytest.raises(type(error)):
                ensemble.perform(command)
        assert sorted(path.name for path in first.parent.iterdir()) == ["first", "second"]
    client = client_of(store)
    (failed,) = client.search_runs([client.get_experiment_by_name("mnist_sweep").experiment_id])
    assert (failed.info.status, failed.data.tags["detail"]) == ("FAILED", "ValueError: a bug")
    assert ensemble.perform(command[:2]) == 0
    assert Result.read(made).mlflow_run_id is None, "like its members, which are not tracked"
    assert sorted(path.name for path in first.parent.parent.iterdir()) == [".store.db.lock", "runs", "store.db"]


def test_damaged_images_are_named_before_anything_is_written(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(datasets.SOURCES["mnist5k"], raw={"mnist_5k.csv.gz": "0" * 32})
    monkeypatch.setitem(datasets.SOURCES, "mnist5k", other)
    with pytest.raises(RequestError, match=r"mnist_5k\.csv\.gz is damaged"):
        ensemble.perform([str(path) for path in pair])
    monkeypatch.undo()
    monkeypatch.setattr(datasets, "missing", lambda _: [Path("nowhere")])
    with pytest.raises(
        RequestError, match=r"data\.root=.*: nowhere is not there, .*; allowed: this command in the folder"
    ):
        ensemble.perform([str(path) for path in pair])
    assert not (pair[0].parent / "first-ensemble").exists()


def test_two_ways_to_a_run_are_one_member(pair: tuple[Path, Path]) -> None:
    with pytest.raises(RequestError, match="1 finished run; allowed: at least two"):
        ensemble.perform([str(pair[0]), f"{pair[1]}/../first"])


def test_members_that_are_broken_are_named(pair: tuple[Path, Path]) -> None:
    first, second = pair
    sweep = first.parent / "study"
    sweep.mkdir()
    (sweep / "sweep.json").write_text("{}")
    for number in (0, 1):
        shutil.copytree(first, first.parent / f"study-{number:04}")
    (first.parent / "study-0001" / "result.json").write_text('{"status"')
    with pytest.raises(RequestError, match=r"study-0001: no result\.json that can be read"):
        ensemble.perform([str(sweep)])
    (second / BEST).write_bytes(b"broken")
    with pytest.raises(RequestError, match=r"second/checkpoints/best\.ckpt: refused: it is no checkpoint"):
        ensemble.perform([str(first), str(second)])
    (second / "config.yaml").unlink()  # as of an ensemble
    with pytest.raises(RequestError, match=r"second/config\.yaml: no config .*; allowed: the folder of a single run"):
        ensemble.perform([str(first), str(second)])
    with pytest.raises(RequestError, match="File name too long"):
        ensemble.perform([str(first), "x" * 300])


@pytest.mark.parametrize(
    ("items", "asked", "uri"),
    [
        (["output=then"], None, "sqlite:////now/mlflow.db"),
        (["output=/then"], None, "sqlite:////now/mlflow.db"),
        (["tracking.uri=http://there:5000"], None, "http://there:5000"),
        ([], "sqlite:///other.db", "sqlite:///other.db"),
        (["tracking=none"], "sqlite:///other.db", "sqlite:///other.db"),
        (["tracking=none"], None, None),
    ],
)
def test_the_account_is_kept_where_that_of_the_members_is(items: list[str], asked: str | None, uri: str | None) -> None:
    assert getattr(ensemble._account(compose(items), Path("/now"), asked), "uri", None) == uri
