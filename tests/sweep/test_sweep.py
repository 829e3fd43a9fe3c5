"""A sweep on 200 real digits: the loop, its records, resuming, the winner."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from mnist_sweep import run
from mnist_sweep.config.command import CommandLine
from mnist_sweep.errors import Interrupted, RequestError, RunFailure, signals_as_flag
from mnist_sweep.result import Result
from mnist_sweep.sweep import session
from mnist_sweep.sweep.workers import Workers
from mnist_sweep.tracking.store import client_of
from mnist_sweep.training import trainer
from tests import stubs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_report")]

#: Trials of well under a second.
QUICK = [
    "+sweep=optuna", "data=mnist5k", "data.limit=200", "model.filters=[4]", "model.hidden=[8]", "data.batch_size=50",
    "trainer.threads=1", "trainer.accelerator=cpu", "trainer.max_epochs=2", "launcher=inline", "sweep/pruner=median",
    "sweep.space.trainer.max_epochs.low=1", "sweep.space.trainer.max_epochs.high=3", "sweep.winner.top=2",
    "sweep.winner.seeds=2",
]  # fmt: skip


def perform(folder: Path, *items: str, tracked: bool = False, without: str = "nothing") -> dict[str, Any]:
    base = [item for item in QUICK if not item.startswith(without)]
    store = [] if tracked else ["tracking=none"]
    path = session.sweep(CommandLine.of(base, None).add(*store, f"output={folder}", *items))
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def study_of(folder: Path, name: str = "sweep") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/optuna.db")


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A tracked sweep of six trials; several tests look at it."""
    folder = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        from mnist_sweep.sweep import report

        patch.setattr(report, "report", lambda *_: None)
        return folder, perform(folder, "sweep.trials=6", tracked=True)


