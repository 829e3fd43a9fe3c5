"""A sweep on 200 real digits: the loop, its records, resuming, the winner."""

import contextlib
import io
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import mlflow
import optuna
import pandas
import pytest
import yaml

from mnist_sweep import cli, run
from mnist_sweep.api import Sweep
from mnist_sweep.config.command import CommandLine
from mnist_sweep.errors import Interrupted, RequestError, RunFailure, signals_as_flag
from mnist_sweep.result import Result
from mnist_sweep.sweep import report, session
from mnist_sweep.sweep.report import report as real_report
from mnist_sweep.sweep.workers import Workers
from mnist_sweep.tracking.store import client_of
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


def frames(folder: Path, content: dict[str, Any]) -> tuple[pandas.DataFrame, pandas.DataFrame, pandas.DataFrame]:
    """The trials as one gets them in a line: from ``sweep.json``, from Python, from MLflow."""
    file = folder / "runs" / "sweep" / "sweep.json"
    from_json = pandas.json_normalize(json.loads(file.read_text())["trial_list"], sep="_", max_level=1)
    from_python = Sweep(file.parent, content["best"], content["winner"], study_of(folder)).trials()
    trials = f"tags.role = 'trial' and tags.study = '{content['study']}'"
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    try:
        return from_json, from_python, mlflow.search_runs(experiment_names=["mnist_sweep"], filter_string=trials)
    finally:
        none: Any = None
        mlflow.set_tracking_uri(none)  # it is an environment variable of the process, and the next test's default


def test_the_trials_are_the_same_table_from_the_file_from_python_and_from_mlflow(
    tracked: tuple[Path, dict[str, Any]],
) -> None:
    from_json, from_python, from_mlflow = frames(*tracked)
    pandas.testing.assert_frame_equal(from_json, from_python)
    ours = from_json.set_index("mlflow_run_id").sort_index()
    theirs = from_mlflow.set_index("run_id").sort_index()
    assert list(ours.index) == list(theirs.index)
    for column, tag in (("number", "tags.trial"), ("state", "tags.state")):
        assert [*map(str, ours[column])] == [*theirs[tag]]
    for column in ("epochs", "parameters", "value"):
        assert [*ours[column]] == [*theirs[f"metrics.{'best/val/accuracy' if column == 'value' else column}"]]
    for key in ("model.dropout", "optimizer", "optimizer.lr"):
        assert [*map(str, ours[f"params_{key}"])] == [*theirs[f"params.{key}"]]


