"""A step as a CUDA graph, without a GPU: with a stand-in that keeps what a graph keeps."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from mnist_sweep import run
from mnist_sweep.config.command import compose
from mnist_sweep.errors import Interrupted
from mnist_sweep.result import last_checkpoint
from mnist_sweep.training import cuda_graphs
from tests.conftest import SMALL, Perform, interrupt_in

Function = Callable[[], tuple[torch.Tensor, ...]]
Recorder = Callable[[Callable[[], None], Function], tuple[Callable[[], Any], tuple[torch.Tensor, ...]]]


def recorder(prepare: Callable[[], None], function: Function) -> tuple[Callable[[], Any], tuple[torch.Tensor, ...]]:
    """As a graph: what a function reads is read where it was, numbers stay, its outputs go where the last ones were."""
    prepare()
    optimizers: list[torch.optim.Optimizer] = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: optimizers.append(optimizer))
    places = tuple(output.clone() for output in function())
    hook.remove()
    (optimizer,) = optimizers
    inside, memory = kept(optimizer), addresses(optimizer)

    def replay() -> None:
        outside = kept(optimizer)
        assert addresses(optimizer) == memory  # a graph would go on with what was there
        swap(optimizer, inside)
        for place, output in zip(places, function(), strict=True):
            place.copy_(output)
        swap(optimizer, outside)

    return replay, places


def kept(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Its settings."""
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


def swap(optimizer: torch.optim.Optimizer, settings: list[dict[str, Any]]) -> None:
    """Give it these."""
    for group, values in zip(optimizer.param_groups, settings, strict=True):
        group.update(values)


