"""A whole step of the optimizer as one CUDA graph: recorded once, and from then on one call.

A small network's kernels are shorter than the time in which a processor starts them. A graph has them started by the
GPU itself, whatever their number. See https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

import copy
import functools
import logging
from collections.abc import Callable
from typing import Any

import torch

from mnist_sweep.training.step import Outputs, TrainingStep

log = logging.getLogger(__name__)

#: Steps before one is recorded: libraries choose their kernels, and the optimizer makes its state.
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
        step: network and optimizer stay where they are from now on.
        images, labels: a batch of the form of all batches, on the GPU.
    """
    reason = _failed[0] if _failed else "" if supported(images.device) else "they need a GPU"
    if not reason:
        network, optimizer, generator = step.network, step.optimizer, _generator(images.device)
        weights, states = copy.deepcopy((network.state_dict(), optimizer.state_dict()["state"]))
        drawn, other = generator.get_state(), generator.clone_state()
        try:
            return Recorded(step, images, labels)
        except RuntimeError as error:  # a layer that cannot be recorded, or no memory for it
            cause = error.__context__ or error  # what went wrong while it was recorded, rather than that it did
            reason = " ".join(str(cause).split())[:150]
            _failed.append(reason)
            optimizer.zero_grad()  # that is, without gradients in the memory of a graph
            generator.graphsafe_set_state(other)  # its own refuses every draw, as if the recording still went on
        finally:  # as if no step had been made; in place, since the graph knows no other
            network.load_state_dict(weights)
            for number, state in optimizer.state_dict()["state"].items():
                for name, value in state.items():
                    if torch.is_tensor(value):  # all optimizers begin with zeros
                        value.copy_(states.get(number, {}).get(name, torch.zeros_like(value)))
            generator.set_state(drawn)
    log.warning("trained without CUDA graphs: %s (trainer.cuda_graphs)", reason)
    return step


def _generator(device: torch.device) -> torch.Generator:
    """What the layers on a GPU draw from."""
    return torch.cuda.default_generators[device.index]


class Recorded:
    """A step that is called as `TrainingStep` is, with batches of the form that was recorded, and returns the same.

    The learning rate, which a schedule may change between two calls, is a number of single precision there.

    Raises:
        RuntimeError: the step cannot be recorded.
    """

    def __init__(self, step: TrainingStep, images: torch.Tensor, labels: torch.Tensor) -> None:
        self._batch, self._groups = (images.clone(), labels.clone()), step.optimizer.param_groups
        # a number would be part of the recording, and a schedule changes it
        self._rates = [torch.tensor(float(group["lr"]), device=images.device) for group in self._groups]
        self._written = [group["lr"] for group in self._groups]

        def prepare() -> None:
            for _ in range(_WARM_UP):
                step(*self._batch)
            for state in step.optimizer.state.values():  # RMSprop counts its steps on the processor
                state.update({key: each.to(images.device) for key, each in state.items() if torch.is_tensor(each)})
            self._set(self._rates, capturable=True)

        try:
            self._replay, self._outputs = _record(prepare, lambda: step(*self._batch))
        finally:  # as schedules and checkpoints know them
            self._set(self._written, capturable=False)

    def _set(self, rates: list[Any], capturable: bool) -> None:
        for group, rate in zip(self._groups, rates, strict=True):
            group["lr"] = rate
            if "capturable" in group:
                group["capturable"] = capturable

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> Outputs:
        for place, given in zip(self._batch, (images, labels), strict=True):
            place.copy_(given)
        for number, group in enumerate(self._groups):
            if group["lr"] != self._written[number]:
                self._written[number] = group["lr"]
                self._rates[number].fill_(group["lr"])
        self._replay()
        loss, predicted = self._outputs
        return loss.clone(), predicted.clone()  # the next ones are written over them


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
