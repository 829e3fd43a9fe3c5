"""What is written to a study's database while another program uses Optuna's own tools on it."""

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from mnist_sweep.errors import RunFailure
from mnist_sweep.result import Result
from mnist_sweep.sweep.study import Study
from mnist_sweep.sweep.workers import Task
from tests import stubs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_stubs"), pytest.mark.fault(17)]

RATES = ["++sweep.space={optimizer: {lr: {low: 0.001, high: 0.1, log: true}}}", "sweep.trials=3", "sweep/pruner=none"]


def by_hand(folder: Path) -> optuna.Study:
    """The study, as somebody else opens it."""
    return optuna.load_study(study_name="sweep", storage=f"sqlite:///{folder}/optuna.db")


def add(folder: Path, state: TrialState) -> None:
    """Let somebody add a trial while the first one runs."""

    def twist(task: Task, result: Result) -> Result:
        if task.id == 0 and state == TrialState.WAITING:
            by_hand(folder).enqueue_trial({"optimizer.lr": 0.05})
        elif task.id == 0:
            by_hand(folder).add_trial(optuna.create_trial(state=state, value=2.0))
        return result

    stubs.twist[:] = [twist]


def test_a_trial_that_somebody_adds_meanwhile_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    add(tmp_path, TrialState.COMPLETE)
    study = stubs.search(tmp_path, *RATES).study
    assert (len(study.trials()), study.foreign(), study.counted()) == (4, [1], 3)
    there = by_hand(tmp_path).trials
    assert (there[1].values, there[1].params, [trial.state.name for trial in there]) == ([2.0], {}, ["COMPLETE"] * 4)
    assert "another program added to the study: trials 1" in caplog.text


def test_a_trial_that_somebody_queues_meanwhile_is_tried_next(tmp_path: Path) -> None:
    add(tmp_path, TrialState.WAITING)
    study = stubs.search(tmp_path, *RATES).study
    assert (len(study.trials()), study.counted(), study.trials()[1].params) == (3, 3, {"optimizer.lr": 0.05})


def test_a_trial_that_somebody_adds_in_the_same_moment_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(tmp_path, TrialState.COMPLETE)
    with monkeypatch.context() as patched:
        patched.setattr(Study, "look", lambda _: [])  # it was not there yet
        with pytest.raises(RunFailure, match="another program added trial 1 meanwhile; the same command goes on"):
            stubs.search(tmp_path, *RATES)
    study = stubs.search(tmp_path, *RATES).study
    assert (study.foreign(), study.trials()[1].values, study.counted()) == ([1], [2.0], 3)


def test_a_trial_that_somebody_ends_meanwhile_is_not_written_over(tmp_path: Path) -> None:
    def end(task: Task, result: Result) -> Result:
        if task.id == 1:
            by_hand(tmp_path).tell(1, 2.0)
        return result

    stubs.twist[:] = [end]
    with pytest.raises(RunFailure, match="another program ended trial 1 meanwhile; the same command goes on"):
        stubs.search(tmp_path, *RATES)
    study = stubs.search(tmp_path, *RATES).study
    assert (study.foreign(), study.trials()[1].values, study.counted()) == ([1], [2.0], 3)
