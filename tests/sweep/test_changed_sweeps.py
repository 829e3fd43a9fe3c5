"""A sweep that goes on otherwise than it was begun: what the next sitting makes of the trials that are there."""

from pathlib import Path
from typing import Any

import optuna
import pytest

from mnist_sweep.config.command import compose
from mnist_sweep.errors import RequestError
from mnist_sweep.sweep.driver import Driver
from tests import stubs

pytestmark = [pytest.mark.usefixtures("fresh_stubs"), pytest.mark.untraced]

ON = "sweep.allow_changes=true"


def learning_rates(high: str) -> str:
    """A space with conditions, whose parameters TPE draws in groups."""
    return (
        "++sweep.space={model: {pool: {choices: [max, avg], when: {model.batch_norm: false}}, "
        f"batch_norm: {{choices: [true, false]}}}}, optimizer: {{lr: {{low: 0.0001, high: {high}, log: true}}}}}}"
    )


@pytest.mark.parametrize("high", ["0.3", "1"])
def test_a_range_that_was_widened_is_used(tmp_path: Path, high: str) -> None:
    items = ["sweep/pruner=none", "trainer.max_epochs=1"]
    stubs.search(tmp_path, learning_rates("0.0005"), "sweep.trials=12", *items)
    driver = stubs.search(tmp_path, learning_rates(high), "sweep.trials=24", ON, *items)
    drawn = [trial.params["optimizer.lr"] for trial in driver.study.trials()[12:]]
    assert sum(rate > 0.0005 for rate in drawn) > 4


def test_the_constraints_in_force_bind_earlier_trials_too(tmp_path: Path) -> None:
    bound = "sweep.constraints={parameters: {max: 100000}}"
    driver = stubs.search(tmp_path, "sweep.trials=8", "sweep/pruner=none")
    found = [trial.user_attrs["result"]["parameters"] for trial in driver.study.ranking()]
    assert any(number > 100_000 for number in found)
    driver = stubs.search(tmp_path, "sweep.trials=9", "sweep/pruner=none", ON, bound)
    found = [trial.user_attrs["result"]["parameters"] for trial in driver.study.ranking()]
    assert found
    assert all(number <= 100_000 for number in found)
    driver = stubs.search(tmp_path, "sweep.trials=9", "sweep/pruner=none", ON)
    assert len(driver.study.ranking()) == 9  # and where they are relaxed, all count again


def asked_for(driver: Driver) -> list[tuple[Any, Any]]:
    return [(trial.user_attrs.get("enqueued"), trial.user_attrs.get("baseline")) for trial in driver.study.trials()]


def test_what_is_enqueued_later_is_tried_next_and_once(tmp_path: Path) -> None:
    entries = "'optimizer=sgd optimizer.lr=0.1'", "'optimizer.lr=0.02'"
    driver = stubs.search(tmp_path, "sweep.trials=2", f"sweep.enqueue=[{entries[0]}]")
    assert asked_for(driver) == [(0, None), (None, True)]
    driver = stubs.search(tmp_path, "sweep.trials=4", f"sweep.enqueue=[{','.join(entries)}]")
    assert asked_for(driver)[2:] == [(1, None), (None, None)]
    assert driver.study.trials()[2].params["optimizer.lr"] == 0.02


def test_the_configs_own_values_are_those_of_the_config_in_force(tmp_path: Path) -> None:
    stubs.search(tmp_path, "sweep.trials=2", "sweep/pruner=none")
    changed = ["sweep.trials=4", "sweep/pruner=none", ON, "model.pool=avg"]
    for _ in range(2):
        driver = stubs.search(tmp_path, *changed)
        assert asked_for(driver) == [(None, True), (None, None), (None, True), (None, None)]
        own = driver.study.baseline()
        assert own is not None
        assert (own.number, compose(own.user_attrs["result"]["overrides"]).model.pool) == (2, "avg")


def test_own_values_that_break_a_constraint_are_no_trial(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        driver = stubs.search(tmp_path, "sweep.trials=2", "sweep.constraints={parameters: {max: 100000}}")
    assert "no baseline trial" in caplog.text
    assert asked_for(driver)[:2] == [(None, None)] * 2
    assert driver.study.baseline() is None


def test_what_is_enqueued_against_a_constraint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"sweep\.enqueue\[0\]=.*sweep\.constraints\.parameters=.*the network has"):
        stubs.search(tmp_path, "sweep.enqueue=['model.filters=[64,64]']", "sweep.constraints={parameters: {max: 9000}}")
    assert not stubs.performed


def test_an_empty_study_of_the_other_direction_is_no_sweeps(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/optuna.db"
    optuna.create_study(study_name="sweep", storage=storage, direction="minimize")
    with pytest.raises(RequestError, match="begun by another program"):
        stubs.search(tmp_path, "sweep.trials=1", f"sweep.storage={storage}")
