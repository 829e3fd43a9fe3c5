"""The search, with trials that only pretend: samplers, duplicates, constraints, objectives, failures."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from mnist_sweep.errors import RequestError, RunFailure
from mnist_sweep.result import BEST, Result
from mnist_sweep.sweep import tuner
from mnist_sweep.sweep.session import opened
from mnist_sweep.sweep.workers import Finished, Task
from tests import stubs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_stubs")]

#: Conditions, lists of drawn length, a group and mixed types, all of them countable.
MIXED = (
    "++sweep.space={model: {filters: {length: {low: 1, high: 3}, each: {choices: [4, 8, 16]}}, "
    "pool_size: {length: model.filters, each: {choices: [1, 2, 5]}}, batch_norm: {choices: [true, false]}, "
    "dropout: {low: 0.0, high: 0.6, step: 0.2, when: {model.batch_norm: false}}}, "
    "optimizer: {_group_: [adam, sgd], lr: {low: 0.001, high: 0.009, step: 0.002}, "
    "momentum: {choices: [0.5, 0.9], when: {optimizer: sgd}}}, trainer: {max_epochs: {low: 1, high: 3}}}"
)
#: Numbers without conditions, for the samplers that need them.
PLAIN = (
    "++sweep.space={model: {dropout: {low: 0.0, high: 0.6}, pool: {choices: [max, avg]}}, "
    "optimizer: {lr: {low: 0.0001, high: 0.3, log: true}}, trainer: {max_epochs: {low: 1, high: 3}}}"
)
#: Twelve points.
SMALL = (
    "++sweep.space={model: {pool: {choices: [max, avg]}, batch_norm: {choices: [true, false]}}, "
    "trainer: {max_epochs: {low: 1, high: 3}}}"
)


@pytest.mark.parametrize(
    ("sampler", "space"),
    [
        ("prior", MIXED),
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
    study = stubs.search(tmp_path, space, f"sweep/sampler={sampler}", "sweep.trials=24").study
    counts = study.counts()
    assert counts["complete"] + counts["pruned"] == study.counted() == 24
    assert counts["fail"] == 0
    digests = {trial.user_attrs["digest"] for trial in study.trials(TrialState.COMPLETE, TrialState.PRUNED)}
    assert len({items[-1] for items in stubs.performed}) == len(digests) == 24 - study.duplicates()
    drawn = {str(sorted(o for o in items if not o.startswith("name="))) for items in stubs.performed}
    assert len(drawn) == len(digests)
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
        assert session.study.counted() == len({items[-1] for items in stubs.performed}) == 12


def test_a_grid_goes_on_in_another_session(tmp_path: Path) -> None:
    for trials in (5, 9, 12):
        study = stubs.search(tmp_path, SMALL, "sweep/sampler=grid", f"sweep.trials={trials}").study
        assert len({str(sorted(trial.params.items())) for trial in study.trials()}) == study.counted() == trials


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
    items += ["sweep.objectives=[{metric: val/accuracy, direction: maximize}, {metric: seconds, direction: minimize}]"]
    for trials in (15, 30):  # a later session knows what the earlier one trained
        study = stubs.search(tmp_path, *items, f"sweep.trials={trials}").study
        assert study.duplicates() == trials - len(stubs.performed)
    assert len(stubs.performed) <= 12
    by_name = {f"sweep-{trial.number:04d}": trial for trial in study.trials()}
    for trial in by_name.values():
        if original := by_name.get(trial.user_attrs.get("duplicate_of", "")):
            assert trial.values == original.values  # the time that it took, too
            assert trial.user_attrs["result"] == original.user_attrs["result"]
            assert "duplicate_of" not in original.user_attrs
    for file in tmp_path.glob("runs/*/result.json"):  # a result that is damaged is made again
        file.write_text('{"status": "fin')
    before = len(stubs.performed)
    stubs.search(tmp_path, *items, "sweep.trials=31")
    assert len(stubs.performed) == before + 1


class Two:
    """Two workers; what they are at ends when nothing else is to be begun. The first end of the first trial is lost."""

    size = 2

    def __init__(self) -> None:
        self.running: list[Task] = []
        self.lost = False

    def open(self) -> None: ...

    def free(self) -> int:
        return 2 - len(self.running)

    def submit(self, task: Task) -> None:
        self.running.append(task)

    def events(self, timeout: float) -> list[Finished]:
        ended, self.running = (self.running, []) if timeout else ([], self.running)
        results = [stubs.trial(task, lambda *_: True, lambda: None) for task in ended]
        lost, self.lost = 0 if ended and not self.lost else None, self.lost or bool(ended)
        return [Finished(task, None if task.id == lost else done) for task, done in zip(ended, results, strict=True)]

    def stop(self) -> list[Finished]:
        return []


def test_an_equal_trial_waits_for_one_that_runs(tmp_path: Path) -> None:
    pools = "++sweep.space={model: {pool: {choices: [max, avg]}}}"
    workers: Any = Two()
    with opened(stubs.command(tmp_path, pools, "sweep/sampler=random", "sweep.trials=6", "seed=1")) as session:
        session.begin(workers)
        session.tune(workers)
    names = [items[-1] for items in stubs.performed]
    assert names.count("name=sweep-0000") == 2  # the second attempt of the one whose end was lost
    assert len(names) == 3
    assert session.study.counted() == 6
    assert session.study.duplicates() == 4
    assert {trial.state for trial in session.study.trials()} == {TrialState.COMPLETE}


def test_a_constraint_that_only_training_tells_keeps_a_trial_from_being_the_best(tmp_path: Path) -> None:
    bound = "sweep.constraints={gap/accuracy: {max: 0.03}}"
    study = stubs.search(tmp_path, bound, "sweep.trials=10", "sweep/pruner=none").study
    gaps = {t.number: t.user_attrs["result"]["metrics"]["gap/accuracy"] for t in study.trials(TrialState.COMPLETE)}
    ranked = [gaps[trial.number] for trial in study.ranking()]
    assert ranked
    assert max(ranked) <= 0.03 < max(gaps.values())


def test_two_objectives_end_with_a_front(tmp_path: Path) -> None:
    two = "sweep.objectives=[{metric: val/accuracy, direction: maximize}, {metric: parameters, direction: minimize}]"
    study = stubs.search(tmp_path, two, "sweep.trials=20").study
    best = sorted(study.study.best_trials, key=lambda trial: -trial.values[0])
    assert [trial.number for trial in study.front()] == [trial.number for trial in best]
    assert study.counts()["pruned"] == 0


def test_a_single_objective_goes_by_its_own_metric(tmp_path: Path) -> None:
    study = stubs.search(tmp_path, "sweep.objectives=[{metric: val/loss, direction: minimize}]", "sweep.trials=8").study
    assert all("objective=val/loss" in items for items in stubs.performed)
    assert study.ranking()[0].values[0] == min(trial.values[0] for trial in study.trials(TrialState.COMPLETE))


def test_asha_prunes_the_poor(tmp_path: Path) -> None:
    study = stubs.search(tmp_path, "sweep.trials=30").study
    assert study.counts()["pruned"] >= 10
    assert all(0.0005 < trial.params["optimizer.lr"] < 0.02 for trial in study.ranking()[:2])


@pytest.mark.parametrize(
    "goals",
    [
        "{metric: val/accuracy, direction: maximize}, {metric: parameters, direction: minimize}",
        "{metric: parameters, direction: minimize}",
    ],
)
def test_a_budget_of_epochs_is_spent_whatever_trials_are_judged_by(tmp_path: Path, goals: str) -> None:
    few = ["sweep.trials=12", "sweep.budget_epochs=9", "trainer.max_epochs=3"]
    study = stubs.search(tmp_path, f"sweep.objectives=[{goals}]", *few).study
    assert (study.counted(), study.epochs()) == (3, 9)


def test_what_equals_a_trial_that_failed_has_failed_too(tmp_path: Path) -> None:
    """Also where it was a later seed that failed, so that the trial's own run has finished."""
    pools = ["++sweep.space={model: {pool: {choices: [max, avg]}}}", "sweep/sampler=random", "sweep/pruner=none"]
    diverged: dict[str, Any] = {"status": "failed", "reason": "diverged", "detail": "with seed 1: no number"}
    stubs.twist.append(lambda _, result: dataclasses.replace(result, **diverged))
    stubs.search(tmp_path, *pools, "sweep.trials=1")
    stubs.twist.clear()
    first = Result.read(tmp_path / "runs" / "sweep-0000")
    dataclasses.replace(first, status="finished", reason=None, detail=None).write()
    study = stubs.search(tmp_path, *pools, "sweep.trials=6").study
    equal = [trial for trial in study.trials()[1:] if trial.params == study.trials()[0].params]
    assert equal
    for trial in equal:
        assert (trial.state, trial.user_attrs["reason"]) == (TrialState.FAIL, "diverged")
        assert trial.user_attrs["detail"] == "with seed 1: no number"
    assert study.counts()["complete"] == 6 - 1 - len(equal)


