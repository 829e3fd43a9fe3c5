"""The search space: YAML → suggestions → values by dotted name.

Pure; a trial is anything that has Optuna's ``suggest_*``.

A leaf says how one key of the config is drawn:

    {low: 1e-4, high: 0.3, log: true}              a float; an integer where both bounds are integers; also step
    {choices: [3, 5, 7]}                           one of these; each may be a number, a text, a list or a mapping
    {length: {low: 1, high: 3}, each: LEAF}        a list; length is a number, a leaf, or the key of another list
    _group_: [adam, sgd]                           an option of a Hydra group, beside the leaves of its keys
    when: {optimizer: sgd}                         in any leaf: drawn only where another key has this value

An override on the command line merges into the leaf that was there: choices go before a list, and a list before bounds.
"""

import graphlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mnist_sweep import schema
from mnist_sweep.composition import nearest
from mnist_sweep.errors import RequestError
from mnist_sweep.overrides import key_of, text

_ROOT = "sweep.space"
_NUMBER = {"low", "high", "log", "step"}
_LEAF = {*_NUMBER, "choices", "length", "each", "when"}


class Trial(Protocol):
    """What the space asks of an Optuna trial."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...
    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...
    def suggest_categorical(self, name: str, choices: Any) -> Any: ...


class _OutsideError(Exception):
    """A value that the space cannot propose."""


@dataclass(frozen=True)
class Number:
    """A number between two bounds, both included."""

    low: float
    high: float
    log: bool
    step: float | None
    integer: bool

    def suggest(self, trial: Trial, name: str, known: Mapping[str, Any]) -> Any:
        if self.integer:
            return trial.suggest_int(name, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def encode(self, name: str, value: Any, known: Mapping[str, Any]) -> dict[str, Any]:
        number = isinstance(value, int if self.integer else int | float) and not isinstance(value, bool)
        if not number or not self.low <= value <= self.high:
            raise _OutsideError
        if self.step and abs((value - self.low) / self.step - round((value - self.low) / self.step)) > 1e-8:
            raise _OutsideError
        return {name: value}


@dataclass(frozen=True)
class Choice:
    """One of some values. Lists and mappings are categories as JSON, since Optuna's must be scalars."""

    choices: tuple[Any, ...]

    def categories(self) -> list[Any]:
        return [json.dumps(item) if isinstance(item, list | dict) else item for item in self.choices]

    def suggest(self, trial: Trial, name: str, known: Mapping[str, Any]) -> Any:
        return self.choices[self.categories().index(trial.suggest_categorical(name, self.categories()))]

    def encode(self, name: str, value: Any, known: Mapping[str, Any]) -> dict[str, Any]:
        for item, category in zip(self.choices, self.categories(), strict=True):
            if item == value and isinstance(item, bool) == isinstance(value, bool):
                return {name: category}
        raise _OutsideError


@dataclass(frozen=True)
class Sequence:
    """A list, whose length is given, drawn, or that of another key's list."""

    length: "int | str | Leaf"
    each: "Leaf"

    def suggest(self, trial: Trial, name: str, known: Mapping[str, Any]) -> Any:
        if isinstance(self.length, int):
            count = self.length
        elif isinstance(self.length, str):
            count = _length(known[self.length])
        else:
            count = self.length.suggest(trial, f"{name}.length", known)
        return [self.each.suggest(trial, f"{name}[{index}]", known) for index in range(count)]

    def encode(self, name: str, value: Any, known: Mapping[str, Any]) -> dict[str, Any]:
        drawn: dict[str, Any] = {}
        if isinstance(self.length, int | str):
            count = self.length if isinstance(self.length, int) else _length(known[self.length])
            items = value if isinstance(value, list) else [value] * count  # one number stands for all blocks
            if len(items) != count:
                raise _OutsideError
        else:
            items = value if isinstance(value, list) else [value]
            drawn |= self.length.encode(f"{name}.length", len(items), known)
        for index, item in enumerate(items):
            drawn |= self.each.encode(f"{name}[{index}]", item, known)
        return drawn


