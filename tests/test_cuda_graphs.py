"""A step as CUDA graphs, without a GPU: with a stand-in that treats a module as torch's own function does."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mnist_sweep import cuda_graphs, run
from mnist_sweep.composition import compose
from tests.conftest import SMALL

Recorder = Callable[[nn.Module, tuple[torch.Tensor, ...]], nn.Module]


def recorder(loss: nn.Module, sample: tuple[torch.Tensor, ...]) -> nn.Module:
    """Calls a module to warm up, and gives one back that has a place in memory for its inputs and its outputs."""
    for _ in range(3):
        outputs = [output for output in loss(*sample) if output.requires_grad]
        torch.autograd.grad(outputs, list(loss.parameters()), [torch.ones_like(output) for output in outputs])

    class Recorded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places = [output.detach().clone() for output in loss(*sample)]

        def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            for place, given in zip(sample, inputs, strict=True):
                assert (place.shape, place.dtype) == (given.shape, given.dtype)
                place.copy_(given)
            return tuple(Placed.apply(output, place) for output, place in zip(loss(*sample), self.places, strict=True))

    return Recorded()


class Placed(torch.autograd.Function):
    """An output where the last one was."""

    @staticmethod
    def forward(_: Any, output: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        return place.copy_(output).detach()

    @staticmethod
    def backward(_: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient, None


def failing(loss: nn.Module, sample: tuple[torch.Tensor, ...]) -> nn.Module:
    """Fails while it records, when the module has been called already."""
    recorder(loss, sample)
    raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nCUDA kernel errors might be …")


@pytest.fixture
def as_if_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[Recorder], None]:
    """To be called with what records: from now on a run on the CPU takes it."""

    def install(recorder: Recorder) -> None:
        monkeypatch.setattr(cuda_graphs, "supported", lambda _: True)
        monkeypatch.setattr(torch.cuda, "make_graphed_callables", recorder)
        monkeypatch.setattr(torch.cuda, "get_rng_state", lambda _: torch.get_rng_state())
        monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, _: torch.set_rng_state(state))

    return install


def history(folder: Path, name: str, *items: str) -> list[dict[str, float]]:
    """Of a run with batch norm and dropout, whose numbers change with all that a recording could leave behind."""
    given = [*SMALL, "model.batch_norm=true", "model.dropout=0.5", "trainer.max_epochs=2", "data.batch_size=30"]
    given += ["trainer.gradient_clip=1.0", "trainer.accelerator=cpu", f"output={folder}", f"name={name}", *items]
    result = run.run(compose(given), given)
    assert result.status == "finished", result.detail
    return result.history


def test_a_recorded_step_computes_the_same(tmp_path: Path, as_if_on_a_gpu: Callable[[Recorder], None]) -> None:
    plain = history(tmp_path, "plain")
    recordings = []

    def record(loss: nn.Module, sample: tuple[torch.Tensor, ...]) -> nn.Module:
        recordings.append(recorder(loss, sample))
        return recordings[-1]

    as_if_on_a_gpu(record)
    assert history(tmp_path, "asked", "trainer.cuda_graphs=true") == plain
    assert len(recordings) == 1
    history(tmp_path, "not-asked")
    assert len(recordings) == 1


def test_where_a_step_cannot_be_recorded_training_goes_on_as_if_nothing_had_been(
    tmp_path: Path, as_if_on_a_gpu: Callable[[Recorder], None], caplog: pytest.LogCaptureFixture
) -> None:
    plain = history(tmp_path, "plain")
    as_if_on_a_gpu(failing)
    with caplog.at_level(logging.WARNING):
        assert history(tmp_path, "asked", "trainer.cuda_graphs=true") == plain
    assert [record.getMessage() for record in caplog.records if "graphs" in record.getMessage()] == [
        "trained without CUDA graphs: CUDA error: operation not permitted when stream is capturing "
        "CUDA kernel errors might be … (trainer.cuda_graphs)"
    ]


def test_on_a_processor_one_line_says_that_there_are_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        asked = history(tmp_path, "asked", "trainer.cuda_graphs=true")
    assert "trained without CUDA graphs: they need a GPU (trainer.cuda_graphs)" in caplog.messages
    assert asked == history(tmp_path, "plain")