def test_states_agree_everywhere(tracked: tuple[Path, dict[str, Any]]) -> None:
    folder, content = tracked
    client = client_of(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("mnist_sweep")
    assert client.get_run(content["mlflow_run_id"]).info.status == "FINISHED"
    children = client.search_runs(
        [experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{content['mlflow_run_id']}'"
    )
    status = {child.info.run_id: child.info.status for child in children}
    trials = study_of(folder).trials
    assert len(children) == len(trials) == sum(content["trials"].values()) == 6
    told = {"COMPLETE": ("FINISHED", "finished"), "PRUNED": ("KILLED", "pruned"), "FAIL": ("FAILED", "failed")}
    for trial in trials:
        result = Result.read(folder / "runs" / f"sweep-{trial.number:04d}")
        assert (status[str(result.mlflow_run_id)], result.status) == told[trial.state.name]
        if trial.state.name == "COMPLETE":
            assert trial.value == result.objective
    assert content["trials"]["complete"] == sum(trial.state.name == "COMPLETE" for trial in trials)
    baseline = trials[0].params
    assert (baseline["optimizer"], baseline["optimizer.lr"], baseline["model.dropout"]) == ("adam", 1e-3, 0.25)


def test_only_the_winner_has_seen_the_test_set(tracked: tuple[Path, dict[str, Any]]) -> None:
    folder, content = tracked
    winner, trials = content["winner"], study_of(folder).trials
    assert (content["best"]["trial"], content["best"]["value"]) == (
        study_of(folder).best_trial.number,
        study_of(folder).best_value,
    )
    assert (winner["race_seeds"], winner["seeds"]) == ([1], [2, 3])
    assert (len(winner["candidates"]), winner["test_openings"]) == (2, 1)
    names = [f"sweep-{winner['trial']:04d}-seed{seed}" for seed in (2, 3)]
    results = {path.parent.name: Result.read(path.parent) for path in (folder / "runs").glob("*/result.json")}
    fresh = 2 if winner["gain"]["trial"] == winner["trial"] else 4  # the winner's, and the baseline's
    assert len(results) == 6 + 2 + fresh
    for name, result in results.items():
        assert any(metric.startswith("test/") for metric in result.metrics) == (name in names)
        assert bool(result.test_opened_at) == (name in names)
    assert winner["validation"]["each"] == [results[name].objective for name in names]
    assert winner["test_accuracy"]["each"] == [results[name].metrics["test/accuracy"] for name in names]
    client = client_of(f"sqlite:///{folder}/mlflow.db")
    for seed, run_id in zip((2, 3), winner["mlflow_run_ids"], strict=True):
        found = client.get_run(run_id)
        assert (found.info.status, found.data.params["seed"]) == ("FINISHED", str(seed))
        assert found.data.tags["mlflow.parentRunId"] == trials[winner["trial"]].user_attrs["result"]["mlflow_run_id"]
        assert found.data.tags["test.opened_at"] == winner["test_opened_at"]


def test_the_best_as_an_experiment_repeats_it(tracked: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, content = tracked
    best = folder / "runs" / "sweep" / "conf"
    again = CommandLine.of(["experiment=best", f"output={tmp_path}", "tracking=none", "name=again"], best)
    result = run.train(again, pictures=False)
    assert result.objective == study_of(folder).trials[content["winner"]["trial"]].value
    assert "--config-dir" in result.command
    assert yaml.safe_load((best / "experiment" / "best.yaml").read_text())["defaults"][-1] == "_self_"


def test_the_same_command_again_adds_nothing(
    tracked: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, content = tracked
    runs = {path.name for path in (folder / "runs").iterdir()}
    monkeypatch.setattr(Workers, "open", lambda _: pytest.fail("a worker was started"))
    again = perform(folder, "sweep.trials=6", tracked=True)
    for each in (again, content):
        each.pop("seconds", None)
    assert again == content
    assert {path.name for path in (folder / "runs").iterdir()} == runs


def test_of_several_objectives_a_rule_chooses_from_the_front(tmp_path: Path) -> None:
    goals = "[{metric: val/accuracy, direction: maximize}, {metric: parameters, direction: minimize}]"
    widths, rule = "+sweep.space.model.hidden={choices: [[4], [8], [16]]}", "sweep.winner.rule=parameters"
    content = perform(
        tmp_path, f"sweep.objectives={goals}", widths, rule, "sweep.trials=6", "sweep.winner.seeds=1",
        without="model.hidden",
    )  # fmt: skip
    assert (content["best"], content["trials"]["complete"]) == (None, 6)
    values = [each["values"] for each in content["front"]]
    assert content["winner"]["metric"] == "parameters"
    assert content["winner"]["validation"]["mean"] == min(value["parameters"] for value in values)
    assert content["winner"]["trial"] in [each["trial"] for each in content["front"]]


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
    whole = perform(tmp_path, *items, "sweep.name=whole")
    with monkeypatch.context() as patched:
        failing(patched, [1], interrupted=True)
        with signals_as_flag(), pytest.raises(Interrupted):
            perform(tmp_path, *items)
    content = json.loads((tmp_path / "runs" / "sweep" / "sweep.json").read_text())
    assert content["trials"] == {"complete": 1, "pruned": 0, "fail": 0}
    assert [trial.state.name for trial in study_of(tmp_path).trials] == ["COMPLETE", "WAITING"]
    assert Result.read(tmp_path / "runs" / "sweep-0001").status == "interrupted"
    content = perform(tmp_path, *items)
    trials = study_of(tmp_path).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    assert [trial.value for trial in trials] == [trial.value for trial in study_of(tmp_path, "whole").trials]
    assert Result.read(tmp_path / "runs" / "sweep-0001").attempts == 2
    assert whole["trials"] == content["trials"] == {"complete": 3, "pruned": 0, "fail": 0}


def test_runs_of_a_sweep_whose_study_is_gone_are_not_written_over(tmp_path: Path) -> None:
    stubs.search(tmp_path, "sweep.trials=1")
    run_folder = tmp_path / "runs" / "sweep-0000"
    (run_folder / "config.yaml").write_text("{}")  # as a run that was trained has
    (tmp_path / "optuna.db").unlink()
    for _ in range(2):
        with pytest.raises(RequestError, match=r"runs/sweep-0000 is there, but its study is not in sqlite:///"):
            stubs.search(tmp_path, "sweep.trials=1")


def test_a_storage_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "optuna.db").write_text("this is no database, but a text that is long enough to look like one" * 20)
    with pytest.raises(RequestError, match=r"sweep\.storage=sqlite:////.*: cannot be opened \("):
        stubs.search(tmp_path)
    for url in (
        "nonsense",
        "nodatabase://here/it",
        "sqlite:////dev/null/x.db",
        "sqlite:////proc/none/x.db",
        "sqlite://",
    ):
        with pytest.raises(RequestError, match=rf"sweep\.storage={url}: cannot be opened \(.*allowed: a URL such as"):
            stubs.search(tmp_path / "new", f"sweep.storage={url}")
    assert not (tmp_path / "new").exists()


def test_a_trial_is_judged_by_the_mean_over_its_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted within the second seed of the second trial, which goes on there."""
    begun: list[str] = []
    own = run.train

    def train(command: CommandLine, **more: Any) -> Result:
        begun.append(str(command.config.name))
        if begun[-1] == "sweep-0001-seed1" and begun.count("sweep-0001-seed1") == 1:
            stubs.interrupt()
            raise Interrupted(2)
        return own(command, **more)

    monkeypatch.setattr(run, "train", train)
    items = ["~experiment", "sweep.trials=2", "sweep.seeds=2", "sweep/pruner=none", "sweep.winner.seeds=1"]
    with signals_as_flag(), pytest.raises(Interrupted):
        perform(tmp_path, *items)
    assert study_of(tmp_path).trials[1].state.name == "WAITING"
    content = perform(tmp_path, *items)
    for trial in study_of(tmp_path).trials:
        name = f"sweep-{trial.number:04d}"
        seeds = [Result.read(tmp_path / "runs" / each) for each in (name, f"{name}-seed1")]
        assert [result.seed for result in seeds] == [0, 1]
        assert trial.value == pytest.approx(sum(result.objective or 0 for result in seeds) / 2)
        assert trial.user_attrs["result"]["seeds"] == 2
    assert content["epochs"] == 2 * sum(len(trial.intermediate_values) for trial in study_of(tmp_path).trials)
    winner = content["winner"]
    assert (winner["race_seeds"], winner["seeds"]) == ([2], [3])  # which have had no part in it
    best = CommandLine.of(["experiment=best"], tmp_path / "runs/sweep/conf").config
    assert (
        best.relevant()["optimizer"]
        == CommandLine.of(shlex.split(content["best"]["command"])[3:]).config.optimizer.name
    )
