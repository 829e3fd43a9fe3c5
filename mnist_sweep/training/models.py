"""The networks: convolutional, residual, fully connected, and the user's own."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

from mnist_sweep.config import network_shapes as shapes
from mnist_sweep.config import networks
from mnist_sweep.config.network_shapes import Images
from mnist_sweep.config.networks import Pixels
from mnist_sweep.training import onednn, own_code

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU,
}  # fmt: skip
#: Activations that never decrease: the greatest of some activations is the activation of the greatest input.
MONOTONE = {"relu", "sigmoid", "tanh"}


class Network(nn.Module):
    """Images (B, C, H, W), 0 … 1 → logits (B, classes).

    Args:
        mean, deviation: of the training pixels, scaled to [0, 1], numbers for grey images, else one for each channel;
            images are standardised by them. Both are buffers, so that a checkpoint has them.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, mean: Pixels, deviation: Pixels) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("deviation", deviation)):
            found = torch.tensor(values)
            self.register_buffer(name, found.view(-1, 1, 1) if found.ndim else found)

    def standardised(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W), 0 … 1, with a mean of 0 and a deviation of 1."""
        return (images - self.mean) / self.deviation


class ConvNet(Network):
    """Convolutions through `blocks`, whose maps are (B, C', H', W'), then `head`.

    A max-pool stands before a monotone activation: the result is the same for a quarter of the work.

    Args:
        model: the config's ``model``; see conf/model/convnet.yaml for the meaning of each key.
        mean, deviation: as for `Network`.
        images: what it takes and tells apart.
    """

    def __init__(self, model: networks.ConvNet, mean: Pixels, deviation: Pixels, images: Images) -> None:
        super().__init__(mean, deviation)
        self.blocks = nn.Sequential()
        channels, height, width = images.shape
        for block in model.blocks():
            self.blocks.append(_block(model, channels, block))
            channels, height, width = block.width, block.output_size(height), block.output_size(width)
        self.head = nn.Sequential()
        if model.global_pool:
            self.head.append(nn.AdaptiveAvgPool2d(1))
            height = width = 1
        self.head.extend(
            _head(channels * height * width, model.hidden, model.activation, model.dropout, images.classes)
        )
        self.to(memory_format=torch.channels_last)  # faster on CPUs and tensor cores
        self._in_onednn = onednn.suits(model)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes), any real numbers, of images (B, C, H, W), 0 … 1."""
        images = self.standardised(images)
        if self.training and self._in_onednn and onednn.takes(images):
            maps = onednn.features(self.blocks, images)
        else:
            maps = self.blocks(images.contiguous(memory_format=torch.channels_last))
        logits: torch.Tensor = self.head(maps)
        return logits


def _head(units: int, hidden: Sequence[int], activation: str, dropout: float, classes: int) -> list[nn.Module]:
    """Maps with so many units → logits, through fully connected layers."""
    parts: list[nn.Module] = [nn.Flatten()]
    for width in hidden:
        parts += [nn.Linear(units, width), ACTIVATIONS[activation](), nn.Dropout(dropout)]
        units = width
    return [*parts, *([] if hidden else [nn.Dropout(dropout)]), nn.Linear(units, classes)]


class MLP(Network):
    """Fully connected layers on the pixels; the arguments are as for `ConvNet`."""

    def __init__(self, model: networks.MLP, mean: Pixels, deviation: Pixels, images: Images) -> None:
        super().__init__(mean, deviation)
        units = images.channels * images.height * images.width
        self.head = nn.Sequential(*_head(units, model.hidden, model.activation, model.dropout, images.classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.standardised(images))
        return logits


class ResNet(Network):
    """A small residual network (He et al. 2016, arXiv 1512.03385, section 4.2); the arguments are as for `ConvNet`.

    `blocks` are the first convolution and three stages, of which the second and third halve their maps.
    """

    def __init__(self, model: networks.ResNet, mean: Pixels, deviation: Pixels, images: Images) -> None:
        super().__init__(mean, deviation)
        channels = model.width
        self.blocks = nn.Sequential(
            nn.Sequential(
                nn.Conv2d(images.channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
            )
        )
        for stage in range(3):
            residuals = nn.Sequential()
            for number in range(model.depth):
                width = model.width << stage
                residuals.append(Residual(channels, width, stride=2 if stage and not number else 1))
                channels = width
            self.blocks.append(residuals)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), *_head(channels, [], "relu", model.dropout, images.classes))
        self.to(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.blocks(self.standardised(images).contiguous(memory_format=torch.channels_last))
        logits: torch.Tensor = self.head(maps)
        return logits


class Residual(nn.Module):
    """Maps (B, channels, H, W) → (B, width, H / stride, W / stride): two convolutions, added to what they take."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip
        self.shortcut: nn.Module = nn.Identity()
        if channels != width:
            # a convolution of 1 × 1 with a stride is the same, and has oneDNN 3.13 write beyond its memory (torch 2.15,
            # channels last, 8 channels): every other pixel is taken first
            pick = nn.MaxPool2d(1, stride)
            self.shortcut = nn.Sequential(pick, nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.change(maps) + self.shortcut(maps))


class Custom(Network):
    """A network of the user's own, which is given standardised images; the arguments are as for `ConvNet`."""

    def __init__(self, model: networks.Custom, mean: Pixels, deviation: Pixels, images: Images) -> None:
        super().__init__(mean, deviation)
        self.network = own_code.network(model.target, model.arguments, images)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(self.standardised(images))
        return logits


def _block(model: networks.ConvNet, channels: int, block: shapes.Block) -> nn.Sequential:
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
