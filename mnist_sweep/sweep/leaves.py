"""The leaves of a search space: how one key is drawn. Pure; a trial is anything that has Optuna's ``suggest_*``."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from math import inf
from typing import Any, Protocol

from mnist_sweep.config.overrides import text
from mnist_sweep.errors import RequestError

ROOT = "sweep.space"
NUMBER = {"low", "high", "log", "step"}
LEAF = {*NUMBER, "choices", "length", "each", "when"}
#: Beyond this, floats do not tell whole numbers apart.
_LARGEST = 1e15


class Trial(Protocol):
    """What the space asks of an Optuna trial."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...
    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...
    def suggest_categorical(self, name: str, choices: Any) -> Any: ...


class Walk:
    """A trial that visits the draws one after another: the first on this path, then the first of everything.

    Args:
        path: the index of each draw's value among its values.
    """

    def __init__(self, path: list[int]) -> None:
        self.path = list(path)
        self.widths: list[int] = []

    def next(self) -> list[int]:
        """The path after this one; empty after the last."""
        path = [*self.path, *[0] * (len(self.widths) - len(self.path))]
        while path and path[-1] + 1 == self.widths[len(path) - 1]:
            path.pop()
        if path:
            path[-1] += 1
        return path

    def _index(self, width: int) -> int:
        self.widths.append(width)
        return self.path[len(self.widths) - 1] if len(self.widths) <= len(self.path) else 0

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return low + step * self._index((high - low) // step + 1)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        assert step is not None
        return low + step * self._index(round((high - low) / step) + 1)

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return choices[self._index(len(choices))]


class OutsideError(Exception):
    """A value that the space cannot propose."""


@dataclass(frozen=True)
class Number:
    """A number between two bounds, both included."""

    low: float
    high: float
    log: bool
    step: float | None
    integer: bool

    continuous = property(lambda self: not self.integer and self.step is None)
    categorical = False

    def ends(self) -> list[Any]:
        """Values between which all others are."""
        return [self.low, self.high]

    def words(self) -> str:
        step = f", step {text(self.step)}" if self.step else ""
        return f"{text(self.low)} … {text(self.high)}{', log' if self.log else ''}{step}"

    def suggest(self, trial: Trial, name: str, known: Mapping[str, Any]) -> Any:
        if self.integer:
            return trial.suggest_int(name, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        value = trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)
        if self.step is None:
            return value
        first, width = Decimal(str(self.low)), Decimal(str(self.step))  # 0.3, where floats give 0.1 + 0.2
        return float(first + width * round((value - self.low) / self.step))

    def encode(self, name: str, value: Any, known: Mapping[str, Any]) -> dict[str, Any]:
        number = isinstance(value, int if self.integer else int | float) and not isinstance(value, bool)
        if not number or not self.low <= value <= self.high:
            raise OutsideError
        if self.step and abs((value - self.low) / self.step - round((value - self.low) / self.step)) > 1e-8:
            raise OutsideError
        return {name: value}


@dataclass(frozen=True)
class Choice:
    """One of some values. Lists and mappings are categories as JSON, since Optuna's must be scalars."""

    choices: tuple[Any, ...]
    continuous = False
    categorical = True

    def ends(self) -> list[Any]:
        return list(self.choices)

    def words(self) -> str:
        return " | ".join(map(text, self.choices))

    def categories(self) -> list[Any]:
        return [json.dumps(item) if isinstance(item, list | dict) else item for item in self.choices]

    def suggest(self, trial: Trial, name: str, known: Mapping[str, Any]) -> Any:
        return self.choices[self.categories().index(trial.suggest_categorical(name, self.categories()))]

    def encode(self, name: str, value: Any, known: Mapping[str, Any]) -> dict[str, Any]:
        for item, category in zip(self.choices, self.categories(), strict=True):
            if item == value and isinstance(item, bool) == isinstance(value, bool):
                return {name: category}
        raise OutsideError


@dataclass(frozen=True)
class Sequence:
    """A list, whose length is given, drawn, or that of another key's list."""

    length: "int | str | Leaf"
    each: "Leaf"

    @property
    def continuous(self) -> bool:
        return bool(self.each.continuous)

    @property
    def categorical(self) -> bool:
        return bool(self.each.categorical)

    def ends(self) -> list[Any]:
        count = max([1, *self.length.ends()]) if isinstance(self.length, Leaf) else self.length
        return [[end] * (count if isinstance(count, int) else 1) for end in self.each.ends()]

    def words(self) -> str:
        if isinstance(self.length, str):
            return f"{self.each.words()}; as many as {self.length}"
        return f"{self.each.words()}; {self.length if isinstance(self.length, int) else self.length.words()} of them"

    def suggest(self, trial: Trial, name: str, known: Mapping[str, Any]) -> Any:
        if isinstance(self.length, int):
            count = self.length
        elif isinstance(self.length, str):
            count = length_of(known.get(self.length))
        else:
            count = self.length.suggest(trial, f"{name}.length", known)
        return [self.each.suggest(trial, f"{name}[{index}]", known) for index in range(count)]

    def encode(self, name: str, value: Any, known: Mapping[str, Any]) -> dict[str, Any]:
        drawn: dict[str, Any] = {}
        if isinstance(self.length, int | str):
            count = self.length if isinstance(self.length, int) else length_of(known.get(self.length))
            items = value if isinstance(value, list) else [value] * count  # one number stands for all blocks
            if len(items) != count:
                raise OutsideError
        else:
            items = value if isinstance(value, list) else [value]
            drawn |= self.length.encode(f"{name}.length", len(items), known)
        for index, item in enumerate(items):
            drawn |= self.each.encode(f"{name}[{index}]", item, known)
        return drawn


Leaf = Number | Choice | Sequence


def length_of(value: Any) -> int:
    return len(value) if isinstance(value, list) else 1


def leaf(name: str, item: Any) -> Leaf:
    """The leaf that a mapping of the YAML describes.

    Args:
        name: of the key, for the message.
        item: such as ``{low: 0, high: 1}``.

    Raises:
        RequestError: it describes none; in one line.
    """
    if not isinstance(item, Mapping) or (unknown := set(item) - LEAF):
        what = f"={text(item)}" if not isinstance(item, Mapping) else f".{sorted(unknown)[0]}"
        raise RequestError(f"{ROOT}.{name}{what}: no part of a leaf; allowed: {', '.join(sorted(LEAF))}")
    if "choices" in item:
        return choice(f"{name}.choices", item["choices"])
    if "each" in item or "length" in item:
        if not {"each", "length"} <= set(item):
            raise RequestError(f"{ROOT}.{name}: a list needs both; allowed: {{length: …, each: …}}")
        for part in ("length", "each"):
            if isinstance(item[part], Mapping) and "when" in item[part]:
                raise RequestError(
                    f"{ROOT}.{name}.{part}.when: a condition holds for a whole list; allowed: beside {part}"
                )
        return Sequence(_length(f"{name}.length", item["length"]), leaf(f"{name}.each", item["each"]))
    return _number(name, item)


def choice(name: str, choices: Any) -> Choice:
    """The leaf of these choices.

    Raises:
        RequestError: there is none, or one of them twice.
    """
    if not isinstance(choices, list) or not choices:
        raise RequestError(f"{ROOT}.{name}={text(choices)}: allowed: a list of at least one value")
    seen = [text(item) for item in choices]
    twice = next((item for item in seen if seen.count(item) > 1), None)
    if twice is not None:
        raise RequestError(f"{ROOT}.{name}={text(choices)}: {twice} is there twice; allowed: each once")
    return Choice(tuple(choices))


def _length(name: str, item: Any) -> int | str | Leaf:
    """The length of a list: a number, the key of another list, or a leaf that draws whole numbers."""
    if isinstance(item, str):
        return item
    if not isinstance(item, Mapping):
        if isinstance(item, bool) or not isinstance(item, int) or item < 0:
            raise RequestError(
                f"{ROOT}.{name}={text(item)}: allowed: a whole number, a leaf, or the key of another list"
            )
        return item
    drawn = leaf(name, item)
    least = [drawn.low] if isinstance(drawn, Number) and drawn.integer else []
    if isinstance(drawn, Choice):
        least = [choice for choice in drawn.choices if isinstance(choice, int) and not isinstance(choice, bool)]
        least = least if len(least) == len(drawn.choices) else []
    if not least or min(least) < 0:
        raise RequestError(f"{ROOT}.{name}={text(item)}: allowed: whole numbers from 0")
    return drawn


def _number(name: str, item: Mapping[str, Any]) -> Number:
    for bound in ("low", "high"):
        if bound not in item:
            raise RequestError(f"{ROOT}.{name}: {bound} is missing; allowed: {{low: NUMBER, high: NUMBER}}")
        value = item[bound]
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
            raise RequestError(f"{ROOT}.{name}.{bound}={text(value)}: allowed: a number, at most {_LARGEST:g}")
    low, high, log, step = item["low"], item["high"], item.get("log", False), item.get("step")
    if not isinstance(log, bool):
        raise RequestError(f"{ROOT}.{name}.log={text(log)}: allowed: true, false")
    if low > high:
        raise RequestError(f"{ROOT}.{name}: low={text(low)} is above high={text(high)}; allowed: low at most high")
    if log and low <= 0:
        raise RequestError(f"{ROOT}.{name}.low={text(low)}: with log=true allowed: above 0")
    if step is not None and (log or isinstance(step, bool) or not isinstance(step, int | float) or not 0 < step < inf):
        raise RequestError(f"{ROOT}.{name}.step={text(step)}: allowed: a number above 0, without log")
    if step is not None and (high - low) / step > _LARGEST:
        raise RequestError(f"{ROOT}.{name}.step={text(step)}: too small for this range; allowed: a greater one")
    integer = isinstance(low, int) and isinstance(high, int) and (step is None or isinstance(step, int))
    if step is not None:  # the last value that a step reaches, in decimals as they were written
        first, width = Decimal(str(low)), Decimal(str(step))
        last = first + width * ((Decimal(str(high)) - first) // width)
        high = int(last) if integer else float(last)
    return Number(low, high, log, step, integer)
