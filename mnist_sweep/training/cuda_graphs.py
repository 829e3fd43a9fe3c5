"""A whole step of the optimizer as one CUDA graph: recorded once, and from then on one call.

A small network's kernels are shorter than the time in which a processor starts them; a graph has them started by the
GPU itself. See https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

import copy
import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

log = logging.getLogger(__name__)

#: A step: images (B, C, H, W) and labels (B,) → the mean loss before it, a scalar, and the predicted classes (B,).
Outputs = tuple[torch.Tensor, torch.Tensor]
Step = Callable[[torch.Tensor, torch.Tensor], Outputs]

#: Steps before one is recorded: libraries choose their kernels, and the optimizer makes its state.
_WARM_UP = 3
#: Why a recording failed in this process. None is tried after it, since torch keeps what it has reserved (440 MB).
_failed: list[str] = []
#: One stream for all recordings of a process, since libraries keep memory for each.
_stream = functools.cache(torch.cuda.Stream)


def supported(device: torch.device) -> bool:
    """Whether graphs can be recorded of what is computed there."""
    return device.type == "cuda"


def recorded(step: Step, network: nn.Module, optimizer: Optimizer, images: torch.Tensor, labels: torch.Tensor) -> Step:
    """The same step as a CUDA graph, for batches of the form of this one; as it is, and a line, where that fails.

    The network and the optimizer stay where they are in memory from now on.
    """
    reason = _failed[0] if _failed else "" if supported(images.device) else "they need a GPU"
    if not reason:
        weights, states = copy.deepcopy((network.state_dict(), optimizer.state_dict()["state"]))
        generator = torch.cuda.default_generators[images.device.index]  # what the layers draw from
        drawn, other = generator.get_state(), generator.clone_state()
        try:
            return _recording(step, optimizer, images, labels)
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


def _recording(step: Step, optimizer: Optimizer, images: torch.Tensor, labels: torch.Tensor) -> Step:
    """The recorded step, or RuntimeError; the learning rate, which may change, is of single precision there."""
    batch, groups = (images.clone(), labels.clone()), optimizer.param_groups
    written: list[Any] = [group["lr"] for group in groups]
    rates = [torch.tensor(float(rate), device=images.device) for rate in written]  # a number would be recorded itself

    def let(rates: list[Any], capturable: bool) -> None:
        for group, rate in zip(groups, rates, strict=True):
            group.update({"lr": rate} | ({"capturable": capturable} if "capturable" in group else {}))

    def prepare() -> None:
        for _ in range(_WARM_UP):
            step(*batch)
        for state in optimizer.state.values():  # RMSprop counts its steps on the processor
            state.update({key: each.to(images.device) for key, each in state.items() if torch.is_tensor(each)})
        let(rates, capturable=True)

    try:
        replay, (loss, predicted) = _record(prepare, lambda: step(*batch))
    finally:  # as schedules and checkpoints know them
        let(written, capturable=False)

    def call(images: torch.Tensor, labels: torch.Tensor) -> Outputs:
        batch[0].copy_(images)
        batch[1].copy_(labels)
        for number, group in enumerate(groups):
            if group["lr"] != written[number]:
                written[number] = group["lr"]
                rates[number].fill_(group["lr"])
        replay()
        return loss.clone(), predicted.clone()  # the next ones are written over them

    return call


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
