"""What another sitting of a sweep finds: what an earlier one left, what others left, and who else is at it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from mnist_sweep import run_record as record
from mnist_sweep import tracking
from mnist_sweep.config import schema
from mnist_sweep.config.command import compose
from mnist_sweep.errors import Interrupted, RequestError, RunFailure
from mnist_sweep.result import Result
from mnist_sweep.sweep.driver import opened
from mnist_sweep.sweep.workers import Task
from mnist_sweep.sweep.workers.inline import Inline
from mnist_sweep.sweep.workers.pool import Crew
from mnist_sweep.tracking.store import client_of
from tests import stubs

pytestmark = pytest.mark.usefixtures("fresh_stubs")

#: Only the pool is searched: two points.
POOLS = "++sweep.space={model: {pool: {choices: [max, avg]}}}"


def a_run(folder: Path, name: str, *items: str) -> None:
    """The beginning of somebody's run."""
    given = ["data=mnist5k", "tracking=none", f"output={folder}", f"name={name}", *items]
    record.Record(compose(given), given, None, "cpu", 1).make_folder()


def interrupted(number: int) -> Callable[[Task, Result], Result]:
    """A twist: this trial is interrupted from outside, once."""
    left = [number]

    def twist(task: Task, result: Result) -> Result:
        if task.id in left:
            left.clear()
            a_run(Path(result.folder).parents[1], Path(result.folder).name, *task.overrides)
            raise Interrupted(15)
        return result

    return twist


def test_a_run_that_is_named_like_a_trial_is_not_taken_for_it(tmp_path: Path) -> None:
    for name in ("sweep-0001", "sweep"):
        a_run(tmp_path / name, name)
        with pytest.raises(RequestError, match=rf"runs/{name} is there, but its study is not in sqlite:///"):
            stubs.search(tmp_path / name, "sweep.trials=2")
    stubs.search(tmp_path, "sweep.trials=1", "sweep/pruner=none")
    a_run(tmp_path, "sweep-0001")
    driver = stubs.search(tmp_path, "sweep.trials=3", "sweep/pruner=none")  # goes on without a trial 1
    assert [trial.state.name for trial in driver.study.trials()] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert "runs/sweep-0001 is there already, of another run" in driver.study.trials()[1].user_attrs["detail"]
    assert [Path(items[-1]).name for items in stubs.performed] == ["name=sweep-0000", "name=sweep-0002"]
    assert driver.study.counted() == 3


def test_a_run_does_not_go_on_under_another_config(tmp_path: Path) -> None:
    a_run(tmp_path, "mine")
    given = ["data=mnist5k", "tracking=none", f"output={tmp_path}", "name=mine", "optimizer=adamw"]
    again = record.Record(compose(given), given, None, "cpu", 1)
    with pytest.raises(RequestError, match=r"begun otherwise \(optimizer: adam → adamw.*\); allowed: "):
        again.make_folder(resume=True)


@pytest.mark.parametrize("changed", [["optimizer=sgd", "optimizer.lr=0.05"], ["seed=5"]])
def test_a_trial_that_was_begun_with_other_settings_is_given_up(tmp_path: Path, changed: list[str]) -> None:
    stubs.twist.append(interrupted(1))
    with pytest.raises(Interrupted):
        stubs.search(tmp_path, "sweep.trials=3", "sweep/pruner=none")
    before = optuna.load_study(study_name="sweep", storage=f"sqlite:///{tmp_path}/optuna.db").trials[1]
    assert before.state == TrialState.WAITING
    changed = ["sweep.allow_changes=true", *changed]
    driver = stubs.search(tmp_path, "sweep.trials=3", "sweep/pruner=none", *changed)
    trials = driver.study.trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert trials[1].params == before.params
    assert "settings that have changed since" in trials[1].user_attrs["detail"]
    left = Result.read(tmp_path / "runs" / "sweep-0001")
    assert (left.status, left.reason) == ("failed", "error")
    assert changed[-1] in stubs.performed[-1]


def test_a_config_that_changes_meanwhile_ends_the_sweep_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise RequestError("optimizer.lr=-1: should be greater than 0")

    def changed(task: Task, result: Result) -> Result:
        if task.id == 1:
            monkeypatch.setattr("mnist_sweep.sweep.workers.pool.compose", refuse)
            refuse()
        return result

    stubs.twist.append(changed)
    with pytest.raises(RunFailure, match=r"sweep-0001 could be composed when it was proposed, and now cannot"):
        stubs.search(tmp_path, "sweep.trials=3")
    monkeypatch.undo()
    stubs.twist.clear()
    driver = stubs.search(tmp_path, "sweep.trials=3")
    assert {trial.state for trial in driver.study.trials()} <= {TrialState.COMPLETE, TrialState.PRUNED}


