"""The search, with trials that only pretend: samplers, pruners, duplicates, constraints, objectives, failures."""

import dataclasses
from pathlib import Path

import pytest
from optuna.trial import TrialState

from mnist_sweep.config.command import CommandLine
from mnist_sweep.errors import RequestError, RunFailure
from mnist_sweep.result import Result
from mnist_sweep.sweep import samplers, tuner
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
TWO = "sweep.objectives=[{metric: val/accuracy, direction: maximize}, {metric: parameters, direction: minimize}]"


@pytest.mark.parametrize(
    ("sampler", "space"),
    [
        ("tpe", MIXED),
        ("random", MIXED),
        ("nsga2", MIXED),
        ("grid", MIXED),
        ("qmc", PLAIN),
        ("cmaes", PLAIN),
        ("gp", PLAIN),
    ],
)
def test_every_sampler_proposes_what_composes_and_nothing_is_trained_twice(
    tmp_path: Path, sampler: str, space: str
) -> None:
    trials = 25 if sampler == "gp" else 80
    study = stubs.search(tmp_path, space, f"sweep/sampler={sampler}", f"sweep.trials={trials}").study
    counts = study.counts()
    assert counts["complete"] + counts["pruned"] == study.counted() == trials
    assert counts["fail"] == 0
    digests = {trial.user_attrs["digest"] for trial in study.trials(TrialState.COMPLETE, TrialState.PRUNED)}
    assert len(stubs.performed) == len(digests) == trials - study.duplicates()
    assert len({str(sorted(o for o in items if not o.startswith("name="))) for items in stubs.performed}) == len(
        digests
    )
    for trial in study.trials(TrialState.COMPLETE, TrialState.PRUNED):
        folder = tmp_path / "runs" / f"sweep-{trial.number:04d}"
        assert folder.exists() != ("duplicate_of" in trial.user_attrs)
        if folder.exists():
            assert Result.read(folder).status == {"COMPLETE": "finished", "PRUNED": "pruned"}[trial.state.name]


def test_the_same_seed_makes_the_same_sweep(tmp_path: Path) -> None:
    sweeps = [stubs.search(tmp_path / name, f"seed={name[0]}", "sweep.trials=12") for name in ("1", "1 again", "2")]
    params = [[trial.params for trial in session.study.trials()] for session in sweeps]
    assert params[0] == params[1] != params[2]


def test_a_grid_is_tried_once_whole(tmp_path: Path) -> None:
    for trials in (30, 40):
        session = stubs.search(tmp_path, SMALL, "sweep/sampler=grid", f"sweep.trials={trials}")
        assert session.study.counted() == len(stubs.performed) == 12


@pytest.mark.parametrize("impossible", [False, True])
def test_a_grid_has_each_point_whatever_is_asked_for_first(tmp_path: Path, impossible: bool) -> None:
    space = "++sweep.space={model: {pool: {choices: [max, avg]}, batch_norm: {choices: [true, false]}}}"
    bound = "sweep.constraints={parameters: {max: 421700}}"  # batch normalisation has some more
    entries = "sweep.enqueue=['model.pool=max', 'model.pool=max', 'model.pool=avg']"
    grid = [space, entries, "sweep/sampler=grid", "sweep.trials=4", "sweep/pruner=none"]
    study = stubs.search(tmp_path, *grid, *[bound] * impossible).study
    assert len(stubs.performed) == (2 if impossible else 4)
    assert len({str(trial.params) for trial in study.trials()}) == len(study.trials()) == 4


