"""The pruners: keys and bounds of each, and how Optuna's is built. The defaults are in conf/sweep.

A pruner's steps are epochs, counted from 1, so that a warm-up of n epochs ends with step n + 1. A further pruner is a
class here, a name in `Pruner`, and a YAML file in conf/sweep/pruner.
"""

import warnings
from math import inf
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from mnist_sweep.config.section import Count, NonNegative, Positive, Section

if TYPE_CHECKING:
    from optuna.pruners import BasePruner


class NoPruner(Section):
    name: Literal["none"]

    def build(self, max_epochs: int) -> "BasePruner":
        """Optuna's pruner, for trials of at most so many epochs."""
        from optuna.pruners import NopPruner

        return NopPruner()


class Median(Section):
    name: Literal["median"]
    startup_trials: Positive
    warmup_epochs: Count

    def build(self, max_epochs: int) -> "BasePruner":
        from optuna.pruners import MedianPruner

        return MedianPruner(self.startup_trials, self.warmup_epochs + 1)


class Percentile(Section):
    name: Literal["percentile"]
    percentile: Annotated[float, Field(gt=0, lt=100)]
    startup_trials: Positive
    warmup_epochs: Count

    def build(self, max_epochs: int) -> "BasePruner":
        from optuna.pruners import PercentilePruner

        return PercentilePruner(self.percentile, self.startup_trials, self.warmup_epochs + 1)


class Hyperband(Section):
    name: Literal["hyperband"]
    min_epochs: Positive
    reduction_factor: Annotated[int, Field(ge=2)]

    def build(self, max_epochs: int) -> "BasePruner":
        from optuna.pruners import HyperbandPruner

        return HyperbandPruner(self.min_epochs, max(max_epochs, self.min_epochs), self.reduction_factor)


class ASHA(Section):
    name: Literal["asha"]
    min_epochs: Positive
    reduction_factor: Annotated[int, Field(ge=2)]

    def build(self, max_epochs: int) -> "BasePruner":
        from optuna.pruners import NopPruner  # trials pause instead, see mnist_sweep.sweep.promotion

        return NopPruner()


class Patient(Section):
    name: Literal["patient"]
    patience: Count
    min_delta: NonNegative

    def build(self, max_epochs: int) -> "BasePruner":
        from optuna.pruners import PatientPruner

        with warnings.catch_warnings(action="ignore"):  # Optuna calls it experimental
            return PatientPruner(None, self.patience, self.min_delta)


class Threshold(Section):
    name: Literal["threshold"]
    lower: float | None
    upper: float | None
    warmup_epochs: Count

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.lower is not None and self.upper is not None and self.lower > self.upper:
            raise ValueError(f"sweep.pruner.lower={self.lower:g}: above upper={self.upper:g}; allowed: at most that")
        return self

    def build(self, max_epochs: int) -> "BasePruner":
        from optuna.pruners import ThresholdPruner

        lower = -inf if self.lower is None else self.lower  # Optuna's wants at least one of the two
        return ThresholdPruner(lower, self.upper, self.warmup_epochs + 1)


Pruner = Annotated[NoPruner | Median | Percentile | Hyperband | ASHA | Patient | Threshold, Field(discriminator="name")]
