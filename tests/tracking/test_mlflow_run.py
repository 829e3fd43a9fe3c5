"""The account in MLflow, read back from a real store, and what happens when the store does not work."""

import json
import logging
import os
import signal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from matplotlib import image as mpl_image

from mnist_sweep import evaluation, run, tracking
from mnist_sweep import hardware as processor
from mnist_sweep import run_record as record
from mnist_sweep.config.command import compose
from mnist_sweep.errors import Interrupted, interruptible
from mnist_sweep.result import Result
from mnist_sweep.tracking.store import client_of
from mnist_sweep.training import datasets
from mnist_sweep.training.lightning_module import Classifier
from tests.conftest import SMALL

UNTRACKED = [item for item in SMALL if item != "tracking=none"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one MLflow database for all tests of this file: making one takes seconds."""
    return tmp_path_factory.mktemp("store")


def perform(store: Path, name: str, *items: str, **arguments: Any) -> Result:
    given = [*UNTRACKED, f"output={store}", f"name={name}", *items]
    return run.run(compose(given), given, **arguments)


def client(store: Path) -> Any:
    return client_of(f"sqlite:///{store}/mlflow.db")


def test_the_account_of_a_run(store: Path) -> None:
    result = perform(store, "whole", "optimizer=sgd", "trainer.patience=9", open_test=True, tags={"study": "none"})
    kept = client(store)
    found = kept.get_run(result.mlflow_run_id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "whole"
    config = compose(result.overrides)
    asked = compose([*UNTRACKED, f"output={store}", "optimizer=sgd", "trainer.patience=9"])
    asked = asked.with_precision(processor.precision(asked.trainer.precision, on_gpu=False)[0])
    assert found.data.params == {key: str(value) for key, value in asked.parameters().items()}
    assert found.data.params["optimizer"] == "sgd"
    assert found.data.params["model.filters"] == "[4]"
    tags = found.data.tags
    assert tags["command"] == result.command
    assert tags["dataset"] == "mnist5k"
    assert tags["dataset.digest"] == datasets.verify(config.data)
    assert tags["device"] == "cpu"
    assert tags["version.torch"]
    assert tags["study"] == "none"
    assert "test.opened_at" in tags
    for name, value in result.metrics.items():
        history = kept.get_metric_history(result.mlflow_run_id, name)
        assert [(metric.step, metric.value) for metric in history] == [(1, value)]


def test_the_artifacts_of_a_run(store: Path) -> None:
    result = perform(store, "artifacts", open_test=True)
    kept = client(store)
    folder = Path(kept.get_run(result.mlflow_run_id).info.artifact_uri.removeprefix("file://"))
    assert folder.is_relative_to(store / "artifacts")
    assert {path.name for path in folder.iterdir()} == {
        *("config.yaml", "overrides.yaml", "checkpoints", "curves.png", "filters.png", "activations.png"),
        *(
            file.format(part)
            for part in ("validation", "test")
            for file in (
                "confusion_matrix_{}.png", "confusion_matrix_{}.json", "confusion_matrix_{}_normalised.png",
                "confusion_matrix_{}_normalised.json", "per_class_{}.json", "per_class_{}_table.json",
                "mistakes_{}.png", "calibration_{}.png", "calibration_{}.json",
            )
        ),
    }  # fmt: skip
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["filters"] == [4]
    assert (folder / "checkpoints" / "best.ckpt").read_bytes() == (
        Path(result.folder) / str(result.checkpoint)
    ).read_bytes()
    for part, name in (("validation", "val"), ("test", "test")):
        counts = json.loads((folder / f"confusion_matrix_{part}.json").read_text())
        right = sum(counts[label][label] for label in range(10))
        assert right / sum(map(sum, counts)) == result.metrics[f"{name}/accuracy"]
        classes = json.loads((folder / f"per_class_{part}.json").read_text())
        assert sum(classes["recall"]) / 10 == pytest.approx(result.metrics[f"{name}/recall"])
        assert classes["support"] == [50] * 10
        picture = mpl_image.imread(folder / f"confusion_matrix_{part}.png")
        assert picture[..., :3].std() > 0.05  # not an empty page


def test_a_table_that_is_kept_again_takes_the_place_of_the_first(store: Path) -> None:
    account = tracking.Account(compose([f"output={store}"]).tracking, store, "tables")
    columns: dict[str, list[Any]] = {"class": [0, 1], "recall": [0.5, 1.0]}
    for _ in range(2):
        account.table(columns, "ours.json")
    client(store).log_table(account.run_id, columns, "mlflows.json")
    account.table(columns, "another.json")
    account.end("FINISHED")
    found = client(store).get_run(account.run_id)
    folder = Path(found.info.artifact_uri.removeprefix("file://"))
    tables = [json.loads((folder / f"{name}.json").read_text()) for name in ("mlflows", "ours", "another")]
    assert tables[0] == tables[1] == tables[2]
    shown = json.loads(found.data.tags["mlflow.loggedArtifacts"])
    assert shown == [{"path": f"{name}.json", "type": "table"} for name in ("ours", "mlflows", "another")]


def test_pruned_failed_and_interrupted_runs_say_so(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = client(store)
    pruned = perform(store, "pruned", report=lambda *_: False)
    assert kept.get_run(pruned.mlflow_run_id).info.status == "KILLED"

    def interrupt(*_: object) -> bool:
        raise Interrupted(15)

    with pytest.raises(Interrupted):
        perform(store, "interrupted", report=interrupt)
    interrupted = kept.get_run(Result.read(store / "runs" / "interrupted").mlflow_run_id)
    assert (interrupted.info.status, interrupted.data.tags["reason"]) == ("KILLED", "interrupted")

    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Classifier, "training_step", fail)
    failed = kept.get_run(perform(store, "failed").mlflow_run_id)
    assert (failed.info.status, failed.data.tags["reason"]) == ("FAILED", "error")
    assert failed.data.tags["detail"] == "ZeroDivisionError: a bug"


def test_a_store_that_cannot_be_opened_fails_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("mnist_sweep"), "propagate", True)
    (tmp_path / "db").write_text("this is no database")
    result = perform(tmp_path, "alone", f"tracking.uri=sqlite:///{tmp_path}/db")
    assert (result.status, result.mlflow_run_id) == ("finished", None)
    assert caplog.text.count("cannot be used") == 1


def test_a_store_that_breaks_down_fails_no_run(
    store: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("mnist_sweep"), "propagate", True)
    mlflow_client = type(client(store))

    def broken(*_: object, **__: object) -> None:
        raise ConnectionError("gone")

    monkeypatch.setattr(mlflow_client, "log_batch", broken)
    broke = perform(store, "broken")
    assert broke.status == "finished"
    assert client(store).get_run(broke.mlflow_run_id).info.status == "FINISHED"
    assert caplog.text.count("this run goes on without its account") == 1


def test_runs_of_a_process_that_died_are_closed(store: Path) -> None:
    settings = compose([f"output={store}"]).tracking
    studies = ("dead", "dead", "alive")
    accounts = [tracking.Account(settings, store, "open", tags={"study.id": study}) for study in studies]
    tracking.close_running(settings, "dead", "crashed", keep=accounts[1].run_id, state="FAILED")
    kept = client(store)
    states = [kept.get_run(account.run_id).info.status for account in accounts]
    assert states == ["FAILED", "RUNNING", "RUNNING"]
    assert kept.get_run(accounts[0].run_id).data.tags["reason"] == "crashed"
    for account in accounts[1:]:
        account.end("FINISHED")


def test_without_tracking_nothing_is_written(tmp_path: Path) -> None:
    account = tracking.Account(compose(["tracking=none"]).tracking, tmp_path, "none")
    account.parameters({"a": 1})
    account.metrics({"a": 1.0}, 1)
    account.end("FINISHED")
    assert account.run_id is None
    assert list(tmp_path.iterdir()) == []


def steps(store: Path, result: Result, name: str = "val/loss") -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client(store).get_metric_history(result.mlflow_run_id, name)]


@pytest.mark.parametrize(("module", "step"), [(record, "_dump"), (tracking.account, "opened")])
def test_a_signal_while_a_run_is_begun_leaves_nothing_open(
    store: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, step: str
) -> None:
    """It comes while the folder is made, or while the account is opened."""
    before, name = getattr(module, step), f"signalled-{module.__name__}"
    came: list[str] = []

    def signalled(*arguments: Any) -> Any:
        if not came:
            came.append(step)
            os.kill(os.getpid(), signal.SIGTERM)
        return before(*arguments)

    monkeypatch.setattr(module, step, signalled)
    with interruptible(), pytest.raises(Interrupted):
        perform(store, name)
    result = Result.read(store / "runs" / name)
    assert (result.status, result.epochs) == ("interrupted", 0)
    assert client(store).get_run(result.mlflow_run_id).info.status == "KILLED"


def test_a_signal_waits_for_the_end_of_a_write(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow_client = type(client(store))
    before, written = mlflow_client.log_batch, []

    def signalled(*arguments: Any, **more: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        before(*arguments, **more)
        written.append(more)

    account = tracking.Account(compose([*UNTRACKED, f"output={store}"]).tracking, store, "signalled")
    monkeypatch.setattr(mlflow_client, "log_batch", signalled)
    with interruptible(), pytest.raises(Interrupted):
        account.metrics({"val/loss": 0.5}, 1)
    assert len(written) == 1
    monkeypatch.undo()
    account.end("KILLED")
    ended = client(store).get_run(account.run_id)
    assert (ended.info.status, ended.data.metrics) == ("KILLED", {"val/loss": 0.5})


def test_an_account_that_cannot_be_ended_says_so_once(
    store: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("mnist_sweep"), "propagate", True)
    account = tracking.Account(compose([*UNTRACKED, f"output={store}"]).tracking, store, "unended")

    def broken(*_: object, **__: object) -> None:
        raise ConnectionError("gone")

    monkeypatch.setattr(type(client(store)), "log_batch", broken)
    account.end("FAILED", "error", "a bug")
    assert caplog.text.count("MLflow failed") == 1
    assert "ConnectionError: gone" in caplog.text


def test_the_test_set_is_measured_into_the_runs_own_account(store: Path) -> None:
    performed = perform(store, "winner", "trainer.max_epochs=2")
    (result,) = evaluation.open_test([store / "runs" / "winner"])
    found = client(store).get_run(performed.mlflow_run_id)
    assert (found.info.status, found.data.tags["test.opened_at"]) == ("FINISHED", result.test_opened_at)
    assert steps(store, result, "test/accuracy") == [(result.best_epoch, result.metrics["test/accuracy"])]
    folder = Path(found.info.artifact_uri.removeprefix("file://"))
    counts = json.loads((folder / "confusion_matrix_test.json").read_text())
    right = sum(counts[label][label] for label in range(10))
    assert right / sum(map(sum, counts)) == result.metrics["test/accuracy"]
    assert {"per_class_test.json", "confusion_matrix_test.png"} <= {path.name for path in folder.iterdir()}


def test_a_run_is_found_by_its_study_and_name(store: Path) -> None:
    settings = compose([f"output={store}"]).tracking
    made = [
        tracking.Account(settings, store, name, tags={"study.id": study})
        for study, name in (("one", "it"), ("one", "it"), ("two", "it"), ("one", "other"))
    ]
    for account in made:
        account.end("KILLED")
    assert tracking.find_run(settings, "one", "it") == made[1].run_id  # the newest
    assert tracking.find_run(settings, "two", "it") == made[2].run_id
    assert tracking.find_run(settings, "two", "other") is None
    elsewhere = compose([f"output={store}", "tracking.experiment=nothing"]).tracking
    assert tracking.find_run(elsewhere, "one", "it") is None
    assert tracking.find_run(compose(["tracking=none"]).tracking, "one", "it") is None


def test_runs_can_be_closed_as_interrupted(store: Path) -> None:
    settings = compose([f"output={store}"]).tracking
    account = tracking.Account(settings, store, "open", tags={"study.id": "signalled"})
    tracking.close_running(settings, "signalled", "interrupted", keep=None, state="KILLED")
    assert client(store).get_run(account.run_id).info.status == "KILLED"


def test_each_part_of_a_data_set_is_an_input_of_its_own(store: Path) -> None:
    def inputs(name: str, *items: str) -> dict[str, Any]:
        result = perform(store, name, *items, open_test=True)
        found = client(store).get_run(result.mlflow_run_id).inputs.dataset_inputs
        return {each.tags[0].value: each.dataset for each in found}

    first, other = inputs("inputs"), inputs("inputs-other", "data.limit=100", "data.split_seed=3")
    assert {context: each.name for context, each in first.items()} == {"training": "mnist5k", "testing": "mnist5k-test"}
    assert json.loads(first["training"].profile)["training images"] == 200
    assert json.loads(other["training"].profile) | {"validation images": 0} == {
        "training images": 100, "validation images": 0, "split seed": 3,
    }  # fmt: skip
    assert first["training"].digest != other["training"].digest
    assert first["testing"].digest == other["testing"].digest
    assert all(len(each.digest) <= 36 for each in (*first.values(), *other.values()))
