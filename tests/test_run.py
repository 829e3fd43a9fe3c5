"""One config → one Result, and what it leaves on disk and in MLflow."""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from mnist_sweep import evaluation, run
from mnist_sweep.config.command import compose
from mnist_sweep.errors import Interrupted, RequestError
from mnist_sweep.result import BEST, Result
from mnist_sweep.run_record import Record
from mnist_sweep.training import data
from mnist_sweep.training import trained_model as inspection
from mnist_sweep.training.lightning_module import Classifier
from mnist_sweep.training.models import ConvNet
from tests.conftest import SMALL, Perform, interrupt_in


def test_a_run_and_what_it_leaves(perform: Perform, tmp_path: Path) -> None:
    result = perform("trainer.max_epochs=3", open_test=True)
    folder = tmp_path / "runs" / "it"
    assert result.status == "finished"
    assert result.reason is None
    assert result.objective == result.metrics["val/accuracy"]
    assert set(result.metrics) == {
        *("train/loss", "train/accuracy", "gap/accuracy"),
        *(f"{part}/{name}" for part in ("val", "test") for name in ("loss", "accuracy", "precision", "recall", "f1")),
    }
    assert result.epochs == len(result.history) == 3
    best = max(epoch["val/accuracy"] for epoch in result.history)
    assert [epoch["val/accuracy"] for epoch in result.history].index(best) + 1 == result.best_epoch
    gap = result.metrics["train/accuracy"] - result.metrics["val/accuracy"]
    assert result.metrics["gap/accuracy"] == gap
    assert result.parameters == sum(layer.parameters for layer in compose(SMALL).model.layers())
    assert 0 < result.train_seconds < result.seconds
    assert (result.dataset, result.seed, result.device, result.threads) == ("mnist5k", 0, "cpu", 1)
    assert Result.read(folder) == result
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "overrides.yaml", "result.json", "checkpoints"}
    written = yaml.safe_load((folder / "config.yaml").read_text())
    assert written["model"]["filters"] == [4]
    assert compose(yaml.safe_load((folder / "overrides.yaml").read_text())).plain() | {"name": "it"} == written


def test_the_test_set_stays_closed_unless_it_is_asked_for(perform: Perform, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: object) -> None:
        raise AssertionError("the test set was opened")

    monkeypatch.setattr(data, "test_set", opened)
    result = perform()
    assert result.status == "finished"
    assert not any(name.startswith("test/") for name in result.metrics)


def test_metrics_are_those_of_the_checkpoint(perform: Perform, tmp_path: Path) -> None:
    """Predictions made anew from the file, measured by scikit-learn."""
    result = perform("trainer.max_epochs=2", "optimizer.lr=0.01", open_test=True)
    saved = torch.load(tmp_path / "runs/it" / str(result.checkpoint), weights_only=True)  # holds plain data only
    config = compose(result.overrides)
    assert saved["hyper_parameters"]["config"] == config.plain() | {"name": "it"}
    classifier = Classifier(ConvNet(config.model), config, (0.0, 1.0)).eval()
    classifier.load_state_dict(saved["state_dict"])
    validation = data.training_and_validation("mnist5k", config.data.root, 0, 200)[1]
    for part, images in (("val", validation), ("test", data.test_set("mnist5k", ""))):
        with torch.no_grad():
            probabilities = classifier.probabilities(images.images / 255)
        torch.testing.assert_close(probabilities.sum(1), torch.ones(len(images)))
        predicted, true = probabilities.argmax(1).numpy(), images.labels.numpy()
        averages = precision_recall_fscore_support(true, predicted, average="macro", zero_division=0)
        assert result.metrics[f"{part}/accuracy"] == accuracy_score(true, predicted)
        assert tuple(result.metrics[f"{part}/{name}"] for name in ("precision", "recall", "f1")) == averages[:3]
        loss = -np.log(probabilities.numpy()[np.arange(len(true)), true].astype(np.float64)).mean()
        assert result.metrics[f"{part}/loss"] == pytest.approx(loss, rel=1e-5)


def test_the_command_repeats_the_run(perform: Perform, tmp_path: Path) -> None:
    items = ["trainer.max_epochs=2", "data.augmentation.rotation=10", "model.dropout=0.4", "seed=5"]
    first = perform(*items)
    again = perform(*first.overrides, "name=again", f"output={tmp_path / 'elsewhere'}")
    assert again.history == first.history
    other = perform(*items[:-1], "seed=6", "name=other")
    assert other.history != first.history


