"""Which model a command works with: the champion, which changes only for a better one, or the one that is named."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mnist_sweep import api, cli, tracking
from mnist_sweep.errors import RequestError
from mnist_sweep.result import Result
from mnist_sweep.run import train
from mnist_sweep.tracking.store import client_of
from mnist_sweep.training import trained_model
from tests.conftest import tracked

NAME = "mnist_sweep_mnist5k"


@pytest.fixture(scope="module")
def runs(store: Path) -> list[Result]:
    """Two runs with their models in MLflow; the first of them is the champion."""
    commands = [tracked(store, f"seed{seed}", f"seed={seed}") for seed in (0, 1)]
    results = [train(command) for command in commands]
    registered = tracking.register(commands[0].config.tracking, results[0].mlflow_run_id, "mnist5k", "a", 0.90)
    assert registered == {"name": NAME, "version": 1, "champion": True, "uri": f"models:/{NAME}/1"}
    return results


def test_the_champion_changes_only_for_a_better_one(store: Path, runs: list[Result]) -> None:
    settings, uri = tracked(store, "it").config.tracking, f"sqlite:///{store}/mlflow.db"

    def register(accuracy: float, digest: str = "a") -> Any:
        registered = tracking.register(settings, runs[1].mlflow_run_id, "mnist5k", digest, accuracy)
        assert registered is not None
        assert (registered["version"], registered["uri"]) == (2, f"models:/{NAME}/2"), "one version of each run"
        return registered["champion"]

    def is_that_of(source: str, run: Result) -> bool:
        images = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        wanted = trained_model.served(trained_model.read(Path(run.folder) / str(run.checkpoint)).network)
        return torch.equal(api.load(source, uri)(images), wanted(images))

    assert not register(0.90)
    assert not register(0.99, digest="another test set")
    assert is_that_of(f"models:/{NAME}@champion", runs[0])
    assert register(0.91)
    assert is_that_of(f"models:/{NAME}@champion", runs[1])
    assert is_that_of(f"models:/{NAME}/1", runs[0])
    client = client_of(uri)
    client.set_registered_model_alias(NAME, "champion", "1")  # as if it had died before it decided
    assert register(0.91)
    assert client.get_model_version_by_alias(NAME, "champion").run_id == runs[1].mlflow_run_id


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("models:/nothing@champion", f"registered: models:/{NAME}@champion"),
        (f"models:/{NAME}/9", "no such model"),
        ("nothing", "allowed: models:/NAME@ALIAS or models:/NAME/VERSION"),
    ],
)
def test_a_wrong_address_is_refused_in_one_line(uri: str, said: str, store: Path) -> None:
    with pytest.raises(RequestError, match=said) as refused:
        cli.perform("predict", ["it.png", "--tracking-uri", f"sqlite:///{store}/mlflow.db", "--model", uri])
    assert "\n" not in str(refused.value)
