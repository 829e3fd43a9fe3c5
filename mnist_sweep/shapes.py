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


def layers(
    filters: Sequence[int],
    kernel_size: int | Sequence[int],
    pool_size: int | Sequence[int],
    batch_norm: bool,
    hidden: Sequence[int],
) -> list[Layer]:
    """The table of a network's layers, from the first block to the output; the arguments are those of ``model``.

    Raises:
        ShapeError: lists of different lengths, or a map that is pooled away.
    """
    kernels = per_block("model.kernel_size", kernel_size, len(filters))
    pools = per_block("model.pool_size", pool_size, len(filters))
    table: list[Layer] = []
    channels, size = 1, IMAGE_SIZE
    for block, (width, kernel, pool) in enumerate(zip(filters, kernels, pools, strict=True), start=1):
        weights = kernel * kernel * channels * width
        pooled = size // pool
        if pooled < 1:
            raise ShapeError(
                f"model.pool_size={pool_size if isinstance(pool_size, int) else list(pool_size)}: block {block} pools "
                f"a {size} × {size} map by {pool} and nothing is left; allowed there: at most {size}"
            )
        norm = 2 * width if batch_norm else width  # scale and shift take the place of the bias
        table.append(Layer(f"block {block}", (width, pooled, pooled), weights + norm, weights * size * size))
        channels, size = width, pooled
    units = channels * size * size
    for index, width in enumerate([*hidden, CLASSES], start=1):
        name = f"hidden {index}" if index <= len(hidden) else "output"
        table.append(Layer(name, (width,), units * width + width, units * width))
        units = width
    return table
