"""The arithmetic of a network, without torch: an impossible one is refused in milliseconds, before it is built."""

from collections.abc import Sequence
from dataclasses import dataclass

#: Every data set here has grey images of 28 × 28 pixels in ten classes.
IMAGE_SIZE = 28
CLASSES = 10


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


def convolved_sizes(blocks: Sequence[Block]) -> list[int]:
    """Side of the maps that each convolution makes."""
    found, size = [], IMAGE_SIZE
    for block in blocks:
        found += block.sizes(size)
        size = block.output_size(size)
    return found


def layers(blocks: Sequence[Block], batch_norm: bool, global_pool: bool, hidden: Sequence[int]) -> list[Layer]:
    """The table of a network's layers, from the first block on; ValueError where nothing is left of a map."""
    table: list[Layer] = []
    channels, size = 1, IMAGE_SIZE
    for number, block in enumerate(blocks, start=1):
        parameters = multiply_adds = 0
        for convolved in block.sizes(size):
            if convolved < 1:
                raise ValueError(
                    f"model.padding=valid: block {number} convolves a {size} × {size} map by {block.kernel} × "
                    f"{block.kernel} and nothing is left; allowed there: model.kernel_size at most {size}, or "
                    "model.padding=same"
                )
            weights = block.kernel * block.kernel * channels * block.width
            # the scale and the shift of the normalisation take the place of the bias
            parameters += weights + (2 if batch_norm else 1) * block.width
            multiply_adds += weights * convolved * convolved
            channels, size = block.width, convolved
        if block.pool > size:
            pools = [each.pool for each in blocks]
            raise ValueError(
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
