"""The best trial as an experiment: what its folder of configs composes."""

from pathlib import Path

import optuna
import pytest

from mnist_sweep.config.command import compose
from mnist_sweep.sweep.export_best import overlay

FOLDER = Path("mlruns/runs/sweep")


def best(*items: str) -> optuna.trial.FrozenTrial:
    return optuna.trial.create_trial(value=0.9, user_attrs={"result": {"overrides": list(items)}})


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in, with an experiment of the user's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text("# @package _global_\nseed: 7\nmodel: {pool: avg}\n")
    return tmp_path


@pytest.mark.usefixtures("here")
def test_what_it_states_is_what_the_trial_was() -> None:
    items = ["experiment=own", "optimizer.lr=0.2", "optimizer={weight_decay: 0.3}", "scheduler=cosine", "seed=8"]
    items += ["data.augmentation.rotation=5", "data={augmentation: {shift: 0.1}}", "data.limit=null"]
    folder = str(overlay(best(*items), "val/accuracy", FOLDER, "mine"))
    assert compose(["experiment=best"], folder) == compose(items, "mine")


@pytest.mark.usefixtures("here")
def test_several_experiments_stay_in_their_order() -> None:
    items = ["experiment=[tutorial,own]", "optimizer.lr=0.2"]
    folder = str(overlay(best(*items), "val/accuracy", FOLDER, "mine"))
    assert compose(["experiment=best"], folder) == compose(items, "mine")


@pytest.mark.usefixtures("here")
def test_the_best_of_a_sweep_around_the_best() -> None:
    folder, items = "mine", ["experiment=own"]
    for generation, dropout in enumerate((0.1, 0.2, 0.3)):
        items = [*items, f"model.dropout={dropout}"]
        folder = str(overlay(best(*items), "val/accuracy", Path(f"mlruns/runs/{generation}"), folder))
        items = ["experiment=best"]
        config = compose(items, folder)
        assert (config.model.dropout, config.model.pool, config.seed) == (dropout, "avg", 7)


def test_a_folder_of_configs_around_or_within_what_sweeps_leave(here: Path) -> None:
    (here / "experiment").mkdir()
    (here / "experiment" / "own.yaml").write_text("# @package _global_\nseed: 9\n")
    for _ in range(2):
        folder = overlay(best("experiment=own"), "val/accuracy", FOLDER, ".")
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert left == ["experiment/best.yaml", "experiment/own.yaml", "mine/experiment/own.yaml"]
    again = overlay(best("experiment=best", "seed=10"), "val/accuracy", FOLDER, str(folder))
    assert again == folder
    assert compose(["experiment=best"], str(folder)).seed == 10
