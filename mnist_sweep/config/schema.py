"""Types and bounds of every key of the config. The defaults are in conf/."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, TypeAdapter, ValidationError, field_validator, model_validator

from mnist_sweep.config import metrics
from mnist_sweep.config import network_shapes as shapes
from mnist_sweep.config import section as sections
from mnist_sweep.config.options import Optimizer, Scheduler
from mnist_sweep.config.section import Fraction, Name, Positive, Rate, Section
from mnist_sweep.config.sweep_options import Sweep


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise ValueError("should be odd, so that it can be centred on a pixel (1, 3, 5, 7, …)")
    return kernel


def _kind(value: object) -> str:
    return "list" if isinstance(value, list) else "number"


Width = Annotated[int, Field(ge=1, le=100_000)]
Kernel = Annotated[int, Field(ge=1, le=shapes.IMAGE_SIZE - 1)]
Pool = Annotated[int, Field(ge=1, le=shapes.IMAGE_SIZE)]
Convolutions = Annotated[int, Field(ge=1, le=100)]


class Model(Section):
    filters: list[Width]
    kernel_size: Annotated[
        Annotated[Kernel, Tag("number")] | Annotated[list[Kernel], Tag("list")], Discriminator(_kind)
    ]
    pool_size: Annotated[Annotated[Pool, Tag("number")] | Annotated[list[Pool], Tag("list")], Discriminator(_kind)]
    convolutions: Annotated[
        Annotated[Convolutions, Tag("number")] | Annotated[list[Convolutions], Tag("list")], Discriminator(_kind)
    ]
    padding: Literal["same", "valid"]
    pool: Literal["max", "avg"]
    activation: Literal["relu", "sigmoid", "tanh", "gelu", "silu"]
    batch_norm: bool
    global_pool: bool
    hidden: list[Width]
    dropout: Fraction

    @field_validator("kernel_size")
    @classmethod
    def _centred(cls, value: int | list[int]) -> int | list[int]:
        for kernel in value if isinstance(value, list) else [value]:
            _odd(kernel)
        return value

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.layers()
        return self

    def layers(self) -> list[shapes.Layer]:
        """The table of the network's layers, see `shapes.layers`."""
        return shapes.layers(self.blocks(), self.batch_norm, self.global_pool, self.hidden)

    def blocks(self) -> list[shapes.Block]:
        """The convolutional blocks, see `shapes.blocks`."""
        return shapes.blocks(self.filters, self.kernel_size, self.pool_size, self.convolutions, self.padding)


class Augmentation(Section):
    rotation: Annotated[float, Field(ge=0, le=180)]
    shift: Fraction
    scale: Fraction


class Data(Section):
    name: Literal["mnist", "fashion_mnist", "kmnist", "mnist5k"]
    fallback: Literal["mnist5k"] | None
    root: str
    split_seed: Annotated[int, Field(ge=0, lt=2**32)]
    limit: Annotated[int, Field(ge=shapes.CLASSES)] | None
    batch_size: Positive
    augmentation: Augmentation


class Loss(Section):
    label_smoothing: Fraction


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


class NoTracking(Section):
    name: Literal["none"]


Tracking = Annotated[MLflow | NoTracking, Field(discriminator="name")]


class LocalLauncher(Section):
    name: Literal["local"]
    memory_growth_mb: Positive


class InlineLauncher(Section):
    name: Literal["inline"]


Launcher = Annotated[LocalLauncher | InlineLauncher, Field(discriminator="name")]


#: The parts of the config that describe what is trained.
_TRAINED = ("data", "model", "optimizer", "scheduler", "loss", "trainer")
#: Keys that say where and how a run is performed, not what it trains.
_IMMATERIAL = {
    "output",
    "tracking",
    "trainer.threads",
    "trainer.accelerator",
    "trainer.cuda_graphs",
    "data.root",
    "data.fallback",
}


