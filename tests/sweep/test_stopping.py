"""When a sweep has had enough."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState

from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.metrics import Direction
from mnist_sweep.errors import RunFailure
from mnist_sweep.sweep import stopping as clock_of
from mnist_sweep.sweep.session import Session
from mnist_sweep.sweep.stopping import Stopping
from mnist_sweep.sweep.tuner import Tuner
from mnist_sweep.sweep.workers import Decision, Report, Workers
from tests import stubs
from tests.sweep.studies import result_of

pytestmark = pytest.mark.usefixtures("fresh_stubs")


def stopping(*items: str, direction: Direction = "maximize", spent: float = 0.0) -> Stopping:
    settings = CommandLine.of(["+sweep=optuna", *items]).config.sweep
    assert settings is not None
    return Stopping(settings, direction, spent)


def test_time_counts_over_all_sessions() -> None:
    assert stopping(spent=1e9).over() is None
    assert stopping("sweep.budget_minutes=1", spent=59.0).over() is None
    assert stopping("sweep.budget_minutes=1", spent=60.0).over() == "the budget of 1 minutes is spent"


@pytest.mark.parametrize(("direction", "short", "there"), [("maximize", 0.98, 0.99), ("minimize", 1.0, 0.99)])
def test_the_target(direction: Direction, short: float, there: float) -> None:
    spent = stopping("sweep.target=0.99", direction=direction)
    spent.value(short)
    assert spent.over() is None
    spent.value(there)
    spent.value(short)  # a later trial that was still running does not take it back
    assert "target 0.99 is reached" in str(spent.over())


def test_the_same_failure_in_a_row_ends_a_sweep(tmp_path: Path) -> None:
    spent = stopping("sweep.max_consecutive_failures=3")

    def failed(reason: str, detail: str) -> None:
        spent.ended(result_of(tmp_path, "it", 0.0, status="failed", reason=reason, detail=detail))

    for _ in range(2):
        failed("error", "ValueError: bad")
    spent.ended(result_of(tmp_path, "it", 0.5))  # not in a row any more
    for _ in range(2):
        failed("error", "ValueError: bad")
    failed("error", "ValueError: another")
    for number in range(2):
        failed("diverged", f"loss became nan in epoch {number}")
    with pytest.raises(RunFailure, match="3 trials in a row failed with the same error: loss became nan in epoch 7"):
        failed("diverged", "loss became nan in epoch 7")


def test_a_target_ends_the_search_and_stays_reached(tmp_path: Path) -> None:
    """One worker: nothing else was running when it was reached."""
    for _ in range(2):
        session = stubs.search(tmp_path, "sweep.trials=50", "sweep.target=0.86", "trainer.max_epochs=3")
    values = [trial.values[0] for trial in session.study.trials(TrialState.COMPLETE)]
    assert [value >= 0.86 for value in values] == [False] * (len(values) - 1) + [True]
    assert len({items[-1] for items in stubs.performed}) == session.study.counted() < 50


def test_a_target_is_reached_by_a_trial_that_keeps_the_constraints(tmp_path: Path) -> None:
    bound = "sweep.constraints={gap/accuracy: {max: 0.03}}"
    session = stubs.search(tmp_path, "sweep.target=0.5", bound, "sweep.trials=30", "sweep/sampler=random")
    best = session.study.best()
    assert best is not None
    assert stubs.performed[-1][-1] == f"name=sweep-{best.number:04d}"


def test_the_end_of_a_budget_stops_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reported, report = [], Tuner.report

    def first_report(self: Tuner, event: Report) -> Decision:
        reported.append(event)
        return report(self, event)

    monkeypatch.setattr(Tuner, "report", first_report)
    monkeypatch.setattr(Stopping, "over", lambda *_: "enough" if reported else None)
    session = stubs.search(
        tmp_path, "sweep.trials=4", "sweep/pruner=none", "sweep.on_budget=stop", "trainer.max_epochs=12"
    )
    (trial,) = session.study.trials()[:1]
    assert trial.state == TrialState.WAITING
    assert [*trial.intermediate_values] == [1]


def test_the_time_ends_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins with the trials, however long it took to begin."""
    clock, begin = [0.0], Session.begin

    def slowly(self: Session, workers: Workers) -> None:
        begin(self, workers)
        clock[0] += 1000

    def tick() -> float:
        clock[0] += 10
        return clock[0]

    monkeypatch.setattr(clock_of, "time", SimpleNamespace(monotonic=tick))
    monkeypatch.setattr(Session, "begin", slowly)
    items = ["sweep.trials=500", "sweep.budget_minutes=10", "trainer.max_epochs=1"]
    stubs.search(tmp_path, *items)
    done = len(stubs.performed)
    assert 1 < done < 60
    stubs.search(tmp_path, *items)
    assert len(stubs.performed) == done  # it is spent: the same command adds nothing