def test_mlflow_sorts_and_filters_as_the_file_says(tracked: tuple[Path, dict[str, Any]]) -> None:
    folder, content = tracked
    client = client_of(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("mnist_sweep").experiment_id

    def asked(query: str, *order: str, limit: int = 100) -> list[Any]:
        return list(client.search_runs([experiment], query, order_by=list(order), max_results=limit))

    listed = content["trial_list"]
    best = asked("tags.role = 'trial'", "metrics.`best/val/accuracy` DESC", limit=10)
    scores = sorted((each["value"] for each in listed), reverse=True)[:10]
    assert [found.data.metrics["best/val/accuracy"] for found in best] == scores
    pruned = asked("tags.role = 'trial' and tags.state = 'pruned'")
    assert {found.info.run_id for found in pruned} == {
        each["mlflow_run_id"] for each in listed if each["state"] == "pruned"
    }
    (winner,) = asked("tags.role = 'winner'")
    assert winner.info.run_name == content["winner"]["network"]["run"] == content["winner"]["model"]["run"]
    assert winner.data.params["seed"] == str(content["winner"]["model"]["seed"])
    (sweep,) = asked("tags.role = 'sweep'", "metrics.improvement DESC")
    assert sweep.info.run_id == content["mlflow_run_id"]
    said, gain = sweep.data.metrics, content["winner"]["gain"]
    assert [said["improvement"], said.get("improvement_low")] == [gain["mean"], gain["low"]]
    assert said["winner/test/accuracy"] == content["winner"]["test_accuracy"]["mean"]
    assert (said["epochs"], said["trials/pruned"]) == (content["epochs"], content["trials"]["pruned"])
    assert sweep.data.tags["command"] == content["command"]
    kept = {file.path for file in client.list_artifacts(sweep.info.run_id)}
    assert {"config.yaml", "overrides.yaml", "sweep.json"} <= kept
    assert {"config.yaml", "overrides.yaml"} <= {file.name for file in (folder / "runs" / "sweep").iterdir()}


def test_the_exact_command_trains_the_registered_network_again(
    tracked: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, content = tracked
    registered = Result.read(folder / "runs" / content["winner"]["model"]["run"])
    exact = shlex.split(content["winner"]["commands"]["exact"])[3:]
    again = CommandLine.of(exact).with_(output=str(tmp_path), tracking="none", name="again")
    result = run.train(again, test=True, pictures=False)
    assert (result.metrics, result.seed) == (registered.metrics, content["winner"]["model"]["seed"])
    assert result.metrics["test/accuracy"] in content["winner"]["test_accuracy"]["each"]


def test_a_sweep_is_listed_reported_and_deleted_wherever_it_is_now(
    tracked: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder, content = tracked
    there = tmp_path / "there"
    shutil.copytree(folder, there)
    assert cli.perform("sweeps", [str(there)]) == cli.DONE
    said = " ".join(capsys.readouterr().out.split())
    assert f"finished {content['trials']['complete']} complete" in said
    assert f"trial {content['winner']['trial']}, test/accuracy" in said
    monkeypatch.setattr(report, "report", real_report)
    page = there / "runs" / "sweep" / "report.html"
    assert cli.perform("report", [str(page.parent)]) == cli.DONE
    assert capsys.readouterr().out == f"{page}\n"
    assert page.stat().st_size > 100_000
    other = there / "runs" / "sweepless-0001"
    other.mkdir()
    for answer in ("no\n", ""):
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        with contextlib.suppress(RequestError):
            cli.perform("sweeps", ["delete", "sweep", "--output", str(there)])
        assert page.exists()
    with monkeypatch.context() as away:
        away.setattr(optuna, "delete_study", Mock(side_effect=OSError("away")))
        with pytest.raises(RunFailure, match=r"away.*; the same command goes on with it"):
            cli.perform("sweeps", ["delete", "sweep", "--output", str(there), "--yes"])
    assert (page.parent / "config.yaml").exists(), "it says where the study is"
    assert cli.perform("sweeps", ["delete", "sweep", "--output", str(there), "--yes"]) == cli.DONE
    assert [path.name for path in (there / "runs").iterdir()] == ["sweepless-0001"]
    client = client_of(f"sqlite:///{there}/mlflow.db")
    assert client.search_runs([client.get_experiment_by_name("mnist_sweep").experiment_id]) == []
    assert optuna.get_all_study_names(f"sqlite:///{there}/optuna.db") == []
    with pytest.raises(RequestError, match=r"delete sweep: no such sweep in .*; there: none"):
        cli.perform("sweeps", ["delete", "sweep", "--output", str(there), "--yes"])
    with pytest.raises(RequestError, match=r"holds no sweep's config\.yaml"):
        cli.perform("report", [str(other)])


def test_the_best_as_an_experiment_repeats_it(tracked: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, content = tracked
    best = folder / "runs" / "sweep" / "conf"
    again = CommandLine.of(["experiment=winner", f"output={tmp_path}", "tracking=none", "name=again"], best)
    result = run.train(again, pictures=False)
    assert result.objective == study_of(folder).trials[content["winner"]["trial"]].value
    assert "--config-dir" in result.command
    assert yaml.safe_load((best / "experiment" / "winner.yaml").read_text())["defaults"][-1] == "_self_"


def test_the_same_command_again_adds_nothing(
    tracked: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, content = tracked
    runs = {path.name for path in (folder / "runs").iterdir()}
    monkeypatch.setattr(Workers, "open", lambda _: pytest.fail("a worker was started"))
    again = perform(folder, "sweep.trials=6", tracked=True)
    for each in (again, content):
        for key in ("seconds", "ended_at"):
            each.pop(key, None)
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
        with pytest.raises(RequestError, match=rf"sweep\.storage={url}: cannot be opened \(.*allowed: sqlite:///FILE"):
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