@pytest.mark.parametrize("pruner", ["none", "asha"])
def test_only_the_best_keep_their_checkpoints(tmp_path: Path, pruner: str) -> None:
    """Neither do those that have paused and do not go on, nor those that a session found told on disk."""

    def keep(_: Task, result: Result) -> Result:
        file = Path(result.folder) / BEST
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        return dataclasses.replace(result, checkpoint=str(BEST))

    stubs.twist.append(keep)
    for _ in range(2):
        study = stubs.search(tmp_path, "sweep.trials=8", "sweep.keep=2", f"sweep/pruner={pruner}").study
        best = {f"sweep-{trial.number:04d}" for trial in study.ranking()[:2]}
        assert {path.parents[1].name for path in tmp_path.rglob("best.ckpt")} == best
        results = [Result.read(path.parent) for path in tmp_path.glob("runs/sweep-*/result.json")]
        assert {Path(result.folder).name for result in results if result.checkpoint} == best
        for result in results:
            keep(Task(0, stubs.command(tmp_path)), result).write()


@pytest.mark.parametrize(
    ("items", "said"),
    [
        (["sweep/sampler=gp"], "sweep/sampler=gp: model.filters, "),
        (["sweep.warm_start=nothing"], "sweep.warm_start=nothing: no such study"),
        (["sweep.enqueue=['optimizer.lr=5']"], "sweep.enqueue[0]=optimizer.lr=5: not within sweep.space"),
        (["launcher=inline", "sweep.workers=2"], "sweep.workers=2: launcher=inline has one; allowed: launcher=local"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_written(
    tmp_path: Path, items: list[str], said: str
) -> None:
    with pytest.raises(RequestError) as caught:
        stubs.search(tmp_path, *items)
    assert said in str(caught.value).replace("'", "")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_what_is_worth_knowing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    on_a_cpu = ["trainer.accelerator=cpu", "trainer.cuda_graphs=true", "optimizer.lr=0.01", "sweep.trials=1"]
    with caplog.at_level("INFO"):
        session = stubs.search(tmp_path, *on_a_cpu, "sweep.constraints={parameters: {max: 100000}}")
    assert "set on the command line, so not searched: optimizer.lr" in caplog.text
    assert caplog.messages.count("trained without CUDA graphs: they need a GPU (trainer.cuda_graphs)") == 1
    assert "trainer.cuda_graphs=false" in session.common.overrides
    assert "no baseline trial of your config; it does not keep sweep.constraints" in caplog.text
    assert session.study.baseline() is None


def test_what_is_enqueued_comes_first_and_then_the_baseline(tmp_path: Path) -> None:
    trials = stubs.search(tmp_path, "sweep.enqueue=[{data.batch_size: 32}]", "sweep.trials=3").study.trials()
    assert [trial.user_attrs.get("enqueued") for trial in trials] == [0, None, None]
    assert [trial.user_attrs.get("baseline") for trial in trials] == [None, True, None]
    assert trials[0].user_attrs["values"]["data.batch_size"] == 32
    # where both are the same, one trial is both
    pools = "++sweep.space={model: {pool: {choices: [max, avg]}}}"
    study = stubs.search(tmp_path / "same", pools, "sweep.enqueue=['model.pool=max']", "sweep.trials=1").study
    assert (own := study.baseline()) is not None
    assert (own.number, own.user_attrs["enqueued"], own.user_attrs["baseline"]) == (0, 0, True)


def test_each_reason_is_told_apart_and_the_search_goes_on_until_one_repeats(tmp_path: Path) -> None:
    reasons = iter(["diverged", "out_of_memory", "timeout", "error"] * 2)

    def fail(task: Task, result: Result) -> Result:
        return dataclasses.replace(result, status="failed", reason=next(reasons), detail=f"task {task.id}")

    stubs.twist.append(fail)
    study = stubs.search(tmp_path / "some", "sweep.trials=8", "sweep/sampler=random").study
    assert study.failures() == {"diverged": 2, "out_of_memory": 2, "timeout": 2, "error": 2}
    assert {trial.state for trial in study.trials()} == {TrialState.FAIL}
    stubs.twist[:] = [lambda _, done: dataclasses.replace(done, status="failed", reason="error", detail="a bug")]
    with pytest.raises(RunFailure, match="5 trials in a row failed with the same error: a bug"):
        stubs.search(tmp_path, "sweep.trials=100")
    assert len(stubs.performed) == 8 + 5


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_what_is_never_possible_is_not_proposed_for_ever(tmp_path: Path, sampler: str) -> None:
    """Only the narrowest of three networks keeps the constraint; a later session goes on in the same way."""
    widths = "model: {filters: {choices: [[8], [16], [32]]}, dropout: {low: 0.0, high: 0.6}}"
    items = [f"++sweep.space={{optimizer: {{lr: {{low: 0.0001, high: 0.3, log: true}}}}, {widths}}}"]
    items += ["sweep.constraints={parameters: {max: 300000}}", "trainer.max_epochs=2", f"sweep/sampler={sampler}"]
    items.append("sweep/pruner=none")  # those that have paused are pruned when the first session has come to its total
    sessions = [stubs.search(tmp_path / "parts", *items, f"sweep.trials={trials}") for trials in (12, 16)]
    sessions.append(stubs.search(tmp_path / "whole", *items, "sweep.trials=16"))
    counts = sessions[-1].study.counts()
    assert counts["complete"] + counts["pruned"] == 16
    assert 0 < counts["infeasible"] <= (50 if sampler == "tpe" else 200)
    assert sessions[-1].study.failures() == {"infeasible": counts["infeasible"]}
    parts, whole = ([trial.params for trial in session.study.trials()] for session in sessions[1:])
    assert parts == whole


def test_a_space_without_anything_possible_ends_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner, "MOST_IMPOSSIBLE", 20)
    with pytest.raises(
        RunFailure, match=r"infeasible: 20 proposals in a row broke a constraint, .*parameters=.*the network has"
    ):
        stubs.search(tmp_path, "sweep.constraints={parameters: {max: 10}}")
    assert stubs.performed == []
