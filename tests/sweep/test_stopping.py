"""When a sweep has had enough."""

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from mnist_sweep.config.command import compose
from mnist_sweep.config.metrics import Direction
from mnist_sweep.errors import RunFailure
from mnist_sweep.result import Result
from mnist_sweep.sweep.driver import Driver
from mnist_sweep.sweep.stopping import Budget
from mnist_sweep.sweep.workers.pool import Crew
from tests import stubs


def budget(*items: str, direction: Direction = "maximize", spent: float = 0.0) -> Budget:
    settings = compose(["+sweep=optuna", *items]).sweep
    assert settings is not None
    return Budget(settings, direction, spent)


def result(status: Any, reason: str | None = None, detail: str | None = None) -> Result:
    return Result(
        status=status, reason=reason, detail=detail, objective=None, metrics={}, best_epoch=None, epochs=0, seconds=1.0,
        train_seconds=0.0, parameters=None, dataset="mnist5k", seed=0, device="cpu", threads=1, precision="32",
        mlflow_run_id=None, overrides=[], command="", folder="", checkpoint=None,
    )  # fmt: skip


def test_without_limits_only_the_total_ends_a_sweep() -> None:
    assert budget(spent=1e9).over() is None


def test_time_counts_over_all_sittings() -> None:
    assert budget("sweep.budget_minutes=1", spent=59.0).over() is None
    assert budget("sweep.budget_minutes=1", spent=60.0).over() == "the budget of 1 minutes is spent"


@pytest.mark.parametrize(("direction", "short", "there"), [("maximize", 0.98, 0.99), ("minimize", 1.0, 0.99)])
def test_the_target(direction: Direction, short: float, there: float) -> None:
    spent = budget("sweep.target=0.99", direction=direction)
    spent.value(short)
    assert spent.over() is None
    spent.value(there)
    spent.value(short)  # a later trial that was still running does not take it back
    assert "target 0.99 is reached" in str(spent.over())


def test_the_same_failure_in_a_row_ends_a_sweep() -> None:
    spent = budget("sweep.max_consecutive_failures=3")
    for _ in range(2):
        spent.ended(result("failed", "error", "ValueError: bad"))
    spent.ended(result("finished"))  # not in a row any more
    for _ in range(2):
        spent.ended(result("failed", "error", "ValueError: bad"))
    spent.ended(result("failed", "error", "ValueError: another"))
    for number in range(2):
        spent.ended(result("failed", "diverged", f"loss became nan in epoch {number}"))
    with pytest.raises(RunFailure, match="3 trials in a row failed with the same error: loss became nan in epoch 7"):
        spent.ended(result("failed", "diverged", "loss became nan in epoch 7"))


@pytest.mark.usefixtures("fresh_stubs")
def test_a_target_stays_reached(tmp_path: Path) -> None:
    for _ in range(2):
        stubs.search(tmp_path, "sweep.target=0.5", "sweep.trials=9")
    assert len(stubs.performed) == 1


@pytest.mark.usefixtures("fresh_stubs")
def test_a_target_is_reached_by_a_trial_that_keeps_the_constraints(tmp_path: Path) -> None:
    bound = "sweep.constraints={gap/accuracy: {max: 0.03}}"
    driver = stubs.search(tmp_path, "sweep.target=0.5", bound, "sweep.trials=30", "sweep/sampler=random")
    best = driver.study.best()
    assert best is not None
    assert best.number == driver.study.trials()[-1].number


@pytest.mark.usefixtures("fresh_stubs")
def test_the_end_of_a_budget_ends_the_run_in_the_sweeps_own_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Budget, "over", lambda _: "enough" if stubs.performed else None)
    driver = stubs.search(tmp_path, "sweep.trials=4", "sweep.on_budget=stop", "trainer.max_epochs=12")
    (trial,) = driver.study.trials()[:1]
    assert trial.state == TrialState.WAITING
    assert [*trial.intermediate_values] == [1]


@pytest.mark.usefixtures("fresh_stubs")
def test_the_time_for_the_trials_begins_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, began = [0.0], Driver.begin
    monkeypatch.setattr("mnist_sweep.sweep.stopping.time.monotonic", lambda: clock[0])

    def slowly(self: Driver, crew: Crew) -> None:
        began(self, crew)
        clock[0] += 1000

    monkeypatch.setattr(Driver, "begin", slowly)
    driver = stubs.search(tmp_path, "sweep.trials=2", "sweep.budget_minutes=10")
    assert driver.study.counted() == 2
    assert driver.study.recall("search_seconds") == 0
