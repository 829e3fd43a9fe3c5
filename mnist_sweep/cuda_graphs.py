"""A batch's forward and backward pass as CUDA graphs: recorded once, and from then on one call each.

A small network's kernels are shorter than the time in which a processor starts them. A graph has them started by the
GPU itself, whatever their number. See https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

import logging

import torch
from torch import nn

log = logging.getLogger(__name__)


def supported(device: torch.device) -> bool:
    """Whether graphs can be recorded of what is computed there."""
    return device.type == "cuda"


def recorded(loss: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    """The same function, forward and backward, as CUDA graphs; as it is, and a line, where they cannot be recorded.

    What it returns is kept in memory of the graphs: the next batch writes over it.

    Args:
        loss: a module in training, of images and labels; its parameters and buffers stay where they are from now on.
        images, labels: tensors like those of every batch, on the GPU; what they hold does not matter.
    """
    device = images.device
    if not supported(device):
        log.warning("trained without CUDA graphs: they need a GPU (trainer.cuda_graphs)")
        return loss
    # Before it is recorded it is called a few times, which moves the statistics of batch norms and draws dropouts.
    buffers = [buffer.clone() for buffer in loss.buffers()]
    generator = torch.cuda.get_rng_state(device)
    try:
        graphed: nn.Module = torch.cuda.make_graphed_callables(loss, (images, labels))  # type: ignore[assignment]
        return graphed
    except RuntimeError as error:  # a layer that cannot be recorded, or no memory for it
        reason = " ".join(str(error).split())[:150]
        log.warning("trained without CUDA graphs: %s (trainer.cuda_graphs)", reason)
        return loss
    finally:
        for buffer, before in zip(loss.buffers(), buffers, strict=True):
            buffer.copy_(before)
        torch.cuda.set_rng_state(generator, device)
