"""A study, in memory and in its database; what a later session reads back, and what it may change."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from mnist_sweep.config.sweep_options import Objective
from mnist_sweep.errors import RequestError
from mnist_sweep.sweep.session import Session
from mnist_sweep.sweep.space import Space
from mnist_sweep.sweep.study import Study
from tests import stubs
from tests.sweep.studies import result_of, study_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_stubs")]

ON = "sweep.allow_changes=true"
GOALS = [Objective(metric="val/accuracy", direction="maximize"), Objective(metric="parameters", direction="minimize")]


FACTS = ("number", "state", "values", "params", "distributions", "user_attrs", "intermediate_values", "system_attrs")


def facts(trials: Sequence[FrozenTrial]) -> list[list[Any]]:
    """Of each trial; the order of its parameters is one that samplers keep to."""
    return [[[*trial.params], *(getattr(trial, name) for name in FACTS)] for trial in trials]


def stored(folder: Path) -> optuna.Study:
    """As any other program opens it."""
    return optuna.load_study(study_name="sweep", storage=f"sqlite:///{folder}/optuna.db")


def opened(folder: Path, several: bool = False) -> Study:
    goals = GOALS if several else GOALS[:1]
    storage = RDBStorage(f"sqlite:///{folder}/optuna.db")
    directions: list[Any] = [goal.direction for goal in goals]
    optuna.create_study(study_name="sweep", storage=storage, load_if_exists=True, directions=directions)
    lr = {"low": 1e-4, "high": 0.3, "log": True}
    return Study(
        storage, "sweep", goals, {}, Space({"optimizer": {"lr": lr}}, {"optimizer": "adam", "optimizer.lr": 0.001})
    )


def propose(study: Study) -> optuna.Trial:
    waiting = [trial.number for trial in study.trials(optuna.trial.TrialState.WAITING)]
    trial = study.ask([*waiting, len(study.trials())][0], RandomSampler(seed=1))
    trial.suggest_float("lr", 1e-4, 0.3, log=True)
    trial.suggest_int("width", 8, 64)
    trial.suggest_categorical("pool", ["max", "avg", "[1, 2]"])
    return trial


def test_a_trial_is_in_memory_until_it_is_saved_and_waits_under_its_number(tmp_path: Path) -> None:
    study = opened(tmp_path)
    first = propose(study)
    assert stored(tmp_path).trials == []
    study.save(first.number)
    second = propose(study)
    study.save(second.number)
    first.report(0.5, 1)
    study.requeue(first)
    study.fail(second, "error", "a bug")
    assert propose(study).number == first.number  # in the same session, after later ones
    study.requeue(study.reopen(first.number))
    again = opened(tmp_path)
    assert facts(again.trials()) == facts(study.trials())
    resumed = propose(again)
    assert (resumed.number, resumed.params) == (first.number, first.params)
    again.tell(resumed, result_of(tmp_path, "it", 0.75))
    assert [trial.value for trial in stored(tmp_path).trials] == [0.75, None]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ends=st.lists(st.sampled_from(["finished", "pruned", "failed", "infeasible", "interrupted", "queued"]), max_size=8),
    several=st.booleans(),
)
def test_memory_database_and_a_second_opening_agree(
    tmp_path_factory: pytest.TempPathFactory, ends: list[str], several: bool
) -> None:
    folder = tmp_path_factory.mktemp("agree")
    study = opened(folder, several)
    for index, end in enumerate(ends):
        if end == "queued":
            study.enqueue({"lr": 0.01}, {"enqueued": index})
            continue
        trial = propose(study)
        if end == "infeasible":
            study.fail(trial, "infeasible", "nothing is left")
            continue
        if not several:
            trial.report(index / 10, index)
        study.save(trial.number)
        study.tell(trial, result_of(folder, "it", 0.5, status=end, reason="error" if end == "failed" else None))
    study.remember("seconds", 1.5)
    again = opened(folder, several)
    assert facts(study.trials()) == facts(stored(folder).trials) == facts(again.trials())
    assert again.recall("seconds") == 1.5
    assert again.counts() == study.counts()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12))
def test_the_front_is_optunas(points: list[tuple[int, int]]) -> None:
    attributes: dict[str, Any] = {"result": {"metrics": {}}}
    made = [optuna.trial.create_trial(values=[*map(float, point)], user_attrs=attributes) for point in points]
    study = study_of(made, "val/accuracy", "parameters")
    front = [tuple(trial.values) for trial in study.front()]
    assert len({*front}) == len(front)
    assert {*front} == {tuple(trial.values) for trial in study.study.best_trials}


@pytest.mark.parametrize("sampler", [["sweep/sampler=nsga2", "sweep.sampler.population=4"], ["sweep/sampler=qmc"]])
def test_a_resumed_search_goes_on_as_a_whole_one(tmp_path: Path, sampler: list[str]) -> None:
    space = (
        "++sweep.space={optimizer: {lr: {low: 0.0001, high: 0.3, log: true}}, model: {dropout: {low: 0.0, high: 0.6}}}"
    )

    def found(folder: str, trials: int) -> list[tuple[Any, ...]]:
        session = stubs.search(tmp_path / folder, f"sweep.trials={trials}", space, "sweep/pruner=median", *sampler)
        return [(t.params, t.state, t.values, t.intermediate_values) for t in session.study.trials()]

    for trials in (3, 11):
        found("parts", trials)
    assert found("parts", 20) == found("whole", 20)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep of two trials."""
    folder = tmp_path_factory.mktemp("begun")
    stubs.search(folder, "sweep.trials=2")
    return folder


