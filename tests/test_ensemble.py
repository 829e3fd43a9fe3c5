"""Networks that answer together: who they are, what they say, what is kept of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mnist_sweep import data, ensemble, export, inspection, predict, run
from mnist_sweep.composition import compose
from mnist_sweep.errors import RequestError
from mnist_sweep.result import BEST, Result
from mnist_sweep.tracking.store import client_of
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
        (["study-0000", "other"], r"the runs differ in data\.split_seed \(0, 1\); allowed: one for all"),
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
    with pytest.raises(RequestError, match=r"--name \.\./up: allowed: the name of a folder, without /"):
        ensemble.perform([str(folder / "study"), "--name", "../up"])
    with pytest.raises(RequestError, match="--top 1: allowed: at least 2"):
        ensemble.perform([str(folder / "study"), "--top", "1"])
