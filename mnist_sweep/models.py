"""The network: blocks of convolution – activation – pooling, then fully connected layers."""

from collections import OrderedDict

import torch
from torch import nn

from mnist_sweep import schema, shapes

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}
#: Activations that never decrease: the greatest of some activations is the activation of the greatest input.
MONOTONE = {"relu", "sigmoid", "tanh"}


class ConvNet(nn.Module):
    """(B, 1, 28, 28) standardised images → (B, 10) logits.

    A max-pool stands before a monotone activation: the result is the same for a quarter of the work.

    Args:
        model: the config's ``model``; see conf/model/convnet.yaml for the meaning of each key.
    """

    def __init__(self, model: schema.Model) -> None:
        super().__init__()
        kernels = shapes.per_block("model.kernel_size", model.kernel_size, len(model.filters))
        pools = shapes.per_block("model.pool_size", model.pool_size, len(model.filters))
        channels, size = 1, shapes.IMAGE_SIZE
        self.blocks = nn.Sequential()
        for width, kernel, pool in zip(model.filters, kernels, pools, strict=True):
            self.blocks.append(_block(model, channels, width, kernel, pool))
            channels, size = width, size // pool
        self.head = nn.Sequential(nn.Flatten())
        units = channels * size * size
        for width in model.hidden:
            self.head.extend([nn.Linear(units, width), ACTIVATIONS[model.activation](), nn.Dropout(model.dropout)])
            units = width
        if not model.hidden:
            self.head.append(nn.Dropout(model.dropout))
        self.head.append(nn.Linear(units, shapes.CLASSES))
        self.to(memory_format=torch.channels_last)  # faster on CPUs and tensor cores

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, 10), any real numbers, of standardised images (B, 1, 28, 28)."""
        logits: torch.Tensor = self.head(self.blocks(images.contiguous(memory_format=torch.channels_last)))
        return logits


def _block(model: schema.Model, channels: int, width: int, kernel: int, pool: int) -> nn.Sequential:
    """(B, channels, S, S) → (B, width, S // pool, S // pool)."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["convolution"] = nn.Conv2d(channels, width, kernel, padding="same", bias=not model.batch_norm)
    if model.batch_norm:
        parts["batch_norm"] = nn.BatchNorm2d(width)
    parts["activation"] = ACTIVATIONS[model.activation]()
    if pool > 1:
        parts["pool"] = nn.MaxPool2d(pool) if model.pool == "max" else nn.AvgPool2d(pool)
        if model.pool == "max" and model.activation in MONOTONE:
            parts.move_to_end("activation")
    return nn.Sequential(parts)