@pytest.mark.parametrize(
    ("changed", "said", "bearable"),
    [
        (["sweep.space.optimizer.lr.high=0.01"], "sweep.space.optimizer.lr: 0.0001 … 0.3, log → 0.0001 … 0.01", True),
        (["sweep.space.data.batch_size.choices=[32,64]"], "Optuna cannot draw data.batch_size otherwise", False),
        (["sweep.space.optimizer._group_=[adam,sgd]"], "adam | adamw | sgd → adam | sgd", False),
        (["~sweep.space.optimizer.lr.log"], "Optuna cannot draw optimizer.lr otherwise than before", False),
        (["optimizer.lr=0.01"], "sweep.space.optimizer.lr: 0.0001 … 0.3, log → not there", True),
        (["+sweep.space.model.pool={choices: [max, avg]}"], "sweep.space.model.pool: not there → max | avg", True),
        (["objective=val/loss"], '["maximize val/accuracy"] → ["minimize val/loss"]', False),
        (["sweep.objectives=[{metric: val/accuracy, direction: minimize}]"], '→ ["minimize val/accuracy"]', False),
        (["data=mnist"], 'data: "mnist5k" → "mnist"', False),
        (["data.limit=300"], "data.limit: null → 300", True),
        (["sweep.seeds=3"], "sweep.seeds: not there → 3", False),
        (["sweep.constraints={parameters: {max: 9}}"], 'sweep.constraints.parameters: not there → {"max": 9.0}', True),
    ],
)
def test_a_changed_sweep_is_refused_with_the_difference(
    begun: Path, tmp_path: Path, changed: list[str], said: str, bearable: bool, request: pytest.FixtureRequest
) -> None:
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    items = ["sweep.trials=3"]
    if "data=mnist" in changed:
        items.append(f"data.root={request.getfixturevalue('mnist')}")
    with pytest.raises(RequestError, match="was begun otherwise") as caught:
        stubs.search(tmp_path, *items, *changed)
    assert said in str(caught.value)
    assert ("sweep.allow_changes=true" in str(caught.value)) == bearable
    assert "\n" not in str(caught.value)
    assert not stubs.performed
    if bearable and "constraints" not in said:  # with which nothing is possible
        stubs.search(tmp_path, *items, ON, *changed)
        stubs.search(tmp_path, *items, *changed)  # from now on it is as it was changed
        assert len({items[-1] for items in stubs.performed} - {"name=sweep-0000", "name=sweep-0001"}) == 1
    elif not bearable:
        with pytest.raises(RequestError, match="was begun otherwise"):
            stubs.search(tmp_path, *items, ON, *changed)


def test_a_range_that_was_widened_is_used(tmp_path: Path) -> None:
    """Though Optuna draws the parameters of a space with conditions in groups, of the ranges that they had at first.

    What does not change the numbers, such as threads, may change without being allowed.
    """
    pool = "pool: {choices: [max, avg], when: {model.batch_norm: false}}"

    def search(high: str, *items: str) -> Session:
        rate = f"optimizer: {{lr: {{low: 0.0001, high: {high}, log: true}}}}"
        space = f"++sweep.space={{model: {{{pool}, batch_norm: {{choices: [true, false]}}}}, {rate}}}"
        return stubs.search(tmp_path, space, "trainer.max_epochs=1", *items)

    search("0.0005", "sweep.trials=3", "sweep/sampler=random")
    search("0.0005", "sweep.trials=12", "sweep/pruner=none", "trainer.threads=1", "sweep.workers=1")
    session = search("0.3", "sweep.trials=24", "sweep/pruner=none", ON)
    drawn = [trial.params["optimizer.lr"] for trial in session.study.trials()[12:]]
    assert sum(rate > 0.0005 for rate in drawn) > 4


def test_the_constraints_in_force_bind_earlier_trials_too(tmp_path: Path) -> None:
    def found(trials: int, *items: str) -> list[int]:
        session = stubs.search(tmp_path, f"sweep.trials={trials}", "sweep/pruner=none", *items)
        return [trial.user_attrs["result"]["parameters"] for trial in session.study.ranking()]

    assert max(found(8)) > 100_000
    assert 0 < max(found(9, ON, "sweep.constraints={parameters: {max: 100000}}")) <= 100_000
    assert len(found(9, ON)) == 9  # where they are relaxed, all count again


