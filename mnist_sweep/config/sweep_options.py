"""Types and bounds of every key below ``sweep``. The defaults are in conf/sweep."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from mnist_sweep.config import metrics
from mnist_sweep.config.paths import PathText
from mnist_sweep.config.pruners import Pruner
from mnist_sweep.config.samplers import Sampler
from mnist_sweep.config.section import Name, Positive, Rate, Section

Metric = str  # which of them there are, the config as a whole knows


class Objective(Section):
    metric: Metric
    direction: metrics.Direction

    @property
    def sign(self) -> int:
        """1 where higher is better, else −1."""
        return 1 if self.direction == "maximize" else -1


class Bound(Section):
    """What a metric may be, both bounds included."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        bounds = [bound for bound in (self.min, self.max) if bound is not None]
        if not bounds or bounds != sorted(bounds):
            raise ValueError("allowed: {min: NUMBER}, {max: NUMBER}, or both with min at most max")
        return self

    def violation(self, value: float) -> float:
        """By how much a value lies outside, relative to the bound it breaks; 0 or less within (Optuna's convention)."""
        below = -1.0 if self.min is None else (self.min - value) / max(abs(self.min), 1e-12)
        above = -1.0 if self.max is None else (value - self.max) / max(abs(self.max), 1e-12)
        return max(below, above)


class Winner(Section):
    top: Positive
    race_seeds: Positive
    seeds: Positive
    baseline: bool
    rule: str | None
    ablate: bool

    @property
    def runs(self) -> int:
        """The runs that choose and judge the winner: the race, then the winner and the baseline with fresh seeds."""
        return self.top * self.race_seeds + 2 * self.seeds


class Sweep(Section):
    name: Name
    trials: Positive | None
    budget_epochs: Positive | None
    budget_minutes: Rate | None
    target: float | None
    on_budget: Literal["finish", "stop"]
    trial_timeout_minutes: Rate | None
    max_consecutive_failures: Positive
    workers: Positive | None
    storage: PathText
    objectives: Annotated[list[Objective], Field(min_length=1)] | None
    constraints: dict[Metric, Bound] | None
    enqueue: list[str | list[str] | dict[str, Any]]
    warm_start: Name | None
    warm_start_top: Positive
    allow_changes: bool
    retry_failed: bool
    seeds: Positive
    keep: Positive | None
    plan: bool
    space: dict[str, Any]
    sampler: Sampler
    pruner: Pruner
    winner: Winner

    @property
    def total(self) -> float:
        """The trials in all; infinity where only the epochs are limited."""
        return self.trials or (math.inf if self.budget_epochs else 20)

    @property
    def trial_seconds(self) -> float | None:
        """That a trial may take; None = no limit."""
        return 60 * self.trial_timeout_minutes if self.trial_timeout_minutes else None

    @model_validator(mode="after")
    def _several(self) -> Self:
        names = [objective.metric for objective in self.objectives or []]
        if len(set(names)) < len(names):
            raise ValueError(f"sweep.objectives={names}: the same metric twice; allowed: each once")
        if len(names) > 1 and self.target is not None:
            raise ValueError(f"sweep.target={self.target}: allowed with one objective only")
        if (rule := self.winner.rule) is not None and rule not in names:
            allowed = f"null, or one of the metrics of sweep.objectives ({', '.join(names) or 'which is not set'})"
            raise ValueError(f"sweep.winner.rule={rule}: allowed: {allowed}")
        return self
