"""Types and bounds of every key of the config. The defaults are in conf/."""

import os
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from mnist_sweep.config import metrics
from mnist_sweep.config import network_shapes as shapes
from mnist_sweep.config.options import Data, Launcher, Loss, MLflow, Model, Optimizer, Scheduler, Tracking, Trainer
from mnist_sweep.config.overrides import flattened, text
from mnist_sweep.config.paths import PathText
from mnist_sweep.config.section import Name, Section, one_of
from mnist_sweep.config.sweep_options import Sweep
from mnist_sweep.errors import without_passwords

#: The parts of the config that describe what is trained.
_TRAINED = ("data", "model", "optimizer", "scheduler", "loss", "trainer")
#: Keys that say where and how a run is performed, not what it trains.
PLACE = {"output", "tracking", "data.root", "data.fallback"}
PLACE |= {"trainer.threads", "trainer.accelerator", "trainer.cuda_graphs"}


class Config(Section):
    """What Hydra composed, checked."""

    name: Name | None
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    output: Annotated[PathText, Field(pattern=r"^[^?%]+$")]  # in the URL of a database, ? and % have another meaning
    objective: Annotated[str, one_of(metrics.EPOCH_METRICS)]
    test: bool | None = None
    data: Data
    model: Model
    optimizer: Optimizer
    scheduler: Scheduler
    loss: Loss
    trainer: Trainer
    tracking: Tracking
    launcher: Launcher
    sweep: Sweep | None = None  # there only with +sweep=optuna

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.sweep and self.name is not None:
            raise ValueError(f"name={self.name}: a sweep is named by sweep.name")
        if self.sweep and self.test is not None:
            raise ValueError(f"test={text(self.test)}: a sweep opens the test set for its winner; allowed: null")
        if self.data.batch_size == 1 and self.model.batch_norm and 1 in shapes.convolved_sizes(self.model.blocks()):
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
        """The config as plain containers, as Hydra composed it, without passwords."""
        content = self.model_dump(mode="json", exclude_unset=True)
        if isinstance(self.tracking, MLflow):
            content["tracking"]["uri"] = without_passwords(self.tracking.uri)
        return content

    def trained(self) -> dict[str, Any]:
        """The same without where the data, the runs and their store are: what a network takes along with it."""
        content = self.plain()
        del content["data"]["root"], content["output"], content["tracking"]
        return content

    @classmethod
    def of_trained(cls, content: Mapping[str, Any]) -> Self:
        """The config of a network, by what `trained` gave, or `plain` in an earlier version; it is no sweep's."""
        root = os.environ.get("MNIST_SWEEP_DATA") or "data"
        elsewhere = {"output": "mlruns", "tracking": {"name": "none"}, "data": {"root": root, **content["data"]}}
        return cls.model_validate({key: part for key, part in content.items() if key != "sweep"} | elsewhere)

    def parameters(self) -> dict[str, Any]:
        """Every value that bears on a run, by dotted name; a group's option under the group's own, ``optimizer``."""
        parts = self.model_dump(mode="json", exclude_unset=True, exclude={"sweep", "name", "launcher", "test"})
        values = {key: value for key, value in flattened(parts).items() if not isinstance(value, dict)}
        found = {key.removesuffix(".name"): value for key, value in values.items()}
        if isinstance(self.tracking, MLflow):
            found["tracking.uri"] = without_passwords(self.tracking.uri)
        return found | ({"model": self.model.name} if options("model") else {})  # which a YAML file need not say

    def relevant(self) -> dict[str, Any]:
        """Of the `parameters`, those that change what a run's numbers mean."""
        return {key: value for key, value in self.parameters().items() if not within(key, PLACE)}


def within(key: str, names: Iterable[str]) -> bool:
    """Whether a dotted name is one of these, or lies below one."""
    return any(f"{key}.".startswith(f"{name}.") for name in names)


def searchable(key: str) -> bool:
    """Whether a sweep may draw this key: it is part of what is trained, and leaves trials comparable."""
    return key.partition(".")[0] in _TRAINED and not within(key, {*PLACE, "data.split_seed"})


def sections_of(key: str) -> list[type[Section]]:
    """The sections that the mapping of this dotted name can be: several where it is a choice, none for a value."""
    found: list[type[Section]] = [Config]
    for part in key.split(".") if key else []:
        fields = [section.model_fields[part] for section in found if part in section.model_fields]
        found = [section for field in fields for section in _members(field.annotation)]
    return found


def _members(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, Section) else []
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return [found for part in get_args(annotation) for found in _members(part)]
    return []


def options(group: str) -> dict[str, type[Section]]:
    """The sections that a group such as ``optimizer`` can be, by the option's name; empty where there is no choice."""
    found = sections_of(group) if group else []
    return {get_args(section.model_fields["name"].annotation)[0]: section for section in found if len(found) > 1}


def known_keys(prefix: str = "") -> set[str]:
    """The dotted names of all keys that a config can have, whichever options its groups take."""
    names = {f"{prefix}{name}" for section in sections_of(prefix.rstrip(".")) for name in section.model_fields}
    return names.union(*(known_keys(f"{name}.") for name in names))


def fault(key: str, value: Any) -> str | None:
    """What is wrong with a value by the type and the bounds of its key alone; None where some option can have it."""
    group, _, last = key.rpartition(".")
    fields = [section.model_fields[last] for section in sections_of(group) if last in section.model_fields]
    if not fields:
        return "no such key"
    if sections_of(key):
        return None if isinstance(value, Mapping) else "should be a mapping"
    first = None
    for field in fields:
        kind: Any = Annotated[field.annotation, Field(), *field.metadata]
        try:
            TypeAdapter(kind, config=Section.model_config).validate_python(value)
            return None
        except ValidationError as error:
            first = first or str(error.errors()[0]["msg"]).removeprefix("Input ").removeprefix("Value error, ")
    return first