def asked_for(session: Session) -> list[tuple[Any, Any]]:
    return [(trial.user_attrs.get("enqueued"), trial.user_attrs.get("baseline")) for trial in session.study.trials()]


def test_what_is_enqueued_later_is_tried_next_and_once(tmp_path: Path) -> None:
    session = stubs.search(tmp_path, "sweep.trials=2", "sweep.enqueue=['optimizer=sgd optimizer.lr=0.1']")
    assert asked_for(session) == [(0, None), (None, True)]
    both = "sweep.enqueue=['optimizer=sgd optimizer.lr=0.1','optimizer.lr=0.02']"
    session = stubs.search(tmp_path, "sweep.trials=4", both)
    assert asked_for(session)[2:] == [(1, None), (None, None)]
    assert session.study.trials()[2].params["optimizer.lr"] == 0.02


def test_the_baseline_is_that_of_the_config_in_force(tmp_path: Path) -> None:
    stubs.search(tmp_path, "sweep.trials=2", "sweep/pruner=none")
    for _ in range(2):
        session = stubs.search(tmp_path, "sweep.trials=4", "sweep/pruner=none", ON, "model.pool=avg")
        assert asked_for(session) == [(None, True), (None, None), (None, True), (None, None)]
        own = session.study.baseline()
        assert own is not None
        assert own.number == 2
        assert "model.pool=avg" in own.user_attrs["result"]["overrides"]


def test_another_study_warms_up(tmp_path: Path) -> None:
    first = stubs.search(tmp_path, "sweep.trials=12", "sweep.name=first")
    warm = ["sweep.name=second", "sweep.warm_start=first", "sweep.warm_start_top=3", "sweep.trials=3"]
    second = stubs.search(tmp_path, *warm, "sweep.space.model.dropout.high=0.1", "objective=val/loss")
    best = [trial.user_attrs["values"] for trial in first.study.ranking()[:3]]
    taken = [trial.user_attrs["values"] for trial in second.study.trials()[:3]]
    for old, new in zip(best, taken, strict=False):
        kept = {key: value for key, value in old.items() if key != "model.dropout" or value <= 0.1}
        assert {key: new[key] for key in kept} == kept


def test_another_study_without_anything_to_take_over_is_refused(tmp_path: Path) -> None:
    stubs.search(tmp_path, "sweep.name=first", "sweep.trials=3", "sweep.constraints={gap/accuracy: {max: 0}}")
    with pytest.raises(RequestError, match=r"sweep\.warm_start=first: no trial of a sweep there finished and kept its"):
        stubs.search(tmp_path, "sweep.warm_start=first", "sweep.name=second")
    stubs.search(tmp_path, "sweep.name=rate", "++sweep.space={optimizer.lr: {low: 0.01, high: 0.1}}", "sweep.trials=2")
    pools = "++sweep.space={model.pool: {choices: [max, avg]}}"
    with pytest.raises(RequestError, match=r"sweep\.warm_start=rate: nothing that its best trials drew is within"):
        stubs.search(tmp_path, "sweep.warm_start=rate", "sweep.name=second", pools)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_study_of_another_program_is_left_alone(tmp_path: Path, direction: Any) -> None:
    """Also an empty one of the other direction, and one of the version before."""
    storage = f"sqlite:///{tmp_path}/optuna.db"
    study = optuna.create_study(study_name="sweep", storage=storage, direction=direction)
    if direction == "maximize":
        study.add_trial(optuna.trial.create_trial(value=1.0))
    study.set_user_attr("fingerprint", {"data": '"mnist5k"'})
    with pytest.raises(RequestError, match=r"sweep\.name=sweep: this study was begun by another program, or by an"):
        stubs.search(tmp_path)
    assert [*optuna.load_study(study_name="sweep", storage=storage).user_attrs] == ["fingerprint"]


def test_a_study_that_did_not_note_its_seeds_knows_them_by_its_trials(tmp_path: Path) -> None:
    stubs.twist.append(lambda _, result: dataclasses.replace(result, seeds=3))
    stubs.search(tmp_path, "sweep.trials=2", "sweep.seeds=3")
    kept = optuna.load_study(study_name="sweep", storage=f"sqlite:///{tmp_path}/optuna.db")
    kept.set_user_attr("begun with", {k: v for k, v in kept.user_attrs["begun with"].items() if k != "sweep.seeds"})
    with pytest.raises(RequestError, match=r"sweep\.seeds: 3 → not there; sweep\.seeds cannot change"):
        stubs.search(tmp_path, "sweep.trials=3")
    assert stubs.search(tmp_path, "sweep.trials=3", "sweep.seeds=3").study.counted() == 3