def test_one_driver_at_a_study_wherever_its_folders_are(tmp_path: Path) -> None:
    given = ["+sweep=optuna", "data=mnist5k", "tracking=none", f"sweep.storage=sqlite:///{tmp_path}/shared.db"]
    here, there = ([*given, f"output={tmp_path / name}"] for name in ("here", "there"))
    with (
        opened(compose(here), here),
        pytest.raises(RequestError, match="another process is at this sweep"),
        opened(compose(there), there),
    ):
        pass


def test_what_was_not_queued_before_an_interruption_is_queued_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue, calls = optuna.Study.enqueue_trial, iter(range(9))

    def dies(self: optuna.Study, *arguments: Any, **more: Any) -> None:
        if next(calls) == 1:
            raise Interrupted(9)
        enqueue(self, *arguments, **more)

    entries = "sweep.enqueue=['optimizer.lr=0.01', 'optimizer.lr=0.02']"
    with monkeypatch.context() as patched:
        patched.setattr(optuna.Study, "enqueue_trial", dies)
        with pytest.raises(Interrupted):
            stubs.search(tmp_path, entries, "sweep.trials=4")
    driver = stubs.search(tmp_path, entries, "sweep.trials=4")
    first = [(trial.user_attrs.get("enqueued"), trial.user_attrs.get("baseline")) for trial in driver.study.trials()]
    assert first == [(0, None), (1, None), (None, True), (None, None)]


def test_the_account_is_found_again_after_a_sitting_without_one(tmp_path: Path) -> None:
    tracked = f"tracking=mlflow tracking.uri=sqlite:///{tmp_path}/mlflow.db".split()
    for items in (tracked, ["tracking=none"], tracked):
        given = ["+sweep=optuna", "data=mnist5k", f"output={tmp_path}", "sweep.trials=1", *items]
        with opened(compose(given), given) as driver, Crew(lambda: Inline(stubs.STUB)) as crew:
            driver.begin(crew)
        if items is tracked:
            assert driver.account.run_id
            assert driver.study.recall("mlflow_run_id") == driver.account.run_id


@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (ZeroDivisionError("by 0"), ZeroDivisionError, "ZeroDivisionError('by 0')"),
        (RequestError("experiment=own: unknown option"), RunFailure, "experiment=own: unknown option"),
    ],
)
def test_the_account_says_why_a_sweep_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, raised: type[Exception], said: str
) -> None:
    from mnist_sweep.tracking.store import client_of

    def crown(*_: Any) -> None:
        raise error

    monkeypatch.setattr("mnist_sweep.sweep.winner.crown", crown)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    given = ["+sweep=optuna", "data=mnist5k", f"output={tmp_path}", f"tracking.uri={uri}", "sweep.trials=1"]
    with opened(compose(given), given) as driver, pytest.raises(raised):
        driver.drive(lambda: Inline(stubs.STUB))
    run = client_of(uri).get_run(driver.account.run_id)
    assert (run.info.status, run.data.tags["reason"], run.data.tags["detail"]) == ("FAILED", "error", said)
    assert (tmp_path / "runs" / "sweep" / "sweep.json").is_file()


def test_another_study_of_this_name_in_the_same_store_is_left_alone(tmp_path: Path) -> None:
    from mnist_sweep.tracking.store import client_of

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    sittings = []
    for name in ("one", "other"):
        given = ["+sweep=optuna", "data=mnist5k", f"output={tmp_path / name}", f"tracking.uri={uri}"]
        with opened(compose(given), given) as driver, Crew(lambda: Inline(stubs.STUB)) as crew:
            driver.begin(crew)
            sittings.append(driver.account.run_id)
    assert [client_of(uri).get_run(run).info.status for run in sittings] == ["RUNNING", "RUNNING"]


def test_a_repeated_trial_has_the_time_of_the_original(tmp_path: Path) -> None:
    goals = "[{metric: val/accuracy, direction: maximize}, {metric: seconds, direction: minimize}]"
    driver = stubs.search(tmp_path, POOLS, f"sweep.objectives={goals}", "sweep.trials=3", "sweep/sampler=random")
    (repeated,) = [trial for trial in driver.study.trials() if "duplicate_of" in trial.user_attrs]
    original = driver.study.trials()[int(repeated.user_attrs["duplicate_of"][-4:])]
    assert repeated.values == original.values
    assert repeated.user_attrs["result"]["seconds"] == 0.0


