"""The arithmetic of a network, without torch: an impossible one is refused in milliseconds, before it is built."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Images:
    """What a network takes and tells apart: the form of an image set's images, and the number of its classes."""

    channels: int = 1
    height: int = 28
    width: int = 28
    classes: int = 10

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image: (channels, height, width)."""
        return self.channels, self.height, self.width

    @property
    def words(self) -> str:
        """For people: 28 × 28."""
        return f"{self.height} × {self.width}"


#: MNIST's.
GREY28 = Images()


@dataclass(frozen=True)
class Layer:
    """One row of a network's table."""

    name: str  # "block 1" and so on, "hidden 1" and so on, "output"
    output: tuple[int, ...]  # shape of one image's output: (channels, height, width) after pooling, or (units,)
    parameters: int  # trainable numbers
    multiply_adds: int  # for one image


@dataclass(frozen=True)
class Block:
    """One block of a network."""

    width: int  # filters of each convolution
    kernel: int  # side of the filters
    pool: int  # side of the pooled squares; 1 = no pooling
    convolutions: int  # one after another
    padding: int  # rows and columns of zeros around a map before each convolution

    def sizes(self, size: int) -> list[int]:
        """Sides of the maps after each convolution, of maps with side `size`; 0 or less = impossible."""
        change = 2 * self.padding - self.kernel + 1
        return [size + change * count for count in range(1, self.convolutions + 1)]

    def output_size(self, size: int) -> int:
        """Side of the maps after the whole block."""
        return self.sizes(size)[-1] // self.pool


def per_block(key: str, value: int | Sequence[int], blocks: int) -> list[int]:
    """One entry a block, where a single number stands for all blocks; ValueError for a list of another length."""
    entries = [value] * blocks if isinstance(value, int) else list(value)
    if len(entries) != blocks:
        raise ValueError(
            f"{key}={entries}: {len(entries)} entries for {blocks} blocks (model.filters has {blocks}); "
            f"allowed: one number, or a list of {blocks}"
        )
    return entries


def convolved_sizes(blocks: Sequence[Block], images: Images) -> list[int]:
    """The longer side of the maps that each convolution makes."""
    found, size = [], max(images.height, images.width)
    for block in blocks:
        found += block.sizes(size)
        size = block.output_size(size)
    return found


def layers(
    blocks: Sequence[Block], batch_norm: bool, global_pool: bool, hidden: Sequence[int], images: Images
) -> list[Layer]:
    """The table of a network's layers, from the first block on; ValueError where nothing is left of a map."""
    table: list[Layer] = []
    channels, height, width = images.shape
    for number, block in enumerate(blocks, start=1):
        parameters = multiply_adds = 0
        for rows, columns in zip(block.sizes(height), block.sizes(width), strict=True):
            if min(rows, columns) < 1:
                raise ValueError(
                    f"model.padding=valid: block {number} convolves a {height} × {width} map by {block.kernel} × "
                    f"{block.kernel} and nothing is left; allowed there: model.kernel_size at most "
                    f"{min(height, width)}, or model.padding=same"
                )
            weights = block.kernel * block.kernel * channels * block.width
            # the scale and the shift of the normalisation take the place of the bias
            parameters += weights + (2 if batch_norm else 1) * block.width
            multiply_adds += weights * rows * columns
            channels, height, width = block.width, rows, columns
        if block.pool > min(height, width):
            pools = [each.pool for each in blocks]
            raise ValueError(
                f"model.pool_size={pools[0] if len(set(pools)) == 1 else pools}: block {number} pools a {height} × "
                f"{width} map by {block.pool} and nothing is left; allowed there: at most {min(height, width)}"
            )
        height, width = height // block.pool, width // block.pool
        table.append(Layer(f"block {number}", (channels, height, width), parameters, multiply_adds))
    units = channels if global_pool else channels * height * width
    for index, wide in enumerate([*hidden, images.classes], start=1):
        name = f"hidden {index}" if index <= len(hidden) else "output"
        table.append(Layer(name, (wide,), units * wide + wide, units * wide))
        units = wide
    return table


def residual_layers(depth: int, width: int, images: Images) -> list[Layer]:
    """The table of a small residual network (see conf/model/resnet.yaml); ValueError where the images are too small."""
    channels, height, side = images.shape
    if min(height, side) < 4:
        raise ValueError(f"model=resnet: images of {images.words}; allowed: at least 4 × 4, which it halves twice")
    weights = 9 * channels * width
    table = [Layer("stem", (width, height, side), weights + 2 * width, weights * height * side)]
    channels = width
    for stage in range(3):
        wide = width << stage
        if stage:
            height, side = math.ceil(height / 2), math.ceil(side / 2)
        parameters = multiply_adds = 0
        for _ in range(depth):
            weights = 9 * channels * wide + 9 * wide * wide + (channels * wide if channels != wide else 0)
            parameters += weights + (6 if channels != wide else 4) * wide
            multiply_adds += weights * height * side
            channels = wide
        table.append(Layer(f"stage {stage + 1}", (wide, height, side), parameters, multiply_adds))
    classes = images.classes
    return [*table, Layer("output", (classes,), channels * classes + classes, channels * classes)]
