"""The best trial as an experiment: what its file composes."""

from pathlib import Path

import optuna
import pytest

from mnist_sweep.config.command import CommandLine
from mnist_sweep.sweep.export_best import export_best


@pytest.mark.parametrize(
    "items",
    [
        [
            *("experiment=own", "optimizer.lr=0.2", "optimizer={weight_decay: 0.3}", "scheduler=cosine", "seed=8"),
            *("data.augmentation.rotation=5", "data={augmentation: {shift: 0.1}}", "data.limit=null"),
        ],
        ["experiment=[tutorial,own]", "optimizer=sgd", "data=mnist5k", "tracking=none", "trainer.threads=3"],
        ["model=mlp", "trainer.precision=bf16", "tracking.uri=http://somewhere:5000", "objective=val/loss"],
    ],
)
def test_the_file_composes_what_the_trial_was_without_the_users_folder(tmp_path: Path, items: list[str]) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    own = tmp_path / "mine" / "experiment" / "own.yaml"
    own.write_text("# @package _global_\nseed: 7\nmodel: {pool: avg}\n")
    best = optuna.trial.create_trial(value=0.9, user_attrs={"result": {"overrides": items}})
    # what is trained, not where it is kept
    trial = CommandLine.of(items, tmp_path / "mine").without("tracking", "output").config
    folder = export_best(best, "val/accuracy", tmp_path / "runs" / "sweep", tmp_path / "mine")
    own.unlink()
    assert CommandLine.of(["experiment=best"], folder).config == trial
    assert CommandLine.of(["experiment=best", "launcher=inline"], folder).config.launcher.name == "inline"


def test_the_file_states_only_what_differs(tmp_path: Path) -> None:
    items = ["optimizer=sgd", "optimizer.lr=0.2", "model.pool=max", "name=sweep-0001"]
    best = optuna.trial.create_trial(value=0.9, user_attrs={"result": {"overrides": items}})
    file = export_best(best, "val/accuracy", tmp_path, None) / "experiment" / "best.yaml"
    header, title, *lines = file.read_text().splitlines()
    assert header == "# @package _global_"
    assert title.endswith("val/accuracy 0.9")
    assert lines == ["defaults:", "- override /optimizer: sgd", "- _self_", "optimizer:", "  lr: 0.2"]
