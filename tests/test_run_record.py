"""The record of a run that a process wrote in part, or that nobody finished; its folder."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from mnist_sweep import run, run_report
from mnist_sweep.config.command import CommandLine
from mnist_sweep.errors import Interrupted, RequestError, RunFailure
from mnist_sweep.result import BEST, Result
from mnist_sweep.run_folder import RunFolder, lock
from mnist_sweep.run_record import RunRecord, abandon, drop_checkpoint, prune
from mnist_sweep.tracking.store import client_of
from mnist_sweep.training import datasets
from tests.conftest import ROOT, command, interrupt_in, tracked

pytestmark = pytest.mark.slow

#: Enough chance in it that nothing of the state may be lost.
ITEMS = ["trainer.max_epochs=4", "model.dropout=0.4", "data.augmentation.rotation=10", "scheduler=onecycle"]
#: A run whose process is killed in epoch 3, as the system does it.
KILLED = """
import os, signal, sys
from mnist_sweep.config.command import CommandLine
from mnist_sweep.run import train
def on_epoch(epoch, values):
    if epoch == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return True
train(CommandLine.of(sys.argv[1:]), on_epoch=on_epoch, tags={"study.id": "dead"})
"""


def give_up(request: CommandLine, **tags: Any) -> Result:
    return abandon(request, parent=None, tags=tags, reason="crashed", detail="it died twice")


def in_mlflow(store: Path, result: Result) -> Any:
    return client_of(f"sqlite:///{store}/mlflow.db").get_run(str(result.mlflow_run_id))


def logged(store: Path, result: Result) -> list[tuple[int, float]]:
    """Step and value of all that MLflow has of a metric."""
    client = client_of(f"sqlite:///{store}/mlflow.db")
    history = client.get_metric_history(str(result.mlflow_run_id), "val/accuracy")
    return sorted((metric.step, metric.value) for metric in history)


def of(result: Result) -> list[tuple[int, float]]:
    return [(number, epoch["val/accuracy"]) for number, epoch in enumerate(result.history, start=1)]


def test_the_record_needs_no_torch() -> None:
    program = "import sys, mnist_sweep.run_record; sys.exit(bool({'torch', 'mlflow', 'matplotlib'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)


def test_a_killed_run_goes_on_to_the_same_numbers_or_is_a_failure(store: Path, tmp_path: Path) -> None:
    environment, folder = {**os.environ, "PYTHONPATH": str(ROOT)}, store / "runs" / "dead"
    arguments = tracked(store, "dead", *ITEMS).overrides
    process = subprocess.run([sys.executable, "-c", KILLED, *arguments], env=environment, timeout=300, check=False)
    assert process.returncode == -signal.SIGKILL
    shutil.copytree(folder, tmp_path / "runs" / "it")
    whole = run.train(command(tmp_path, "whole", *ITEMS))
    heard = Mock(return_value=True)
    resumed = run.train(command(tmp_path, "it", *ITEMS), resume=True, on_epoch=heard)
    assert [call.args[0] for call in heard.mock_calls] == [3, 4]
    assert (resumed.status, resumed.attempts) == ("finished", 2)
    for same in ("history", "best_epoch", "metrics", "confusion"):
        assert getattr(resumed, same) == getattr(whole, same), same

    for name in ("checkpoints/last.part", ".result.json.1"):
        (folder / name).touch()  # it died while it was writing
    request = tracked(store, "dead", *ITEMS)
    before = RunFolder.of(request.config).progress()
    result = give_up(request)
    assert (result.status, result.reason, result.detail) == ("failed", "crashed", "it died twice")
    assert (result.epochs, result.history, result.attempts) == (3, whole.history[:3], 1)
    assert result.objective == max(epoch["val/accuracy"] for epoch in result.history)
    assert (result.device, result.threads, result.checkpoint) == ("cpu", 1, str(BEST))
    assert (result.seconds, 0 < result.train_seconds < result.seconds) == (round(before.seconds, 3), True)
    assert Result.read(folder) == result
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["best.ckpt"]
    found = in_mlflow(store, result)
    assert (result.mlflow_run_id, found.info.status) == (before.mlflow_run_id, "FAILED")
    assert (found.data.tags["reason"], found.data.tags["detail"]) == ("crashed", "it died twice")
    assert (found.data.tags["study.id"], "attempts" in found.data.tags) == ("dead", False)
    assert logged(store, result) == of(result)
    assert run.train(command(store, "dead", *ITEMS), resume=True).attempts == 2  # it can still be resumed


def test_a_home_folder_is_written_out_in_the_command_that_repeats_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    request = command(tmp_path, "it", "data=mnist", "data.root='~/mnist'")
    assert RunRecord(request, request.config, "cpu", 1).command.assigned()["data.root"] == f"{tmp_path}/mnist"


def test_a_run_that_never_began_or_can_not_be_described_is_a_failure(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = tracked(store, "never")
    result = give_up(request, **{"study.id": "dead"})
    assert (result.status, result.epochs, result.objective, result.checkpoint) == ("failed", 0, None, None)
    assert not (store / "runs" / "never" / "checkpoints").exists()
    found = in_mlflow(store, result)
    assert (found.info.status, found.data.tags["command"]) == ("FAILED", result.command)
    assert (found.data.tags["study.id"], found.data.params["model.filters"]) == ("dead", "[4]")

    monkeypatch.setattr(datasets, "verify", Mock(side_effect=RequestError("damaged")))
    assert give_up(command(store, "damaged")).status == "failed"


def test_a_run_that_came_to_its_end_or_was_begun_otherwise_keeps_what_it_is(tmp_path: Path) -> None:
    result = run.train(command(tmp_path, "it"), on_epoch=lambda *_: False)
    assert result.status == "pruned"
    assert run.train(command(tmp_path, "it"), resume=True) == give_up(command(tmp_path, "it")) == result
    result.path.unlink()
    given_up = give_up(command(tmp_path, "it", "optimizer.lr=0.5"))
    assert (given_up.status, given_up.overrides, given_up.history) == ("failed", result.overrides, result.history)


def test_a_resumed_run_goes_on_in_its_own_mlflow_run_or_has_all_in_a_new_one(store: Path) -> None:
    with pytest.raises(Interrupted):
        run.train(tracked(store, "resumed", "trainer.max_epochs=4"), on_epoch=interrupt_in(3))
    first = Result.read(store / "runs" / "resumed")
    assert in_mlflow(store, first).data.tags["reason"] == "interrupted"
    # on a machine with another number of processors; a parameter cannot be changed in MLflow
    request = tracked(store, "resumed", "trainer.max_epochs=4", "trainer.threads=2")
    folder = RunFolder.of(request.config)
    assert folder.progress().seconds == first.seconds
    folder.note(seconds=100.0)
    result = run.train(request, resume=True, pictures=False)
    assert (result.status, result.mlflow_run_id) == ("finished", first.mlflow_run_id)
    found = in_mlflow(store, result)
    assert (found.info.status, "reason" in found.data.tags) == ("FINISHED", False)
    assert (found.data.tags["attempts"], found.data.params["trainer.threads"]) == ("2", "1")
    assert logged(store, result) == of(result), "each epoch once, also the one that was done again"
    assert 100 < result.seconds < 150, "the times of all attempts add up"
    assert result.train_seconds > first.train_seconds / 2
    with pytest.raises(Interrupted):
        run.train(command(store, "late", "trainer.max_epochs=4"), on_epoch=interrupt_in(3))
    result = run.train(tracked(store, "late", "trainer.max_epochs=4"), resume=True, pictures=False)
    assert logged(store, result) == of(result), "also the epochs of before there was an MLflow run"


def test_a_run_that_was_killed_at_its_end_has_everything_once(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for pictures in ("network_pictures", "part_pictures"):  # which take most of the time
        monkeypatch.setattr(run_report, pictures, lambda *_: {})
    request = tracked(store, "told", "trainer.max_epochs=2")
    with monkeypatch.context() as patch:
        patch.setattr(RunRecord, "close", Mock(side_effect=SystemExit))
        with pytest.raises(SystemExit):
            run.train(request, test=True)
    result = run.train(request, test=True, resume=True)
    assert (result.status, result.attempts) == ("finished", 2)
    assert logged(store, result) == of(result)
    found = in_mlflow(store, result)
    assert len(found.outputs.model_outputs) == 1
    tables = [{"path": f"{part}/per_class.json", "type": "table"} for part in ("validation", "test")]
    assert json.loads(found.data.tags["mlflow.loggedArtifacts"]) == tables


def test_a_result_that_cannot_be_written_is_a_failure_in_mlflow_too(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = tracked(store, "full")
    with monkeypatch.context() as patch:
        patch.setattr(Result, "write", Mock(side_effect=OSError(28, "No space left on device")))
        with pytest.raises(RunFailure, match=r"full/result\.json cannot be written \(No space left on device\)$"):
            run.train(request, pictures=False)
    run_id = RunFolder.of(request.config).progress().mlflow_run_id
    found = client_of(f"sqlite:///{store}/mlflow.db").get_run(str(run_id))
    assert (found.info.status, found.data.tags["reason"]) == ("FAILED", "error")
    assert "No space left" in found.data.tags["detail"]
    result = run.train(request, resume=True, pictures=False)  # once there is space again
    assert (result.status, result.mlflow_run_id) == ("finished", run_id)
    assert in_mlflow(store, result).info.status == "FINISHED"


@pytest.fixture
def paused(tmp_path: Path) -> RunFolder:
    """The folder of a run that has paused after the second of four epochs."""
    pause = run.train(command(tmp_path, "it", *ITEMS), on_epoch=lambda epoch, _: epoch < 2 or "pause")
    assert pause.status == "interrupted"
    return RunFolder(tmp_path / "runs" / "it")


def test_a_paused_run_is_pruned_once_whatever_its_session_and_its_worker_still_wrote(
    paused: RunFolder, tmp_path: Path
) -> None:
    config, left = command(tmp_path, "it").config, paused.result()
    assert left
    left.path.unlink()  # the worker was killed before it wrote that
    pruned = prune(paused, config)
    assert pruned
    assert (pruned.status, pruned.reason, pruned.epochs) == ("pruned", None, 2)
    for same in ("metrics", "history", "best_epoch", "overrides", "command", "checkpoint", "attempts", "precision"):
        assert getattr(pruned, same) == getattr(left, same), same
    assert prune(paused, config) == pruned  # the session was killed before the study knew
    shutil.rmtree(paused.path)
    assert prune(paused, config) is None


def test_what_cannot_be_written_of_a_run_that_does_not_go_on_is_one_line(
    paused: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = command(tmp_path, "it").config
    monkeypatch.setattr(Result, "write", Mock(side_effect=OSError(28, "No space left on device")))
    for end in (lambda: prune(paused, config), lambda: drop_checkpoint(paused, config.tracking)):
        with pytest.raises(RunFailure, match=r"it/result\.json cannot be written \(No space left on device\)$"):
            end()


def test_two_processes_are_not_at_one_run(tmp_path: Path) -> None:
    request, refused = command(tmp_path, "it"), list[str]()

    def on_epoch(*_: Any) -> bool:
        with pytest.raises(RequestError) as caught:  # a second caller, while the first one is in its epoch
            run.train(request, resume=True)
        refused.append(str(caught.value))
        return True

    result = run.train(request, resume=True, on_epoch=on_epoch)
    assert refused == ["name=it: another process is at this run; allowed: another name, or this one after its end"]
    assert (result.status, result.attempts) == ("finished", 1)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["it"], "no lock is left"
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match=r"cannot be written \(.*\); allowed"), lock(tmp_path / "file" / "it", ""):
        pass


def test_a_folder_tells_its_config_and_history_wherever_it_is_and_whatever_is_damaged(tmp_path: Path) -> None:
    request = tracked(tmp_path / "before", "it", "data=mnist")
    folder = RunFolder.of(request.config)
    folder.begin(request.config, [*request.overrides, "data.root=/data"])
    for line in ({"attempts": 1}, {"epoch": 1, "a": 0.5}, {"epoch": 2, "a": 0.6}, {"epoch": 2, "a": 0.7}):
        folder.note(**line, **({"seconds": 2.0, "train_seconds": 1.0} if "epoch" in line else {}))
    with (folder.path / "history.jsonl").open("a") as file:
        file.write('{"epoch": 3, "a"')
    (tmp_path / "before").rename(tmp_path / "after")
    moved = RunFolder(tmp_path / "after" / "runs" / "it")
    progress = moved.progress()
    assert (progress.attempts, progress.history) == (1, [{"a": 0.5}, {"a": 0.7}])
    config = moved.config()
    assert config
    assert (config.output, config.data.root) == (str(tmp_path / "after"), "/data")
    assert config.tracking == tracked(tmp_path / "after", "it").config.tracking
    folder = RunFolder(tmp_path / "sweep")  # where it stands as it was typed; only the config knows where that was
    folder.path.mkdir()
    folder.describe(request.config, ["data=mnist", "data.root='~/mnist'"])
    assert (read := folder.config())
    assert read.data.root == request.config.data.root
    assert moved.differences(command(tmp_path, "it", "data=mnist", "optimizer.lr=0.5").config) == [
        "optimizer.lr: 0.001 → 0.5"
    ]
    (moved.path / "config.yaml").write_text("data: {name")
    assert (moved.config(), moved.differences(config)) == (None, [])


def test_results_of_earlier_versions_can_be_read(tmp_path: Path) -> None:
    content = json.loads(run.train(command(tmp_path, "it")).path.read_text())
    for key in (
        "multiply_adds",
        "attempts",
        "duplicate_of",
        "test_opened_at",
        "schema_version",
        "params",
        "working_folder",
    ):
        del content[key]
    (tmp_path / "runs" / "it" / "result.json").write_text(json.dumps(content))
    old = Result.read(tmp_path / "runs" / "it")
    assert (old.multiply_adds, old.attempts, old.duplicate_of, old.test_opened_at) == (None, 1, None, None)
