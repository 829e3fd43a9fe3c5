"""The options of the config's groups: the keys of each, their bounds, and how it is built. The defaults are in conf/.

A new option is one class here and one YAML file. Torch is imported only where something is built.
"""

import pkgutil
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar, cast

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from mnist_sweep.config import network_shapes as shapes
from mnist_sweep.config.image_sets import IMAGE_SETS
from mnist_sweep.config.network_shapes import GREY28, Images
from mnist_sweep.config.section import Count, Fraction, NonNegative, Positive, Rate, Section, one_of

if TYPE_CHECKING:
    import torch
    from torch.optim.lr_scheduler import LRScheduler


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


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def _found_anywhere(target: str) -> str:
    file, _, name = target.rpartition(":")
    return f"{_absolute(file)}:{name}" if file.endswith(".py") else target


#: Code of the user's own: MODULE:NAME, or FILE.py:NAME.
Target = Annotated[str, Field(pattern=r"^.+:[A-Za-z_][\w.]*$"), AfterValidator(_found_anywhere)]
Activation = Literal["relu", "sigmoid", "tanh", "gelu", "silu"]
#: Of the pixels, scaled to [0, 1]: a number for grey images, else one for each channel.
Pixels = float | Sequence[float]


def _of_training(name: str) -> Any:
    """What is above the config, by its name in ``mnist_sweep.training``; imported only where it is needed."""
    return pkgutil.resolve_name(f"mnist_sweep.training.{name}")


class _Network(Section):
    """A network: its table of layers, and how it is built for some images."""

    module: ClassVar[str]  # the class of `training.models`
    batch_norm: bool

    def layers(self, images: Images = GREY28) -> list[shapes.Layer]:
        """The table of the network's layers; ValueError where these images cannot go through it."""
        raise NotImplementedError

    def smallest_maps(self, images: Images) -> int:
        """The longer side of the smallest map that is normalised over a batch; more than 1 where none is."""
        return 2

    def build(self, mean: Pixels, deviation: Pixels, images: Images = GREY28) -> "torch.nn.Module":
        """The network with fresh weights, see `training.models`."""
        return cast("torch.nn.Module", _of_training(f"models:{self.module}")(self, mean, deviation, images))


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

    def layers(self, images: Images = GREY28) -> list[shapes.Layer]:
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

    def layers(self, images: Images = GREY28) -> list[shapes.Layer]:
        return shapes.layers([], False, False, self.hidden, images)