def test_an_equal_trial_takes_over_the_result(tmp_path: Path) -> None:
    items = [SMALL, "sweep/sampler=random", "sweep/pruner=none"]
    goals = "[{metric: val/accuracy, direction: maximize}, {metric: seconds, direction: minimize}]"
    for trials in (20, 40):  # a later session knows what the earlier one trained
        study = stubs.search(tmp_path, *items, f"sweep.trials={trials}", f"sweep.objectives={goals}").study
        assert study.duplicates() == trials - len(stubs.performed)
    assert len(stubs.performed) <= 12
    by_name = {f"sweep-{trial.number:04d}": trial for trial in study.trials()}
    for trial in by_name.values():
        if original := by_name.get(trial.user_attrs.get("duplicate_of", "")):
            assert trial.values == original.values  # the time that it took, too
            assert trial.user_attrs["result"] == original.user_attrs["result"]
            assert "duplicate_of" not in original.user_attrs
    # a result that is damaged is made again
    for file in tmp_path.glob("runs/*/result.json"):
        file.write_text('{"status": "fin')
    before = len(stubs.performed)
    stubs.search(tmp_path, *items, "sweep.trials=41", f"sweep.objectives={goals}")
    assert len(stubs.performed) == before + 1


@pytest.mark.parametrize(
    ("items", "most"),
    [
        (["trainer.max_epochs=3"], 3),
        (["+sweep.space.trainer.max_epochs.choices=[2,4]"], 4),
        (["+sweep.space.trainer.max_epochs.when={optimizer: sgd}"], 12),
    ],
)
def test_the_most_epochs_that_a_trial_can_have(items: list[str], most: int) -> None:
    command = CommandLine.of(["+sweep=optuna", "data=mnist5k", *items])
    assert Space.of(command).largest("trainer.max_epochs") == most


def test_a_constraint_that_only_training_tells_keeps_a_trial_from_being_the_best(tmp_path: Path) -> None:
    study = stubs.search(tmp_path, "sweep.constraints={gap/accuracy: {max: 0.03}}", "sweep.trials=30").study
    gaps = {t.number: t.user_attrs["result"]["metrics"]["gap/accuracy"] for t in study.trials(TrialState.COMPLETE)}
    ranked = [gaps[trial.number] for trial in study.ranking()]
    assert ranked
    assert max(ranked) <= 0.03 < max(gaps.values())


