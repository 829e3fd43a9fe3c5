"""A run in MLflow, read back from a real store, and what happens when the store does not work."""

import getpass
import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import mlflow
import numpy as np
import pytest
import torch
import yaml
from matplotlib import image as mpl_image

from mnist_sweep import run, run_report, tracking
from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.options import Tracking
from mnist_sweep.errors import Interrupted
from mnist_sweep.result import BEST, Result
from mnist_sweep.run_folder import RunFolder
from mnist_sweep.tracking import MLflowRun, registered
from mnist_sweep.tracking.journal import leave_alone
from mnist_sweep.tracking.store import client_of
from mnist_sweep.training import datasets
from mnist_sweep.training.lightning_module import Classifier
from tests.conftest import SMALL, Program, command, interrupt_in, tracked
from tests.servers import serving

pytestmark = pytest.mark.slow

_FILES = {
    "confusion_matrix.png", "confusion_matrix.json", "per_class.json", "mistakes.png", "calibration.png",
    "calibration.json",
}  # fmt: skip


def client(store: Path) -> Any:
    return client_of(f"sqlite:///{store}/mlflow.db")


def files(found: Any) -> Path:
    """The folder of a run's artifacts."""
    return Path(found.info.artifact_uri.removeprefix("file://"))


@pytest.fixture
def settings(store: Path) -> Tracking:
    return tracked(store, "it").config.tracking


def test_what_mlflow_has_of_a_run_with_the_test_set(store: Path) -> None:
    items = ["optimizer=sgd", "trainer.patience=9", "trainer.precision=32", "trainer.max_epochs=2"]
    whole = run.train(tracked(store, "whole", *items), test=True, tags={"study": "none", "trial": 0})
    found = client(store).get_run(whole.mlflow_run_id)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "whole")
    config = CommandLine.of(whole.overrides).config
    same = {"trainer.threads", "trainer.accelerator", "data.fallback"}  # the command writes them out
    asked = {key: str(value) for key, value in config.parameters().items() if key not in same}
    assert {key: value for key, value in found.data.params.items() if key not in same} == asked
    assert (found.data.params["optimizer"], found.data.params["model.filters"]) == ("sgd", "[4]")
    tags = found.data.tags
    assert (tags["command"], tags["study"], tags["trial"], tags["device"]) == (whole.command, "none", "0", "cpu")
    assert (tags["mlflow.user"], tags["mlflow.source.name"]) == (getpass.getuser(), whole.command)
    rates = client(store).get_metric_history(whole.mlflow_run_id, "lr")
    assert [(rate.step, rate.value) for rate in rates] == [(1, config.optimizer.lr), (2, config.optimizer.lr)]
    kept = Path(whole.folder) / BEST  # on disk once, however many copies MLflow has
    assert {path.samefile(kept) for path in (store / "artifacts").rglob("best.ckpt")} == {True}
    assert (tags["dataset"], tags["dataset.digest"]) == ("mnist5k", datasets.verify(config.data))
    assert tags["version.torch"]
    assert tags["test.opened_at"] == whole.test_opened_at
    assert "| **all** |" in tags["mlflow.note.content"]
    for name, value in whole.metrics.items():
        if not name.startswith("test/"):
            assert found.data.metrics[f"best/{name}"] == value
        history = client(store).get_metric_history(whole.mlflow_run_id, name)
        assert history[-1].value == value or history[0].value == value, name
        assert len(history) == (1 if name.startswith("test/") else 2)
    assert (tags["role"], tags["state"]) == ("run", "complete")
    for name in ("best_epoch", "epochs", "parameters", "multiply_adds"):
        assert found.data.metrics[name] == getattr(whole, name)
    assert 0 < found.data.metrics["seconds"] <= whole.seconds
    folder = files(found)
    assert folder.is_relative_to(store / "artifacts")
    assert {path.name for path in folder.iterdir()} == {
        *("config.yaml", "overrides.yaml", "checkpoints", "curves.png", "filters.png", "activations.png"),
        *("validation", "test"),
    }
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["filters"] == [4]
    checkpoint = (Path(whole.folder) / str(whole.checkpoint)).read_bytes()
    assert (folder / "checkpoints" / "best.ckpt").read_bytes() == checkpoint
    for part, name in (("validation", "val"), ("test", "test")):
        assert {path.name for path in (folder / part).iterdir()} == _FILES
        counts = np.array(json.loads((folder / part / "confusion_matrix.json").read_text()))
        assert counts.trace() / counts.sum() == whole.metrics[f"{name}/accuracy"]
        table = json.loads((folder / part / "per_class.json").read_text())
        classes = dict(zip(table["columns"], zip(*table["data"], strict=True), strict=True))
        assert sum(classes["recall"]) / 10 == pytest.approx(whole.metrics[f"{name}/recall"])
        assert classes["support"] == (50,) * 10
        for picture in (folder / part).glob("*.png"):
            assert mpl_image.imread(picture)[..., :3].std() > 0.02, "not an empty page"
    (output,) = found.outputs.model_outputs
    model = client(store).get_logged_model(output.model_id)
    assert {metric.key: metric.value for metric in model.metrics}.items() >= whole.metrics.items()
    assert (model.model_type, model.params["model.filters"]) == ("classifier", "[4]")
    kept = Path(model.artifact_location.removeprefix("file://"))
    assert (kept / "extra_files" / "best.ckpt").read_bytes() == checkpoint
    assert mlflow.get_tracking_uri() != f"sqlite:///{store}/mlflow.db", "the process's own store is as it was"


