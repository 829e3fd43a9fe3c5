"""What another session of a sweep finds: what an earlier one left, what others left, and who else is at it."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from mnist_sweep import tracking
from mnist_sweep.config.command import CommandLine
from mnist_sweep.errors import Interrupted, RequestError, RunFailure, signals_as_flag
from mnist_sweep.result import Result
from mnist_sweep.run_folder import RunFolder
from mnist_sweep.sweep import session, summary, winner
from mnist_sweep.sweep.study import Study
from mnist_sweep.sweep.workers import Task
from mnist_sweep.tracking.store import client_of
from tests import stubs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_stubs")]

#: Only the pool is searched: two points.
POOLS = "++sweep.space={model: {pool: {choices: [max, avg]}}}"


def a_run(folder: Path, name: str, *items: str) -> None:
    """The beginning of somebody's run."""
    command = CommandLine.of(["data=mnist5k", "tracking=none", f"output={folder}", f"name={name}", *items])
    RunFolder.of(command.config).begin(command.config, command.overrides)


def interrupted(which: Callable[[Task, Result], bool]) -> Callable[[Task, Result], Result]:
    """A twist: the sweep is interrupted in this trial, once."""
    done: list[int] = []

    def twist(task: Task, result: Result) -> Result:
        if done or not which(task, result):
            return result
        done.append(task.id)
        a_run(Path(result.folder).parents[1], Path(result.folder).name, *task.command.overrides)
        stubs.interrupt()
        return dataclasses.replace(result, status="interrupted")

    return twist


