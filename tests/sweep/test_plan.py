"""Looking ahead: what a sweep would be, without training one."""

import json
from pathlib import Path

import pytest

from mnist_sweep.config.command import compose
from mnist_sweep.errors import RequestError, RunFailure
from mnist_sweep.sweep.plan import plan
from tests.test_sweep import UNTRACKED


def test_a_plan_says_what_a_sweep_would_be(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    items = [*UNTRACKED, f"output={tmp_path}", "sweep.plan=true", "sweep.budget_minutes=1"]
    with caplog.at_level("INFO"):
        path = plan(compose(items), items)
    content = json.loads(path.read_text())
    assert path == tmp_path / "runs" / "sweep" / "plan.json"
    assert {entry.name for entry in tmp_path.rglob("*")} == {"runs", "sweep", "plan.json"}  # no study, no run
    assert content["points"] is None
    assert content["impossible"] == 0
    assert content["space"]["optimizer.momentum"] == {"range": "0.5 … 0.99", "when": "optimizer=sgd"}
    seconds = content["seconds_a_trial"]
    assert 0 < seconds["shortest"] <= seconds["mean"] <= seconds["longest"]
    assert content["minutes"] == pytest.approx(20 * seconds["mean"] / 60, abs=0.02)
    assert content["trials_in_budget"] == pytest.approx(60 / seconds["mean"], rel=0.1)
    assert "without end (model.dropout" in caplog.text


def test_a_plan_is_not_written_into_the_folder_of_a_run(tmp_path: Path) -> None:
    items = [*UNTRACKED, f"output={tmp_path}", "sweep.name=one"]
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "config.yaml").touch()
    with pytest.raises(RequestError, match=r"sweep\.name=one: .*runs/one is there, but its study is not in"):
        plan(compose(items), items)
    assert [entry.name for entry in (tmp_path / "runs" / "one").iterdir()] == ["config.yaml"]


def test_a_plan_counts_points_duplicates_and_the_impossible(tmp_path: Path) -> None:
    items = [
        *("+sweep=optuna", "data=mnist5k", "data.limit=100", "tracking=none", "launcher=inline", f"output={tmp_path}"),
        *("sweep/space=empty", "model.hidden=[8]", "sweep.plan=true"),
        "++sweep.space={model: {filters: {choices: [[2], [2, 4], [2, 4, 4]]}, pool_size: {choices: [2, 6]}}}",
    ]
    content = json.loads(plan(compose(items), items).read_text())
    assert content["points"] == 6  # one of which pools 4 × 4 by 6, another what is left of it
    assert 0.2 < content["impossible"] < 0.5
    assert content["duplicates"] > 0.98


def test_a_space_without_anything_possible_is_said(tmp_path: Path) -> None:
    items = [*UNTRACKED, f"output={tmp_path}", "sweep.constraints={parameters: {max: 1}}"]
    with pytest.raises(RunFailure, match=r"none of 1000 proposals is possible; the last: sweep"):
        plan(compose(items), items)


def test_a_plan_of_one_trial_takes_as_long_as_that_trial(tmp_path: Path) -> None:
    items = [
        *UNTRACKED,
        f"output={tmp_path}",
        "sweep.trials=1",
        "launcher=local",
        "sweep.workers=2",
        "trainer.max_epochs=900",
    ]
    content = json.loads(plan(compose(items), items).read_text())
    assert content["minutes"] == pytest.approx(content["seconds_a_trial"]["mean"] / 60, abs=0.01)
