"""Types and bounds of every key of the config. The defaults are in conf/."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from mnist_sweep.config.image_data import Arrays, Data, Folder
from mnist_sweep.config.image_sets import IMAGE_SETS
from mnist_sweep.config.metrics import EPOCH_METRICS, RUN_METRICS, Direction
from mnist_sweep.config.network_shapes import Layer
from mnist_sweep.config.networks import Custom, Model
from mnist_sweep.config.options import Extra, Launcher, Loss, Metrics, MLflow, Optimizer, Scheduler, Tracking, Trainer
from mnist_sweep.config.overrides import FREE, flattened, text
from mnist_sweep.config.paths import PathText
from mnist_sweep.config.section import RunName, Section
from mnist_sweep.config.sweep_options import Sweep
from mnist_sweep.errors import without_passwords

#: The parts of the config that describe what is trained.
_TRAINED = ("data", "model", "optimizer", "scheduler", "loss", "trainer")
#: Keys that say where and how a run is performed, not what it trains.
PLACE = {"output", "tracking", "data.root", "data.fallback", "data.path", "data.cache"}
PLACE |= {"trainer.threads", "trainer.accelerator", "trainer.cuda_graphs"}
#: Keys that say which images there are, without which trials do not compare.
_IMAGES = {f"data.{key}" for key in ("split_seed", "validation_share", "test_share", "size", "channels", "skip_bad")}


class Config(Section):
    """What Hydra composed, checked."""

    name: RunName | None
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    output: Annotated[PathText, Field(pattern=r"^[^?%]+$")]  # in the URL of a database, ? and % have another meaning
    objective: str
    test: bool | None = None
    data: Data
    model: Model
    optimizer: Optimizer
    scheduler: Scheduler
    loss: Loss
    metrics: Metrics = Metrics(extra=[])
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
        self.layers()
        if self.data.batch_size == 1 and self.model.smallest_maps(self.data.images) == 1:
            raise ValueError(
                "data.batch_size=1: a convolution of the network makes 1 × 1 maps, of which model.batch_norm=true "
                "needs two; allowed there: at least 2, or model.batch_norm=false"
            )
        if self.data.limit is not None and self.data.limit < (classes := self.data.images.classes):
            least = f"should be greater than or equal to {classes}, one of each class"
            raise ValueError(f"data.limit={self.data.limit}: {least}")
        for each in self.metrics.extra:
            if f"val/{each.metric}" in (*EPOCH_METRICS, "val/calibration_error"):  # which is of the best epoch only
                raise ValueError(f"metrics.extra={each.target}: is measured already; allowed: another name")
            others = [other for other in self.metrics.extra if other.metric == each.metric and other != each]
            if others or each.metric == "balanced_accuracy" != each.target:  # ours
                raise ValueError(f"metrics.extra={each.target}: two are called {each.metric}; allowed: another name")
        named = [("objective", self.objective, self.epoch_metrics)]
        if self.sweep:
            known = self.epoch_metrics | RUN_METRICS
            goals = enumerate(self.sweep.objectives or [])
            named += [(f"sweep.objectives[{at}].metric", goal.metric, known) for at, goal in goals]
            named += [("sweep.constraints", name, known) for name in self.sweep.constraints or {}]
        for key, name, allowed in named:
            if name not in allowed:
                raise ValueError(f"{key}={name}: should be one of {', '.join(allowed)}")
        return self

    def layers(self) -> list[Layer]:
        """The table of the network's layers, for the images of the data set."""
        return self.model.layers(self.data.images)

    def extra_metrics(self) -> list[Extra]:
        """What is measured on top: the user's own metrics, and the balanced accuracy where classes may be unequal."""
        unequal = self.data.own or self.loss.class_weights
        extra = [Extra(target="balanced_accuracy")] if unequal else []
        return list({each.metric: each for each in [*extra, *self.metrics.extra]}.values())

    @property
    def epoch_metrics(self) -> dict[str, Direction]:
        """What is logged once an epoch, and which way is better."""
        return EPOCH_METRICS | {f"val/{each.metric}": each.direction for each in self.extra_metrics()}

    def with_precision(self, precision: Literal[32, "bf16"]) -> "Config":
        """The same config with the precision that ``auto`` came to."""
        return self.model_copy(update={"trainer": self.trainer.model_copy(update={"precision": precision})})

    @property
    def direction(self) -> Direction:
        """Which way the objective is better."""
        return self.epoch_metrics[self.objective]

    def plain(self) -> dict[str, Any]:
        """The config as plain containers, as Hydra composed it, without passwords; with what one's own files hold."""
        content: dict[str, Any] = self.model_dump(mode="json", exclude_unset=True)
        if isinstance(self.data, Folder | Arrays):
            content["data"]["contents"] = self.data.found.model_dump(mode="json")
        if isinstance(self.tracking, MLflow):
            content["tracking"]["uri"] = without_passwords(self.tracking.uri)
        if self.sweep:
            content["sweep"]["storage"] = without_passwords(self.sweep.storage)
        return content

    def trained(self) -> dict[str, Any]:
        """The same without where the data, the runs and their store are: what a network takes along with it."""
        content = self.plain()
        del content["output"], content["tracking"]
        del content["data"]["root"]
        if self.data.own:  # by whose name the network is known
            content["data"] |= {"path": Path(content["data"]["path"]).name, "cache": "cache"}
        return content

    @classmethod
    def of_trained(cls, content: Mapping[str, Any]) -> Self:
        """The config of a network, by what `trained` gave, or `plain` in an earlier version; it is no sweep's."""
        root = os.environ.get("MNIST_SWEEP_DATA") or "data"
        elsewhere = {"output": "mlruns", "tracking": {"name": "none"}, "data": {"root": root, **content["data"]}}
        return cls.model_validate({key: part for key, part in content.items() if key != "sweep"} | elsewhere)

    def parameters(self) -> dict[str, Any]:
        """Every value that bears on a run, by dotted name; a group's option under the group's own, ``optimizer``."""
        parts = {key: part for key, part in self.plain().items() if key not in ("sweep", "name", "launcher", "test")}
        if found := parts["data"].pop("contents", None):
            parts["data"]["digest"] = found["digest"]
        if isinstance(self.model, Custom):
            parts["model"]["arguments"] = {**self.model.defaults(), **self.model.arguments}
        values = {key: value for key, value in flattened(parts).items() if not isinstance(value, dict)}
        named = {key.removesuffix(".name"): value for key, value in values.items()}
        return named | {"model": self.model.name}  # which a YAML file need not say

    def relevant(self) -> dict[str, Any]:
        """Of the `parameters`, those that change what a run's numbers mean."""
        return {key: value for key, value in self.parameters().items() if not within(key, PLACE)}


