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


@dataclass(frozen=True)
class Block:
    """One block of a network.

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

    def sizes(self, size: int) -> list[int]:
        """Sides of the maps after each convolution, of maps with side `size`; 0 or less = impossible."""
        change = 2 * self.padding - self.kernel + 1
        return [size + change * count for count in range(1, self.convolutions + 1)]

    def output_size(self, size: int) -> int:
        """Side of the maps after the whole block."""
        return self.sizes(size)[-1] // self.pool


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


def smallest_map(blocks: Sequence[Block]) -> int:
    """Side of the smallest map that a convolution makes; without one, that of the images."""
    smallest = size = IMAGE_SIZE
    for block in blocks:
        smallest, size = min(smallest, *block.sizes(size)), block.output_size(size)
    return smallest


def layers(blocks: Sequence[Block], batch_norm: bool, global_pool: bool, hidden: Sequence[int]) -> list[Layer]:
    """The table of a network's layers, from the first block to the output.

    Args:
        blocks, batch_norm, global_pool, hidden: as in ``model``.

    Raises:
        ShapeError: a map is convolved or pooled away.
    """
    table: list[Layer] = []
    channels, size = 1, IMAGE_SIZE
    for number, block in enumerate(blocks, start=1):
        parameters = multiply_adds = 0
        for convolved in block.sizes(size):
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
        if block.pool > size:
            pools = [each.pool for each in blocks]
            raise ShapeError(
                f"model.pool_size={pools[0] if len(set(pools)) == 1 else pools}: block {number} pools a "
                f"{size} × {size} map by {block.pool} and nothing is left; allowed there: at most {size}"
            )
        size //= block.pool
        table.append(Layer(f"block {number}", (channels, size, size), parameters, multiply_adds))
    units = channels if global_pool else channels * size * size
    for index, width in enumerate([*hidden, CLASSES], start=1):
        name = f"hidden {index}" if index <= len(hidden) else "output"
        table.append(Layer(name, (width,), units * width + width, units * width))
        units = width
    return table
