"""The study in memory and in its database: the same at every moment that matters."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from mnist_sweep.sweep.storage import Database, Mirror


def opened(
    folder: Path, name: str = "study", directions: tuple[str, ...] = ("maximize",)
) -> tuple[optuna.Study, Mirror]:
    database = Database(f"sqlite:///{folder}/optuna.db")
    optuna.create_study(study_name=name, storage=database, load_if_exists=True, directions=list(directions))  # type: ignore[arg-type]
    mirror = Mirror(database, name)
    return optuna.load_study(study_name=name, storage=mirror, sampler=optuna.samplers.RandomSampler(seed=1)), mirror


def facts(study: optuna.Study) -> list[tuple[Any, ...]]:
    return [
        (t.number, t.state, t.values, t.params, t.distributions, t.user_attrs, t.intermediate_values, t.constraints)
        for t in study.trials
    ]


def as_others_see_it(folder: Path, name: str = "study") -> optuna.Study:
    """Through Optuna's own storage, as any other program opens it."""
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/optuna.db")


def propose(study: optuna.Study) -> optuna.Trial:
    trial = study.ask()
    trial.suggest_float("lr", 1e-4, 0.3, log=True)
    trial.suggest_int("width", 8, 64)
    trial.suggest_categorical("pool", ["max", "avg", "[1, 2]"])
    return trial


def test_a_proposal_stays_in_memory_until_it_is_committed(tmp_path: Path) -> None:
    study, mirror = opened(tmp_path)
    trial = propose(study)
    trial.set_user_attr("digest", "abc")
    assert as_others_see_it(tmp_path).trials == []
    mirror.commit(trial._trial_id)
    assert facts(as_others_see_it(tmp_path)) == facts(study)
    trial.report(0.5, 1)
    assert as_others_see_it(tmp_path).trials[0].intermediate_values == {1: 0.5}
    study.tell(trial, 0.5)
    assert facts(as_others_see_it(tmp_path)) == facts(study)


def test_an_end_commits_what_was_not_committed(tmp_path: Path) -> None:
    study, _ = opened(tmp_path)
    trial = propose(study)
    trial.set_user_attr("reason", "infeasible")
    study.tell(trial, state=TrialState.FAIL)
    assert facts(as_others_see_it(tmp_path)) == facts(study)
    assert as_others_see_it(tmp_path).trials[0].state == TrialState.FAIL


def test_a_parked_trial_is_asked_for_again_under_its_number(tmp_path: Path) -> None:
    study, mirror = opened(tmp_path)
    first, second = propose(study), propose(study)
    for trial in (first, second):
        mirror.commit(trial._trial_id)
    first.report(0.5, 1)
    mirror.set_trial_state_values(first._trial_id, TrialState.WAITING)
    study.tell(second, 0.25)
    assert propose(study).number == first.number  # in the same sitting, after later ones
    mirror.set_trial_state_values(first._trial_id, TrialState.WAITING)
    again, _ = opened(tmp_path)
    assert facts(again) == facts(study)
    resumed = propose(again)
    assert resumed.number == first.number
    assert resumed.params == first.params
    again.tell(resumed, 0.75)
    assert [trial.value for trial in as_others_see_it(tmp_path).trials] == [0.75, 0.25]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ends=st.lists(st.sampled_from(["complete", "pruned", "fail", "infeasible", "parked", "queued"]), max_size=8),
    several=st.booleans(),
)
def test_memory_database_and_a_second_opening_agree(
    tmp_path_factory: pytest.TempPathFactory, ends: list[str], several: bool
) -> None:
    folder = tmp_path_factory.mktemp("agree")
    study, mirror = opened(folder, directions=("maximize", "minimize") if several else ("maximize",))
    values = [0.5, 2.0] if several else [0.5]
    for index, end in enumerate(ends):
        if end == "queued":
            study.enqueue_trial({"lr": 0.01}, user_attrs={"enqueued": index})
            continue
        trial = propose(study)
        if end != "infeasible":
            mirror.commit(trial._trial_id)
            if not several:
                trial.report(index / 10, 1)
        trial.set_user_attr("end", end)
        if end == "complete":
            trial.set_constraint("parameters", -1.0)
            study.tell(trial, values)
        elif end == "parked":
            mirror.set_trial_state_values(trial._trial_id, TrialState.WAITING)
            study.tell(study.ask(), state=TrialState.FAIL)  # taken from the queue, so that the numbers go on
        else:
            study.tell(trial, state=TrialState.PRUNED if end == "pruned" else TrialState.FAIL)
    study.set_user_attr("seconds", 1.5)
    assert facts(study) == facts(as_others_see_it(folder)) == facts(opened(folder)[0])
    assert opened(folder)[0].user_attrs == {"seconds": 1.5}


def test_a_study_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        Mirror(Database(f"sqlite:///{tmp_path}/optuna.db"), "nothing")