def test_a_run_that_the_report_stops_is_pruned(perform: Perform) -> None:
    heard: list[tuple[int, dict[str, float]]] = []

    def report(epoch: int, values: dict[str, float]) -> bool:
        heard.append((epoch, values))
        return epoch < 2

    result = perform("trainer.max_epochs=5", report=report)
    assert result.status == "pruned"
    assert heard == [(1, result.history[0]), (2, result.history[1])]


def test_divergence_is_a_failure_with_a_reason(perform: Perform) -> None:
    result = perform("optimizer=sgd", "optimizer.lr=1e30", "data.batch_size=10", "model.activation=silu")
    assert (result.status, result.reason) == ("failed", "diverged")
    assert "became nan in epoch 1" in str(result.detail)
    assert result.objective is None
    json.loads(result.path.read_text())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError("no more"), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), "out_of_memory"),
        (OSError(12, "Cannot allocate memory"), "out_of_memory"),
        (RuntimeError("CUDA error: out of memory"), "out_of_memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), "out_of_memory"),
        (ZeroDivisionError("a bug"), "error"),
    ],
)
def test_failures_are_told_apart(
    perform: Perform, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def step(*_: object) -> None:
        raise error

    monkeypatch.setattr(Classifier, "training_step", step)
    result = perform()
    assert (result.status, result.reason) == ("failed", reason)
    assert str(error) in str(result.detail)


def test_an_interrupted_run_is_recorded(perform: Perform, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        perform("trainer.max_epochs=5", report=interrupt_in(2))
    result = Result.read(tmp_path / "runs" / "it")
    assert (result.status, result.epochs) == ("interrupted", 2)


def test_an_interruption_that_foreign_code_masks_is_one(
    perform: Perform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*_: object) -> None:
        try:
            raise Interrupted(2)
        finally:
            raise OSError("while cleaning up")

    monkeypatch.setattr(Classifier, "training_step", step)
    with pytest.raises(Interrupted):
        perform()
    assert Result.read(tmp_path / "runs" / "it").status == "interrupted"


@pytest.mark.parametrize("items", [[], ["trainer.ema_decay=0.9"]])
def test_the_best_epochs_probabilities_are_kept_for_the_pictures(
    perform: Perform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, items: list[str]
) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(run._Run, "_tell", lambda ended, _: kept.append(ended.classifier.validated))
    items = ["trainer.max_epochs=5", "optimizer=sgd", "optimizer.lr=0.1", "objective=gap/accuracy", *items]
    result = perform(*items)
    assert result.best_epoch != result.epochs
    _, validation = data.training_and_validation("mnist5k", "data", 0, None)
    served = inspection.load(tmp_path / "runs" / "it" / BEST)
    np.testing.assert_allclose(kept[0], inspection.probabilities(served, validation.images), atol=1e-6)
    with pytest.raises(Interrupted):
        perform(*items, "name=again", report=interrupt_in(5))
    assert perform(*items, "name=again", resume=True).best_epoch == result.best_epoch
    assert kept[1] is None  # the first attempt's


@pytest.mark.parametrize(
    "items",
    [
        ["scheduler=step", "scheduler.step_size=1", "scheduler.gamma=0.5"],
        ["scheduler=onecycle", "optimizer=sgd"],
        ["scheduler=cosine", "optimizer=rmsprop", "data.augmentation.rotation=10", "data.augmentation.shift=0.1"],
        ["optimizer=adamw", "trainer.patience=3", "model.batch_norm=true", "objective=train/loss"],
        ["trainer.ema_decay=0.9"],
    ],
)
def test_a_resumed_run_gives_the_numbers_of_an_uninterrupted_one(
    perform: Perform, tmp_path: Path, items: list[str]
) -> None:
    items = ["trainer.max_epochs=5", "model.dropout=0.4", "optimizer.lr=0.01", *items]
    whole = perform(*items, "name=whole")
    for last in (3, 5):
        with pytest.raises(Interrupted):
            perform(*items, report=interrupt_in(last), resume=True)
    heard: list[int] = []

    def report(epoch: int, _: dict[str, float]) -> bool:
        heard.append(epoch)
        return True

    resumed = perform(*items, report=report, resume=True)
    assert heard == [5]  # what was done is not done again
    assert (resumed.status, resumed.attempts, whole.attempts) == ("finished", 3, 1)
    assert resumed.history == whole.history
    assert (resumed.objective, resumed.best_epoch, resumed.metrics) == (
        whole.objective,
        whole.best_epoch,
        whole.metrics,
    )
    weights = [
        torch.load(tmp_path / "runs" / name / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "it")
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert {path.name for path in (tmp_path / "runs" / "it" / "checkpoints").iterdir()} == {"best.ckpt"}


@pytest.mark.parametrize("left", ["nothing", "a damaged file"])
def test_without_a_last_state_a_run_starts_from_the_beginning(
    perform: Perform, tmp_path: Path, left: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Interrupted):
        perform("trainer.max_epochs=3", report=interrupt_in(3))
    last = tmp_path / "runs" / "it" / "checkpoints" / "last.ckpt"
    if left == "nothing":
        last.unlink()
    else:
        last.write_bytes(last.read_bytes()[:1000])
    result = perform("trainer.max_epochs=3", resume=True)
    assert (result.status, result.epochs) == ("finished", 3)
    assert ("starting from the beginning" in caplog.text) == (left != "nothing")


def test_a_run_whose_time_is_over_fails_by_itself(perform: Perform) -> None:
    result = perform("trainer.max_epochs=1000000", limit_seconds=1.5)
    assert (result.status, result.reason) == ("failed", "timeout")
    assert result.detail == f"longer than 1.5 s ({result.epochs} epochs done)"
    assert 1.5 < result.seconds < 10


def test_the_loading_of_the_data_counts_for_the_deadline(perform: Perform, monkeypatch: pytest.MonkeyPatch) -> None:
    load = data.training_and_validation

    def slow(*arguments: Any) -> Any:
        time.sleep(0.3)
        return load(*arguments)

    monkeypatch.setattr(data, "training_and_validation", slow)
    result = perform(limit_seconds=0.3)
    assert (result.reason, result.detail) == ("timeout", "longer than 0.3 s (0 epochs done)")


def test_the_test_set_is_opened_for_a_finished_run_once(
    perform: Perform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = perform("trainer.max_epochs=2", "name=at-once", open_test=True)
    perform("trainer.max_epochs=2")
    (later,) = evaluation.open_test([tmp_path / "runs" / "it"])
    assert later.metrics == at_once.metrics
    assert later.test_opened_at
    assert at_once.test_opened_at
    assert Result.read(tmp_path / "runs" / "it") == later
    monkeypatch.setattr(data, "test_set", None)  # a second opening would fail
    assert evaluation.open_test([tmp_path / "runs" / "it"]) == [later]


@pytest.mark.parametrize("error", [Interrupted(2), ZeroDivisionError("a bug")])
def test_a_test_set_that_was_opened_in_vain_was_opened(
    perform: Perform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    before = evaluation.measure

    def measure(*arguments: Any) -> None:
        before(*arguments)
        raise error

    monkeypatch.setattr(evaluation, "measure", measure)
    with contextlib.suppress(Interrupted):
        perform(open_test=True)
    result = Result.read(tmp_path / "runs" / "it")
    assert result.status in ("interrupted", "failed")
    assert result.test_opened_at
    assert not any(name.startswith("test/") for name in result.metrics)


def test_the_seconds_are_those_of_the_whole_run(perform: Perform, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures of this one take 1,000 of them."""
    seconds = [5.0]
    monkeypatch.setattr(Record, "seconds", lambda _: seconds[0])
    monkeypatch.setattr(run._Run, "_tell", lambda *_: seconds.append(seconds.pop() + 1_000))
    assert perform().seconds == 1_005


def test_a_folder_is_never_written_over(perform: Perform) -> None:
    perform()
    with pytest.raises(RequestError, match="is there already; allowed: a name not yet taken"):
        perform()


def test_a_gpu_that_is_not_there(perform: Perform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RequestError, match=r"trainer\.accelerator=gpu: no GPU here"):
        perform("trainer.accelerator=gpu")
    assert not (tmp_path / "runs").exists()
