"""Types and bounds of every key of the config. The defaults are in conf/."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from mnist_sweep.config import metrics
from mnist_sweep.config import network_shapes as shapes
from mnist_sweep.config import section as sections
from mnist_sweep.config.options import Data, Launcher, Loss, Model, Optimizer, Scheduler, Tracking, Trainer
from mnist_sweep.config.section import Name, Section, one_of
from mnist_sweep.config.sweep_options import Sweep

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
    objective: Annotated[str, one_of(metrics.EPOCH_METRICS, "not logged in an epoch")]
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

    def relevant(self) -> dict[str, Any]:
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
        return str(error.errors()[0]["msg"]).removeprefix("Input ").removeprefix("Value error, ")
    return None


def options(group: str) -> dict[str, type[Section]]:
    """The sections that a group such as ``optimizer`` can be, by the option's name; empty where there is no choice."""
    return sections.options(Config.model_fields[group].annotation) if group in Config.model_fields else {}