def test_a_trial_keeps_little_and_the_winner_is_completed_by_the_test_set(store: Path) -> None:
    found = client(store).get_run(run.train(tracked(store, "trial"), pictures=False).mlflow_run_id)
    assert {path.name for path in files(found).iterdir()} == {
        *("config.yaml", "overrides.yaml", "checkpoints", "validation"),
    }
    names = {path.name for path in (files(found) / "validation").iterdir()}
    assert names == {"confusion_matrix.png", "confusion_matrix.json"}
    assert found.outputs is None or not found.outputs.model_outputs
    performed = run.train(tracked(store, "winner"))
    (result,) = run.open_test([store / "runs" / "winner"])
    found = client(store).get_run(performed.mlflow_run_id)
    assert (result.mlflow_run_id, found.info.status) == (performed.mlflow_run_id, "FINISHED")
    assert found.data.tags["test.opened_at"] == result.test_opened_at
    assert found.data.metrics["test/accuracy"] == result.metrics["test/accuracy"]
    names = {path.name for path in (files(found) / "test").iterdir()}
    assert {"per_class.json", "confusion_matrix.png"} <= names
    model = client(store).get_logged_model(found.outputs.model_outputs[0].model_id)
    assert {metric.key: metric.value for metric in model.metrics}.items() >= result.metrics.items()


def test_pruned_failed_and_interrupted_runs_say_so(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def state(result: Result) -> tuple[str | None, ...]:
        found = client(store).get_run(result.mlflow_run_id)
        return found.info.status, *map(found.data.tags.get, ("state", "reason", "detail"))

    assert state(run.train(tracked(store, "pruned"), on_epoch=lambda *_: False)) == ("KILLED", "pruned", None, None)
    with pytest.raises(Interrupted):
        run.train(tracked(store, "interrupted"), on_epoch=interrupt_in(1))
    assert state(Result.read(store / "runs" / "interrupted")) == ("KILLED", "stopped", "interrupted", None)
    monkeypatch.delattr(Classifier, "training_step")
    *known, detail = state(run.train(tracked(store, "failed")))
    assert (known, bool(detail)) == (["FAILED", "failed", "error"], True)


def test_a_store_that_cannot_be_opened_fails_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "db").write_text("this is no database")
    result = run.train(tracked(tmp_path, "alone", f"tracking.uri=sqlite:///{tmp_path}/db"))
    assert (result.status, result.mlflow_run_id) == ("finished", None)
    assert caplog.text.count("MLflow failed") == 1
    assert (Path(result.folder) / "unsent.jsonl").is_file()