def runs_of(folder: Path) -> dict[str, str]:
    """The statuses in MLflow of the runs, by name."""
    client = client_of(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("mnist_sweep")
    return {run.info.run_name: run.info.status for run in client.search_runs([experiment.experiment_id])}


def test_a_run_that_is_named_like_a_trial_is_not_taken_for_it(tmp_path: Path) -> None:
    a_run(tmp_path / "before", "sweep-0001")
    for _ in range(2):
        with pytest.raises(RequestError, match=r"runs/sweep-0001 is there, but its study is not in sqlite:///"):
            stubs.search(tmp_path / "before", "sweep.trials=2")
    stubs.search(tmp_path, "sweep.trials=1", "sweep/pruner=none")
    a_run(tmp_path, "sweep-0001")
    study = stubs.search(tmp_path, "sweep.trials=3", "sweep/pruner=none").study  # goes on without a trial 1
    assert [trial.state.name for trial in study.trials()] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert "runs/sweep-0001 is there already, of another run" in study.trials()[1].user_attrs["detail"]
    assert [items[-1] for items in stubs.performed] == ["name=sweep-0000", "name=sweep-0002"]


@pytest.mark.parametrize("changed", [["optimizer=sgd", "optimizer.lr=0.05"], ["seed=5"]])
def test_a_trial_that_was_begun_with_other_settings_is_given_up(tmp_path: Path, changed: list[str]) -> None:
    stubs.twist.append(interrupted(lambda task, _: task.id == 1))
    with pytest.raises(Interrupted):
        stubs.search(tmp_path, "sweep.trials=3", "sweep/pruner=none")
    before = optuna.load_study(study_name="sweep", storage=f"sqlite:///{tmp_path}/optuna.db").trials[1]
    assert before.state == TrialState.WAITING
    study = stubs.search(tmp_path, "sweep.trials=3", "sweep/pruner=none", "sweep.allow_changes=true", *changed).study
    assert [trial.state.name for trial in study.trials()] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert before.params.items() <= study.trials()[1].params.items()
    assert "settings that have changed since" in study.trials()[1].user_attrs["detail"]
    left = Result.read(tmp_path / "runs" / "sweep-0001")
    assert (left.status, left.reason) == ("failed", "error")
    assert changed[-1] in stubs.performed[-1]


def test_a_trial_that_the_space_no_longer_holds_ends_as_far_as_it_came(tmp_path: Path) -> None:
    stubs.twist.append(interrupted(lambda task, _: task.id == 0))
    with pytest.raises(Interrupted):
        stubs.search(tmp_path, RATES, "sweep.trials=2", "sweep/pruner=none", "sweep.enqueue=['optimizer.lr=0.09']")
    narrower = "++sweep.space={optimizer: {lr: {low: 0.001, high: 0.01, log: true}}}"
    again = narrower, "sweep.trials=2", "sweep/pruner=none", "sweep.allow_changes=true"
    trial, other = stubs.search(tmp_path, *again).study.trials()
    assert (trial.state, "reason" in trial.user_attrs, other.state) == (TrialState.PRUNED, False, TrialState.COMPLETE)
    left = Result.read(tmp_path / "runs" / "sweep-0000")
    assert (left.status, left.epochs) == ("pruned", trial.user_attrs["result"]["epochs"])
    assert left.epochs > 0


def test_a_trial_that_was_to_end_ends_in_the_next_session(tmp_path: Path) -> None:
    """Whatever the pruner says when it is asked again: it has noted that the trial has passed."""
    space = "++sweep.space={optimizer: {lr: {low: 0.0001, high: 0.3, log: true}}}"
    request = (space, "trainer.max_epochs=9", "sweep/sampler=random", "sweep/pruner=median", "sweep.trials=12")
    stubs.twist.append(interrupted(lambda _, result: result.status == "pruned"))
    with pytest.raises(Interrupted):
        stubs.search(tmp_path, *request)
    number, overrides = len(stubs.performed) - 1, stubs.performed[-1]
    before = optuna.load_study(study_name="sweep", storage=f"sqlite:///{tmp_path}/optuna.db").trials[number]
    after = stubs.search(tmp_path, *request).study.trials()[number]
    assert overrides in stubs.performed[number + 1 :]
    assert (before.state, after.state) == (TrialState.WAITING, TrialState.PRUNED)
    assert after.intermediate_values == before.intermediate_values


def test_another_first_rung_mixes_nothing(tmp_path: Path) -> None:
    """A later session with more rungs: as many of its trials go on as if it had begun with them."""
    space = "++sweep.space={optimizer: {lr: {low: 0.0001, high: 0.3, log: true}}}"
    request = (space, "trainer.max_epochs=9", "sweep/sampler=random")
    stubs.search(tmp_path, *request, "sweep.trials=9", "sweep.pruner.min_epochs=3")
    study = stubs.search(tmp_path, *request, "sweep.trials=30", "sweep.pruner.min_epochs=1").study
    later = [len(trial.intermediate_values) for trial in study.trials()[9:]]
    assert sum(epochs > 1 for epochs in later) >= 4
    assert max(later) == 9


def test_paused_trials_go_on_in_the_next_session(tmp_path: Path) -> None:
    space = "++sweep.space={optimizer: {lr: {low: 0.0001, high: 0.3, log: true}}}"
    request = (space, "trainer.max_epochs=9", "sweep/sampler=random", "sweep.trials=12")
    whole = stubs.search(tmp_path / "whole", *request).study.trials()
    third = iter(range(2))

    def twist(_: Task, result: Result) -> Result:
        if len(result.history) == 3 and not next(third, 1):
            stubs.interrupt()
        return result

    stubs.twist.append(twist)
    with pytest.raises(Interrupted):
        stubs.search(tmp_path / "parts", *request)
    waiting = optuna.load_study(study_name="sweep", storage=f"sqlite:///{tmp_path}/parts/optuna.db").trials
    assert sum(trial.state == TrialState.WAITING for trial in waiting) >= 3
    parts = stubs.search(tmp_path / "parts", *request).study.trials()
    assert [(t.state, t.params, t.intermediate_values) for t in parts] == [
        (t.state, t.params, t.intermediate_values) for t in whole
    ]


@pytest.mark.fault(3)
def test_what_a_session_that_died_left_running_is_told_or_goes_on(tmp_path: Path) -> None:
    with stubs.begun(tmp_path, "sweep.trials=3", "sweep/pruner=none") as (dying, _):
        for number in range(3):
            trial = dying.study.ask(number, optuna.samplers.RandomSampler(seed=1))
            dying.space.suggest(trial)
            trial.set_user_attr("digest", str(number))
            dying.study.save(number)
    ended = stubs.search(tmp_path / "other", "sweep.trials=1")
    result = Result.read(ended.folder.parent / "sweep-0000")
    failed: dict[str, Any] = {"status": "failed", "reason": "crash"}
    for name, changes in (("sweep-0000", {}), ("sweep-0002", failed)):
        a_run(tmp_path, name)
        dataclasses.replace(result, folder=str(tmp_path / "runs" / name), **changes).write()
    for _ in range(2):  # what is told once is not told again
        with stubs.begun(tmp_path, "sweep.trials=3", "sweep/pruner=none") as (session, _):
            assert [trial.state.name for trial in session.study.trials()] == ["COMPLETE", "WAITING", "FAIL"]
            assert session.study.failures() == {"crash": 1}


@pytest.mark.fault(1)
def test_a_sweep_whose_config_was_half_written_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that was killed just then left it empty, and the sweep was refused from then on."""
    first = stubs.search(tmp_path, "sweep.trials=1")
    config = first.folder / "config.yaml"
    config.write_text("")
    assert stubs.search(tmp_path, "sweep.trials=2").study.counted() == 2
    whole = config.read_text()

    def dies(file: Path, *_: Any, **__: Any) -> int:
        with file.open("w"):
            raise KeyError(file.name)

    monkeypatch.setattr(Path, "write_text", dies)
    with pytest.raises(KeyError, match=r"config\.yaml"):
        RunFolder(first.folder).describe(first.command.config, [])
    assert config.read_text() == whole


@pytest.mark.fault(12)
def test_one_process_at_a_study_wherever_its_folders_are(tmp_path: Path) -> None:
    shared = f"sweep.storage=sqlite:///{tmp_path}/shared.db"
    with stubs.begun(tmp_path / "here", shared), pytest.raises(RequestError, match="another process is at this sweep"):
        stubs.search(tmp_path / "there", shared)


def test_what_was_not_queued_before_an_interruption_is_queued_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue, calls = Study.enqueue, iter(range(9))

    def dies(self: Study, *arguments: Any) -> None:
        if next(calls) == 1:
            raise Interrupted(9)
        enqueue(self, *arguments)

    entries = "sweep.enqueue=['optimizer.lr=0.01', 'optimizer.lr=0.02']"
    with monkeypatch.context() as patched:
        patched.setattr(Study, "enqueue", dies)
        with pytest.raises(Interrupted):
            stubs.search(tmp_path, entries, "sweep.trials=4")
    trials = stubs.search(tmp_path, entries, "sweep.trials=4").study.trials()
    first = [(trial.user_attrs.get("enqueued"), trial.user_attrs.get("baseline")) for trial in trials]
    assert first == [(0, None), (1, None), (None, True), (None, None)]


def test_the_mlflow_run_is_found_again_and_others_of_its_name_are_left_alone(tmp_path: Path) -> None:
    tracked = ["tracking=mlflow", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db", "sweep.trials=1"]
    found = []
    for folder, items in (("one", tracked), ("one", ["tracking=none"]), ("one", tracked), ("other", tracked)):
        with stubs.begun(tmp_path / folder, *items) as (session, _):
            found.append(session.mlflow.run_id)
            assert session.study.recall("mlflow_run_id") in (found[0], found[-1])
    assert found[0] == found[2] != found[3]
    assert found[1] is None
    client = client_of(f"sqlite:///{tmp_path}/mlflow.db")
    assert {client.get_run(run_id).info.status for run_id in (found[0], found[3])} == {"RUNNING"}


@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (ZeroDivisionError("by 0"), ZeroDivisionError, "ZeroDivisionError: by 0"),
        (RequestError("experiment=own: unknown option"), RunFailure, "experiment=own: unknown option"),
    ],
)
def test_mlflow_says_why_a_sweep_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, raised: type[Exception], said: str
) -> None:
    def choose(*_: Any) -> None:
        raise error

    monkeypatch.setattr(winner, "choose", choose)
    tracked = ["tracking=mlflow", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db", "sweep.trials=1"]
    with session.opened(stubs.command(tmp_path, *tracked)) as failing, pytest.raises(raised):
        failing.run(stubs.workers)
    run = client_of(f"sqlite:///{tmp_path}/mlflow.db").get_run(str(failing.mlflow.run_id))
    assert (run.info.status, run.data.tags["reason"], run.data.tags["detail"]) == ("FAILED", "error", said)
    assert (tmp_path / "runs" / "sweep" / "sweep.json").is_file()


def test_a_run_whose_worker_died_is_closed_when_the_sweep_is_interrupted(tmp_path: Path) -> None:
    command = stubs.command(tmp_path, "tracking=mlflow", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db")

    def dies(task: Task, result: Result) -> Result:
        tracking.MLflowRun(command.config.tracking, tmp_path, "sweep-0000", parent=task.parent, tags=task.tags)
        stubs.interrupt()
        return dataclasses.replace(result, status="interrupted")

    stubs.twist.append(dies)
    with signals_as_flag(), pytest.raises(Interrupted):
        session.sweep(command, stubs.workers)
    assert runs_of(tmp_path) == {"sweep": "KILLED", "sweep-0000": "KILLED"}
    content = json.loads((tmp_path / "runs" / "sweep" / "sweep.json").read_text())
    assert content["trials"] == {"complete": 0, "pruned": 0, "fail": 0, "paused": 1}


def by_hand(folder: Path) -> optuna.Study:
    """The study, as somebody else opens it."""
    return optuna.load_study(study_name="sweep", storage=f"sqlite:///{folder}/optuna.db")


RATES = "++sweep.space={optimizer: {lr: {low: 0.001, high: 0.1, log: true}}}"


@pytest.mark.fault(17)
def test_trials_that_somebody_added_are_said_and_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stubs.search(tmp_path, "sweep.trials=2", RATES)
    study = by_hand(tmp_path)
    rate = optuna.distributions.FloatDistribution(0.001, 0.1, log=True)
    added = {"params": {"optimizer.lr": 0.05}, "distributions": {"optimizer.lr": rate}}
    study.add_trial(optuna.create_trial(**added, value=2.0))  # type: ignore[arg-type]
    study.add_trial(optuna.create_trial(state=TrialState.PRUNED))
    study.ask()  # and never told
    with caplog.at_level("INFO"):
        session = stubs.search(tmp_path, "sweep.trials=4", RATES)
    assert "trials 2, 3, 4 were not made by this program: they are neither counted nor ranked" in caplog.text
    assert session.study.counted() == 4
    assert session.study.counts()["complete"] + session.study.counts()["pruned"] == 4
    best = session.study.best()
    assert best
    assert best.number != 2
    assert by_hand(tmp_path).trials[2].values == [2.0]
    assert not by_hand(tmp_path).get_trials(states=(TrialState.RUNNING,))


@pytest.mark.fault(17)
@pytest.mark.parametrize("value", ["nonsense", 7.0, None, [1]])
def test_nonsense_that_somebody_queued_is_one_failed_trial(tmp_path: Path, value: Any) -> None:
    stubs.search(tmp_path, "sweep.trials=1", RATES)
    by_hand(tmp_path).enqueue_trial({"optimizer.lr": value, "unknown": 3})
    study = stubs.search(tmp_path, "sweep.trials=2", RATES).study
    assert study.counted() == 2
    assert study.trials()[1].user_attrs["reason"] == "infeasible"
    assert "optimizer.lr" in study.trials()[1].user_attrs["detail"]


def test_what_failed_is_tried_again_once_it_is_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    reasons = iter(["error", "diverged", "timeout"])

    def fail(_: Task, result: Result) -> Result:
        reason = next(reasons, None)
        return dataclasses.replace(result, status="failed", reason=reason, detail="a full disk") if reason else result

    stubs.twist.append(fail)
    items = ["sweep.trials=5", "sweep/pruner=none"]
    first = stubs.search(tmp_path, *items).study
    assert first.failures() == {"error": 1, "diverged": 1, "timeout": 1}
    assert summary.retry(first) == "sweep.retry_failed=true tries 2 failed again, once the reason is mended"
    params = [first.trials()[number].params for number in (0, 2)]
    for _ in range(2):  # and not a second time
        again = stubs.search(tmp_path, *items, "sweep.retry_failed=true").study
        assert len(again.trials()) == 7
        assert [trial.params for trial in again.trials()[5:]] == params
        assert (again.counted(), again.counts()["complete"], summary.retry(again)) == (5, 4, "")
    assert (found := again.baseline()) is not None
    assert found.number == 5


def test_a_sweep_that_was_moved_goes_on_where_it_is_now(tmp_path: Path) -> None:
    before, now = tmp_path / "before", tmp_path / "now"
    stubs.search(before, "sweep.trials=2", "sweep/pruner=none")
    before.rename(now)
    study = stubs.search(now, "sweep.trials=3", "sweep/pruner=none", "data.root=elsewhere").study
    assert not before.exists()
    for trial in study.trials():
        result = trial.user_attrs["result"]
        assert result["folder"] == str(now / "runs" / f"sweep-{trial.number:04d}")
        assert f"output={now}" in result["overrides"]
        assert str(before) not in result["command"]
        assert Result.read(Path(result["folder"])).folder == result["folder"]
