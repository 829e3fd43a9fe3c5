"""A sweep on 200 real digits whose trainings fail or are interrupted, or that goes on on another machine."""

import json
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import Mock

import pytest

from mnist_sweep import hardware
from mnist_sweep.errors import Interrupted, RunFailure, signals_as_flag
from mnist_sweep.result import Result
from mnist_sweep.sweep import report, session
from mnist_sweep.training import trainer
from tests import stubs
from tests.sweep.test_sweep import perform, study_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_report")]


def failing(monkeypatch: pytest.MonkeyPatch, calls: Sequence[int], *, interrupted: bool = False) -> None:
    """Let the trainings of these calls, counted from 0, fail or be interrupted."""
    before, made = trainer.Fit.run, iter(range(100))

    def fit(self: trainer.Fit) -> None:
        if next(made) not in calls:
            before(self)
        elif interrupted:
            stubs.interrupt()
            raise Interrupted(2)
        else:
            raise ZeroDivisionError("a bug")

    monkeypatch.setattr(trainer.Fit, "run", fit)


def test_a_sweep_survives_its_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, [1])
    content = perform(tmp_path, "sweep.trials=3", "sweep.winner.seeds=1")
    assert (content["trials"]["fail"], content["failures"]) == (1, {"error": 1})
    assert content["winner"] is not None


def test_a_sweep_without_any_value_fails_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, range(9))
    with pytest.raises(RunFailure, match="no trial finished; 2 × error: ZeroDivisionError: a bug"):
        perform(tmp_path, "sweep.trials=2")
    content = json.loads((tmp_path / "runs" / "sweep" / "sweep.json").read_text())
    assert (content["best"], content["winner"], content["trials"]["fail"]) == (None, None, 2)


def test_an_interrupted_trial_goes_on_under_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = ["sweep.trials=3", "sweep/pruner=none", "sweep.winner.seeds=1", "sweep.winner.top=1"]
    monkeypatch.setattr(report, "report", reported := Mock(return_value=None))
    whole = perform(tmp_path, *items, "sweep.name=whole")
    with monkeypatch.context() as patched:
        failing(patched, [1], interrupted=True)
        with signals_as_flag(), pytest.raises(Interrupted):
            perform(tmp_path, *items)
    content = json.loads((tmp_path / "runs" / "sweep" / "sweep.json").read_text())
    assert content["trials"] == {"complete": 1, "pruned": 0, "fail": 0}
    assert (content["status"], [each["state"] for each in content["trial_list"]]) == (
        "interrupted",
        ["complete", "stopped"],
    )
    assert reported.call_count == 2  # that of the whole, and of what there is of this one
    assert [trial.state.name for trial in study_of(tmp_path).trials] == ["COMPLETE", "WAITING"]
    assert Result.read(tmp_path / "runs" / "sweep-0001").status == "interrupted"
    content = perform(tmp_path, *items)
    trials = study_of(tmp_path).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    assert [trial.value for trial in trials] == [trial.value for trial in study_of(tmp_path, "whole").trials]
    assert Result.read(tmp_path / "runs" / "sweep-0001").attempts == 2
    assert whole["trials"] == content["trials"] == {"complete": 3, "pruned": 0, "fail": 0}


@pytest.mark.usefixtures("fresh_stubs")
def test_a_sweep_keeps_the_precision_that_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for found in (32, "bf16"):
        monkeypatch.setattr(hardware, "precision", lambda *_, found=found: (found, "it can"))
        session.prepared.cache_clear()
        stubs.search(tmp_path, f"sweep.trials={1 + (found == 'bf16')}", "sweep/pruner=none")
    assert ["trainer.precision=32" in overrides for overrides in stubs.performed] == [True, True]
