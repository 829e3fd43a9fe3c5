"""Drawn values → the command line of a trial, checked by arithmetic before anything is spent on it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mnist_sweep.config import schema
from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.overrides import override, text
from mnist_sweep.config.sweep_options import Bound
from mnist_sweep.errors import RequestError


@dataclass(frozen=True)
class Candidate:
    """What a trial would train."""

    values: Mapping[str, Any]  # the drawn ones, by dotted name
    command: CommandLine  # of the run, without its name
    digest: str  # of the config except the seed: equal candidates have equal ones
    costs: Mapping[str, float]  # ``parameters``, and ``multiply_adds`` for one image
    epochs: int  # at most
    schedule: str | None  # the name of one that is stretched over these epochs; None for any other

    @property
    def drawn(self) -> list[str]:
        """The overrides that say what was drawn."""
        return [override(key, value) for key, value in self.values.items()]


class Candidates:
    """Makes candidates of drawn values, with what all trials have in common.

    The constraints that arithmetic can check are enforced here.
    """

    def __init__(self, common: CommandLine, constraints: Mapping[str, Bound]) -> None:
        self.common, self.constraints = common, constraints
        self._bases: dict[str, CommandLine] = {}  # by the options of groups: Hydra composes one of each

    def make(self, values: Mapping[str, Any]) -> Candidate:
        """The candidate of these values; a RequestError where its config cannot exist, or breaks a constraint."""
        options = {key: value for key, value in values.items() if schema.options(key)}
        base = self._bases.setdefault(text(options), self.common.with_(options))
        command = base.with_({key: value for key, value in values.items() if key not in options})
        config = command.config
        layers = config.layers()
        costs = {name: sum(getattr(layer, name) for layer in layers) for name in ("parameters", "multiply_adds")}
        for name, bound in self.constraints.items():
            if name in costs and bound.violation(costs[name]) > 0:
                allowed = bound.model_dump(exclude_none=True)
                raise RequestError(f"sweep.constraints.{name}={allowed}: the network has {costs[name]:,.0f}")
        relevant = {key: value for key, value in config.relevant().items() if key != "seed"}
        digest = hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:16]
        command = command.add()  # without its config: there may be a thousand
        schedule = config.scheduler.name if config.scheduler.stretched else None
        return Candidate(dict(values), command, digest, costs, config.trainer.max_epochs, schedule)
