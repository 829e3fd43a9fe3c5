"""Images as tensors: the split, the batches, the augmentation."""

import functools
import gzip
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import affine_grid, grid_sample, pad

from mnist_sweep.config.image_data import Augmentation, Data, KnownSet
from mnist_sweep.config.image_sets import DIGITS, IMAGE_SETS
from mnist_sweep.config.networks import Pixels
from mnist_sweep.training import datasets, kept_images, own_images
from mnist_sweep.training.kept_images import part_of, stratified

#: Batches that Lightning handles at a time.
GROUP = 32
#: A batch: images (B, C, H, W) float, 0 … 1, and labels (B,) int64.
Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class ImageSet:
    """Images in memory. The parts of a data set share its pixels, and so do all processes of a machine."""

    pixels: torch.Tensor  # (M, C, H, W) uint8, 0 … 255
    labels: torch.Tensor  # (N,) int64, 0 … classes − 1
    rows: torch.Tensor | None = None  # (N,) int64, which of the pixels are this set's images; None = all, M = N
    classes: Sequence[str] = DIGITS  # their names, in the order of the labels

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> torch.Tensor:
        """All images (N, C, H, W) uint8, 0 … 255; a copy where they are a part of the pixels."""
        return self.pixels if self.rows is None else self.pixels[self.rows]

    def take(self, positions: torch.Tensor) -> torch.Tensor:
        """The images (K, C, H, W) uint8 at these positions (K,), 0 … N − 1."""
        return self.pixels[positions if self.rows is None else self.rows[positions]]

    def subset(self, positions: torch.Tensor) -> "ImageSet":
        """The images at these positions (K,), 0 … N − 1, in this order."""
        rows = positions if self.rows is None else self.rows[positions]
        return ImageSet(self.pixels, self.labels[positions], rows, self.classes)

    def to(self, device: torch.device) -> "ImageSet":
        if device == self.pixels.device:
            return self
        return ImageSet(self.images.to(device), self.labels.to(device), classes=self.classes)

    @functools.cached_property
    def standardisation(self) -> tuple[Pixels, Pixels]:
        """Mean and standard deviation of the pixels, scaled to [0, 1]: numbers for grey images, else one a channel."""
        counts = torch.zeros(self.pixels.shape[1], 256, dtype=torch.float64)
        for part in torch.split(torch.arange(len(self)), 1_000):
            for channel, values in enumerate(self.take(part).transpose(0, 1)):
                counts[channel] += torch.bincount(values.flatten(), minlength=256)
        levels, found = torch.arange(256, dtype=torch.float64) / 255, []
        for each in counts:
            mean = (each * levels).sum() / each.sum()
            deviation = ((each * (levels - mean) ** 2).sum() / each.sum()).sqrt()
            found.append((float(mean), max(float(deviation), 1e-6)))
        return found[0] if len(found) == 1 else ([mean for mean, _ in found], [deviation for _, deviation in found])


@functools.lru_cache(maxsize=2)
def training_and_validation(
    name: str, where: str, split_seed: int, limit: int | None, share: float | None = None
) -> tuple[ImageSet, ImageSet]:
    """The two parts that a trial may see.

    Args:
        name, where: of the set, as for `_read`.
        split_seed, limit: the config's ``data.split_seed`` and ``data.limit``.
        share: of the images that becomes the validation part; None = the set's own number of them.
    """
    everything = _read(name, where, test=False)
    labels = everything.labels.numpy()
    generator = np.random.default_rng(split_seed)
    count = IMAGE_SETS[name].validation if share is None else min(max(1, round(len(labels) * share)), len(labels) - 1)
    training, validation = part_of(labels, count, generator)
    if limit is not None and limit < len(training):
        training = training[stratified(labels[training], limit, generator)]
    return everything.subset(torch.from_numpy(training)), everything.subset(torch.from_numpy(validation))


def parts(settings: Data) -> tuple[ImageSet, ImageSet]:
    """The training and the validation images of a config's ``data``."""
    share = None if isinstance(settings, KnownSet) else settings.validation_share
    return training_and_validation(settings.name, _where(settings), settings.split_seed, settings.limit, share)


def test_images(settings: Data) -> ImageSet:
    """The images that measure the winner, once. Nothing on a trial's way calls this."""
    return test_set(settings.name, _where(settings))


def test_set(name: str, where: str) -> ImageSet:
    """The same, by name and place."""
    return _read(name, where, test=True)


def _where(settings: Data) -> str:
    """The place that `_read` takes."""
    return settings.root if isinstance(settings, KnownSet) else str(own_images.decoded(settings))


#: The kinds of IDX files, and the bytes before their content.
_IDX = {"images-idx3": 16, "labels-idx1": 8}

test_images.__test__ = False  # type: ignore[attr-defined]  # its name is not a request to pytest
test_set.__test__ = False  # type: ignore[attr-defined]


