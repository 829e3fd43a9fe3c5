"""The record of a run that a process wrote in part, or that nobody performed, and a run that is taken up again."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mnist_sweep import run, tracking, unperformed
from mnist_sweep import run_record as record
from mnist_sweep.config.command import compose
from mnist_sweep.errors import Interrupted, RequestError, RunFailure
from mnist_sweep.result import BEST, Result, last_checkpoint, noted
from mnist_sweep.tracking.store import client_of
from mnist_sweep.training import datasets
from tests.conftest import ROOT, SMALL, interrupt_in

TRACKED = [item for item in SMALL if item != "tracking=none"]
#: Enough chance in it that nothing of the state may be lost.
ITEMS = ["trainer.max_epochs=4", "model.dropout=0.4", "data.augmentation.rotation=10", "scheduler=onecycle"]
#: A run whose process is killed in epoch 3, as the system does it.
KILLED = """
import os, signal, sys
from mnist_sweep.config.command import compose
from mnist_sweep.run import run
def report(epoch, values):
    if epoch == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return True
run(compose(sys.argv[1:]), sys.argv[1:], report=report, tags={"study.id": "dead"})
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one MLflow database, and in it the run ``killed`` that a process left."""
    folder = tmp_path_factory.mktemp("store")
    given = [*TRACKED, *ITEMS, f"output={folder}", "name=killed"]
    command = [sys.executable, "-c", KILLED, *given]
    process = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=300, check=False)
    assert process.returncode == -signal.SIGKILL
    shutil.copytree(folder / "runs" / "killed", folder / "as-killed")
    return folder


@pytest.fixture
def left(store: Path, tmp_path: Path) -> Path:
    """What the killed run left, in another folder."""
    shutil.copytree(store / "as-killed", tmp_path / "runs" / "it")
    return tmp_path / "runs" / "it"


def given_to(output: Path, name: str, *items: str, tracked: bool = False) -> list[str]:
    return [*(TRACKED if tracked else SMALL), f"output={output}", f"name={name}", *items]


def perform(given: list[str], **arguments: Any) -> Result:
    return run.run(compose(given), given, **arguments)


def abandon(given: list[str], **tags: Any) -> Result:
    return unperformed.abandon(
        compose(given), given, config_dir=None, parent=None, tags=tags, reason="crashed", detail="it died twice"
    )


def repeat(given: list[str], earlier: Result, **tags: Any) -> Result:
    return unperformed.repeat(compose(given), given, earlier, config_dir=None, parent=None, tags=tags)


def kept(store: Path, result: Result) -> Any:
    return client_of(f"sqlite:///{store}/mlflow.db").get_run(result.mlflow_run_id)


def logged(store: Path, result: Result, name: str = "val/accuracy") -> list[tuple[int, float]]:
    """Step and value of all that MLflow has of a metric."""
    history = client_of(f"sqlite:///{store}/mlflow.db").get_metric_history(result.mlflow_run_id, name)
    return sorted((metric.step, metric.value) for metric in history)


def of(result: Result, name: str = "val/accuracy") -> list[tuple[int, float]]:
    return [(number, epoch[name]) for number, epoch in enumerate(result.history, start=1)]


def test_the_record_needs_no_torch() -> None:
    program = "import sys, mnist_sweep.run_record; sys.exit(bool({'torch', 'mlflow', 'matplotlib'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)


def test_a_killed_run_goes_on_to_the_same_numbers(left: Path, tmp_path: Path) -> None:
    assert not (left / "result.json").exists()
    assert last_checkpoint(left).is_file()
    whole = perform(given_to(tmp_path, "whole", *ITEMS))
    heard: list[int] = []

    def report(epoch: int, _: dict[str, float]) -> bool:
        heard.append(epoch)
        return True

    resumed = perform(given_to(tmp_path, "it", *ITEMS), resume=True, report=report)
    assert heard == [3, 4]
    assert (resumed.status, resumed.attempts) == ("finished", 2)
    assert (resumed.history, resumed.best_epoch) == (whole.history, whole.best_epoch)
    weights = [torch.load(folder / BEST, weights_only=True)["state_dict"] for folder in (left, tmp_path / "runs/whole")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_a_run_whose_folder_was_moved_keeps_its_best_epoch(tmp_path: Path) -> None:
    items = ["trainer.max_epochs=5", "optimizer=sgd", "optimizer.lr=0.1", "objective=gap/accuracy"]
    whole = perform(given_to(tmp_path, "it", *items))
    assert whole.best_epoch in (1, 2, 3)  # nothing that comes after the interruption is better
    with pytest.raises(Interrupted):
        perform(given_to(tmp_path / "before", "it", *items), report=interrupt_in(5))
    (tmp_path / "before").rename(tmp_path / "after")
    resumed = perform(given_to(tmp_path / "after", "it", *items), resume=True)
    assert (resumed.history, resumed.best_epoch) == (whole.history, whole.best_epoch)
    folders = (tmp_path / "runs" / "it", tmp_path / "after" / "runs" / "it")
    weights = [torch.load(folder / BEST, weights_only=True)["state_dict"] for folder in folders]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_the_times_of_all_attempts_add_up(tmp_path: Path) -> None:
    given = given_to(tmp_path, "it", "trainer.max_epochs=3")
    with pytest.raises(Interrupted):
        perform(given, report=interrupt_in(3))
    first = Result.read(tmp_path / "runs" / "it")
    notes = last_checkpoint(tmp_path / "runs" / "it").with_name("progress.json")
    notes.write_text(json.dumps(noted(tmp_path / "runs" / "it") | {"seconds": 100.0}))
    first.path.unlink()  # as if it had been killed after a hundred seconds
    state = torch.load(last_checkpoint(tmp_path / "runs" / "it"), weights_only=True)
    state["callbacks"]["Watch"]["seconds"] = 50.0
    torch.save(state, last_checkpoint(tmp_path / "runs" / "it"))
    resumed = perform(given, resume=True)
    assert 100 < resumed.seconds < 150
    assert 50 < resumed.train_seconds < 100


@pytest.mark.parametrize("found", ["gone", "of an epoch that is done again"])
def test_the_best_checkpoint_is_that_of_the_last_state(left: Path, tmp_path: Path, found: str) -> None:
    state, known = torch.load(last_checkpoint(left), weights_only=True), torch.load(left / BEST, weights_only=True)
    if found == "gone":
        (left / BEST).unlink()
    else:
        torch.save(known | {"state_dict": {}, "history": [*state["history"], {}]}, left / BEST)
    heard: list[int] = []

    def report(epoch: int, _: dict[str, float]) -> bool:
        heard.append(epoch)
        best = torch.load(left / BEST, weights_only=True)
        if epoch == 3:
            assert best["history"] == known["history"]
            assert all(torch.equal(best["state_dict"][key], known["state_dict"][key]) for key in known["state_dict"])
        return True

    assert perform(given_to(tmp_path, "it", *ITEMS), resume=True, report=report).status == "finished"
    assert heard == [3, 4]


@pytest.mark.parametrize("status", ["finished", "pruned"])
def test_a_run_that_came_to_its_end_is_not_begun_again(tmp_path: Path, status: str) -> None:
    given = given_to(tmp_path, "it")
    result = perform(given, report=lambda *_: status == "finished")
    assert result.status == status
    assert perform(given, resume=True) == result
    assert abandon(given) == result


def test_a_run_whose_process_died_is_a_failure(store: Path, tmp_path: Path) -> None:
    for name in (".progress.json.1", "last.part"):
        (store / "runs" / "killed" / "checkpoints" / name).touch()  # it died while it was writing
    given = given_to(store, "killed", *ITEMS, tracked=True)
    settings = compose(given).tracking
    before = tracking.find_run(settings, "dead", "killed")
    notes = last_checkpoint(store / "runs" / "killed").with_name("progress.json")
    said = json.loads(notes.read_text())
    assert said.pop("mlflow_run_id") == before
    notes.write_text(json.dumps(said))  # as if it had died before it could note the id
    result = abandon(given, **{"study.id": "dead"})
    assert (result.status, result.reason, result.detail) == ("failed", "crashed", "it died twice")
    assert (result.epochs, len(result.history), result.attempts) == (3, 3, 1)
    assert result.objective == max(epoch["val/accuracy"] for epoch in result.history)
    assert (result.device, result.threads, result.checkpoint) == ("cpu", 1, str(BEST))
    assert result.parameters == sum(layer.parameters for layer in compose(given).model.layers())
    assert 0 < result.train_seconds < result.seconds
    assert Result.read(store / "runs" / "killed") == result
    assert {path.name for path in (store / "runs" / "killed" / "checkpoints").iterdir()} == {"best.ckpt"}
    found = kept(store, result)
    assert (before, found.info.status) == (result.mlflow_run_id, "FAILED")
    assert (found.data.tags["reason"], found.data.tags["detail"]) == ("crashed", "it died twice")
    assert "attempts" not in found.data.tags
    assert logged(store, result) == of(result)
    whole = perform(given_to(tmp_path, "whole", *ITEMS))
    assert result.history == whole.history[:3]


def test_a_run_that_never_began_is_a_failure(store: Path) -> None:
    given = given_to(store, "never", tracked=True)
    result = abandon(given, **{"study.id": "dead"})
    assert (result.status, result.epochs, result.objective, result.checkpoint) == ("failed", 0, None, None)
    assert {path.name for path in (store / "runs" / "never").iterdir()} == {
        *("config.yaml", "overrides.yaml", "result.json"),
    }
    found = kept(store, result)
    assert found.info.status == "FAILED"
    assert (found.data.tags["command"], found.data.tags["study.id"]) == (result.command, "dead")
    assert found.data.params["model.filters"] == "[4]"


def test_a_run_is_abandoned_whatever_became_of_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(_: object) -> str:
        raise RequestError("damaged")

    monkeypatch.setattr(datasets, "verify", damaged)
    assert abandon(given_to(tmp_path, "it")).status == "failed"


@pytest.mark.parametrize(("status", "state"), [("finished", "FINISHED"), ("pruned", "KILLED")])
def test_an_equal_run_is_taken_over(store: Path, status: str, state: str) -> None:
    items = ["trainer.max_epochs=3"]
    earlier = perform(given_to(store, status, *items), report=lambda *_: status == "finished")
    result = repeat(given_to(store, f"{status}-again", *items, tracked=True), earlier, **{"study.id": "live"})
    assert (result.duplicate_of, result.status, result.attempts) == (status, status, 1)
    assert (result.metrics, result.history) == (earlier.metrics, earlier.history)
    assert (result.best_epoch, result.objective) == (earlier.best_epoch, earlier.objective)
    assert (result.parameters, result.multiply_adds) == (earlier.parameters, earlier.multiply_adds)
    assert (result.seconds, result.train_seconds, result.checkpoint) == (0.0, 0.0, None)
    assert Result.read(store / "runs" / f"{status}-again") == result
    assert not (store / "runs" / f"{status}-again" / "checkpoints").exists()
    found = kept(store, result)
    assert (found.info.status, found.data.tags["duplicate_of"]) == (state, status)
    assert (found.data.tags["study.id"], found.data.params["trainer.max_epochs"]) == ("live", "3")
    assert logged(store, result) == of(result)
    third = repeat(given_to(store, f"{status}-third", *items), result)
    assert third.duplicate_of == status  # the run that was performed


def test_taking_over_can_be_repeated_after_a_crash(tmp_path: Path) -> None:
    earlier = perform(given_to(tmp_path, "it"))
    given = given_to(tmp_path, "again")
    interrupted = record.Record(compose(given), given, None, "cpu", 1)
    interrupted.make_folder()
    result = repeat(given, earlier)
    assert (result.attempts, result.duplicate_of, result.history) == (1, "it", earlier.history)


def test_results_of_earlier_versions_can_be_read(tmp_path: Path) -> None:
    result = perform(given_to(tmp_path, "it"))
    assert result.multiply_adds == sum(layer.multiply_adds for layer in compose(SMALL).model.layers())
    content = json.loads(result.path.read_text())
    for key in ("multiply_adds", "attempts", "duplicate_of", "test_opened_at"):
        del content[key]
    result.path.write_text(json.dumps(content))
    old = Result.read(tmp_path / "runs" / "it")
    assert (old.multiply_adds, old.attempts, old.duplicate_of, old.test_opened_at) == (None, 1, None, None)


def test_two_processes_are_not_at_one_run(tmp_path: Path) -> None:
    given = given_to(tmp_path, "it")
    refused: list[str] = []

    def report(*_: Any) -> bool:
        with pytest.raises(RequestError) as caught:  # a second caller, while the first one is in its epoch
            perform(given, resume=True)
        refused.append(str(caught.value))
        return True

    result = perform(given, resume=True, report=report)
    assert refused == ["name=it: another process is at this run; allowed: another name, or this one after its end"]
    assert (result.status, result.attempts) == ("finished", 1)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["it"], "no lock is left"


def test_a_result_that_cannot_be_written_is_a_failure_in_the_account_too(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Result) -> Path:
        raise OSError(28, "No space left on device")

    given = given_to(store, "full", tracked=True)
    with monkeypatch.context() as patch:
        patch.setattr(Result, "write", full)
        with pytest.raises(RunFailure, match=r"full/result\.json cannot be written \(No space left on device\)$"):
            perform(given)
    client = client_of(f"sqlite:///{store}/mlflow.db")
    found = client.get_run(noted(store / "runs" / "full")["mlflow_run_id"])
    assert (found.info.status, found.data.tags["reason"]) == ("FAILED", "error")
    assert "No space left" in found.data.tags["detail"]
    result = perform(given, resume=True)  # once there is space again
    assert (result.status, result.mlflow_run_id) == ("finished", found.info.run_id)
    assert kept(store, result).info.status == "FINISHED"