class ResNet(_Network):
    """A small residual network; see conf/model/resnet.yaml."""

    module = "ResNet"
    name: Literal["resnet"]
    depth: Annotated[int, Field(ge=1, le=20)]
    width: Annotated[int, Field(ge=1, le=1_024)]
    dropout: Fraction
    batch_norm: Literal[True] = True

    def layers(self, images: Images = GREY28) -> list[shapes.Layer]:
        return shapes.residual_layers(self.depth, self.width, images)

    def smallest_maps(self, images: Images) -> int:
        return -(-max(images.height, images.width) // 4)


class Custom(_Network):
    """A network of the user's own; see conf/model/custom.yaml."""

    module = "Custom"
    name: Literal["custom"]
    target: Target
    arguments: dict[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")], Any]
    batch_norm: Literal[False] = False

    def layers(self, images: Images = GREY28) -> list[shapes.Layer]:
        """One row: what the built module has, counted in a forward pass of two images; RequestError if it fails."""
        return cast(list[shapes.Layer], _of_training("own_code:layers")(self.target, self.arguments, images))

    def defaults(self) -> dict[str, Any]:
        """Those of the class's arguments that are not set: plain values only."""
        found = _of_training("own_code:defaults")(self.target)
        return {name: value for name, value in found.items() if name not in self.arguments}


def _name(value: Any) -> str:
    """By which a section is known; that of the first network may be left out."""
    found = value.get("name", "convnet") if isinstance(value, dict) else getattr(value, "name", "convnet")
    return str(found)


Model = Annotated[
    Annotated[ConvNet, Tag("convnet")]
    | Annotated[MLP, Tag("mlp")]
    | Annotated[ResNet, Tag("resnet")]
    | Annotated[Custom, Tag("custom")],
    Discriminator(_name),
]


class Augmentation(Section):
    rotation: Annotated[float, Field(ge=0, le=180)]
    shift: Fraction
    scale: Fraction
    flip: Annotated[float, Field(ge=0, le=1)] = 0.0
    crop: Count = 0
    cutout: Count = 0


class _Data(Section):
    own: ClassVar[bool] = False  # the user's pictures, rather than a set that others publish
    root: str
    split_seed: Annotated[int, Field(ge=0, lt=2**32)]
    limit: Positive | None
    batch_size: Positive
    augmentation: Augmentation
    fallback: Literal["mnist5k"] | None = None
    name: str

    @property
    def images(self) -> Images:
        """What a network for these takes and tells apart."""
        raise NotImplementedError

    @property
    def classes(self) -> Sequence[str]:
        """The names of the classes, in the order of their labels."""
        raise NotImplementedError

    @property
    def label(self) -> str:
        """What results and models of this set are filed under."""
        return self.name


class KnownSet(_Data):
    """A set by its name in `IMAGE_SETS`."""

    name: Annotated[str, one_of([*IMAGE_SETS, "folder", "arrays"])]
    fallback: Literal["mnist5k"] | None

    @property
    def images(self) -> Images:
        return IMAGE_SETS[self.name].images

    @property
    def classes(self) -> Sequence[str]:
        return IMAGE_SETS[self.name].classes


class Contents(Section):
    """What the files of an image set of one's own hold; kept with each run and in its checkpoints."""

    channels: Literal[1, 3]
    size: Annotated[list[Positive], Field(min_length=2, max_length=2)]  # height and width
    classes: Annotated[list[str], Field(min_length=2)]
    digest: str  # of the files, and of how they are read


class _OwnSet(_Data):
    own = True
    path: Annotated[str, Field(min_length=1), AfterValidator(_absolute)]
    cache: Annotated[str, Field(min_length=1)]
    validation_share: Annotated[float, Field(gt=0, lt=1)]
    test_share: Annotated[float, Field(gt=0, lt=1)]
    contents: Contents | None = None  # of a run that has been made: its files need not be there any more

    @property
    def found(self) -> Contents:
        """What the files hold; RequestError where they are no image set."""
        return self.contents or cast(Contents, _of_training("own_images:contents")(self))

    @property
    def images(self) -> Images:
        found = self.found
        return Images(found.channels, *found.size, len(found.classes))

    @property
    def classes(self) -> Sequence[str]:
        return self.found.classes

    @property
    def label(self) -> str:
        return f"{self.name}-{re.sub(r'[^A-Za-z0-9_.-]+', '_', Path(self.path).stem)}"


class Folder(_OwnSet):
    """Pictures, a folder for each class; see conf/data/folder.yaml."""

    name: Literal["folder"]
    size: Annotated[list[Annotated[int, Field(ge=1, le=4_096)]], Field(min_length=2, max_length=2)] | None
    channels: Literal[1, 3] | None
    skip_bad: bool


class Arrays(_OwnSet):
    """Images in a file of numpy's; see conf/data/arrays.yaml."""

    name: Literal["arrays"]


Data = Annotated[
    Annotated[KnownSet, Tag("")] | Annotated[Folder, Tag("folder")] | Annotated[Arrays, Tag("arrays")],
    Discriminator(lambda value: name if (name := _name(value)) in ("folder", "arrays") else ""),
]


class _Optimizer(Section):
    """The class has the name and the keys of torch's own, which are handed to it as they are."""

    #: Whether torch has a form of it that changes all parameters in one call. A CUDA graph needs that, or an optimizer
    #: that is "capturable" and whose state begins with zeros.
    fused: ClassVar[bool] = True
    lr: Rate
    weight_decay: NonNegative

    def build(self, parameters: "Iterable[torch.Tensor]") -> "torch.optim.Optimizer":
        """The optimizer of these parameters, in its fastest form."""
        import torch

        arguments = self.model_dump(exclude={"name"}) | ({"fused": True} if self.fused else {})
        return cast("torch.optim.Optimizer", getattr(torch.optim, type(self).__name__)(parameters, **arguments))


Betas = Annotated[list[Fraction], Field(min_length=2, max_length=2)]


class Adam(_Optimizer):
    name: Literal["adam"]
    betas: Betas


class AdamW(_Optimizer):
    name: Literal["adamw"]
    betas: Betas


class SGD(_Optimizer):
    name: Literal["sgd"]
    momentum: Fraction
    nesterov: bool

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("optimizer.momentum=0: allowed only with optimizer.nesterov=false")
        return self


class RMSprop(_Optimizer):
    fused = False
    name: Literal["rmsprop"]
    alpha: Fraction
    momentum: Fraction


Optimizer = Annotated[Adam | AdamW | SGD | RMSprop, Field(discriminator="name")]


class _Scheduler(Section):
    stretched: ClassVar[bool] = False  # over all epochs of the run


class Nothing(_Scheduler):
    """The option "none", of the scheduler and of tracking."""

    name: Literal["none"]

    def build(self, optimizer: "torch.optim.Optimizer", steps: int, epochs: int) -> "LRScheduler | None":
        """The schedule of all steps of all epochs, which moves with each step; the optimizer's rate is its highest."""
        return None


class Step(_Scheduler):
    name: Literal["step"]
    step_size: Positive
    gamma: Annotated[float, Field(gt=0, le=1)]

    def build(self, optimizer: "torch.optim.Optimizer", steps: int, epochs: int) -> "LRScheduler | None":
        from torch.optim.lr_scheduler import StepLR

        return StepLR(optimizer, self.step_size * (steps // epochs), self.gamma)


class Cosine(_Scheduler):
    stretched = True

    name: Literal["cosine"]
    final_lr: NonNegative

    def build(self, optimizer: "torch.optim.Optimizer", steps: int, epochs: int) -> "LRScheduler | None":
        from torch.optim.lr_scheduler import CosineAnnealingLR

        return CosineAnnealingLR(optimizer, steps, eta_min=self.final_lr)


class OneCycle(_Scheduler):
    stretched = True

    name: Literal["onecycle"]
    warmup: Annotated[float, Field(gt=0, lt=1)]
    initial_div: Annotated[float, Field(ge=1)]
    final_div: Annotated[float, Field(ge=1)]

    def build(self, optimizer: "torch.optim.Optimizer", steps: int, epochs: int) -> "LRScheduler | None":
        from torch.optim.lr_scheduler import OneCycleLR

        if steps < 3:  # a cycle has a first, a highest and a last rate; so the rate stays at its peak
            return None
        return OneCycleLR(
            optimizer,
            optimizer.defaults["lr"],
            steps,
            pct_start=max(self.warmup, 2 / steps),  # with less than two steps of warm-up torch begins at neither rate
            cycle_momentum=False,  # momentum is a key of its own, and may be searched
            div_factor=self.initial_div,
            final_div_factor=self.final_div,
        )


Scheduler = Annotated[Nothing | Step | Cosine | OneCycle, Field(discriminator="name")]


class Loss(Section):
    label_smoothing: Fraction
    class_weights: Literal["balanced"] | None = None


class Extra(Section):
    """A metric of the user's own."""

    target: Annotated[Literal["balanced_accuracy"] | Target, Field(union_mode="left_to_right")]
    direction: Literal["maximize", "minimize"] = "maximize"

    @property
    def metric(self) -> str:
        """The last part of its name: top3 of my_package.metrics:top3."""
        return re.split("[:.]", self.target)[-1]


class Metrics(Section):
    extra: list[str | Extra] = []

    def functions(self) -> list[Extra]:
        return [item if isinstance(item, Extra) else Extra(target=item) for item in self.extra]


class Trainer(Section):
    max_epochs: Positive
    patience: Positive | None
    gradient_clip: Rate | None
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None
    accelerator: Literal["auto", "cpu", "gpu"]
    precision: Literal[32, "bf16", "auto"]
    cuda_graphs: Literal[True, False, "auto"]
    threads: Annotated[int, Field(ge=1, le=1024)] | None


class MLflow(Section):
    name: Literal["mlflow"]
    uri: Annotated[str, Field(min_length=1)]
    experiment: Annotated[str, Field(min_length=1)]


Tracking = Annotated[MLflow | Nothing, Field(discriminator="name")]


class LocalLauncher(Section):
    name: Literal["local"]
    memory_growth_mb: Positive


class InlineLauncher(Section):
    name: Literal["inline"]


Launcher = Annotated[LocalLauncher | InlineLauncher, Field(discriminator="name")]
