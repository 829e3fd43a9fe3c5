"""A sweep on 200 real digits: the loop, its records, resuming, the winner."""

import json
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

pytestmark = pytest.mark.usefixtures("no_report")

#: Trials of well under a second.
QUICK = [
    "+sweep=optuna",
    "data=mnist5k",
    "data.limit=200",
    "model.filters=[4]",
    "model.hidden=[8]",
    "data.batch_size=50",
    "trainer.threads=1",
    "trainer.accelerator=cpu",
    "sweep.space.trainer.max_epochs.low=1",
    "sweep.space.trainer.max_epochs.high=3",
    "sweep.winner.top=2",
    "sweep.winner.seeds=2",
    "trainer.max_epochs=2",
    "launcher=inline",
    "sweep/pruner=median",
]


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


def test_the_best_and_the_winner(tracked: tuple[Path, dict[str, Any]]) -> None:
    folder, content = tracked
    trials = study_of(folder).trials
    best, winner = study_of(folder).best_trial, content["winner"]
    assert (content["best"]["trial"], content["best"]["value"]) == (best.number, best.value)
    candidates = {each["trial"]: each for each in winner["candidates"]}
    assert next(iter(candidates)) == best.number
    assert len(candidates) == 2
    assert winner["seeds"] == [1, 2]
    means = {}
    for number, each in candidates.items():
        runs = [Result.read(folder / "runs" / f"sweep-{number:04d}-seed{seed}") for seed in (1, 2)]
        assert each["each"] == [result.objective for result in runs]
        assert each["first"] == trials[number].value
        means[number] = each["mean"]
    assert winner["trial"] == max(means, key=lambda number: means[number])
    assert winner["validation"]["mean"] == means[winner["trial"]]
    assert (winner["gain"] is None) == (0 not in candidates)  # the baseline takes part only if it is good
    assert winner["luck"] == pytest.approx(trials[winner["trial"]].value - means[winner["trial"]])
    score = winner["test_accuracy"]
    assert score["mean"] == pytest.approx(sum(score["each"]) / 2)
    assert score["low"] <= score["mean"] <= score["high"]
    client = client_of(f"sqlite:///{folder}/mlflow.db")
    for seed, run_id in zip((1, 2), winner["mlflow_run_ids"], strict=True):
        found = client.get_run(run_id)
        assert found.info.status == "FINISHED"
        assert found.data.params["seed"] == str(seed)
        assert found.data.tags["mlflow.parentRunId"] == trials[winner["trial"]].user_attrs["result"]["mlflow_run_id"]
        assert found.data.tags["test.opened_at"] == winner["test_opened_at"]
        assert found.data.metrics["test/accuracy"] in score["each"]


def test_only_the_winner_has_seen_the_test_set(tracked: tuple[Path, dict[str, Any]]) -> None:
    folder, content = tracked
    opened = {f"sweep-{content['winner']['trial']:04d}-seed{seed}" for seed in (1, 2)}
    results = {path.parent.name: Result.read(path.parent) for path in (folder / "runs").glob("*/result.json")}
    assert len(results) == 6 + 4
    for name, result in results.items():
        assert any(metric.startswith("test/") for metric in result.metrics) == (name in opened)
        assert bool(result.test_opened_at) == (name in opened)
    assert content["winner"]["test_openings"] == 1


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


def test_a_higher_total_adds_the_difference(tmp_path: Path) -> None:
    perform(tmp_path, "sweep.trials=2")
    content = perform(tmp_path, "sweep.trials=4")
    whole = perform(tmp_path, "sweep.trials=4", "sweep.name=whole")
    parts, one = ([trial.params for trial in study_of(tmp_path, name).trials] for name in ("sweep", "whole"))
    assert parts == one  # two sessions propose what one would have
    assert len(one) == 4
    assert whole["best"]["value"] == content["best"]["value"]