def test_a_store_that_breaks_down_fails_no_run_and_leaves_none_open(
    store: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(type(client_of("sqlite://")), "log_batch", Mock(side_effect=ConnectionError("gone")))
        result = run.train(tracked(store, "broken"), test=True)
    assert result.status == "finished"
    assert client(store).get_run(result.mlflow_run_id).info.status == "RUNNING"
    assert caplog.text.count("MLflow failed (ConnectionError: gone)") == 1
    leave_alone(f"sqlite:///{store}/mlflow.db", 0)
    assert run_report.send(RunFolder(Path(result.folder)))
    found = client(store).get_run(result.mlflow_run_id)
    assert (found.info.status, found.data.tags["state"]) == ("FINISHED", "complete")
    assert found.data.metrics["test/accuracy"] == result.metrics["test/accuracy"]
    assert len(found.outputs.model_outputs) == 1
    assert {path.name for path in (files(found) / "test").iterdir()} == _FILES
    assert not [*Path(result.folder).glob("*unsent*")]


def test_runs_of_a_process_that_died_are_closed(store: Path, settings: Tracking) -> None:
    runs = [MLflowRun(settings, store, "open", tags={"study.id": study}) for study in ("dead", "dead", "alive")]
    tracking.close_running(settings, "dead", "crashed", keep=runs[1].run_id, state="FAILED")
    found = [client(store).get_run(each.run_id) for each in runs]
    assert [each.info.status for each in found] == ["FAILED", "RUNNING", "RUNNING"]
    assert (found[0].data.tags["reason"], found[0].data.tags["state"]) == ("crashed", "failed")


def test_a_trial_that_went_on_elsewhere_has_one_run(store: Path, settings: Tracking) -> None:
    """The process that was lost had not been heard of when the next one asked for its run."""
    known = {"study.id": "twice"}
    goes_on = MLflowRun(settings, store, "it", tags=known, key="one")
    client(store).set_tag(goes_on.run_id, "key", "not seen")
    lost = MLflowRun(settings, store, "it", tags=known, key="one")
    client(store).set_tag(goes_on.run_id, "key", "one")
    goes_on.end("FINISHED")
    tracking.close_running(settings, "twice", "crashed", keep=None, state="FAILED")
    found = [client(store).get_run(each.run_id).info for each in (goes_on, lost)]
    assert [(each.status, each.lifecycle_stage) for each in found] == [("FINISHED", "active"), ("RUNNING", "deleted")]


def test_one_run_of_a_study_is_the_winner_and_all_can_be_deleted(store: Path, settings: Tracking) -> None:
    runs = [MLflowRun(settings, store, "it", tags={"study.id": study}) for study in ("mine", "mine", "other")]
    for winner in (0, 1, 2):
        tracking.crown(settings, "other" if winner == 2 else "mine", runs[winner].run_id)
    roles = [client(store).get_run(each.run_id).data.tags["role"] for each in runs]
    assert roles == ["final", "winner", "winner"]
    assert tracking.delete_runs(settings, "mine") == 2
    stages = [client(store).get_run(each.run_id).info.lifecycle_stage for each in runs]
    assert stages == ["deleted", "deleted", "active"]
    assert tracking.page_of(f"sqlite:///{store}/mlflow.db", "http://it").startswith("http://it/#/experiments/1/runs?")


def test_a_run_that_is_gone_is_not_gone_on_with(store: Path, settings: Tracking) -> None:
    earlier = MLflowRun(settings, store, "it").run_id
    assert MLflowRun(settings, store, "it", resume=earlier).run_id == earlier
    client(store).delete_run(earlier)
    assert MLflowRun(settings, store, "it", resume=earlier).run_id not in (None, earlier)


def test_an_end_that_is_told_later_takes_the_place_of_the_one_before(store: Path, settings: Tracking) -> None:
    paused = MLflowRun(settings, store, "on", key="on")
    paused.end("KILLED", "paused")
    leave_alone(str(getattr(settings, "uri", "")))
    MLflowRun(settings, store, "on", resume=paused.run_id).end("FINISHED")
    leave_alone(str(getattr(settings, "uri", "")), 0)
    assert MLflowRun(settings, store, "on", ended=True).flush()
    found = client(store).get_run(paused.run_id)
    assert (found.info.status, found.data.tags.get("reason")) == ("FINISHED", None)


@pytest.mark.parametrize("ends", [False, True])
def test_a_pause_that_is_told_later_is_none_once_the_run_goes_on(store: Path, settings: Tracking, ends: bool) -> None:
    uri = str(getattr(settings, "uri", ""))
    paused = MLflowRun(settings, store, "late", key="late")
    leave_alone(uri)
    paused.end("KILLED", "paused")
    if not ends:
        leave_alone(uri, 0)
    on = MLflowRun(settings, store, "late", resume=paused.run_id)
    if ends:
        on.end("FINISHED")
        leave_alone(uri, 0)
        assert MLflowRun(settings, store, "late", ended=True).flush()
    found = client(store).get_run(paused.run_id)
    assert (found.info.status, found.data.tags.get("reason")) == ("FINISHED" if ends else "RUNNING", None)


def test_files_that_are_sent_leave_nothing_beside_a_call_that_waits(store: Path, settings: Tracking) -> None:
    kept = MLflowRun(settings, store, "beside")
    kept._journal.add("model", {}, kept._made_of)  # which waits for somebody who has the network
    kept.document([1], "test/one.json")
    assert not (store / "runs" / "beside" / "unsent").exists()
    assert (store / "runs" / "beside" / "unsent.jsonl").exists()
    assert (files(client(store).get_run(kept.run_id)) / "test" / "one.json").is_file()


class Branches(torch.nn.Module):
    """Which torch cannot export, since what it does depends on the images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, :10] if images.sum() > 0 else images.flatten(1)[:, 10:20]


def test_a_network_that_cannot_be_exported_is_no_fault_of_the_store(
    store: Path, settings: Tracking, caplog: pytest.LogCaptureFixture
) -> None:
    kept = MLflowRun(settings, store, "branches")
    checkpoint = store / "branches.ckpt"
    checkpoint.touch()
    kept.model(Branches().eval(), np.zeros((2, 1, 28, 28), np.float32), checkpoint, 1)
    kept.end("FINISHED")
    assert "tracking: MLflow does not take the model of this run" in caplog.text
    assert client(store).get_run(kept.run_id).info.status == "FINISHED"
    assert not (store / "runs" / "branches" / "unsent.jsonl").exists()


def test_without_tracking_nothing_is_written(tmp_path: Path) -> None:
    untracked = MLflowRun(command(tmp_path, "none").config.tracking, tmp_path, "none")
    untracked.parameters({"a": 1})
    untracked.metrics({"a": 1.0}, 1)
    untracked.end("FINISHED")
    assert (untracked.run_id, untracked.tracked) == (None, False)
    assert list(tmp_path.iterdir()) == []


def test_a_table_that_is_kept_again_takes_the_place_of_the_first(store: Path, settings: Tracking) -> None:
    kept = MLflowRun(settings, store, "tables")
    for recall in (0.5, 0.7):
        kept.table({"class": [0, 1], "recall": [recall, 1.0]}, "folder/ours.json")
    found = client(store).get_run(kept.run_id)
    table = json.loads((files(found) / "folder" / "ours.json").read_text())
    assert table == {"columns": ["class", "recall"], "data": [[0, 0.7], [1, 1.0]]}
    assert json.loads(found.data.tags["mlflow.loggedArtifacts"]) == [{"path": "folder/ours.json", "type": "table"}]


def test_a_sweep_is_kept_on_a_server(program: Program, tmp_path: Path) -> None:
    store = ["--backend-store-uri", "sqlite:///store.db", "--artifacts-destination", "store", "--workers", "1"]
    with serving(tmp_path, "mlflow", "server", *store, path="/health") as url:
        request = [*(item for item in SMALL if item != "tracking=none"), f"tracking.uri={url}", "launcher=inline"]
        done = program("+sweep=optuna", *request, "sweep.trials=1", "sweep.winner.top=1", "sweep.winner.seeds=1")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == ["mlruns/runs/sweep/sweep.json"]  # whatever MLflow has to say
        assert f"compare the runs   {url}/#/experiments/1/runs?" in done.stderr
        content = json.loads((tmp_path / done.stdout.strip()).read_text())
        client = client_of(url)
        runs = client.search_runs([client.get_run(content["mlflow_run_id"]).info.experiment_id])
        names = ["sweep", "sweep-0000", "sweep-0000-seed1", "sweep-0000-seed2"]
        assert {run.info.run_name: run.info.status for run in runs} == dict.fromkeys(names, "FINISHED")
        assert "report.html" in [file.path for file in client.list_artifacts(content["mlflow_run_id"])]
        assert registered(url, ["mnist_sweep_mnist5k"]) == "models:/mnist_sweep_mnist5k@champion"
        assert not (tmp_path / "mlruns" / "mlflow.db").exists()
        target = ("--to", "safetensors", "digits.safetensors", "--tracking-uri", url)
        exported = program(*target, module="mnist_sweep.export")
        assert exported.returncode == 0, exported.stderr
    assert (tmp_path / "digits.safetensors").stat().st_size > 1000
