"""The account of a run that goes on: in MLflow everything is there, and once."""

from pathlib import Path
from typing import Any

import pytest

from mnist_sweep import run
from mnist_sweep import run_record as record
from mnist_sweep.config.command import compose
from mnist_sweep.errors import Interrupted
from mnist_sweep.result import Result, noted
from tests.conftest import SMALL, interrupt_in
from tests.test_tracking import client, perform, steps


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one MLflow database for all tests of this file."""
    return tmp_path_factory.mktemp("store")


@pytest.mark.parametrize("tags", [{"study.id": "resumed"}, {}])
def test_a_resumed_run_goes_on_in_its_own_account(store: Path, tags: dict[str, str]) -> None:
    name = f"resumed-{len(tags)}"
    with pytest.raises(Interrupted):
        perform(store, name, "trainer.max_epochs=4", report=interrupt_in(3), tags=tags)
    first = Result.read(store / "runs" / name)
    # on a machine with another number of processors; a parameter cannot be changed in MLflow
    result = perform(store, name, "trainer.max_epochs=4", "trainer.threads=2", resume=True, tags=tags)
    assert (result.status, result.mlflow_run_id) == ("finished", first.mlflow_run_id)
    found = client(store).get_run(result.mlflow_run_id)
    assert found.info.status == "FINISHED"
    assert "reason" not in found.data.tags
    assert (found.data.tags["attempts"], found.data.params["trainer.threads"]) == ("2", "1")
    values = [epoch["val/loss"] for epoch in result.history]
    assert {step for step, _ in steps(store, result)} == {1, 2, 3, 4}
    assert dict(steps(store, result)) == dict(enumerate(values, start=1))


def test_an_epoch_that_is_done_again_is_logged_once(store: Path) -> None:
    with pytest.raises(Interrupted):
        perform(store, "twice", "trainer.max_epochs=3", report=interrupt_in(2), tags={"study.id": "twice"})
    result = perform(store, "twice", "trainer.max_epochs=3", resume=True, tags={"study.id": "twice"})
    assert steps(store, result) == [(n, epoch["val/loss"]) for n, epoch in enumerate(result.history, start=1)]


def test_a_resumed_run_without_an_account_gets_one_with_all_its_epochs(store: Path) -> None:
    given = [*SMALL, f"output={store}", "name=late", "trainer.max_epochs=3"]
    with pytest.raises(Interrupted):
        run.run(compose(given), given, report=interrupt_in(3))
    result = perform(store, "late", "trainer.max_epochs=3", resume=True, tags={"study.id": "late"})
    assert steps(store, result) == [(n, epoch["val/loss"]) for n, epoch in enumerate(result.history, start=1)]


def test_an_account_that_was_told_twice_has_everything_once(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while the account was told: nothing was noted of its end, and the run goes on."""
    before = record.Record.close

    def killed(*_: object) -> Result:
        raise SystemExit

    tags = {"study.id": "told"}
    monkeypatch.setattr(record.Record, "close", killed)
    with pytest.raises(SystemExit):
        perform(store, "told", "trainer.max_epochs=2", open_test=True, tags=tags)
    monkeypatch.setattr(record.Record, "close", before)
    half = client(store).create_logged_model("1", "model", noted(store / "runs" / "told")["mlflow_run_id"])
    result = perform(store, "told", "trainer.max_epochs=2", open_test=True, tags=tags, resume=True)
    assert (result.status, result.attempts) == ("finished", 2)
    for name in ("val/calibration_error", "test/calibration_error", "test/accuracy"):
        assert [step for step, _ in steps(store, result, name)] == [result.best_epoch], name
    assert [step for step, _ in steps(store, result)] == [1, 2]
    found = client(store).get_run(result.mlflow_run_id)
    assert len(found.outputs.model_outputs) == 1
    models = client(store).search_logged_models([found.info.experiment_id], f"source_run_id = '{found.info.run_id}'")
    assert [model.model_id for model in models] == [found.outputs.model_outputs[0].model_id]
    assert half.model_id not in {model.model_id for model in models}


def test_epochs_that_the_store_missed_are_logged_when_the_run_goes_on(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow_client = type(client(store))
    before = mlflow_client.log_batch

    def broken(itself: Any, *arguments: Any, metrics: Any = (), **more: Any) -> None:
        if any(metric.step == 2 for metric in metrics):
            raise ConnectionError("gone")
        before(itself, *arguments, metrics=metrics, **more)

    with monkeypatch.context() as patch:
        patch.setattr(mlflow_client, "log_batch", broken)
        with pytest.raises(Interrupted):
            perform(store, "missed", "trainer.max_epochs=4", report=interrupt_in(3))
    result = perform(store, "missed", "trainer.max_epochs=4", resume=True)
    assert steps(store, result) == [(n, epoch["val/loss"]) for n, epoch in enumerate(result.history, start=1)]