def within(key: str, names: Iterable[str]) -> bool:
    """Whether a dotted name is one of these, or lies below one."""
    return any(f"{key}.".startswith(f"{name}.") for name in names)


def searchable(key: str) -> bool:
    """Whether a sweep may draw this key: it is part of what is trained, and leaves trials comparable."""
    return key.partition(".")[0] in _TRAINED and key != "data" and not within(key, {*PLACE, *_IMAGES, "data.contents"})


def sections_of(key: str) -> list[type[Section]]:
    """The sections that the mapping of this dotted name can be: several where it is a choice, none for a value."""
    found: list[type[Section]] = [Config]
    for part in key.split(".") if key else []:
        fields = [section.model_fields[part] for section in found if part in section.model_fields]
        found = list(dict.fromkeys(section for field in fields for section in _members(field.annotation)))
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
    if len(found) < 2:
        return {}
    named = [(get_args(section.model_fields["name"].annotation) or IMAGE_SETS, section) for section in found]
    return {name: section for names, section in named for name in names}


def known_keys(prefix: str = "") -> set[str]:
    """The dotted names of all keys that a config can have, whichever options its groups take."""
    names = {f"{prefix}{name}" for section in sections_of(prefix.rstrip(".")) for name in section.model_fields}
    return names.union(*(known_keys(f"{name}.") for name in names))


def fault(key: str, value: Any) -> str | None:
    """What is wrong with a value by the type and the bounds of its key alone; None where some option can have it."""
    if key.startswith(FREE):
        return None
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
