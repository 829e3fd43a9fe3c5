"""Looking ahead: what a sweep would be, without training one."""

import json
import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from mnist_sweep.config.pruners import ASHA
from mnist_sweep.errors import RequestError, RunFailure
from mnist_sweep.sweep import estimate, plan
from tests.sweep import studies

pytestmark = pytest.mark.slow

#: Six points; two of them pool what a convolution without padding has made smaller.
SIX = "++sweep.space={model: {padding: {choices: [same, valid]}, pool_size: {choices: [2, 27, 28]}}}"
FEW = ("sweep/space=empty", SIX)


@pytest.fixture(autouse=True)
def _fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_DRAWS", 40)


def plan_of(folder: Path, *items: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(plan.plan(studies.sweep_of(folder, *items)).read_text())
    return content


def test_a_plan_says_what_a_sweep_would_be(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        content = plan_of(tmp_path, "launcher=inline", "sweep.budget_minutes=1", "trainer.max_epochs=9")
    assert {entry.name for entry in tmp_path.rglob("*")} == {"runs", "sweep", "plan.json"}  # no study, no run
    assert content["points"] is None
    assert content["space"]["optimizer.momentum"] == {"range": "0.5 … 0.99", "when": "optimizer=sgd"}
    seconds = content["seconds_a_trial"]
    assert 0 < seconds["shortest"] <= seconds["mean"] <= seconds["longest"]
    assert content["epochs_a_trial"] == 2.33  # most pause for good
    assert content["minutes"] == pytest.approx(
        content["minutes_of_the_trials"] + content["minutes_of_the_winner"], abs=0.02
    )
    assert content["trials_in_budget"] > 1
    assert "infinitely many (continuous: model.dropout" in caplog.text
    assert re.search(r"one at a time, (one|\d+) threads?, 2\.3 of 9\.0 epochs with sweep/pruner=asha", caplog.text)
    assert "in 1 minutes       " in caplog.text


def test_a_plan_counts_points_duplicates_and_the_impossible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundredth of a second for an image, whatever the network."""
    probe = Mock(side_effect=lambda _, images: 0.01 * (3 * images + 500))
    monkeypatch.setattr(plan, "_probe", probe)
    items = ["sweep.workers=2", "trainer.max_epochs=6", *FEW]
    content = plan_of(tmp_path, "sweep.trials=3", *items)
    assert content["points"] == 6
    assert 0.1 < content["impossible"] < 0.6
    assert content["duplicates"] > 0.8
    costs = [call.args[0].costs["multiply_adds"] for call in probe.call_args_list]
    assert costs[0] == costs[1] < costs[2]  # the first one pays for what is loaded once
    assert content["seconds_a_trial"] == pytest.approx(dict.fromkeys(("mean", "shortest", "longest"), 6 * 11.0))
    monkeypatch.setattr(estimate, "_START", 0.0)
    alone = plan_of(tmp_path, "sweep.trials=1", "sweep/pruner=none", *items)
    assert alone["minutes_of_the_trials"] == pytest.approx((66 + estimate._TRIAL_UNTRACKED) / 60, abs=0.01)
    three = plan_of(tmp_path, "sweep.trials=3", "sweep.objectives=[{metric: val/accuracy, direction: maximize}, "
        "{metric: parameters, direction: minimize}]", *items)  # fmt: skip
    assert three["minutes_of_the_trials"] == pytest.approx(3 * (66 + estimate._TRIAL_UNTRACKED) / 2 / 60, abs=0.01)
    assert three["epochs_a_trial"] == 6  # nothing is pruned
    assert three["runs_of_the_winner"] == 0  # a front has none


def test_a_plan_counts_further_seeds_the_baseline_and_what_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A second for a full trial; nothing for the start."""
    monkeypatch.setattr(plan, "_seconds", lambda _, candidates, __: [1.0] * len(candidates))
    monkeypatch.setattr(estimate, "_START", 0.0)
    items = ["sweep.workers=1", "sweep.trials=6", "sweep/pruner=none", "trainer.max_epochs=6", *FEW]
    once = plan_of(tmp_path, *items)
    with caplog.at_level("INFO"):
        three = plan_of(tmp_path, "sweep.seeds=3", *items)
    assert (once["epochs_a_trial"], three["epochs_a_trial"]) == (6, 18)
    assert three["minutes_of_the_trials"] == pytest.approx(3 * once["minutes_of_the_trials"], abs=0.03)
    assert three["checkpoint_gigabytes"] > once["checkpoint_gigabytes"]
    assert "2 more seeds where it reaches its end (sweep.seeds)" in caplog.text
    with_baseline = plan_of(tmp_path, "sweep.winner.baseline=true", "sweep.winner.race_seeds=2", *items)
    assert with_baseline["runs_of_the_winner"] == once["runs_of_the_winner"] + 2 + 3 * (2 - 1)
    ablated = plan_of(tmp_path, "sweep.winner.ablate=true", "sweep.winner.seeds=2", *items)
    fewer = plan_of(tmp_path, "sweep.winner.seeds=2", *items)
    assert 0 < ablated["runs_of_the_winner"] - fewer["runs_of_the_winner"] <= 2 * 2  # of two keys
    monkeypatch.setattr(estimate, "_START", 8.0)
    assert plan_of(tmp_path, "sweep.budget_minutes=0.01", *items)["trials_in_budget"] == 0


@pytest.mark.parametrize(("epochs", "expected"), [(1, 1), (3, 1 + 2 / 3), (10, 1 + 2 / 3 + 6 / 9 + 1 / 27)])
def test_a_trial_is_expected_to_reach_a_rung_with_a_third_of_those_before(epochs: int, expected: float) -> None:
    pruner = ASHA(name="asha", min_epochs=1, reduction_factor=3)
    assert estimate.epochs_until_pruned(pruner, epochs) == pytest.approx(expected)


def test_what_cannot_be_planned(tmp_path: Path) -> None:
    with pytest.raises(RunFailure, match=r"none of 40 proposals is possible; the last: sweep\.constraints"):
        plan_of(tmp_path, "sweep.constraints={parameters: {max: 1}}", *FEW)
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "config.yaml").touch()
    with pytest.raises(RequestError, match=r"sweep\.name=one: .*runs/one is there, but its study is not in"):
        plan_of(tmp_path, "sweep.name=one")
    assert [entry.name for entry in (tmp_path / "runs" / "one").iterdir()] == ["config.yaml"]
