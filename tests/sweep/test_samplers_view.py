"""What samplers learn of trials that paused, diverged, were impossible, or belong to another space."""

import dataclasses
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from mnist_sweep.config.sweep_options import Bound
from mnist_sweep.result import Result
from mnist_sweep.sweep.promotion import PAUSED
from mnist_sweep.sweep.samplers_view import SamplersView
from mnist_sweep.sweep.space import Space
from mnist_sweep.sweep.workers import Task
from tests import stubs

GROUPS = {"optimizer": "adam", "model": "convnet"}
LR = {"optimizer.lr": FloatDistribution(1e-4, 1.0, log=True)}


def space(**tree: Any) -> Space:
    lr = {"low": 1e-4, "high": 1.0, "log": True}
    base = {"optimizer.lr": 1e-3, "model.dropout": 0.25, "model.batch_norm": False, **GROUPS}
    return Space({"optimizer": {"lr": lr}, **tree}, base)


def trial(lr: float, **changes: Any) -> FrozenTrial:
    """A complete trial of this learning rate, unless the changes say otherwise."""
    known: dict[str, Any] = {"state": TrialState.COMPLETE, "value": 0.9, "params": {"optimizer.lr": lr}}
    known |= {"distributions": LR, "user_attrs": {"values": {"optimizer.lr": lr}}}
    if {"state"} & {*changes}:
        known["value"] = None
    return create_trial(**known | changes)


def seen(trials: list[FrozenTrial], now: Space, constraints: dict[str, Bound] | None = None, **options: Any) -> Any:
    """The trials as a sampler sees them."""
    view = SamplersView(constraints or {}, now)
    study = optuna.create_study(storage=view, direction="maximize")
    study.add_trials(trials)
    vars(view).update(options)
    return study.get_trials(deepcopy=False)


def test_a_paused_trial_is_a_pruned_one() -> None:
    paused = trial(0.01, state=TrialState.WAITING, intermediate_values={1: 0.5}, user_attrs={PAUSED: 1})
    waiting = trial(0.01, state=TrialState.WAITING)
    assert [each.state for each in seen([paused, waiting], space())] == [TrialState.PRUNED, TrialState.WAITING]


@pytest.mark.parametrize("reason", ["diverged", "infeasible"])
def test_what_diverged_or_is_impossible_is_the_worst_there_is(reason: str) -> None:
    known = {"values": {"optimizer.lr": 0.5}, "reason": reason}
    bad = trial(0.5, state=TrialState.FAIL, intermediate_values={1: 0.95}, user_attrs=known)
    crashed = trial(0.5, state=TrialState.FAIL, user_attrs={**known, "reason": "crashed"})
    trials = [trial(0.01), trial(0.02, value=0.3), bad, crashed]
    worst = seen(trials, space())[2]
    assert (worst.state, worst.values, worst.intermediate_values) == (TrialState.PRUNED, None, {})
    told = seen(trials, space(), learns_from_pruned=False)
    assert (told[2].state, told[2].values) == (TrialState.COMPLETE, [0.3])
    assert told[3].state == TrialState.FAIL


def test_a_changed_space_is_told_in_its_own_terms() -> None:
    narrow = Space({"optimizer": {"lr": {"low": 1e-3, "high": 0.1, "log": True}}}, {"optimizer.lr": 1e-3, **GROUPS})
    known = seen([trial(0.01), trial(0.5)], narrow)
    assert [each.params for each in known] == [{"optimizer.lr": 0.01}]  # the other one is not of this space
    assert known[0].distributions == {"optimizer.lr": FloatDistribution(1e-3, 0.1, log=True)}
    wider = seen([trial(0.01)], space(model={"batch_norm": {"choices": [True, False]}}))[0]
    assert wider.params == {"optimizer.lr": 0.01, "model.batch_norm": False}  # what the config had
    assert wider.distributions["model.batch_norm"] == CategoricalDistribution((True, False))


def test_changed_constraints_reach_the_sampler() -> None:
    result = {"parameters": 2000, "metrics": {}}
    known = {"values": {"optimizer.lr": 0.01}, "result": result}
    old = trial(0.01, user_attrs=known, constraints={"parameters": -1.0, "seconds": 3.0})
    bound = {"parameters": Bound(max=1000)}
    assert seen([old], space(), bound)[0].constraints == {"parameters": 1.0}
    assert seen([old], space())[0].constraints == {}
    assert old.constraints == {"parameters": -1.0, "seconds": 3.0}


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_stubs")
@pytest.mark.parametrize("sampler", ["prior", "tpe", "gp"])
def test_a_corner_that_diverges_is_left(tmp_path: Path, sampler: str) -> None:
    """Four of seven decades of the learning rate diverge, and the config's own is at their edge."""

    def diverge(task: Task, result: Result) -> Result:
        if task.command.assigned()["optimizer.lr"] < 0.5:
            return result
        return dataclasses.replace(result, status="failed", reason="diverged", detail="train/loss became nan")

    stubs.twist.append(diverge)
    lr = (
        "++sweep.space={optimizer: {lr: {low: 0.001, high: 10000.0, log: true}}, model: {dropout: {low: 0, high: 0.5}}}"
    )
    items = [lr, "optimizer=sgd", f"sweep/sampler={sampler}", "sweep.trials=24", "sweep.max_consecutive_failures=24"]
    trials = stubs.search(tmp_path, *items, "sweep/pruner=none").study.trials()
    assert sum(trial.user_attrs.get("reason") == "diverged" for trial in trials[12:]) <= 5
