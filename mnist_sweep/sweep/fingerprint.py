"""What must not change between two sittings of a sweep, and how it did."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
)
from optuna.trial import FrozenTrial

from mnist_sweep.config import schema
from mnist_sweep.config.sweep_options import Objective
from mnist_sweep.sweep.space import Space

#: What no study can bear: its values would mean different things.
_FIXED = ("objectives", "data", "data digest", "data.split_seed")
#: Parts of a leaf that Optuna must find as they were.
_RIGID = {"choices", "log", "length", "each"}


def fingerprint(config: schema.Config, goals: Sequence[Objective], space: Space, digest: str) -> dict[str, str]:
    """What must not change, by key, as JSON texts.

    Args:
        config: of the sweep.
        goals: its objectives.
        space: what it searches.
        digest: of the data set.
    """
    assert config.sweep is not None
    searched = {dimension.key for dimension in space.dimensions}
    found: dict[str, Any] = {
        "objectives": [f"{goal.direction} {goal.metric}" for goal in goals],
        "data digest": digest,
    }
    found |= {key: value for key, value in config.material().items() if key not in {*searched, "objective"}}
    for name, bound in (config.sweep.constraints or {}).items():
        found[f"sweep.constraints.{name}"] = bound.model_dump(exclude_none=True)
    for dimension in space.dimensions:
        found |= _flat(f"sweep.space.{dimension.key}", _leaf(space.tree, dimension.key))
    return {key: json.dumps(value, ensure_ascii=False) for key, value in found.items()}


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> tuple[list[str], bool]:
    """The differences between two fingerprints, in words, and whether a study can bear them.

    A range may grow or shrink, keys may join or leave the space, and the config around it may change. Another
    direction, another data set, other choices, or another kind of range may not: Optuna could not go on, or would
    compare values that mean different things.
    """
    changed = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    lines = [f"{key}: {before.get(key, 'not there')} → {now.get(key, 'not there')}" for key in changed]
    return lines, not any(_breaks(key, before.get(key), now.get(key)) for key in changed)


def conflict(trials: Sequence[FrozenTrial], space: Space) -> str | None:
    """A parameter that Optuna cannot draw any more as the space says, because of how trials have drawn it; or None."""
    recorder, known = _Recorder(), dict(space.base)
    for dimension in space.dimensions:
        known[dimension.key] = dimension.leaf.suggest(recorder, dimension.key, known)
    for trial in trials:
        for name, before in trial.distributions.items():
            try:
                check_distribution_compatibility(before, recorder.found.get(name, before))
            except ValueError:
                return name
    return None


class _Recorder:
    """A trial that notes what it is to draw from, the longest lists included."""

    def __init__(self) -> None:
        self.found: dict[str, BaseDistribution] = {}

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        self.found[name] = IntDistribution(low, high, log=log, step=step)
        return high

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        self.found[name] = FloatDistribution(low, high, log=log, step=step)
        return high

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.found[name] = CategoricalDistribution(choices)
        return max(choices) if name.endswith(".length") else choices[0]


def _breaks(key: str, before: str | None, now: str | None) -> bool:
    if key in _FIXED:
        return True
    if not key.startswith("sweep.space.") or before is None or now is None:
        return False
    return key.rpartition(".")[2] in _RIGID | {"_group_"}


def _leaf(tree: Mapping[str, Any], key: str) -> Any:
    node: Any = tree
    for part in key.split("."):
        node = node[part]
    return {"_group_": node["_group_"]} if "_group_" in node else node


def _flat(prefix: str, node: Any) -> dict[str, Any]:
    """A leaf by its parts, so that a difference names the part: …lr.high: 0.3 → 0.1."""
    if not isinstance(node, Mapping):
        return {prefix: node}
    if not node:
        return {prefix: {}}
    return {name: value for key, item in node.items() for name, value in _flat(f"{prefix}.{key}", item).items()}
