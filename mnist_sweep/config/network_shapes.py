"""The arithmetic of a network: the size of each layer's output, its parameters and its multiply-adds.

Pure and without torch, so that an impossible network is refused in milliseconds, before anything is built.
"""

from collections.abc import Sequence
from dataclasses import dataclass

#: Every data set here has grey images of 28 × 28 pixels in ten classes.
IMAGE_SIZE = 28
CLASSES = 10


class ShapeError(ValueError):
    """The network cannot exist; the text is one line that names the key, the value and what is allowed."""


@dataclass(frozen=True)
class Layer:
    """One row of a network's table.

    Attributes:
        name: ``block 1`` and so on, ``hidden 1`` and so on, ``output``.
        output: shape of one image's output, (channels, height, width) after pooling, or (units,).
        parameters: trainable numbers.
        multiply_adds: for one image.
    """

    name: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int


def per_block(key: str, value: int | Sequence[int], blocks: int) -> list[int]:
    """A list with one entry a block: a single number stands for all blocks.

    Raises:
        ShapeError: a list of another length.
    """
    if isinstance(value, int):
        return [value] * blocks
    if len(value) != blocks:
        raise ShapeError(
            f"{key}={list(value)}: {len(value)} entries for {blocks} blocks (model.filters has {blocks}); "
            f"allowed: one number, or a list of {blocks}"
        )
    return list(value)


@dataclass(frozen=True)
class Block:
    """What a block of a network consists of.

    Attributes:
        width: filters of each convolution.
        kernel: side of the filters.
        pool: side of the pooled squares; 1 = no pooling.
        convolutions: one after another.
        padding: rows and columns of zeros around a map before each convolution.
    """

    width: int
    kernel: int
    pool: int
    convolutions: int
    padding: int

    def convolved_size(self, size: int) -> int:
        """Side of the maps after one more convolution of a map with this side; 0 or less = impossible."""
        return size + 2 * self.padding - self.kernel + 1

    def output_size(self, size: int) -> int:
        """Side of the maps after the whole block."""
        for _ in range(self.convolutions):
            size = self.convolved_size(size)
        return size // self.pool


def blocks(
    filters: Sequence[int],
    kernel_size: int | Sequence[int],
    pool_size: int | Sequence[int],
    convolutions: int | Sequence[int],
    padding: str,
) -> list[Block]:
    """The blocks of a network; the arguments are those of ``model``.

    Raises:
        ShapeError: lists of different lengths.
    """
    columns = [
        per_block(f"model.{key}", value, len(filters))
        for key, value in (("kernel_size", kernel_size), ("pool_size", pool_size), ("convolutions", convolutions))
    ]
    return [
        Block(width, kernel, pool, count, kernel // 2 if padding == "same" else 0)
        for width, kernel, pool, count in zip(filters, *columns, strict=True)
    ]


def smallest_map(blocks: Sequence[Block]) -> int:
    """Side of the smallest map that a convolution makes; without one, that of the images."""
    smallest = size = IMAGE_SIZE
    for block in blocks:
        for _ in range(block.convolutions):
            size = block.convolved_size(size)
            smallest = min(smallest, size)
        size //= block.pool
    return smallest


def layers(blocks: Sequence[Block], batch_norm: bool, global_pool: bool, hidden: Sequence[int]) -> list[Layer]:
    """The table of a network's layers, from the first block to the output.

    Args:
        blocks: see `blocks`.
        batch_norm, global_pool, hidden: as in ``model``.

    Raises:
        ShapeError: a map is convolved or pooled away.
    """
    table: list[Layer] = []
    channels, size = 1, IMAGE_SIZE
    for number, block in enumerate(blocks, start=1):
        parameters = multiply_adds = 0
        for _ in range(block.convolutions):
            convolved = block.convolved_size(size)
            if convolved < 1:
                raise ShapeError(
                    f"model.padding=valid: block {number} convolves a {size} × {size} map by "
                    f"{block.kernel} × {block.kernel} and nothing is left; allowed there: model.kernel_size at most "
                    f"{size}, or model.padding=same"
                )
            weights = block.kernel * block.kernel * channels * block.width
            # the scale and the shift of the normalisation take the place of the bias
            parameters += weights + (2 if batch_norm else 1) * block.width
            multiply_adds += weights * convolved * convolved
            channels, size = block.width, convolved
        pooled = size // block.pool
        if pooled < 1:
            sides = [each.pool for each in blocks]
            raise ShapeError(
                f"model.pool_size={sides[0] if len(set(sides)) == 1 else sides}: block {number} pools a "
                f"{size} × {size} map by {block.pool} and nothing is left; allowed there: at most {size}"
            )
        table.append(Layer(f"block {number}", (channels, pooled, pooled), parameters, multiply_adds))
        size = pooled
    units = channels if global_pool else channels * size * size
    for index, width in enumerate([*hidden, CLASSES], start=1):
        name = f"hidden {index}" if index <= len(hidden) else "output"
        table.append(Layer(name, (width,), units * width + width, units * width))
        units = width
    return table
