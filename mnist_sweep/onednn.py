"""A network's blocks in oneDNN's own layout of memory, in which a processor trains some networks 5 to 40% faster.

oneDNN is the library that torch convolves with on processors. It chooses a layout that suits the instructions at hand;
between ordinary tensors that choice is undone after each layer, and here it is kept from the images to the features.
See https://uxlfoundation.github.io/oneDNN/, "Understanding Memory Formats", and ``benchmarks/NOTES.md`` for what was
measured.
"""

import torch
from torch import nn
from torch.nn.functional import max_pool2d

from mnist_sweep import schema, shapes

#: Channels that are stored side by side. With another number, bf16 falls back to slow code.
_BLOCK = 16
#: What torch computes in this layout, forward and backward.
_SUPPORTED = (nn.BatchNorm2d, nn.ReLU, nn.GELU)


def suits(model: schema.Model) -> bool:
    """Whether the layout is the faster one for a network; a rule rather than a measurement, so that a run repeats."""
    pools = shapes.per_block("model.pool_size", model.pool_size, len(model.filters))
    averages = model.pool == "avg" and any(pool > 1 for pool in pools)  # whose gradient is slow there
    whole = all(width % _BLOCK == 0 for width in model.filters)
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and bool(model.filters) and whole and not averages


def takes(images: torch.Tensor) -> bool:
    """Whether it can be computed with images (B, 1, 28, 28): on a processor, which in bf16 needs AVX-512 or alike."""
    if images.device.type != "cpu" or images.dtype != torch.float32:
        return False
    return not torch.is_autocast_enabled("cpu") or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def features(blocks: nn.Sequential, images: torch.Tensor) -> torch.Tensor:
    """What `blocks` makes of images (B, 1, 28, 28), with gradients: maps (B, C, S, S) in the ordinary layout.

    Under autocast it computes in autocast's type, as the blocks themselves would.
    """
    half = torch.is_autocast_enabled("cpu")
    kind = torch.get_autocast_dtype("cpu") if half else images.dtype
    with torch.autocast("cpu", enabled=False):
        maps = images.to_mkldnn(kind)
        for layer in blocks.modules():
            match layer:
                case nn.Conv2d(padding=tuple(padding)):
                    # conv2d itself refuses weights in bf16 beside maps in this layout
                    maps = torch.mkldnn_convolution(
                        maps,
                        layer.weight.to(kind),
                        None if layer.bias is None else layer.bias.to(kind),
                        padding,
                        layer.stride,
                        layer.dilation,
                        layer.groups,
                    )
                case nn.MaxPool2d():
                    maps = max_pool2d(maps, layer.kernel_size, layer.kernel_size)
                case nn.Sequential():
                    pass
                case _ if isinstance(layer, _SUPPORTED):
                    maps = layer(maps)
                case _:
                    maps = layer(maps.to_dense()).to_mkldnn()
        return maps.to_dense()
