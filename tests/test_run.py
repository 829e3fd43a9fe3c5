"""One command line → one result: what is trained, measured, recorded and resumed."""

import contextlib
import json
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from mnist_sweep import run, run_report
from mnist_sweep.config.command import CommandLine
from mnist_sweep.errors import Interrupted, RequestError
from mnist_sweep.result import BEST, Result
from mnist_sweep.training import data, trained_model
from mnist_sweep.training.evaluate import evaluate
from mnist_sweep.training.lightning_module import Classifier
from tests.conftest import Perform, command, interrupt_in
from tests.own_sets import NETS, of_folder, small
from tests.own_sets import folder as pictures_of
from tests.sweep.studies import result_of

pytestmark = pytest.mark.slow

#: The best epoch is none of the last ones.
EARLY_BEST = ["trainer.max_epochs=5", "optimizer=sgd", "optimizer.lr=0.1", "objective=gap/accuracy"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of the run that `perform` trains, if it has no other name."""
    return tmp_path / "runs" / "it"


def test_a_run_and_what_it_leaves(perform: Perform, folder: Path) -> None:
    result = perform(*EARLY_BEST, test=True)
    assert (result.status, result.reason) == ("finished", None)
    assert result.epochs == len(result.history) == 5
    assert set(result.metrics) == {
        *("train/loss", "train/accuracy", "gap/accuracy"),
        *(f"{part}/{name}" for part in ("val", "test") for name in ("loss", "accuracy", "precision", "recall", "f1")),
    }
    gaps = [epoch["gap/accuracy"] for epoch in result.history]
    assert gaps.index(min(gaps)) + 1 == result.best_epoch != result.epochs
    assert result.objective == result.metrics["gap/accuracy"] == min(gaps)
    assert result.metrics["gap/accuracy"] == result.metrics["train/accuracy"] - result.metrics["val/accuracy"]
    assert 0 < result.train_seconds < result.seconds
    assert (result.dataset, result.seed, result.device, result.threads) == ("mnist5k", 0, "cpu", 1)
    assert Result.read(folder) == result
    assert {path.name for path in folder.rglob("*")} == {
        *("config.yaml", "overrides.yaml", "history.jsonl", "result.json", "checkpoints", "best.ckpt"),
    }
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if "epoch" in line]
    assert [line["epoch"] for line in epochs] == [1, 2, 3, 4, 5]
    assert [{name: line[name] for name in result.history[0]} for line in epochs] == result.history
    model = trained_model.read(folder / str(result.checkpoint))  # whose numbers these are
    assert result.parameters == sum(weight.numel() for weight in model.network.parameters())
    validation = data.training_and_validation("mnist5k", "data", 0, 200)[1]
    for part, images in (("val", validation), ("test", data.test_set("mnist5k", ""))):
        found = evaluate(model.network, images, part).metrics
        assert {name: result.metrics[name] for name in found} == pytest.approx(found)
    confusion = np.array(result.confusion)
    assert confusion.trace() / confusion.sum() == result.metrics["val/accuracy"]


def test_a_trial_may_be_stopped_after_an_epoch_and_never_opens_the_test_set(
    perform: Perform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "test_set", None)  # an opening would fail
    result = perform("trainer.max_epochs=5", on_epoch=lambda epoch, _: epoch < 2)
    assert (result.status, result.epochs) == ("pruned", 2)
    result = perform("name=other")
    assert result.status == "finished"
    assert not any(name.startswith("test/") for name in result.metrics)


def test_the_command_repeats_the_run(perform: Perform, tmp_path: Path) -> None:
    items = ["trainer.max_epochs=2", "data.augmentation.rotation=10", "model.dropout=0.4", "seed=5"]
    first = perform(*items)
    exact = CommandLine.of(first.overrides).with_(name="again", output=str(tmp_path / "elsewhere"))
    assert run.train(exact).history == first.history
    assert perform(*items[:-1], "seed=6", "name=other").history != first.history


@pytest.mark.fault(6)
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
    step = Mock(side_effect=error)
    monkeypatch.setattr(Classifier, "training_step", lambda *_: step())
    result = perform()
    assert (result.status, result.reason, result.epochs, result.objective) == ("failed", reason, 0, None)
    assert str(error) in str(result.detail)


def test_a_stop_is_seen_between_batches_and_recorded(perform: Perform, folder: Path) -> None:
    heard = Mock(return_value=True)
    with pytest.raises(Interrupted) as caught:
        perform("trainer.max_epochs=5", on_epoch=heard, stopped=lambda: 15 if heard.call_count == 2 else None)
    assert caught.value.exit_code == 143
    result = Result.read(folder)
    assert (result.status, result.epochs, result.reason) == ("interrupted", 2, None)


@pytest.mark.parametrize(
    "items",
    [
        ["optimizer=adamw", "trainer.patience=3", "model.batch_norm=true", "objective=train/loss"],
        EARLY_BEST,
    ],
)
def test_a_resumed_run_gives_the_numbers_of_an_uninterrupted_one(
    perform: Perform, folder: Path, items: list[str]
) -> None:
    items = ["trainer.max_epochs=5", "model.dropout=0.4", "optimizer.lr=0.01", *items]
    whole = perform(*items, "name=whole")
    for last in (3, 5):
        with pytest.raises(Interrupted):
            perform(*items, on_epoch=interrupt_in(last), resume=True)
    moved = folder.rename(folder.with_name("moved"))
    heard = Mock(return_value=True)
    resumed = perform(*items, "name=moved", on_epoch=heard, resume=True)
    heard.assert_called_once_with(5, resumed.history[-1])  # what was done is not done again
    assert (resumed.status, resumed.attempts, whole.attempts) == ("finished", 3, 1)
    for same in ("history", "objective", "best_epoch", "metrics", "confusion"):
        assert getattr(resumed, same) == getattr(whole, same), same
    weights = [trained_model.read(folder.with_name(name) / BEST).network.state_dict() for name in ("whole", "moved")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert [path.name for path in (moved / "checkpoints").iterdir()] == ["best.ckpt"]
    assert perform(*items, "name=moved", resume=True) == resumed  # it came to its end, and is not trained again


def test_without_a_last_state_a_run_starts_from_the_beginning(perform: Perform, folder: Path) -> None:
    with pytest.raises(Interrupted):
        perform("trainer.max_epochs=3", on_epoch=interrupt_in(3))
    (folder / "checkpoints" / "last.ckpt").unlink()
    result = perform("trainer.max_epochs=3", resume=True)
    assert (result.status, result.epochs) == ("finished", 3)


def test_a_run_whose_time_is_over_fails_by_itself(perform: Perform, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loading of the data counts as well."""
    result = perform("trainer.max_epochs=1000000", limit_seconds=1.5)
    assert (result.status, result.reason) == ("failed", "timeout")
    assert result.detail == f"longer than 1.5 s ({result.epochs} epochs done)"

    def slow(settings: Any, parts: Any = data.parts) -> Any:
        time.sleep(0.3)
        return parts(settings)

    monkeypatch.setattr(data, "parts", slow)
    result = perform("name=slow", limit_seconds=0.3)
    assert (result.reason, result.detail) == ("timeout", "longer than 0.3 s (0 epochs done)")


@pytest.mark.parametrize("error", [Interrupted(2), ZeroDivisionError("a bug")])
def test_a_test_set_that_was_opened_in_vain_was_opened(
    perform: Perform, folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(run, "evaluate", Mock(side_effect=error))
    with contextlib.suppress(Interrupted):
        perform(test=True)
    result = Result.read(folder)
    assert result.status in ("interrupted", "failed")
    assert result.test_opened_at
    assert not any(name.startswith("test/") for name in result.metrics)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_metric_of_ones_own_that_fails_on_the_test_set_alone_is_left_out(
    at_once: bool, perform: Perform, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "nets.py").write_text(NETS, encoding="utf-8")
    own = ",".join(f"'{tmp_path}/nets.py:{name}'" for name in ("undefined", "failing", "top2"))
    result = perform("data=digits8x8", f"metrics.extra=[{own}]", test=at_once)
    assert (result.status, result.metrics["val/undefined"], result.metrics["val/failing"]) == ("finished", 1.0, 1.0)
    if not at_once:
        (result,) = run.open_test([folder])
    assert {"test/loss", "test/accuracy", "test/top2"} <= result.metrics.keys()
    assert not {"test/undefined", "test/failing"} & result.metrics.keys()
    assert Result.read(folder).metrics == result.metrics
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == [
        "left out: failing on the test set: ValueError: not on these",
        "left out: undefined on the test set: it is nan",
    ]


def test_the_test_set_is_opened_for_a_finished_run_once_wherever_it_is_now(
    perform: Perform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = perform("trainer.max_epochs=2", test=True)
    assert at_once.test_opened_at
    run.train(command(tmp_path / "before", "it", "trainer.max_epochs=2"))
    folder = (tmp_path / "before").rename(tmp_path / "after") / "runs" / "it"
    moments: list[str] = []
    (later,) = run.open_test([folder], moments.append)
    assert (later.metrics, later.test_opened_at) == (at_once.metrics, moments[0])
    assert Result.read(folder) == later
    assert not (tmp_path / "before").exists()
    monkeypatch.setattr(data, "test_set", None)  # a second opening would fail
    assert run.open_test([folder], moments.append) == [later]
    assert len(moments) == 1


def test_the_test_set_is_opened_for_all_runs_or_for_none(
    perform: Perform, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    perform()
    perform("name=pruned", on_epoch=lambda *_: False)
    perform("name=damaged")
    pruned, damaged = folder.with_name("pruned"), folder.with_name("damaged")
    whole = (damaged / BEST).read_bytes()
    for file, content, other, said in (
        (BEST, whole, pruned, r"pruned: the run is pruned; allowed for the test set: a finished run"),
        (BEST, whole[:2_000], damaged, r"damaged/checkpoints/best\.ckpt: refused: it is no checkpoint; allo"),
        (BEST, b"no checkpoint", damaged, r"damaged/checkpoints/best\.ckpt: refused: it is no checkpoint; allo"),
        (BEST, None, damaged, r"damaged/checkpoints/best\.ckpt: no such file; allowed"),
        ("result.json", b'{"status": "fini', damaged, r"damaged: its result\.json is not there or damaged; allowed"),
    ):
        (damaged / file).unlink() if content is None else (damaged / file).write_bytes(content)
        with pytest.raises(RequestError, match=said):
            run.open_test([folder, other])
    assert "the test set is opened" not in caplog.text
    assert not Result.read(folder).test_opened_at


def test_what_cannot_be_begun_is_refused(perform: Perform, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    perform()
    with pytest.raises(RequestError, match="is there already; allowed: a name not yet taken"):
        perform()
    (folder / "result.json").unlink()
    with pytest.raises(RequestError, match=r"was begun otherwise \(seed: 0 → 1\); allowed: its own settings, or"):
        perform("seed=1", resume=True)
    with pytest.raises(RequestError, match=r"output=.*config\.yaml: .* cannot be written \(Not a directory\); allowed"):
        perform(f"output={folder}/config.yaml")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RequestError, match=r"trainer\.accelerator=gpu: no GPU here"):
        perform("trainer.accelerator=gpu", "name=gpu")
    assert not folder.with_name("gpu").exists()


def test_a_single_validation_image_is_example_enough(tmp_path: Path) -> None:
    images = data.ImageSet(torch.full((1, 1, 8, 8), 255, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    example = run_report._model(torch.nn.Flatten(), images, tmp_path, result_of(tmp_path, "it", 0.9))[1]
    assert example.shape == (3, 1, 8, 8)
    assert (example == 1).all()


def test_a_run_begins_with_the_weights_of_another(perform: Perform, tmp_path: Path) -> None:
    first = perform()
    weights = Path(first.folder) / BEST
    more = command(tmp_path, "more", f"trainer.init_from={weights}", "optimizer.lr=1e-12")
    result = run.train(more)
    assert result.metrics["val/accuracy"] == first.metrics["val/accuracy"]
    assert result.metrics["val/loss"] == pytest.approx(first.metrics["val/loss"], rel=1e-3)
    assert f"trainer.init_from={weights}" in result.command
    with pytest.raises(
        RequestError, match=r"trainer\.init_from=.* does not fit \(size mismatch .*; allowed: a checkpoint"
    ):
        run.train(command(tmp_path, "other", f"trainer.init_from={weights}", "model.hidden=[17]"))
    assert not (tmp_path / "runs" / "other").exists()


def test_a_run_on_images_of_any_form_begins_with_the_weights_of_another(tmp_path: Path) -> None:
    own = of_folder(pictures_of(tmp_path / "set", {"a": 9, "b": 9}, (8, 6)), "data.limit=null").overrides
    first = run.train(small(tmp_path, *own, "model=mlp"))
    weights = Path(first.folder) / BEST
    more = small(tmp_path, *own, "model=mlp", "name=more", f"trainer.init_from={weights}", "optimizer.lr=1e-12")
    assert run.train(more).metrics["val/loss"] == pytest.approx(first.metrics["val/loss"], rel=1e-3)
    with pytest.raises(RequestError, match=r"trainer\.init_from=.* does not fit \(size mismatch"):
        run.train(small(tmp_path, "model=mlp", "name=other", f"trainer.init_from={weights}"))


def test_slurms_environment_is_not_taken_and_a_strangers_checkpoint_not_read(
    perform: Perform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("NTASKS", "4"), ("JOB_ID", "1"), ("JOB_NAME", "it"), ("PROCID", "0"), ("LOCALID", "0")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hpc_ckpt_1.ckpt").write_bytes(b"of another run")
    result = perform()
    assert (result.status, result.detail) == ("finished", None)