class Config(Section):
    """What Hydra composed, checked."""

    name: Name | None
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    output: Annotated[str, Field(min_length=1)]
    objective: str
    data: Data
    model: Model
    optimizer: Optimizer
    scheduler: Scheduler
    loss: Loss
    trainer: Trainer
    tracking: Tracking
    launcher: Launcher
    sweep: Sweep | None = None  # there only with +sweep=optuna

    @field_validator("output")
    @classmethod
    def _part_of_an_url(cls, value: str) -> str:
        if found := set(value) & {"?", "%"}:  # in the URL of a database they begin a query, or stand for others
            raise ValueError(f"allowed: a folder without {' and '.join(sorted(found))} in its path")
        return value

    @field_validator("objective")
    @classmethod
    def _logged(cls, value: str) -> str:
        if value not in metrics.EPOCH_METRICS:
            raise ValueError(f"not logged in an epoch; allowed: {', '.join(metrics.EPOCH_METRICS)}")
        return value

    @model_validator(mode="after")
    def _normalisable(self) -> Self:
        """Batch normalisation cannot be trained on a single number."""
        one = self.data.batch_size == 1 and shapes.smallest_map(self.model.blocks()) == 1
        if one and self.model.batch_norm:
            raise ValueError(
                "data.batch_size=1: a convolution of the network makes 1 × 1 maps, of which model.batch_norm=true "
                "needs two; allowed there: at least 2, or model.batch_norm=false"
            )
        return self

    def with_precision(self, precision: Literal[32, "bf16"]) -> "Config":
        """The same config with the precision that ``auto`` came to."""
        return self.model_copy(update={"trainer": self.trainer.model_copy(update={"precision": precision})})

    @property
    def direction(self) -> metrics.Direction:
        """Which way the objective is better."""
        return metrics.EPOCH_METRICS[self.objective]

    def plain(self) -> dict[str, Any]:
        """The config as plain containers, as Hydra composed it."""
        return self.model_dump(mode="json", exclude_unset=True)

    def parameters(self) -> dict[str, Any]:
        """Every value that bears on a run, by dotted name.

        The option of a group stands under the group's own name, as on the command line: ``optimizer``, not
        ``optimizer.name``.
        """
        found: dict[str, Any] = {}

        def walk(node: dict[str, Any], prefix: str) -> None:
            for key, value in node.items():
                if isinstance(value, dict):
                    walk(value, f"{prefix}{key}.")
                else:
                    found[prefix.rstrip(".") if key == "name" else prefix + key] = value

        walk({key: value for key, value in self.plain().items() if key not in ("sweep", "name", "launcher")}, "")
        return found

    def material(self) -> dict[str, Any]:
        """Of the `parameters`, those that change what a run's numbers mean."""
        return {
            key: value
            for key, value in self.parameters().items()
            if not any(key == name or key.startswith(f"{name}.") for name in _IMMATERIAL)
        }


def searchable(key: str) -> bool:
    """Whether a sweep may draw the key of this name: it is part of what is trained, and leaves trials comparable."""
    unsuitable = any(key == name or key.startswith(f"{name}.") for name in {*_IMMATERIAL, "data.split_seed"})
    return key.partition(".")[0] in _TRAINED and not unsuitable


def known_keys(section: Any = Config, prefix: str = "") -> set[str]:
    """The dotted names of all keys that a config can have, whichever options its groups take."""
    found: set[str] = set()
    for name, field in section.model_fields.items():
        found.add(prefix + name)
        for member in sections.sections(field.annotation):
            found |= known_keys(member, f"{prefix}{name}.")
    return found


def fault(key: str, value: Any, section: Any = Config) -> str | None:
    """What is wrong with a value by the type and the bounds of its key alone; None where some option can have it.

    Args:
        key: a dotted name.
        value: plain data.
    """
    first, _, rest = key.partition(".")
    field = section.model_fields.get(first)
    if field is None:
        return "no such key"
    if rest:
        faults = [fault(rest, value, member) for member in sections.sections(field.annotation)]
        return None if None in faults else next((found for found in faults if found != "no such key"), "no such key")
    if sections.sections(field.annotation):
        return None if isinstance(value, Mapping) else "should be a mapping"
    annotated: Any = Annotated[field.annotation, Field(), *field.metadata]
    limits: TypeAdapter[Any] = TypeAdapter(annotated, config=Section.model_config)
    try:
        limits.validate_python(value)
    except ValidationError as error:
        return str(error.errors()[0]["msg"]).removeprefix("Input ")
    return None


def options(group: str) -> dict[str, type[Section]]:
    """The sections that a group such as ``optimizer`` can be, by the option's name; empty where there is no choice."""
    return sections.options(Config.model_fields[group].annotation) if group in Config.model_fields else {}
