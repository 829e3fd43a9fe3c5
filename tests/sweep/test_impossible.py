"""Proposals that are impossible: counted, drawn again, learned from, and given up where there is nothing else."""

from pathlib import Path

import pytest
from optuna.trial import TrialState

from mnist_sweep.errors import RunFailure
from mnist_sweep.result import Result
from mnist_sweep.sweep import tuner as search
from tests import stubs

pytestmark = pytest.mark.usefixtures("fresh_stubs")


@pytest.mark.untraced
@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes"])
def test_what_is_never_possible_is_not_proposed_for_ever(tmp_path: Path, sampler: str) -> None:
    """Only the narrowest of three networks keeps the constraint; a later sitting goes on in the same way."""
    widths = "model: {filters: {choices: [[8], [16], [32]]}, dropout: {low: 0.0, high: 0.6}}"
    items = [f"++sweep.space={{optimizer: {{lr: {{low: 0.0001, high: 0.3, log: true}}}}, {widths}}}"]
    items += ["sweep.constraints={parameters: {max: 300000}}", "trainer.max_epochs=2", f"sweep/sampler={sampler}"]
    drivers = [stubs.search(tmp_path / "parts", *items, f"sweep.trials={trials}") for trials in (14, 20)]
    drivers.append(stubs.search(tmp_path / "whole", *items, "sweep.trials=20"))
    counts = drivers[-1].study.counts()
    assert counts["complete"] + counts["pruned"] == 20
    assert counts["infeasible"] <= (50 if sampler == "tpe" else 200)
    parts, whole = ([trial.params for trial in driver.study.trials()] for driver in drivers[1:])
    assert parts == whole


def test_impossible_proposals_are_counted_and_drawn_again(tmp_path: Path) -> None:
    driver = stubs.search(
        tmp_path,
        "sweep.space.model.pool_size.each.choices=[2,14]",
        "sweep.trials=40",
        "sweep.constraints={parameters: {max: 60000}}",
    )
    impossible = [trial for trial in driver.study.trials() if trial.user_attrs.get("reason") == "infeasible"]
    assert driver.study.counts()["infeasible"] == len(impossible) > 0
    assert driver.study.counted() == 40
    said = " ".join(trial.user_attrs["detail"] for trial in impossible)
    assert "and nothing is left" in said
    assert "sweep.constraints.parameters" in said
    for trial in driver.study.trials(TrialState.COMPLETE, TrialState.PRUNED):
        parameters = Result.read(tmp_path / "runs" / f"sweep-{trial.number:04d}").parameters
        assert parameters is not None
        assert parameters <= 60_000


def test_a_space_without_anything_possible_ends_by_itself(tmp_path: Path) -> None:
    with pytest.raises(RunFailure, match=f"infeasible: {search.MOST_IMPOSSIBLE} impossible proposals in a row"):
        stubs.search(tmp_path, "sweep.constraints={parameters: {max: 10}}")
    assert stubs.performed == []
