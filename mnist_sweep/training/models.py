"""The network: blocks of convolution – activation – pooling, then fully connected layers.

With AVX-512 it trains up to 40% faster in the layout of memory of oneDNN, the library that torch convolves with on
processors. oneDNN chooses one that suits the instructions at hand; between ordinary tensors that choice is undone after
each layer, and here it is kept from the images to the features. See https://uxlfoundation.github.io/oneDNN/,
"Understanding Memory Formats", and ``benchmarks/NOTES.md``.
"""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn.functional import max_pool2d

from mnist_sweep.config import network_shapes as shapes
from mnist_sweep.config import options

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU,
}  # fmt: skip
#: Activations that never decrease: the greatest of some activations is the activation of the greatest input.
MONOTONE = {"relu", "sigmoid", "tanh"}
#: Beside convolutions and max-pools, what torch computes in oneDNN's layout, forward and backward.
_IN_ONEDNN = (nn.BatchNorm2d, nn.ReLU, nn.GELU)


class ConvNet(nn.Module):
    """Images (B, 1, 28, 28), 0 … 1 → logits (B, 10), through `blocks`, whose maps are (B, C, S, S), and `head`.

    A max-pool stands before a monotone activation: the result is the same for a quarter of the work. Images are
    standardised by the mean and the deviation of the training pixels, 0 … 1: buffers, so that a file has them.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, model: options.ConvNet, mean: float, deviation: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("deviation", torch.tensor(deviation))
        self.blocks = nn.Sequential()
        channels, size = 1, shapes.IMAGE_SIZE
        for block in model.blocks():
            self.blocks.append(_block(model, channels, block))
            channels, size = block.width, block.output_size(size)
        self.head = nn.Sequential()
        if model.global_pool:
            self.head.append(nn.AdaptiveAvgPool2d(1))
            size = 1
        self.head.append(nn.Flatten())
        units = channels * size * size
        for width in model.hidden:
            self.head.extend([nn.Linear(units, width), ACTIVATIONS[model.activation](), nn.Dropout(model.dropout)])
            units = width
        if not model.hidden:
            self.head.append(nn.Dropout(model.dropout))
        self.head.append(nn.Linear(units, shapes.CLASSES))
        self.to(memory_format=torch.channels_last)  # faster on CPUs and tensor cores
        self._in_onednn = _suits_onednn(model)

    def standardised(self, images: torch.Tensor) -> torch.Tensor:
        """What the blocks take: images (B, 1, 28, 28), 0 … 1, with a mean of 0 and a deviation of 1."""
        return (images - self.mean) / self.deviation

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = self.standardised(images)
        if self.training and self._in_onednn and images.device.type == "cpu" and images.dtype == torch.float32:
            maps = onednn_features(self.blocks, images)
        else:
            maps = self.blocks(images.contiguous(memory_format=torch.channels_last))
        logits: torch.Tensor = self.head(maps)
        return logits


def _block(model: options.ConvNet, channels: int, block: shapes.Block) -> nn.Sequential:
    """(B, channels, S, S) → (B, width, S', S'): convolutions, each with its activation, then the pool."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for number in range(1, block.convolutions + 1):
        suffix = f"_{number}" if number > 1 else ""
        bias = not model.batch_norm
        parts[f"convolution{suffix}"] = nn.Conv2d(channels, block.width, block.kernel, padding=block.padding, bias=bias)
        if model.batch_norm:
            parts[f"batch_norm{suffix}"] = nn.BatchNorm2d(block.width)
        last = f"activation{suffix}"
        parts[last] = ACTIVATIONS[model.activation]()
        channels = block.width
    if block.pool > 1:
        parts["pool"] = nn.MaxPool2d(block.pool) if model.pool == "max" else nn.AvgPool2d(block.pool)
        if model.pool == "max" and model.activation in MONOTONE:
            parts.move_to_end(last)
    return nn.Sequential(parts)


def _suits_onednn(model: options.ConvNet) -> bool:
    """Whether oneDNN's layout is the faster one; a rule rather than a measurement, so that a run repeats."""
    # with AVX2 it gains nothing, and there is no bf16
    able: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    able = able and torch.backends.cpu.get_cpu_capability() == "AVX512"
    averages = model.pool == "avg" and any(block.pool > 1 for block in model.blocks())  # whose gradient is slow there
    slow = averages or model.activation == "silu"  # not supported, and before the max-pool, where the maps are large
    full = all(width % 16 == 0 for width in model.filters)  # 16 channels are stored side by side
    return able and bool(model.filters) and full and not slow


def onednn_features(blocks: nn.Sequential, images: torch.Tensor) -> torch.Tensor:
    """What `blocks` makes of images (B, 1, 28, 28), with gradients: maps (B, C, S, S) in the ordinary layout."""
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else images.dtype
    with torch.autocast("cpu", enabled=False):
        maps = images.to_mkldnn(kind)
        for layer in blocks.modules():
            match layer:
                case nn.Conv2d():  # which itself refuses weights in bf16 beside maps in this layout
                    bias = None if layer.bias is None else layer.bias.to(kind)
                    how = layer.padding, layer.stride, layer.dilation, layer.groups
                    maps = torch.mkldnn_convolution(maps, layer.weight.to(kind), bias, *how)  # type: ignore[arg-type]
                case nn.MaxPool2d():
                    maps = max_pool2d(maps, layer.kernel_size, layer.kernel_size)
                case nn.Sequential():
                    pass
                case _ if isinstance(layer, _IN_ONEDNN):
                    maps = layer(maps)
                case _:
                    maps = layer(maps.to_dense()).to_mkldnn()
        return maps.to_dense()