@functools.cache
def _read(name: str, where: str, *, test: bool) -> ImageSet:
    """The test images of a set, or all others; of one that `IMAGE_SETS` knows, from the root, else from its folder."""
    source, part = IMAGE_SETS.get(name), "test" if test else "train"
    if source is None:
        images, labels = kept_images.load(Path(where), part)
    elif source.arguments:
        images, labels = kept_images.load(datasets.torchvisions(name, where), part)
    elif source.torchvision is None:  # every tenth or fifth image of a class is kept for the test, whatever the split
        values, every = datasets.packaged(name), 10 if name == "mnist5k" else 5  # pixels, then the class
        rank = np.zeros(len(values), dtype=int)
        for label in range(source.images.classes):
            rank[values[:, -1] == label] = np.arange((values[:, -1] == label).sum())
        chosen = values[(rank % every == every - 1) == test]
        images, labels = chosen[:, :-1], chosen[:, -1]
    else:
        files = datasets.files(name, where)
        # IDX files (http://yann.lecun.com/exdb/mnist/): 16 and 8 bytes that say what they are; then one byte a value.
        # The pixels are mapped into memory rather than read: the processes of a machine share them
        start = "t10k" if test else "train"
        images, labels = (_content(files[f"{start}-{kind}-ubyte"], offset) for kind, offset in _IDX.items())
    shape = source.images.shape if source else images.shape[1:]
    classes = source.classes if source else kept_images.load_classes(Path(where))
    pixels = torch.from_numpy(images.reshape(-1, *shape))
    return ImageSet(pixels, torch.from_numpy(labels.astype(np.int64)), classes=classes)


def _content(file: Path, offset: int) -> np.ndarray:
    """The bytes (N,) uint8 of a file behind its first `offset`: unpacked, or mapped into memory."""
    if file.suffix == ".gz":
        with gzip.open(file) as packed:
            return np.frombuffer(packed.read(), np.uint8, offset=offset).copy()
    return np.memmap(file, np.uint8, "c", offset)


@functools.cache
def _pixel_positions(height: int, width: int, device: torch.device) -> torch.Tensor:
    """x, y and 1 of each pixel, row by row, (3, H · W): the middle of the image is 0, its edges are −1 and 1."""
    grid = affine_grid(torch.eye(2, 3)[None], [1, 1, height, width], align_corners=False)
    flat = grid.reshape(-1, 2)
    return torch.cat([flat, torch.ones(len(flat), 1)], dim=1).T.contiguous().to(device)


def augmented(images: torch.Tensor, settings: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Each image (B, C, H, W), 0 … 1, turned, scaled and moved by a draw of its own; what comes in is black.

    The generator is on the CPU, whatever the images' device, so that the draws do not depend on it.
    """
    draw = torch.rand(len(images), 4, generator=generator) * 2 - 1
    angle = torch.deg2rad(draw[:, 0] * settings.rotation)
    size = 1 + draw[:, 1] * settings.scale
    cosine, sine = torch.cos(angle) / size, torch.sin(angle) / size
    # a unit of x is half of the width, and one of y half of the height
    height, width = images.shape[2:]
    of_y, of_x = sine * (height / width), sine * (width / height)
    # affine_grid maps output to input in coordinates from −1 to 1: a shift by a part of the width is twice that part
    move = -2 * settings.shift * draw[:, 2:]
    moved_x = cosine * move[:, 0] - of_y * move[:, 1]
    moved_y = of_x * move[:, 0] + cosine * move[:, 1]
    rows = [torch.stack([cosine, -of_y, moved_x], dim=1), torch.stack([of_x, cosine, moved_y], dim=1)]
    matrices = torch.stack(rows, dim=1).to(images.device)  # (B, 2, 3)
    # one product for all images, where affine_grid takes one each, which is twenty times slower on a processor
    where = matrices.reshape(-1, 3) @ _pixel_positions(height, width, images.device)
    grid = where.view(len(images), 2, height, width).permute(0, 2, 3, 1)
    return grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def changed(images: torch.Tensor, settings: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Images (B, C, H, W), 0 … 1, as photographs are augmented, each by draws of its own on the CPU.

    A flip of left and right; a crop of the image in a black frame, as in He et al. 2016; and a square that hides a
    part, and may lie beyond the edge, in the image's mean colour (DeVries and Taylor 2017, arXiv 1708.04552).
    """
    count, _, height, width = images.shape
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]  # of an image
    if settings.flip:
        flipped = torch.rand(count, generator=generator) < settings.flip
        images = torch.where(flipped[:, None, None, None].to(images.device), images.flip(3), images)
    if frame := settings.crop:
        corner = torch.randint(0, 2 * frame + 1, (2, count, 1, 1), generator=generator)
        down, right = (corner[0] + rows).to(images.device), (corner[1] + columns).to(images.device)
        each = torch.arange(count, device=images.device)[:, None, None]
        images = pad(images, (frame, frame, frame, frame))[each, :, down, right].permute(0, 3, 1, 2)
    if side := settings.cutout:
        down, right = (torch.randint(0, size, (count, 1, 1), generator=generator) for size in (height, width))
        low, high = side // 2, side - side // 2
        hidden = (rows >= down - low) & (rows < down + high) & (columns >= right - low) & (columns < right + high)
        images = torch.where(hidden[:, None].to(images.device), images.mean(dim=(2, 3), keepdim=True), images)
    return images


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
        if settings.rotation or settings.shift or settings.scale:
            images = augmented(images, settings, self.generator)
        if settings.flip or settings.crop or settings.cutout:
            images = changed(images, settings, self.generator)
        return images
