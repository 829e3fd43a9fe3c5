"""The registered models and their champion."""

import importlib.metadata
from pathlib import Path

import pytest
import torch

from mnist_sweep import tracking
from mnist_sweep.errors import RequestError
from mnist_sweep.tracking import MLflowRun
from mnist_sweep.tracking.store import client_of, local, model_of
from tests.conftest import tracked

pytestmark = pytest.mark.slow


class Net(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, :10].softmax(dim=1)


def test_the_best_on_one_validation_set_is_the_champion_and_its_checkpoint_can_be_fetched(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mnist_sweep")
    uri, settings = f"sqlite:///{store}/mlflow.db", tracked(store, "it").config.tracking
    assert tracking.registered(uri, ["mnist_sweep_kmnist"]) is None
    runs = []
    for number in range(4):
        (tmp_path / "best.ckpt").write_text(f"checkpoint {number}")
        kept = MLflowRun(settings, store, f"run{number}")
        kept.model(Net().eval(), torch.rand(3, 1, 28, 28).numpy(), tmp_path / "best.ckpt", 1)
        kept.end("FINISHED")
        runs.append(kept.run_id)
    said = [
        tracking.register(settings, run, "kmnist", tracking.Measured(accuracy, 3, split, 1 - accuracy))
        for run, split, accuracy in zip(
            [*runs, runs[1]], ["one", "one", "one", "other", "one"], [0.8, 0.9, 0.9, 1.0, 0.9], strict=True
        )
    ]
    assert [(each["version"], each["champion"]) for each in said if each] == [
        *((1, True), (2, True), (3, False), (4, False)),
        (2, True),  # of a session before
    ]
    assert "version 1; now champion (there was none)" in caplog.text
    assert "version 2; now champion: mean val/accuracy 0.9000, version 1 has 0.8000" in caplog.text
    assert "version 4; version 2 stays champion: it was measured on other validation images" in caplog.text
    address = tracking.registered(uri, ["nothing", "mnist_sweep_kmnist"])
    assert address == "models:/mnist_sweep_kmnist@champion"
    for model, number in ((address, 1), ("models:/mnist_sweep_kmnist/3", 2)):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert tracking.checkpoint_of(model, uri, folder).read_text() == f"checkpoint {number}"
    with pytest.raises(RequestError, match=r"no such model \(.*registered: models:/mnist_sweep_kmnist@champion; "):
        tracking.checkpoint_of("models:/mnist_sweep_kmnist/9", uri, tmp_path)
    with pytest.raises(RequestError, match=r"models:/a/b/c: allowed: models:/NAME@ALIAS or models:/NAME/VERSION"):
        tracking.checkpoint_of("models:/a/b/c", uri, tmp_path)


def test_a_model_asks_for_the_release_of_whichever_build_of_torch_is_here(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = importlib.metadata.version("torch").partition("+")[0]
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: f"{release}+cpu" if name == "torch" else version(name)
    )
    (tmp_path / "best.ckpt").write_text("checkpoint")
    settings = tracked(store, "build").config.tracking
    kept = MLflowRun(settings, store, "build")
    kept.model(Net().eval(), torch.rand(3, 1, 28, 28).numpy(), tmp_path / "best.ckpt", 1)
    client = client_of(f"sqlite:///{store}/mlflow.db")
    folder = local(client.get_logged_model(model_of(client, kept.run_id)).artifact_location)
    assert folder
    assert f"torch=={release}" in (folder / "requirements.txt").read_text().splitlines()


def test_what_cannot_be_registered_is_a_warning(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = tracked(store, "it").config.tracking
    without = MLflowRun(settings, store, "without").run_id
    measured = tracking.Measured(0.9, 3, "one", 0.9)
    assert tracking.register(settings, without, "mnist", measured) is None
    assert f"the model could not be registered (RuntimeError: run {without} has no model)" in caplog.text
    assert tracking.register(settings, None, "mnist", measured) is None
