"""A step as a CUDA graph, without a GPU: with a stand-in that keeps what a graph keeps."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from mnist_sweep.training import cuda_graphs
from tests.training.fitting import failing_in, fit

pytestmark = pytest.mark.slow

Function = Callable[[], tuple[torch.Tensor, ...]]
Recorder = Callable[[Callable[[], None], Function], Any]


def recorder(prepare: Callable[[], None], function: Function) -> Any:
    """As a graph: what a function reads is read where it was, numbers stay, its outputs go where the last ones were."""
    prepare()
    optimizers: list[torch.optim.Optimizer] = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: optimizers.append(optimizer))
    places = tuple(output.clone() for output in function())
    hook.remove()
    (optimizer,) = optimizers
    (group,) = optimizer.param_groups
    inside, memory = dict(group), addresses(optimizer)

    def replay() -> None:
        outside = dict(group)
        assert addresses(optimizer) == memory  # a graph would go on with what was there
        group.update(inside)
        for place, output in zip(places, function(), strict=True):
            place.copy_(output)
        group.update(outside)

    return replay, places


def addresses(optimizer: torch.optim.Optimizer) -> list[int]:
    """Where its weights and its state are."""
    state = [value for each in optimizer.state.values() for value in each.values() if torch.is_tensor(value)]
    return [tensor.data_ptr() for tensor in [*optimizer.state, *state]]


class Generator:
    """A GPU's, with the processor's numbers."""

    recording = False  # it refuses every draw; what a recording that fails leaves of it
    get_state, set_state = staticmethod(torch.get_rng_state), staticmethod(torch.set_rng_state)

    def clone_state(self) -> "Generator":
        return Generator()

    def graphsafe_set_state(self, other: "Generator") -> None:
        self.recording = other.recording


#: To be called with what records: from now on a training on the CPU takes it. Gives the generator.
Install = Callable[[Recorder], Generator]


@pytest.fixture
def as_if_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Install:
    def install(recorder: Recorder) -> Generator:
        generator = Generator()
        for name, stub in (("supported", lambda _: True), ("_record", recorder), ("_failed", [])):
            monkeypatch.setattr(cuda_graphs, name, stub)
        monkeypatch.setattr(torch.cuda, "default_generators", {None: generator})
        rmsprop = sys.modules[torch.optim.RMSprop.__module__]
        monkeypatch.setattr(rmsprop, "_get_capturable_supported_devices", lambda: ["cpu"])
        return generator

    return install


def history(folder: Path, *items: str) -> list[dict[str, float]]:
    """Of a training with batch norm and dropout, whose numbers change with all that a recording could leave behind."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # else it would go on with the one before
    common = ["model.batch_norm=true", "model.dropout=0.5", "trainer.max_epochs=2", "data.batch_size=30"]
    found: list[dict[str, float]] = fit(folder, *common, "trainer.gradient_clip=1.0", *items).history
    return found


EXACT_RATE = f"optimizer.lr={2**-8}"  # in single precision, too, in which a graph has it


@pytest.mark.parametrize(
    "items",
    [
        "optimizer=adamw optimizer.weight_decay=0.5",
        "optimizer=rmsprop optimizer.momentum=0.5",
        "optimizer=sgd optimizer.momentum=0.5 scheduler=step scheduler.step_size=1 scheduler.gamma=0.5",
        "optimizer=sgd optimizer.momentum=0.0 optimizer.nesterov=false data.augmentation.rotation=5.0",
    ],
)
def test_a_recorded_step_computes_the_same(tmp_path: Path, as_if_on_a_gpu: Install, items: str) -> None:
    plain = history(tmp_path, EXACT_RATE, *items.split())
    recordings = []
    as_if_on_a_gpu(lambda *functions: recordings.append(functions) or recorder(*functions))  # type: ignore[func-returns-value]
    assert history(tmp_path, EXACT_RATE, *items.split()) == plain
    history(tmp_path, "trainer.cuda_graphs=false")
    assert len(recordings) == 1


def test_a_recorded_step_follows_the_schedule(tmp_path: Path, as_if_on_a_gpu: Install) -> None:
    items = ["optimizer.lr=0.01", "trainer.ema_decay=0.9", "scheduler=onecycle"]
    plain = history(tmp_path, *items)
    as_if_on_a_gpu(recorder)
    losses = [[epoch["train/loss"] for epoch in each] for each in (plain, history(tmp_path, *items))]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert [epoch["train/loss"] for epoch in history(tmp_path, *items[:2])] != pytest.approx(losses[0], rel=1e-3)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_training_goes_on_with_a_recorded_step(tmp_path: Path, as_if_on_a_gpu: Install, optimizer: str) -> None:
    items = ["trainer.max_epochs=3", "model.dropout=0.5", f"optimizer={optimizer}", EXACT_RATE]
    whole = fit(tmp_path / "whole", *items).history
    kept = []
    for name in ("plain", "recorded"):
        if name == "recorded":
            as_if_on_a_gpu(recorder)
        with pytest.raises(KeyError):
            fit(tmp_path / name, *items, on_epoch=failing_in(3))
        state = torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)
        kept.append(state["parts"]["optimizer"]["param_groups"])
        assert fit(tmp_path / name, *items).history == whole
    assert kept[0] == kept[1]


def test_where_a_step_cannot_be_recorded_training_goes_on_as_if_nothing_had_been(
    tmp_path: Path, as_if_on_a_gpu: Install, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(prepare: Callable[[], None], function: Function) -> Any:  # when steps have been made already
        recorder(prepare, function)
        generator.recording = True
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore lines")

    asked = history(tmp_path, "trainer.cuda_graphs=true")
    assert "trained without CUDA graphs: they need a GPU (trainer.cuda_graphs)" in caplog.messages
    caplog.clear()
    assert history(tmp_path) == asked
    assert "CUDA graphs" not in caplog.text
    generator = as_if_on_a_gpu(failing)
    for _ in range(2):
        caplog.clear()
        assert history(tmp_path) == asked
        why = "CUDA error: operation not permitted when stream is capturing more lines"
        assert f"trained without CUDA graphs: {why} (trainer.cuda_graphs)" in caplog.messages
        assert not generator.recording
        monkeypatch.setattr(cuda_graphs, "_record", None)  # a second one takes memory that is never given back