@pytest.mark.parametrize("rule", [None, "parameters"])
def test_several_objectives_end_with_a_front(tmp_path: Path, rule: str | None) -> None:
    goals = "[{metric: val/accuracy, direction: maximize}, {metric: parameters, direction: minimize}]"
    widths = "+sweep.space.model.hidden={choices: [[4], [8], [16]]}"
    more = [f"sweep.winner.rule={rule}"] if rule else []
    content = perform(tmp_path, f"sweep.objectives={goals}", widths, "sweep.trials=6", *more, without="model.hidden")
    front = [(-each["values"]["val/accuracy"], each["values"]["parameters"]) for each in content["front"]]
    assert front
    for one in front:
        assert not any(two != one and two[0] <= one[0] and two[1] <= one[1] for two in front)
    assert content["best"] is None
    assert content["trials"]["complete"] == 6
    assert "model" in yaml.safe_load((tmp_path / "runs" / "sweep" / "conf" / "experiment" / "best.yaml").read_text())
    assert (content["winner"] is None) == (rule is None)
    if rule:
        assert content["winner"]["metric"] == "parameters"
        assert content["winner"]["validation"]["mean"] == min(cost for _, cost in front)
        assert content["winner"]["trial"] in [each["trial"] for each in content["front"]]


def test_poor_trials_are_pruned_and_a_loss_is_minimized(tmp_path: Path) -> None:
    """Most trials learn; a quarter cannot, since their learning rate is as good as nought."""
    rates = "optimizer: {lr: {choices: [0.02, 0.015, 0.01, 1e-9]}, weight_decay: {low: 0.0, high: 1e-9}}"
    base = [item for item in QUICK if not item.startswith(("sweep.space", "trainer.max_epochs", "sweep/pruner"))]
    items = [*base, "tracking=none", f"output={tmp_path}", "optimizer=adam", "objective=val/loss", "sweep/space=empty"]
    items += [f"++sweep.space={{{rates}}}", "trainer.max_epochs=6", "sweep.trials=12", "sweep/sampler=random"]
    path = session.sweep(CommandLine.of([*items, "sweep/pruner=median", "sweep.pruner.startup_trials=2", "seed=3"]))
    content, trials = json.loads(path.read_text()), study_of(tmp_path).trials
    pruned = [trial for trial in trials if trial.state.name == "PRUNED"]
    assert len(pruned) == content["trials"]["pruned"] > 0
    assert any(trial.params["optimizer.lr"] < 1e-3 for trial in pruned)
    assert all(2 <= len(trial.intermediate_values) < 6 for trial in pruned)
    assert content["direction"] == "minimize"
    assert content["best"]["value"] == min(trial.values[0] for trial in trials if trial.state.name == "COMPLETE")


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException, *calls: int) -> None:
    """Let the training of these calls, counted from 0, raise."""
    before, made = trainer.Fit.run, iter(range(100))

    def fit(self: trainer.Fit) -> None:
        if next(made) in calls:
            raise error
        before(self)

    monkeypatch.setattr(trainer.Fit, "run", fit)


def test_a_sweep_survives_its_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, ZeroDivisionError("a bug"), 1)
    content = perform(tmp_path, "sweep.trials=3")
    assert content["trials"]["fail"] == 1
    assert content["failures"] == {"error": 1}
    assert content["winner"] is not None


def test_a_sweep_without_any_value_fails_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, ZeroDivisionError("a bug"), *range(9))
    with pytest.raises(RunFailure, match="no trial finished; 2 × error: ZeroDivisionError: a bug"):
        perform(tmp_path, "sweep.trials=2")
    content = json.loads((tmp_path / "runs" / "sweep" / "sweep.json").read_text())
    assert (content["best"], content["winner"], content["trials"]["fail"]) == (None, None, 2)


def test_an_interrupted_trial_goes_on_under_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = ["sweep.trials=3", "sweep/pruner=none", "sweep.winner.seeds=1", "sweep.winner.top=1"]
    whole = perform(tmp_path, *items, "sweep.name=whole")
    before, made = trainer.Fit.run, iter(range(100))

    def fit(self: trainer.Fit) -> None:
        if next(made) == 1:
            stubs.interrupt()
            raise Interrupted(2)
        before(self)

    with monkeypatch.context() as patched:
        patched.setattr(trainer.Fit, "run", fit)
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


def test_a_signal_while_the_workers_start_is_recorded(tmp_path: Path) -> None:
    def launch() -> Workers:
        stubs.interrupt()
        return stubs.workers()

    tracked = ["tracking=mlflow", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"]
    with signals_as_flag(), pytest.raises(Interrupted):
        session.sweep(stubs.command(tmp_path, *tracked), launch)
    content = json.loads((tmp_path / "runs" / "sweep" / "sweep.json").read_text())
    assert content["trials"] == {"complete": 0, "pruned": 0, "fail": 0}
    assert client_of(f"sqlite:///{tmp_path}/mlflow.db").get_run(content["mlflow_run_id"]).info.status == "KILLED"


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