@pytest.mark.parametrize("impossible", [False, True])
def test_a_grid_has_each_point_whatever_is_asked_for_first(tmp_path: Path, impossible: bool) -> None:
    space = "++sweep.space={model: {pool: {choices: [max, avg]}, batch_norm: {choices: [true, false]}}}"
    bound = "sweep.constraints={parameters: {max: 421700}}"  # batch normalisation has some more
    entries = "sweep.enqueue=['model.pool=max', 'model.pool=max', 'model.pool=avg']"
    driver = stubs.search(
        tmp_path, space, entries, "sweep/sampler=grid", "sweep.trials=4", "sweep/pruner=none", *[bound] * impossible
    )
    assert len(stubs.performed) == (2 if impossible else 4)
    assert len({str(trial.params) for trial in driver.study.trials()}) == 4
    assert len(driver.study.trials()) == 4


def test_the_baseline_is_known_where_somebody_asked_for_the_same(tmp_path: Path) -> None:
    driver = stubs.search(tmp_path, POOLS, "sweep.enqueue=['model.pool=max']", "sweep.trials=2")
    first = driver.study.trials()[0].user_attrs
    assert (first["enqueued"], first["baseline"]) == (0, True)
    baseline = driver.study.baseline()
    assert baseline is not None
    assert baseline.number == 0


def test_the_race_takes_an_interrupted_run_up_again(tmp_path: Path) -> None:
    calls = iter(range(9))

    def once(_: Task, result: Result) -> Result:
        return dataclasses.replace(result, status="interrupted") if next(calls) == 0 else result

    stubs.twist.append(once)
    items = ["data=mnist5k", "tracking=none", f"output={tmp_path}", "seed=1", "name=again"]
    task = Task(id=7, overrides=items, config_dir=None, parent=None, tags={})
    with Crew(lambda: Inline(stubs.STUB)) as crew:
        assert crew.perform([task])[7].status == "finished"
    assert len(stubs.performed) == 2


def test_a_trial_that_was_to_end_ends_in_the_next_sitting(tmp_path: Path) -> None:
    """Whatever the pruner says when it is asked again: it has noted that the trial has passed."""
    space = "++sweep.space={optimizer: {lr: {low: 0.0001, high: 0.3, log: true}}}"
    request = (space, "trainer.max_epochs=9", "sweep/sampler=random", "sweep.trials=8")
    ended: list[tuple[int, int]] = []

    def lost(task: Task, result: Result) -> Result:
        if result.status == "pruned" and not ended:
            ended.append((task.id, result.epochs))
            raise Interrupted(2)
        return result

    stubs.twist.append(lost)
    with pytest.raises(Interrupted):
        stubs.search(tmp_path, *request)
    driver = stubs.search(tmp_path, *request)
    ((number, epochs),) = ended
    trial = driver.study.trials()[number]
    assert (trial.state, trial.user_attrs["result"]["epochs"]) == (TrialState.PRUNED, epochs)


def test_a_run_whose_worker_died_is_closed_when_the_sweep_is_interrupted(tmp_path: Path) -> None:
    settings = compose(["tracking=mlflow", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"]).tracking
    assert isinstance(settings, schema.MLflow)
    left: list[str | None] = []

    def dies(task: Task, _: Result) -> Result:
        account = tracking.Account(settings, tmp_path, "sweep-0000", parent=task.parent, tags=task.tags)
        left.append(account.run_id)
        raise Interrupted(2)

    stubs.twist.append(dies)
    given = ["+sweep=optuna", "data=mnist5k", f"output={tmp_path}", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"]
    with pytest.raises(Interrupted), opened(compose(given), given) as driver:
        driver.drive(lambda: Inline(stubs.STUB))
    client = client_of(settings.uri)
    assert left[0]
    assert client.get_run(left[0]).info.status == "KILLED"


def test_an_equal_trial_whose_result_is_damaged_is_trained_again(tmp_path: Path) -> None:
    stubs.search(tmp_path, POOLS, "sweep.trials=2", "sweep.enqueue=['model.pool=avg']")
    stubs.performed.clear()
    for number in range(2):
        (tmp_path / "runs" / f"sweep-{number:04d}" / "result.json").write_text('{"status": "fin')
    driver = stubs.search(tmp_path, POOLS, "sweep.trials=3")
    assert len(stubs.performed) == 1
    assert "duplicate_of" not in driver.study.trials()[2].user_attrs