def test_two_objectives_end_with_a_front(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        study = stubs.search(tmp_path, TWO, "sweep.trials=30").study
    assert "2 objectives: nothing is pruned, sweep/pruner=asha compares one" in caplog.text
    best = sorted(study.study.best_trials, key=lambda trial: -trial.values[0])
    assert [trial.number for trial in study.front()] == [trial.number for trial in best]
    assert study.counts()["pruned"] == 0


def test_a_single_objective_goes_by_its_own_metric(tmp_path: Path) -> None:
    goal = "sweep.objectives=[{metric: val/loss, direction: minimize}]"
    study = stubs.search(tmp_path, goal, "sweep.trials=8").study
    assert all("objective=val/loss" in items for items in stubs.performed)
    assert study.ranking()[0].values[0] == min(trial.values[0] for trial in study.trials(TrialState.COMPLETE))


@pytest.mark.parametrize("pruner", ["none", "median", "percentile", "hyperband", "asha", "patient", "threshold"])
def test_every_pruner_can_be_chosen(tmp_path: Path, pruner: str) -> None:
    more = ["sweep.pruner.lower=0.87"] if pruner == "threshold" else []
    study = stubs.search(tmp_path, f"sweep/pruner={pruner}", "sweep.trials=30", *more).study
    pruned = study.counts()["pruned"]
    assert study.counted() == 30
    assert (pruned == 0) == (pruner in ("none", "patient"))  # a stub trial never gets worse
    if pruner == "asha":
        assert pruned >= 10
        assert all(0.0005 < trial.params["optimizer.lr"] < 0.02 for trial in study.ranking()[:2])


@pytest.mark.parametrize(
    ("items", "said"),
    [
        (["sweep/sampler=gp"], "sweep/sampler=gp: model.filters, "),
        (["sweep/sampler=qmc"], "are not drawn in every trial; allowed with such: tpe, random, nsga2, grid"),
        (["sweep/sampler=cmaes", PLAIN, TWO], "sweep/sampler=cmaes: 2 objectives; allowed with several"),
        (["sweep/sampler=cmaes", SMALL], "needs at least 2 keys that are numbers"),
        (["sweep/sampler=grid", PLAIN], "sweep/sampler=grid: model.dropout has no end of values"),
        (["sweep.target=0.9", TWO], "sweep.target=0.9: allowed with one objective only"),
        (["sweep.winner.rule=val/loss", TWO], "sweep.winner.rule=val/loss: allowed: null, or one of"),
        (["sweep.objectives=[{metric: test/accuracy, direction: maximize}]"], "not measured in a trial; allowed: "),
        (["sweep.constraints={params: {max: 1}}"], "sweep.constraints.params={max:1}: not measured in a trial"),
        (["sweep.constraints={parameters: {max: 1, min: 2}}"], "{max:1,min:2}: min 2 is above max 1"),
        (["sweep.warm_start=nothing"], "sweep.warm_start=nothing: no such study"),
        (["sweep.enqueue=['optimizer.lr=5']"], "sweep.enqueue[0]=optimizer.lr=5: not within sweep.space"),
        (["sweep.enqueue=['optimizer.lrr=5']"], "the nearest known one is optimizer.lr"),
        (["sweep.enqueue=[{model.pool: avg}]"], "model.pool is not searched; allowed: model.filters"),
        (["sweep.enqueue=['nonsense']"], "allowed: overrides such as optimizer.lr=0.1"),
        (
            ["sweep.enqueue=['model.filters=[64,64]']", "sweep.constraints={parameters: {max: 9000}}"],
            "sweep.constraints.parameters={max: 9000.0}: the network has",
        ),
        (["+sweep.space.seed={low: 1, high: 9}"], "sweep.space.seed: not searched, being no part of what is trained"),
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
        on_a_cpu = ["trainer.accelerator=cpu", "trainer.cuda_graphs=true", "optimizer.lr=0.01", "sweep.trials=2"]
        session = stubs.search(tmp_path, "sweep/pruner=threshold", *on_a_cpu)
    assert "set on the command line, so not searched: optimizer.lr" in caplog.text
    assert "nothing is pruned without sweep.pruner.lower or sweep.pruner.upper" in caplog.text
    assert caplog.messages.count("trained without CUDA graphs: they need a GPU (trainer.cuda_graphs)") == 1
    assert "trainer.cuda_graphs=false" in session.common.overrides
    for sampler in ("cmaes", "qmc"):
        command = CommandLine.of(["+sweep=optuna", "sweep/space=empty", PLAIN, f"sweep/sampler={sampler}"])
        assert command.config.sweep is not None
        explained = samplers.check(command.config.sweep, Space.of(command), 1)
        assert explained == [f"sweep/sampler={sampler}: drawn at random, being choices: model.pool"]


def test_what_is_enqueued_comes_first_and_then_the_baseline(tmp_path: Path) -> None:
    entries = "sweep.enqueue=['optimizer=sgd optimizer.lr=0.1', ['model.filters=[8,16]'], {data.batch_size: 32}]"
    trials = stubs.search(tmp_path, entries, "sweep.trials=5").study.trials()
    assert [trial.user_attrs.get("enqueued") for trial in trials] == [0, 1, 2, None, None]
    assert trials[3].user_attrs["baseline"] is True
    assert (trials[0].params["optimizer"], trials[0].params["optimizer.lr"]) == ("sgd", 0.1)
    assert trials[0].params["optimizer.momentum"] == 0.9  # what the option brings along
    assert trials[1].user_attrs["values"]["model.filters"] == [8, 16]
    assert trials[2].user_attrs["values"]["data.batch_size"] == 32


def test_the_baseline_is_known_where_it_was_asked_for_or_is_no_trial(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pools = "++sweep.space={model: {pool: {choices: [max, avg]}}}"
    study = stubs.search(tmp_path / "same", pools, "sweep.enqueue=['model.pool=max']", "sweep.trials=2").study
    first = study.trials()[0].user_attrs
    assert (first["enqueued"], first["baseline"]) == (0, True)
    assert (own := study.baseline()) is not None
    assert own.number == 0
    with caplog.at_level("INFO"):
        study = stubs.search(tmp_path / "none", "sweep.trials=2", "sweep.constraints={parameters: {max: 100000}}").study
    assert "no baseline trial" in caplog.text
    assert not any("baseline" in trial.user_attrs for trial in study.trials())
    assert study.baseline() is None


def test_each_reason_is_told_apart_and_the_search_goes_on(tmp_path: Path) -> None:
    reasons = iter(["diverged", "out_of_memory", "timeout", "error"] * 3)

    def fail(task: Task, result: Result) -> Result:
        return dataclasses.replace(result, status="failed", reason=next(reasons), detail=f"task {task.id}")

    stubs.twist.append(fail)
    study = stubs.search(tmp_path, "sweep.trials=12", "sweep/sampler=random").study
    assert study.failures() == {"diverged": 3, "out_of_memory": 3, "timeout": 3, "error": 3}
    assert {trial.state for trial in study.trials()} == {TrialState.FAIL}


def test_a_search_whose_trials_all_fail_stops_early(tmp_path: Path) -> None:
    stubs.twist.append(lambda _, result: dataclasses.replace(result, status="failed", reason="error", detail="a bug"))
    with pytest.raises(RunFailure, match="5 trials in a row failed with the same error: a bug"):
        stubs.search(tmp_path, "sweep.trials=100")
    assert len(stubs.performed) == 5


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes"])
def test_what_is_never_possible_is_not_proposed_for_ever(tmp_path: Path, sampler: str) -> None:
    """Only the narrowest of three networks keeps the constraint; a later session goes on in the same way."""
    widths = "model: {filters: {choices: [[8], [16], [32]]}, dropout: {low: 0.0, high: 0.6}}"
    items = [f"++sweep.space={{optimizer: {{lr: {{low: 0.0001, high: 0.3, log: true}}}}, {widths}}}"]
    items += ["sweep.constraints={parameters: {max: 300000}}", "trainer.max_epochs=2", f"sweep/sampler={sampler}"]
    sessions = [stubs.search(tmp_path / "parts", *items, f"sweep.trials={trials}") for trials in (14, 20)]
    sessions.append(stubs.search(tmp_path / "whole", *items, "sweep.trials=20"))
    counts = sessions[-1].study.counts()
    assert counts["complete"] + counts["pruned"] == 20
    assert counts["infeasible"] <= (50 if sampler == "tpe" else 200)
    parts, whole = ([trial.params for trial in session.study.trials()] for session in sessions[1:])
    assert parts == whole


def test_impossible_candidates_are_counted_and_drawn_again(tmp_path: Path) -> None:
    bound = "sweep.constraints={parameters: {max: 60000}}"
    study = stubs.search(tmp_path, "sweep.space.model.pool_size.each.choices=[2,14]", "sweep.trials=20", bound).study
    impossible = [trial for trial in study.trials() if trial.user_attrs.get("reason") == "infeasible"]
    assert study.counts()["infeasible"] == study.failures()["infeasible"] == len(impossible) > 0
    assert study.counted() == 20
    said = " ".join(trial.user_attrs["detail"] for trial in impossible)
    assert "and nothing is left" in said
    assert "sweep.constraints.parameters" in said
    possible = study.trials(TrialState.COMPLETE, TrialState.PRUNED)
    assert max(trial.user_attrs["result"]["parameters"] for trial in possible) <= 60_000


def test_a_space_without_anything_possible_ends_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner, "MOST_IMPOSSIBLE", 20)
    with pytest.raises(RunFailure, match="infeasible: 20 impossible proposals in a row"):
        stubs.search(tmp_path, "sweep.constraints={parameters: {max: 10}}")
    assert stubs.performed == []
