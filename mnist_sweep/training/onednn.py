"""A network's blocks in oneDNN's own layout of memory, in which a processor trains some networks 5 to 40% faster.

oneDNN is the library that torch convolves with on processors. It chooses a layout that suits the instructions at hand;
between ordinary tensors that choice is undone after each layer, and here it is kept from the images to the features.
See https://uxlfoundation.github.io/oneDNN/, "Understanding Memory Formats", and ``benchmarks/NOTES.md`` for what was
measured.
"""

import functools

import torch
from torch import nn
from torch.nn.functional import max_pool2d, pad

from mnist_sweep.config import network_shapes as shapes
from mnist_sweep.config.networks import ConvNet

#: Channels that are stored side by side: with AVX-512, where bf16 is slow with another number; and with AVX2.
_BLOCK, _SHORT_BLOCK = 16, 8
#: What torch computes in this layout, forward and backward.
_SUPPORTED = (nn.BatchNorm2d, nn.ReLU, nn.GELU)


def suits(model: ConvNet) -> bool:
    """Whether the layout is the faster one for a network; a rule rather than a measurement, so that a run repeats."""
    pools = shapes.per_block("model.pool_size", model.pool_size, len(model.filters))
    averages = model.pool == "avg" and any(pool > 1 for pool in pools)  # whose gradient is slow there
    slow = averages or model.activation == "silu"  # not supported, and before the max-pool, where the maps are large
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    # each number of channels leaves little of its last block empty, or with AVX-512 nothing
    filled = all(-w % _SHORT_BLOCK <= w // 2 if _avx2() else w % _BLOCK == 0 for w in model.filters)
    return available and bool(model.filters) and filled and not slow


def _avx2() -> bool:
    """Whether AVX2 is the widest that the processor has."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def takes(images: torch.Tensor) -> bool:
    """Whether it can be computed with images (B, C, H, W): on a processor, which in bf16 needs AVX-512 or alike."""
    here = images.device.type == "cpu" and images.dtype == torch.float32
    return here and (not torch.is_autocast_enabled("cpu") or _takes_bf16())


@functools.cache
def _takes_bf16() -> bool:
    """Whether oneDNN takes bf16 on this processor."""
    able = torch.cpu.get_capabilities()
    return all(able.get(f"avx512_{name}") for name in ("vl", "bw", "dq")) or bool(
        able.get("avx_ne_convert") or able.get("bf16")
    )


def features(blocks: nn.Sequential, images: torch.Tensor) -> torch.Tensor:
    """What `blocks` makes of images (B, C, H, W), with gradients: maps (B, C', H', W') in the ordinary layout.

    Under autocast it computes in autocast's type, as the blocks themselves would.
    """
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else images.dtype
    maps = images
    with torch.autocast("cpu", enabled=False):
        for layer in blocks.modules():
            match layer:
                case nn.Conv2d():
                    maps = _convolve(layer, maps, kind)
                case nn.MaxPool2d():
                    maps = max_pool2d(maps, layer.kernel_size, layer.kernel_size)
                case nn.Sequential():
                    pass
                case _ if isinstance(layer, _SUPPORTED):
                    maps = layer(maps)
                case _:
                    maps = layer(maps.to_dense()).to_mkldnn()
        return maps.to_dense()


def _convolve(layer: nn.Conv2d, maps: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """Maps (B, C, S, S) in oneDNN's layout, of such maps or of the images, which are not in it yet."""
    weight, padding = layer.weight, layer.padding
    assert not isinstance(padding, str)
    if not maps.is_mkldnn:
        if _avx2() and maps.shape[1] == 1:
            maps, weight, padding = _rows_as_channels(maps, weight, padding[0])
        maps = maps.to_mkldnn(kind)
    bias = None if layer.bias is None else layer.bias.to(kind)
    # conv2d itself refuses weights in bf16 beside maps in this layout
    return torch.mkldnn_convolution(maps, weight.to(kind), bias, padding, layer.stride, layer.dilation, layer.groups)


def _rows_as_channels(
    images: torch.Tensor, weight: torch.Tensor, padding: int
) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int]]:
    """The same convolution with a channel for each row of the kernel, where a single one would fill up a block.

    oneDNN's weight gradient for AVX2 takes images of one channel as if they had eight, seven of them empty.

    Args:
        images: (B, 1, S, S); weight: (C, 1, K, K); padding: rows and columns of zeros around an image.

    Returns:
        (B, K, S', S), the k-th channel k rows further down; weights (C, K, 1, K); the padding that is left to do.
    """
    padded = pad(images, (0, 0, padding, padding)).squeeze(1)
    rows = padded.shape[1] - weight.shape[2] + 1
    shifted = padded.unfold(1, rows, 1).transpose(2, 3)
    return shifted, weight.transpose(1, 2), (0, padding)
