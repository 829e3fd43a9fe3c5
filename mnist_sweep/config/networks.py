"""The networks: the keys of each, their bounds, its arithmetic, and how it is built. The defaults are in conf/model."""

import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar, cast

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from mnist_sweep.config import network_shapes as shapes
from mnist_sweep.config.network_shapes import Images
from mnist_sweep.config.section import Fraction, Section, Target, above, name_of

if TYPE_CHECKING:
    import torch


def _named(target: str) -> str:
    if not re.fullmatch(r".+:[A-Za-z_][\w.]*", target):
        raise ValueError("names no class; allowed: FILE.py:NAME, or MODULE:NAME on the import path")
    return target


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise ValueError("should be odd, so that it can be centred on a pixel (1, 3, 5, 7, …)")
    return kernel


Each = TypeVar("Each")
#: One number for all blocks, or a list with one number a block.
PerBlock = Annotated[
    Annotated[Each, Tag("number")] | Annotated[list[Each], Tag("list")],
    Discriminator(lambda value: "list" if isinstance(value, list) else "number"),
]
Width = Annotated[int, Field(ge=1, le=100_000)]

Widths = list[Width]


Activation = Literal["relu", "sigmoid", "tanh", "gelu", "silu"]
#: Of the pixels, scaled to [0, 1]: a number for grey images, else one for each channel.
Pixels = float | Sequence[float]


class _Network(Section):
    """A network: its table of layers, and how it is built for some images."""

    module: ClassVar[str]  # the class of `training.models`
    batch_norm: bool

    @abstractmethod
    def layers(self, images: Images) -> list[shapes.Layer]:
        """The table of the network's layers; ValueError where these images cannot go through it."""

    def smallest_maps(self, images: Images) -> int:
        """The longer side of the smallest map that is normalised over a batch; more than 1 where none is."""
        return 2

    def build(self, mean: Pixels, deviation: Pixels, images: Images) -> "torch.nn.Module":
        """The network with fresh weights, see `training.models`."""
        return cast("torch.nn.Module", above(f"models:{self.module}")(self, mean, deviation, images))


class ConvNet(_Network):
    """Blocks of convolution, activation and pooling, then fully connected layers; see conf/model/convnet.yaml."""

    module = "ConvNet"
    name: Literal["convnet"] = "convnet"
    filters: Widths
    kernel_size: PerBlock[Annotated[int, Field(ge=1, le=27), AfterValidator(_odd)]]
    pool_size: PerBlock[Annotated[int, Field(ge=1, le=64)]]
    convolutions: PerBlock[Annotated[int, Field(ge=1, le=100)]]
    padding: Literal["same", "valid"]
    pool: Literal["max", "avg"]
    activation: Activation
    global_pool: bool
    hidden: Widths
    dropout: Fraction

    @model_validator(mode="after")
    def _as_many_entries(self) -> Self:
        self.blocks()
        return self

    def layers(self, images: Images) -> list[shapes.Layer]:
        return shapes.layers(self.blocks(), self.batch_norm, self.global_pool, self.hidden, images)

    def smallest_maps(self, images: Images) -> int:
        return min(shapes.convolved_sizes(self.blocks(), images), default=2) if self.batch_norm else 2

    def blocks(self) -> list[shapes.Block]:
        """The convolutional blocks."""
        kernels, pools, counts = (
            shapes.per_block(f"model.{key}", getattr(self, key), len(self.filters))
            for key in ("kernel_size", "pool_size", "convolutions")
        )
        return [
            shapes.Block(width, kernel, pool, count, kernel // 2 if self.padding == "same" else 0)
            for width, kernel, pool, count in zip(self.filters, kernels, pools, counts, strict=True)
        ]


class MLP(_Network):
    """Fully connected layers on the pixels; see conf/model/mlp.yaml."""

    module = "MLP"
    name: Literal["mlp"]
    hidden: Widths
    activation: Activation
    dropout: Fraction
    batch_norm: Literal[False] = False

    def layers(self, images: Images) -> list[shapes.Layer]:
        return shapes.layers([], False, False, self.hidden, images)


class ResNet(_Network):
    """A small residual network; see conf/model/resnet.yaml."""

    module = "ResNet"
    name: Literal["resnet"]
    depth: Annotated[int, Field(ge=1, le=20)]
    width: Annotated[int, Field(ge=4, le=1_024)]
    dropout: Fraction
    batch_norm: Literal[True] = True

    def layers(self, images: Images) -> list[shapes.Layer]:
        return shapes.residual_layers(self.depth, self.width, images)

    def smallest_maps(self, images: Images) -> int:
        return -(-max(images.height, images.width) // 4)


class Custom(_Network):
    """A network of the user's own; see conf/model/custom.yaml."""

    module = "Custom"
    name: Literal["custom"]
    target: Annotated[Target, AfterValidator(_named)]
    arguments: dict[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")], Any]
    batch_norm: Literal[False] = False

    def layers(self, images: Images) -> list[shapes.Layer]:
        """One row: what the built module has, counted in a forward pass of two images; RequestError if it fails."""
        return cast(list[shapes.Layer], above("own_code:layers")(self.target, self.arguments, images))

    def defaults(self) -> dict[str, Any]:
        """Those of the class's arguments that are not set: plain values only."""
        found = above("own_code:defaults")(self.target)
        return {name: value for name, value in found.items() if name not in self.arguments}


Model = Annotated[
    Annotated[ConvNet, Tag("convnet")]
    | Annotated[MLP, Tag("mlp")]
    | Annotated[ResNet, Tag("resnet")]
    | Annotated[Custom, Tag("custom")],
    Discriminator(name_of),
]
