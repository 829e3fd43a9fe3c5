"""A whole step of the optimizer as one CUDA graph: recorded once, and from then on one call.

A small network's kernels are shorter than the time in which a processor starts them. A graph has them started by the
GPU itself, whatever their number. See https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch

from mnist_sweep.training.step import TrainingStep

log = logging.getLogger(__name__)

#: Of a step: the mean loss of the batch, a scalar, and the predicted classes (B,).
Outputs = tuple[torch.Tensor, ...]

#: Before a step is recorded: libraries choose their kernels, and the optimizer makes its state.
_WARM_UP = 3

#: Why a recording failed in this process, where one did. None is tried after it, since torch never gives back what a
#: failed one has taken of the GPU's memory (440 MB for the default network).
_failed: list[str] = []


def supported(device: torch.device) -> bool:
    """Whether graphs can be recorded of what is computed there."""
    return device.type == "cuda"


def recorded(step: TrainingStep, images: torch.Tensor, labels: torch.Tensor) -> "TrainingStep | Recorded":
    """The same step as a CUDA graph; as it is, and a line, where it cannot be recorded.

    Args:
        step: its network is in training; network and optimizer stay where they are from now on.
        images, labels: tensors like those of every batch, on the GPU; what they hold does not matter.
    """
    device = images.device
    if not supported(device):
        return _unrecorded(step, "they need a GPU")
    if _failed:
        return _unrecorded(step, _failed[0])
    weights = [*step.network.parameters(), *step.network.buffers()]
    before = [weight.detach().clone() for weight in weights]
    kept = {place: value.clone() for place, value in _tensors(step.optimizer).items()}
    generator = _generator(device)
    drawn, other = generator.get_state(), generator.clone_state()
    try:
        return Recorded(step, images, labels)
    except RuntimeError as error:  # a layer that cannot be recorded, or no memory for it
        cause = error.__context__ or error  # what went wrong while it was recorded, rather than that it did
        _failed.append(" ".join(str(cause).split())[:150])
        step.optimizer.zero_grad()  # that is, without gradients in the memory of a graph
        generator.graphsafe_set_state(other)  # its own refuses every draw, as if the recording still went on
        return _unrecorded(step, _failed[0])
    finally:  # as if no step had been made; in place, since the graph knows no other
        with torch.no_grad():
            for weight, value in zip(weights, before, strict=True):
                weight.copy_(value)
            for place, value in _tensors(step.optimizer).items():
                value.copy_(kept[place]) if place in kept else value.zero_()
        generator.set_state(drawn)


def _unrecorded(step: TrainingStep, reason: str) -> TrainingStep:
    """The step as it is, and a line that says so."""
    log.warning("trained without CUDA graphs: %s (trainer.cuda_graphs)", reason)
    return step


def _generator(device: torch.device) -> torch.Generator:
    """What the layers on a GPU draw from."""
    return torch.cuda.default_generators[device.index]


class Recorded:
    """A step that is called as `TrainingStep` is, with batches of the form that was recorded, and returns the same.

    The learning rate, which a schedule may change between two calls, is a number of single precision there.

    Args:
        step, images, labels: as for `recorded`.

    Raises:
        RuntimeError: it cannot be recorded.
    """

    def __init__(self, step: TrainingStep, images: torch.Tensor, labels: torch.Tensor) -> None:
        self._batch = images.clone(), labels.clone()
        self._groups = step.optimizer.param_groups
        # A number would be part of the recording, and a schedule changes it
        self._rates = [torch.tensor(float(group["lr"]), device=images.device) for group in self._groups]
        self._written = [group["lr"] for group in self._groups]

        def make_steps(count: int) -> Outputs:
            for _ in range(count):
                outputs = step(*self._batch)
            return outputs

        def prepare() -> None:
            make_steps(_WARM_UP)
            for state in step.optimizer.state.values():  # RMSprop counts its steps on the processor
                state.update({key: each.to(images.device) for key, each in state.items() if torch.is_tensor(each)})
            for group, rate in zip(self._groups, self._rates, strict=True):
                group["lr"] = rate
                if "capturable" in group:
                    group["capturable"] = True

        try:
            self._replay, self._outputs = _record(prepare, lambda: make_steps(1))
        finally:  # as schedules and checkpoints know them
            for group, rate in zip(self._groups, self._written, strict=True):
                group["lr"] = rate
                if "capturable" in group:
                    group["capturable"] = False

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> Outputs:
        for place, given in zip(self._batch, (images, labels), strict=True):
            place.copy_(given)
        for number, group in enumerate(self._groups):
            if group["lr"] != self._written[number]:
                self._written[number] = group["lr"]
                self._rates[number].fill_(group["lr"])
        self._replay()
        return tuple(output.clone() for output in self._outputs)  # the next ones are written over them


def _record(prepare: Callable[[], None], function: Callable[[], Outputs]) -> tuple[Callable[[], Any], Outputs]:
    """What a function starts on the GPU, to be started again, and its outputs, which are written anew each time."""
    stream, graph = _stream(), torch.cuda.CUDAGraph()
    try:
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            prepare()
        with torch.cuda.graph(graph, stream=stream):
            outputs = function()
    finally:  # also of a failure, before anything is put back
        torch.cuda.current_stream().wait_stream(stream)
    return graph.replay, outputs


@functools.cache
def _stream() -> torch.cuda.Stream:
    """One for all recordings of a process, since libraries keep memory for each."""
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]


def _tensors(optimizer: torch.optim.Optimizer) -> dict[tuple[int, str], torch.Tensor]:
    """The state of an optimizer by the number of its parameter and its name; all optimizers begin with zeros."""
    return {
        (number, name): value
        for number, state in enumerate(optimizer.state.values())
        for name, value in state.items()
        if torch.is_tensor(value)
    }
