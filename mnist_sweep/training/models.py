"""The network: blocks of convolution – activation – pooling, then fully connected layers."""

from collections import OrderedDict

import torch
from torch import nn

from mnist_sweep.config import network_shapes as shapes
from mnist_sweep.config import options
from mnist_sweep.training import onednn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU,
}  # fmt: skip
#: Activations that never decrease: the greatest of some activations is the activation of the greatest input.
MONOTONE = {"relu", "sigmoid", "tanh"}


class ConvNet(nn.Module):
    """Images (B, 1, 28, 28), 0 … 1 → logits (B, 10), through `blocks`, whose maps are (B, C, S, S), and `head`.

    A max-pool stands before a monotone activation: the result is the same for a quarter of the work.

    Args:
        model: the config's ``model``; see conf/model/convnet.yaml for the meaning of each key.
        mean, deviation: of the training pixels, scaled to [0, 1]; images are standardised by them. Both are buffers, so
            that a checkpoint has them.
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
        self._in_onednn = onednn.suits(model)

    def standardised(self, images: torch.Tensor) -> torch.Tensor:
        """What the blocks take: images (B, 1, 28, 28), 0 … 1, with a mean of 0 and a deviation of 1."""
        return (images - self.mean) / self.deviation

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, 10), any real numbers, of images (B, 1, 28, 28), 0 … 1."""
        images = self.standardised(images)
        if self.training and self._in_onednn and onednn.takes(images):
            maps = onednn.features(self.blocks, images)
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
