"""The search, with trials that only pretend: every sampler, duplicates, constraints, objectives, failures, budgets."""

import dataclasses
import json
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from mnist_sweep.config.command import compose
from mnist_sweep.errors import RequestError, RunFailure
from mnist_sweep.result import Result
from mnist_sweep.sweep import samplers as methods
from mnist_sweep.sweep import tuner as search
from mnist_sweep.sweep.space import Space
from mnist_sweep.sweep.workers import Task
from tests import stubs

pytestmark = pytest.mark.usefixtures("fresh_stubs")

#: Conditions, lists of drawn length, a group and mixed types, all of them countable.
MIXED = (
    "++sweep.space={model: {filters: {length: {low: 1, high: 3}, each: {choices: [4, 8, 16]}}, "
    "pool_size: {length: model.filters, each: {choices: [1, 2, 5]}}, activation: {choices: [relu, tanh]}, "
    "batch_norm: {choices: [true, false]}, "
    "dropout: {low: 0.0, high: 0.6, step: 0.2, when: {model.batch_norm: false}}}, "
    "optimizer: {_group_: [adam, sgd], lr: {low: 0.001, high: 0.009, step: 0.002}, "
    "momentum: {choices: [0.5, 0.9], when: {optimizer: sgd}}}, trainer: {max_epochs: {low: 1, high: 4}}}"
)
#: Numbers without conditions, for the samplers that need them.
PLAIN = (
    "++sweep.space={model: {dropout: {low: 0.0, high: 0.6}, pool: {choices: [max, avg]}}, "
    "optimizer: {lr: {low: 0.0001, high: 0.3, log: true}}, trainer: {max_epochs: {low: 1, high: 4}}}"
)
#: Twelve points.
SMALL = (
    "++sweep.space={model: {pool: {choices: [max, avg]}, batch_norm: {choices: [true, false]}}, "
    "trainer: {max_epochs: {low: 1, high: 3}}}"
)


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "runs").iterdir() if path.name != "sweep"}


@pytest.mark.untraced
@pytest.mark.parametrize(
    ("sampler", "space", "trials"),
    [
        ("tpe", MIXED, 500),
        ("random", MIXED, 500),
        ("nsga2", MIXED, 500),
        ("grid", MIXED, 500),
        ("qmc", PLAIN, 500),
        ("cmaes", PLAIN, 500),
        ("gp", PLAIN, 40),  # a fit takes longer with each trial: minutes for 500
    ],
)
def test_every_sampler_proposes_what_composes_and_nothing_is_trained_twice(
    tmp_path: Path, sampler: str, space: str, trials: int
) -> None:
    driver = stubs.search(tmp_path, space, f"sweep/sampler={sampler}", f"sweep.trials={trials}")
    counts = driver.study.counts()
    assert counts["complete"] + counts["pruned"] == driver.study.counted() == trials
    assert counts["fail"] == 0
    digests = [trial.user_attrs["digest"] for trial in driver.study.trials(TrialState.COMPLETE, TrialState.PRUNED)]
    assert len(stubs.performed) == len(set(digests)) == trials - driver.study.duplicates()
    assert len({tuple(sorted(o for o in items if not o.startswith("name="))) for items in stubs.performed}) == len(
        stubs.performed
    )
    assert len(names(tmp_path)) == trials
    for trial in driver.study.trials():
        if trial.user_attrs.get("reason") != "infeasible":
            status = Result.read(tmp_path / "runs" / f"sweep-{trial.number:04d}").status
            assert status == {"COMPLETE": "finished", "PRUNED": "pruned"}[trial.state.name]