def addresses(optimizer: torch.optim.Optimizer) -> list[int]:
    """Where its weights and its state are."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state = [value for weight in weights for value in optimizer.state[weight].values() if torch.is_tensor(value)]
    return [tensor.data_ptr() for tensor in [*weights, *state]]


class Generator:
    """A GPU's, with the processor's numbers.

    Attributes:
        recording: it refuses every draw; what a recording that fails leaves of it.
    """

    def __init__(self) -> None:
        self.recording = False

    def get_state(self) -> torch.Tensor:
        return torch.get_rng_state()

    def set_state(self, state: torch.Tensor) -> None:
        torch.set_rng_state(state)

    def clone_state(self) -> "Generator":
        return Generator()

    def graphsafe_set_state(self, other: "Generator") -> None:
        self.recording = other.recording


def failing(prepare: Callable[[], None], function: Function) -> tuple[Callable[[], Any], tuple[torch.Tensor, ...]]:
    """Fails while it records, when steps have been made already."""
    recorder(prepare, function)
    generator: Any = cuda_graphs._generator(torch.device("cuda"))
    generator.recording = True
    raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nCUDA kernel errors might be …")


@pytest.fixture
def as_if_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[Recorder], None]:
    """To be called with what records: from now on a run on the CPU takes it."""

    def install(recorder: Recorder) -> None:
        monkeypatch.setattr(cuda_graphs, "supported", lambda _: True)
        monkeypatch.setattr(cuda_graphs, "_record", recorder)
        rmsprop = sys.modules[torch.optim.RMSprop.__module__]
        monkeypatch.setattr(rmsprop, "_get_capturable_supported_devices", lambda: ["cpu"])
        generator = Generator()
        monkeypatch.setattr(cuda_graphs, "_generator", lambda _: generator)
        monkeypatch.setattr(cuda_graphs, "_failed", [])

    return install


def history(folder: Path, name: str, *items: str) -> list[dict[str, float]]:
    """Of a run with batch norm and dropout, whose numbers change with all that a recording could leave behind."""
    given = [*SMALL, "model.batch_norm=true", "model.dropout=0.5", "trainer.max_epochs=2", "data.batch_size=30"]
    given += ["trainer.gradient_clip=1.0", "trainer.accelerator=cpu", f"output={folder}", f"name={name}", *items]
    result = run.run(compose(given), given)
    assert result.status == "finished", result.detail
    return result.history


EXACT_RATE = f"optimizer.lr={2**-8}"  # in single precision, too, in which a graph has it


@pytest.mark.parametrize(
    "items",
    [
        [],
        ["optimizer=adamw", "optimizer.weight_decay=0.5"],
        ["optimizer=rmsprop", "optimizer.momentum=0.5"],
        ["optimizer=sgd", "optimizer.momentum=0.5", "optimizer.nesterov=true"],
        [
            "optimizer=sgd",
            "optimizer.momentum=0.0",
            "optimizer.nesterov=false",
            "scheduler=step",
            "scheduler.step_size=1",
            "scheduler.gamma=0.5",
        ],
    ],
    ids=" ".join,
)
def test_a_recorded_step_computes_the_same(
    tmp_path: Path, as_if_on_a_gpu: Callable[[Recorder], None], items: list[str]
) -> None:
    plain = history(tmp_path, "plain", EXACT_RATE, *items)
    recordings = []

    def record(prepare: Callable[[], None], function: Function) -> Any:
        recordings.append(recorder(prepare, function))
        return recordings[-1]

    as_if_on_a_gpu(record)
    assert history(tmp_path, "usual", EXACT_RATE, *items) == plain
    assert len(recordings) == 1
    history(tmp_path, "not-wanted", "trainer.cuda_graphs=false")
    assert len(recordings) == 1


@pytest.mark.parametrize("items", [["scheduler=cosine"], ["scheduler=onecycle", "trainer.ema_decay=0.9"]], ids=" ".join)
def test_a_recorded_step_follows_the_schedule(
    tmp_path: Path, as_if_on_a_gpu: Callable[[Recorder], None], items: list[str]
) -> None:
    plain = history(tmp_path, "plain", "optimizer.lr=0.01", *items)
    as_if_on_a_gpu(recorder)
    recorded = history(tmp_path, "recorded", "optimizer.lr=0.01", *items)
    constant = history(tmp_path, "constant", "optimizer.lr=0.01", *items[1:])
    losses = [[epoch["train/loss"] for epoch in each] for each in (plain, recorded, constant)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] != pytest.approx(losses[0], rel=1e-3)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_run_goes_on_with_a_recorded_step(
    perform: Perform, as_if_on_a_gpu: Callable[[Recorder], None], tmp_path: Path, optimizer: str
) -> None:
    items = ["trainer.max_epochs=3", "model.dropout=0.5", f"optimizer={optimizer}", EXACT_RATE]
    settings = []
    for name, do in (("plain", None), ("recorded", recorder)):
        if do:
            as_if_on_a_gpu(do)
        with pytest.raises(Interrupted):
            perform(*items, f"name={name}", report=interrupt_in(3))
        checkpoint = torch.load(last_checkpoint(tmp_path / "runs" / name), weights_only=True)
        settings.append(checkpoint["optimizer_states"][0]["param_groups"])
    assert settings[0] == settings[1]
    resumed = [perform(*items, f"name={name}", resume=True).history for name in ("plain", "recorded")]
    assert resumed[0] == resumed[1] == perform(*items, "name=whole", "trainer.cuda_graphs=false").history


def test_every_batch_is_of_the_recorded_form(
    tmp_path: Path, as_if_on_a_gpu: Callable[[Recorder], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    forms = set()
    call = cuda_graphs.Recorded.__call__

    def watched(self: Any, *batch: torch.Tensor) -> Any:
        forms.add(tuple((place.shape, place.dtype) for place in self._batch))
        forms.add(tuple((given.shape, given.dtype) for given in batch))
        return call(self, *batch)

    monkeypatch.setattr(cuda_graphs.Recorded, "__call__", watched)
    as_if_on_a_gpu(recorder)
    history(tmp_path, "any", "data.batch_size=23", "data.augmentation.rotation=5.0")
    assert len(forms) == 1


def test_where_a_step_cannot_be_recorded_training_goes_on_as_if_nothing_had_been(
    tmp_path: Path,
    as_if_on_a_gpu: Callable[[Recorder], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("a second recording takes more memory that is never given back")

    plain = history(tmp_path, "plain")
    as_if_on_a_gpu(failing)
    said = (
        "trained without CUDA graphs: CUDA error: operation not permitted when stream is capturing "
        "CUDA kernel errors might be … (trainer.cuda_graphs)"
    )
    with caplog.at_level(logging.WARNING):
        assert history(tmp_path, "asked", "trainer.cuda_graphs=true") == plain
    assert [message for message in caplog.messages if "graphs" in message] == [said]
    generator: Any = cuda_graphs._generator(torch.device("cuda"))
    assert not generator.recording
    caplog.clear()
    monkeypatch.setattr(cuda_graphs, "_record", never)
    with caplog.at_level(logging.WARNING):
        assert history(tmp_path, "after-it") == plain
    assert [message for message in caplog.messages if "graphs" in message] == [said]


def test_on_a_processor_one_line_says_that_there_are_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        asked = history(tmp_path, "asked", "trainer.cuda_graphs=true")
    assert "trained without CUDA graphs: they need a GPU (trainer.cuda_graphs)" in caplog.messages
    caplog.clear()
    assert history(tmp_path, "plain") == asked
    assert "CUDA graphs" not in caplog.text
