"""Image sets of a user's own, as small as they can be, and a network and a metric of a user's own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mnist_sweep.config.command import CommandLine
from tests.conftest import SMALL

NETS = """
import random

import numpy
import torch
from torch import nn


class Tiny(nn.Module):
    def __init__(self, in_channels, image_size, classes, width=8, depth=1):
        super().__init__()
        height, wide = image_size
        layers = [nn.Flatten(), nn.Linear(in_channels * height * wide, width), nn.ReLU()]
        for _ in range(depth - 1):
            layers += [nn.Linear(width, width), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, classes))

    def forward(self, images):
        return self.layers(images)


class Wrong(Tiny):
    def forward(self, images):
        return super().forward(images)[:, :2]


class Failing(Tiny):
    def forward(self, images):
        raise ValueError("nothing works")


class Drawing(Tiny):
    def forward(self, images):
        return super().forward(images * (random.random() + numpy.random.random() if self.training else 1.0))


class Empty(nn.Module):
    def __init__(self, in_channels, image_size, classes):
        super().__init__()

    def forward(self, images):
        return torch.zeros(len(images), 10)


def top2(confusion, probabilities, labels):
    best = probabilities.argsort(axis=1)[:, -2:]
    return (best == labels[:, None]).any(axis=1).mean()


def nothing(confusion, probabilities, labels):
    return None


def undefined(confusion, probabilities, labels):
    return float("nan") if len(labels) == 355 else 1.0  # on the test images of digits8x8


def failing(confusion, probabilities, labels):
    if len(labels) == 355:
        raise ValueError("not on these")
    return 1.0
"""


def blobs(label: int, classes: int, count: int, size: tuple[int, int], seed: int = 0) -> np.ndarray[Any, Any]:
    """Pictures (N, H, W, 3) uint8 of a class: a bright stripe at a place and in a colour of its own, and noise."""
    draw = np.random.default_rng([seed, label])
    pictures = draw.integers(0, 100, (count, *size, 3))
    start = label * size[0] // classes
    pictures[:, start : start + size[0] // classes, :, label % 3] += 120
    return pictures.astype(np.uint8)


def folder(path: Path, counts: Mapping[str, int], size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Path:
    """A folder with a folder of PNG files for each class."""
    for label, (name, count) in enumerate(counts.items()):
        (path / name).mkdir(parents=True, exist_ok=True)
        for number, values in enumerate(blobs(label, len(counts), count, size)):
            Image.fromarray(values).convert(mode).save(path / name / f"{number:04d}.png")
    return path


def of_folder(path: Path, *items: str) -> CommandLine:
    """The command line of a run on a folder, whose images are kept beside it."""
    return CommandLine.of(["data=folder", f"data.path={path}", f"data.cache={path.parent / 'cache'}", *items])


def small(output: Path, *items: str) -> CommandLine:
    """A run of a second with any network."""
    kept = [item for item in SMALL if not item.startswith("model.")]
    return CommandLine.of(kept).add(f"output={output}", "name=it", *items)