@pytest.mark.untraced
def test_the_same_seed_makes_the_same_sweep(tmp_path: Path) -> None:
    sweeps = [stubs.search(tmp_path / name, f"seed={seed}") for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    params = [[trial.params for trial in driver.study.trials()] for driver in sweeps]
    assert params[0] == params[1] != params[2]


def test_a_grid_is_tried_once_whole(tmp_path: Path) -> None:
    driver = stubs.search(tmp_path, SMALL, "sweep/sampler=grid", "sweep.trials=30")
    assert driver.study.counted() == len(stubs.performed) == 12
    again = stubs.search(tmp_path, SMALL, "sweep/sampler=grid", "sweep.trials=40")
    assert again.study.counted() == len(stubs.performed) == 12


def test_an_equal_proposal_takes_over_the_value(tmp_path: Path) -> None:
    driver = stubs.search(tmp_path, SMALL, "sweep/sampler=random", "sweep.trials=40", "sweep/pruner=none")
    assert len(stubs.performed) <= 12
    assert driver.study.duplicates() == 40 - len(stubs.performed)
    by_name = {f"sweep-{trial.number:04d}": trial for trial in driver.study.trials()}
    for name, trial in by_name.items():
        result = Result.read(tmp_path / "runs" / name)
        if original := trial.user_attrs.get("duplicate_of"):
            assert result.duplicate_of == original
            assert trial.values == by_name[original].values
            assert result.metrics == Result.read(tmp_path / "runs" / original).metrics
            assert "duplicate_of" not in by_name[original].user_attrs
    # a later sitting knows what the earlier one trained
    before = len(stubs.performed)
    stubs.search(tmp_path, SMALL, "sweep/sampler=random", "sweep.trials=80", "sweep/pruner=none")
    assert len(stubs.performed) <= 12
    assert len(stubs.performed) - before <= 12 - before


@pytest.mark.parametrize(
    ("items", "most"),
    [
        ([], 12),
        (["trainer.max_epochs=3"], 3),
        (["++sweep.space.trainer.max_epochs={low: 1, high: 3}"], 3),
        (["+sweep.space.trainer.max_epochs.choices=[2,4]"], 4),
        (["+sweep.space.trainer.max_epochs.when={optimizer: sgd}"], 12),
    ],
)
def test_the_most_epochs_that_a_trial_can_have(items: list[str], most: int) -> None:
    given = ["+sweep=optuna", "data=mnist5k", *items]
    config = compose(given)
    assert search._most_epochs(config, Space.of(config, given)) == most


def test_a_constraint_that_only_training_tells_keeps_a_trial_from_being_the_best(tmp_path: Path) -> None:
    driver = stubs.search(tmp_path, "sweep.constraints={gap/accuracy: {max: 0.03}}", "sweep.trials=40")
    gaps = {trial.number: trial.user_attrs["result"]["metrics"]["gap/accuracy"] for trial in driver.study.ranking()}
    assert gaps
    assert max(gaps.values()) <= 0.03
    complete = driver.study.trials(TrialState.COMPLETE)
    assert any(trial.user_attrs["result"]["metrics"]["gap/accuracy"] > 0.03 for trial in complete)


TWO = "sweep.objectives=[{metric: val/accuracy, direction: maximize}, {metric: parameters, direction: minimize}]"


def test_two_objectives_end_with_a_front(tmp_path: Path) -> None:
    driver = stubs.search(tmp_path, TWO, "sweep.trials=60")
    front = driver.study.front()
    assert [trial.number for trial in front] == [
        trial.number for trial in sorted(driver.study.study.best_trials, key=lambda trial: -trial.values[0])
    ]
    for one in front:
        for other in front:
            better = one.values[0] >= other.values[0], one.values[1] <= other.values[1]
            assert one is other or not all(better)
    assert driver.study.counts()["pruned"] == 0


@pytest.mark.untraced
@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12))
def test_the_front_is_optunas(points: list[tuple[int, int]]) -> None:
    from mnist_sweep.sweep.study import Study

    given = ["+sweep=optuna", TWO]
    config = compose(given)
    assert config.sweep is not None
    assert config.sweep.objectives is not None
    study = optuna.create_study(directions=["maximize", "minimize"])
    for point in points:
        study.add_trial(optuna.trial.create_trial(values=list(map(float, point))))
    front = Study(study, None, config.sweep.objectives, {}).front()  # type: ignore[arg-type]
    assert {tuple(trial.values) for trial in front} == {tuple(trial.values) for trial in study.best_trials}
    assert len({tuple(trial.values) for trial in front}) == len(front)


def test_a_single_objective_goes_by_its_own_metric(tmp_path: Path) -> None:
    driver = stubs.search(tmp_path, "sweep.objectives=[{metric: val/loss, direction: minimize}]", "sweep.trials=8")
    assert all("objective=val/loss" in items for items in stubs.performed)
    values = [trial.values[0] for trial in driver.study.trials(TrialState.COMPLETE)]
    assert driver.study.ranking()[0].values[0] == min(values)