Leaf = Number | Choice | Sequence


@dataclass(frozen=True)
class _Dimension:
    """A key that is drawn, and the conditions under which it is: other keys and the values they must have."""

    key: str
    leaf: Leaf
    when: Mapping[str, tuple[Any, ...]]

    def needs(self) -> set[str]:
        follows = {self.leaf.length} if isinstance(self.leaf, Sequence) and isinstance(self.leaf.length, str) else set()
        return {*self.when, *follows}

    def active(self, known: Mapping[str, Any]) -> bool:
        return all(known.get(key) in allowed for key, allowed in self.when.items())


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list) else 1


class Space:
    """What a sweep may vary.

    Args:
        tree: the config's ``sweep.space``.
        base: the values of the config by dotted name, an option of a group under the group's name.
        fixed: keys that the user set; they leave the space.

    Raises:
        RequestError: a leaf that cannot be read, for a key that does not exist, or with bounds that do not fit.
    """

    def __init__(self, tree: Mapping[str, Any], base: Mapping[str, Any], fixed: Iterable[str] = ()) -> None:
        self.base = dict(base)
        self.tree = tree
        found = {dimension.key: dimension for dimension in _dimensions(tree, "")}
        leaves = {key for key in schema.known_keys() if not key.endswith(".name")} | {
            k for k in base if schema.options(k)
        }
        for key in found:
            if key not in leaves:
                raise RequestError(f"{_ROOT}.{key}: no such key in the config; nearest: {nearest(key, leaves)}")
        for dimension in found.values():
            for key in dimension.needs() - leaves:
                raise RequestError(f"{_ROOT}.{dimension.key}: {key} is no key; nearest: {nearest(key, leaves)}")
        self.fixed = sorted({key for key in found if key in set(fixed)})
        drawn = {key: dimension for key, dimension in found.items() if key not in self.fixed}
        try:
            order = graphlib.TopologicalSorter({key: d.needs() & set(drawn) for key, d in drawn.items()}).static_order()
            self.dimensions = [drawn[key] for key in order]
        except graphlib.CycleError as error:
            raise RequestError(f"{_ROOT}: a circle of conditions: {' → '.join(error.args[1])}") from error
        if not self.dimensions:
            raise RequestError(f"{_ROOT}: nothing is left to search; allowed: at least one key that is not set by hand")
        self._check_groups(drawn)

    @classmethod
    def of(cls, config: schema.Config, given: Iterable[str]) -> "Space":
        """The space of a sweep: what its config says, less the keys that the user's overrides set.

        Raises:
            RequestError: as above.
        """
        assert config.sweep is not None
        return cls(config.sweep.space, config.parameters(), {key_of(item) for item in given})

    def _check_groups(self, drawn: Mapping[str, _Dimension]) -> None:
        """Each key below a group must exist in every option under which it is drawn."""
        for dimension in drawn.values():
            group, _, key = dimension.key.partition(".")
            choices = schema.options(group)
            if not choices or not key:
                continue
            leaf = drawn[group].leaf if group in drawn else None
            possible = leaf.choices if isinstance(leaf, Choice) else (self.base[group],)
            under = [option for option in possible if option in dimension.when.get(group, possible)]
            lacking = [option for option in under if option in choices and key not in choices[option].model_fields]
            if lacking and (leaf is not None or group not in dimension.when):
                fitting = [option for option in possible if key in choices[option].model_fields]
                raise RequestError(
                    f"{_ROOT}.{dimension.key}: {group}={lacking[0]} has no {key}; "
                    f"allowed: {'when: ' + text({group: fitting}) if fitting else 'leave it out'}"
                )

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Draw a value for each key that is active, by dotted name."""
        known, drawn = dict(self.base), {}
        for dimension in self.dimensions:
            if dimension.active(known):
                known[dimension.key] = drawn[dimension.key] = dimension.leaf.suggest(trial, dimension.key, known)
            elif not schema.options(dimension.key.partition(".")[0]):
                known[dimension.key] = self.base.get(dimension.key)
        return drawn

    def encode(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """The Optuna parameters that would propose these values; None where the space cannot.

        Args:
            values: by dotted name; what is not among them is taken from the base.
        """
        known = {**self.base, **values}
        parameters: dict[str, Any] = {}
        try:
            for dimension in self.dimensions:
                if dimension.active(known):
                    parameters |= dimension.leaf.encode(dimension.key, known.get(dimension.key), known)
        except _OutsideError:
            return None
        return parameters


def _dimensions(node: Mapping[str, Any], prefix: str) -> list[_Dimension]:
    found: list[_Dimension] = []
    for key, item in node.items():
        if key == "_group_":
            found.append(_Dimension(prefix, _choice(prefix, item), {}))
            continue
        name = f"{prefix}.{key}".lstrip(".")
        if not isinstance(item, Mapping):
            raise RequestError(f"{_ROOT}.{name}={text(item)}: allowed: a leaf such as {{low: 0, high: 1}}, or a tree")
        if set(item) & _LEAF:
            found.append(_Dimension(name, _leaf(name, item), _conditions(name, item.get("when", {}))))
        else:
            found += _dimensions(item, name)
    return found


def _conditions(name: str, when: Any) -> dict[str, tuple[Any, ...]]:
    if not isinstance(when, Mapping):
        raise RequestError(f"{_ROOT}.{name}.when={text(when)}: allowed: {{KEY: VALUE}} or {{KEY: [VALUE, VALUE]}}")
    return {key: tuple(value) if isinstance(value, list) else (value,) for key, value in when.items()}


def _leaf(name: str, item: Any) -> Leaf:
    if not isinstance(item, Mapping) or (unknown := set(item) - _LEAF):
        what = f"={text(item)}" if not isinstance(item, Mapping) else f".{sorted(unknown)[0]}"
        raise RequestError(f"{_ROOT}.{name}{what}: no part of a leaf; allowed: {', '.join(sorted(_LEAF))}")
    if "choices" in item:
        return _choice(f"{name}.choices", item["choices"])
    if "each" in item or "length" in item:
        if not {"each", "length"} <= set(item):
            raise RequestError(f"{_ROOT}.{name}: a list needs both length and each")
        length = item["length"]
        whole = isinstance(length, int) and not isinstance(length, bool)
        if not whole and not isinstance(length, str):
            length = _leaf(f"{name}.length", length)
        return Sequence(length, _leaf(f"{name}.each", item["each"]))
    return _number(name, item)


def _choice(name: str, choices: Any) -> Choice:
    if not isinstance(choices, list) or not choices:
        raise RequestError(f"{_ROOT}.{name}={text(choices)}: allowed: a list of at least one value")
    return Choice(tuple(choices))


def _number(name: str, item: Mapping[str, Any]) -> Number:
    for bound in ("low", "high"):
        if bound not in item:
            raise RequestError(f"{_ROOT}.{name}: {bound} is missing; allowed: {{low: NUMBER, high: NUMBER}}")
        if isinstance(item[bound], bool) or not isinstance(item[bound], int | float):
            raise RequestError(f"{_ROOT}.{name}.{bound}={text(item[bound])}: allowed: a number")
    low, high, log, step = item["low"], item["high"], item.get("log", False), item.get("step")
    if not isinstance(log, bool):
        raise RequestError(f"{_ROOT}.{name}.log={text(log)}: allowed: true, false")
    if low > high:
        raise RequestError(f"{_ROOT}.{name}: low={text(low)} is above high={text(high)}; allowed: low at most high")
    if log and low <= 0:
        raise RequestError(f"{_ROOT}.{name}.low={text(low)}: with log=true allowed: above 0")
    if step is not None and (log or isinstance(step, bool) or not isinstance(step, int | float) or step <= 0):
        raise RequestError(f"{_ROOT}.{name}.step={text(step)}: allowed: a number above 0, without log")
    integer = isinstance(low, int) and isinstance(high, int) and (step is None or isinstance(step, int))
    return Number(low, high, log, step, integer)