@pytest.mark.untraced
def test_asha_prunes_a_third_and_keeps_the_best(tmp_path: Path) -> None:
    driver = stubs.search(tmp_path, "sweep.trials=60")
    counts = driver.study.counts()
    assert counts["pruned"] >= 20
    rates = [trial.params["optimizer.lr"] for trial in driver.study.ranking()[:3]]
    assert all(0.0005 < rate < 0.02 for rate in rates)


@pytest.mark.untraced
@pytest.mark.parametrize("pruner", ["none", "median", "percentile", "hyperband", "asha", "patient", "threshold"])
def test_every_pruner_can_be_chosen(tmp_path: Path, pruner: str) -> None:
    more = ["sweep.pruner.lower=0.87"] if pruner == "threshold" else []
    driver = stubs.search(tmp_path, f"sweep/pruner={pruner}", "sweep.trials=30", *more)
    pruned = driver.study.counts()["pruned"]
    assert driver.study.counted() == 30
    assert (pruned == 0) == (pruner in ("none", "patient"))  # a stub trial never gets worse


@pytest.mark.parametrize(
    ("items", "said"),
    [
        (
            ["sweep/sampler=gp"],
            "sweep/sampler=gp: model.filters, ",
        ),
        (["sweep/sampler=qmc"], "are not drawn in every trial; allowed with such: tpe, random, nsga2, grid"),
        (["sweep/sampler=cmaes", PLAIN, TWO], "sweep/sampler=cmaes: 2 objectives; allowed with several"),
        (["sweep/sampler=cmaes", SMALL], "needs at least two keys that are numbers"),
        (["sweep/sampler=grid", PLAIN], "sweep/sampler=grid: model.dropout has no end of values"),
        (["sweep.target=0.9", TWO], "sweep.target=0.9: allowed with one objective only"),
        (["sweep.winner.rule=val/loss", TWO], "sweep.winner.rule=val/loss: allowed: null, or one of"),
        (["sweep.objectives=[{metric: test/accuracy, direction: maximize}]"], "not measured in a trial; allowed: "),
        (["sweep.constraints={params: {max: 1}}"], "sweep.constraints.params={max:1}: not measured in a trial"),
        (
            ["sweep.constraints={parameters: {max: 1, min: 2}}"],
            "sweep.constraints.parameters={max:1,min:2}: min 2 is above max 1",
        ),
        (["sweep.warm_start=nothing"], "sweep.warm_start=nothing: no such study"),
        (["sweep.enqueue=['optimizer.lr=5']"], "sweep.enqueue[0]=optimizer.lr=5: not within sweep.space"),
        (["sweep.enqueue=['optimizer.lrr=5']"], "the nearest known one is optimizer.lr"),
        (["sweep.enqueue=[{model.pool: avg}]"], "model.pool is not searched; allowed: model.filters"),
        (['sweep.enqueue=["model.pool=\'max"]'], "allowed: overrides such as optimizer.lr=0.1"),
        (["+sweep.space.model._group_=[convnet, mlp]"], "allowed for optimizer, scheduler, or leaves of its keys"),
        (["+sweep.space.seed={low: 1, high: 9}"], "sweep.space.seed: not searched, being no part of what is trained"),
        (["+sweep.space.trainer.threads={low: 1, high: 9}"], "sweep.space.trainer.threads: not searched"),
        (["+sweep.space.data.split_seed={low: 1, high: 9}"], "sweep.space.data.split_seed: not searched"),
        (["sweep.space.optimizer.lr.high=1" + 400 * "0"], "allowed: a number, at most 1e+15"),
        (["++sweep.space.loss.label_smoothing={low: 0.1, high: 0.9, step: 1e-300}"], "step=1e-300: too small for this"),
        (["sweep.enqueue=['nonsense']"], "allowed: overrides such as optimizer.lr=0.1"),
        (["launcher=inline", "sweep.workers=2"], "sweep.workers=2: launcher=inline has one; allowed: launcher=local"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(tmp_path: Path, items: list[str], said: str) -> None:
    with pytest.raises(RequestError) as caught:
        stubs.search(tmp_path, *items)
    assert said in str(caught.value).replace("'", "")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_what_is_worth_knowing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        stubs.search(tmp_path, TWO, "sweep.trials=2", "optimizer.lr=0.01")
        on_a_cpu = ["trainer.accelerator=cpu", "trainer.cuda_graphs=true"]
        driver = stubs.search(tmp_path / "bounds", "sweep/pruner=threshold", "sweep.trials=2", *on_a_cpu)
    assert "2 objectives: nothing is pruned, sweep/pruner=asha compares one" in caplog.text
    assert "set on the command line, so not searched: optimizer.lr" in caplog.text
    assert "nothing is pruned without sweep.pruner.lower or sweep.pruner.upper" in caplog.text
    assert caplog.messages.count("trained without CUDA graphs: they need a GPU (trainer.cuda_graphs)") == 1
    assert "trainer.cuda_graphs=false" in driver.items
    items = ["+sweep=optuna", "sweep/space=empty", PLAIN]
    space = Space.of(compose(items), [])
    for sampler in ("cmaes", "qmc"):
        config = compose([*items, f"sweep/sampler={sampler}"])
        assert config.sweep is not None
        assert methods.check(config.sweep, space, 1) == [
            f"sweep/sampler={sampler}: drawn at random, being choices: model.pool"
        ]


def test_what_is_enqueued_comes_first(tmp_path: Path) -> None:
    entries = "sweep.enqueue=['optimizer=sgd optimizer.lr=0.1', ['model.filters=[8,16]'], {data.batch_size: 32}]"
    driver = stubs.search(tmp_path, entries, "sweep.trials=5")
    trials = driver.study.trials()
    assert [trial.user_attrs.get("enqueued") for trial in trials] == [0, 1, 2, None, None]
    assert trials[3].user_attrs["baseline"] is True
    assert (trials[0].params["optimizer"], trials[0].params["optimizer.lr"]) == ("sgd", 0.1)
    assert trials[0].params["optimizer.momentum"] == 0.9  # what the option brings along
    assert trials[1].user_attrs["values"]["model.filters"] == [8, 16]
    assert trials[2].user_attrs["values"]["data.batch_size"] == 32


def test_each_reason_is_told_apart_and_the_search_goes_on(tmp_path: Path) -> None:
    reasons = iter(["diverged", "out_of_memory", "timeout", "error"] * 3)

    def fail(task: Task, result: Result) -> Result:
        return dataclasses.replace(result, status="failed", reason=next(reasons), detail=f"task {task.id}")

    stubs.twist.append(fail)
    driver = stubs.search(tmp_path, "sweep.trials=12", "sweep/sampler=random")
    assert driver.study.failures() == {"diverged": 3, "out_of_memory": 3, "timeout": 3, "error": 3}
    assert {trial.state for trial in driver.study.trials()} == {TrialState.FAIL}


def test_a_search_whose_trials_all_fail_stops_early(tmp_path: Path) -> None:
    stubs.twist.append(lambda _, result: dataclasses.replace(result, status="failed", reason="error", detail="a bug"))
    with pytest.raises(RunFailure, match="5 trials in a row failed with the same error: a bug"):
        stubs.search(tmp_path, "sweep.trials=100")
    assert len(stubs.performed) == 5


def test_the_target_ends_the_search(tmp_path: Path) -> None:
    driver = stubs.search(tmp_path, "sweep.trials=500", "sweep.target=0.9")
    values = [trial.values[0] for trial in driver.study.trials(TrialState.COMPLETE)]
    assert max(values) >= 0.9
    assert len(stubs.performed) < 500
    assert sum(value >= 0.9 for value in values) == 1  # one worker: nothing else was running


def test_the_time_ends_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 100_000, 10))
    monkeypatch.setattr("mnist_sweep.sweep.stopping.time.monotonic", lambda: float(next(clock)))
    stubs.search(tmp_path, "sweep.trials=500", "sweep.budget_minutes=10")
    done = len(stubs.performed)
    assert 1 < done < 60
    stubs.search(tmp_path, "sweep.trials=500", "sweep.budget_minutes=10")
    assert len(stubs.performed) == done  # it is spent: the same command adds nothing


def test_sweep_json_of_two_objectives(tmp_path: Path) -> None:
    from mnist_sweep.sweep import summary

    driver = stubs.search(tmp_path, TWO, "sweep.trials=20")
    path = summary.write(driver.config, driver.study, None, tmp_path, 1.0, None)
    content = json.loads(path.read_text())
    assert content["best"] is None
    assert [each["trial"] for each in content["front"]] == [trial.number for trial in driver.study.front()]
    assert content["objectives"][1] == {"metric": "parameters", "direction": "minimize"}
