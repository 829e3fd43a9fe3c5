"""The parameters of a search space: read from the YAML tree, each drawn from a distribution of Optuna's."""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from mnist_sweep.config import schema
from mnist_sweep.config.overrides import override, text
from mnist_sweep.errors import RequestError

ROOT = "sweep.space"
_PARTS = {"low", "high", "log", "step", "choices", "length", "each", "when"}
#: Beyond this, floats do not tell whole numbers apart.
_LARGEST = 1e15
#: A choice that begins so is written in JSON for Optuna, whose choices are scalars.
_JSON = ("[", "{", '"')

Distribution = IntDistribution | FloatDistribution | CategoricalDistribution
#: Chooses a value of a distribution, as Optuna has it, for the parameter of this name.
Choose = Callable[[str, Distribution], Any]
#: Keys, and the values that each may have.
Conditions = Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Parameter:
    """A key of the config that is searched.

    In Optuna it has the name of the key; the entries of a list are ``key[0]``, ``key[1]``, …, a drawn length is
    ``key.length``.

    Attributes:
        key: its dotted name.
        each: what the value is drawn from, or each entry of the list.
        length: of the list: a number, the key of another list, or what it is drawn from; None = no list.
        when: the conditions under which it is drawn.
    """

    key: str
    each: Distribution
    length: int | str | Distribution | None
    when: Conditions

    def draw(self, choose: Choose, known: Mapping[str, Any]) -> Any:
        """A value for the config, given those of the keys that it depends on."""
        if self.length is None:
            return decoded(self.each, choose(self.key, self.each))
        count = self.length
        if isinstance(count, str):
            count = length_of(known.get(count))
        elif not isinstance(count, int):
            count = choose(f"{self.key}.length", count)
        return [decoded(self.each, choose(f"{self.key}[{index}]", self.each)) for index in range(count)]

    def active(self, known: Mapping[str, Any]) -> bool:
        """Whether the key is drawn, given the values of the keys that it depends on."""

        def value(key: str) -> Any:
            found = known.get(without_length(key))
            return found if key == without_length(key) else length_of(found)

        return all(value(key) in allowed for key, allowed in self.when.items())

    def needs(self) -> set[str]:
        """The keys that must be drawn before."""
        keys = {*map(without_length, self.when), *([self.length] if isinstance(self.length, str) else [])}
        groups = {key.partition(".")[0] for key in {self.key, *keys} if "." in key}
        return keys | set(filter(schema.options, groups))

    def ends(self) -> list[Any]:
        """The lowest and the highest value, or all choices."""
        if self.length is None:
            return ends(self.each)
        lengths = [1] if isinstance(self.length, str) else ends(self.length)
        return [[end] * max(1, *lengths) for end in ends(self.each)]

    def words(self) -> str:
        """What it is drawn from."""
        each = _words(self.each)
        if isinstance(self.length, str):
            return f"{each}; as many as {self.length}"
        return each if self.length is None else f"{each}; {_words(self.length)} of them"


def length_of(value: Any) -> int:
    """The length of a list; a number that stands for one counts as one entry."""
    return len(value) if isinstance(value, list) else 1


def without_length(key: str) -> str:
    """The key that a condition looks at."""
    return key.removesuffix(".length")


def decoded(distribution: Distribution, drawn: Any) -> Any:
    """The value for the config of what Optuna drew: choices that are lists or mappings are JSON there."""
    if isinstance(distribution, CategoricalDistribution):
        return json.loads(drawn) if isinstance(drawn, str) and drawn[:1] in _JSON else drawn
    if isinstance(distribution, FloatDistribution) and distribution.step:
        low, step = Decimal(str(distribution.low)), Decimal(str(distribution.step))
        return float(low + step * round((drawn - distribution.low) / distribution.step))  # 0.3, not 0.1 + 0.2
    return drawn


def encoded(distribution: Distribution, value: Any) -> Any:
    """What Optuna would have to draw for a value.

    Raises:
        LookupError: the distribution does not hold it.
    """
    if isinstance(distribution, CategoricalDistribution):
        for choice in distribution.choices:
            if (item := decoded(distribution, choice)) == value and isinstance(item, bool) == isinstance(value, bool):
                return choice
    elif isinstance(value, int if isinstance(distribution, IntDistribution) else int | float):
        steps = (value - distribution.low) / (distribution.step or 1)
        whole = not distribution.step or abs(steps - round(steps)) < 1e-8
        if whole and distribution.low <= value <= distribution.high and not isinstance(value, bool):
            return value
    raise LookupError(value)


def first(distribution: Distribution, most: int) -> list[Any]:
    """The first values of a distribution that has not a continuous range, at most so many."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices[:most])
    low, step = distribution.low, distribution.step or 1
    return [low + step * index for index in range(min(most, round((distribution.high - low) / step) + 1))]


def ends(item: int | Distribution) -> list[Any]:
    """The lowest and the highest value, or all choices."""
    if isinstance(item, int):
        return [item]
    if isinstance(item, CategoricalDistribution):
        return [decoded(item, choice) for choice in item.choices]
    return [item.low, item.high]


def _words(item: int | Distribution) -> str:
    if isinstance(item, int | CategoricalDistribution):
        return " | ".join(map(text, ends(item)))
    step = item.step if isinstance(item, FloatDistribution) or item.step != 1 else None
    return f"{text(item.low)} … {text(item.high)}{', log' if item.log else ''}{f', step {text(step)}' if step else ''}"


def read(tree: Mapping[str, Any]) -> Iterator[Parameter]:
    """The parameters of a config's ``sweep.space``.

    Raises:
        RequestError: a part cannot be read, or contradicts another one; in one line.
    """
    return _read(_nested(tree, {}), "", {})


def _nested(node: Mapping[str, Any], tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with a node for each part of a dotted name: ``{model.pool: LEAF}`` as ``{model: {pool: LEAF}}``."""
    for name, item in node.items():
        place, parts = tree, str(name).split(".")
        last = None if isinstance(item, Mapping) and parts[-1] != "when" else parts.pop()
        for part in parts:
            place = place.setdefault(part, {}) if isinstance(place, dict) else place
        if not isinstance(place, dict) or last in place:
            raise RequestError(f"{ROOT}.{name}: {last or parts[-1]} is there twice; allowed: once")
        if last is None:
            _nested(item, place)
        else:
            place[last] = item
    return tree


def _read(node: Mapping[str, Any], prefix: str, above: Conditions) -> Iterator[Parameter]:
    for part, item in node.items():
        name = f"{prefix}.{part}".lstrip(".")
        if part == "when" and prefix:
            continue  # read together with its node
        if part == "_group_":
            yield Parameter(prefix, _options(prefix, item), None, above)
            continue
        if not isinstance(item, Mapping):
            raise RequestError(f"{ROOT}.{name}={text(item)}: allowed: a leaf such as {{low: 0, high: 1}}, or a tree")
        when = _conditions(name, item.get("when", {}), above)
        tree = all(isinstance(below, Mapping) or key in ("when", "_group_") for key, below in item.items())
        if set(item) & _PARTS - {"when"} or ("when" in item and (not tree or len(item) == 1)):
            yield _leaf(name, item, when)
        else:
            yield from _read(item, name, when)


def _options(group: str, names: Any) -> CategoricalDistribution:
    """The options of a Hydra group."""
    found, options = _choices(f"{group}._group_", names), schema.options(group)
    if not options:
        groups = [name for name in schema.Config.model_fields if schema.options(name) and schema.searchable(name)]
        raise RequestError(
            f"{ROOT}.{group}._group_: an option of {group} is not searched; allowed for {', '.join(groups)}, "
            f"or leaves of its keys"
        )
    if unknown := [name for name in names if not isinstance(name, str) or name not in options]:
        raise RequestError(
            f"{ROOT}.{group}._group_={text(names)}: no option {text(unknown[0])}; allowed: {', '.join(options)}"
        )
    return found


def _conditions(name: str, when: Any, above: Conditions) -> Conditions:
    """The conditions of a node, together with those of the nodes that it lies in."""
    if not isinstance(when, Mapping):
        raise RequestError(f"{ROOT}.{name}.when={text(when)}: allowed: {{KEY: VALUE}} or {{KEY: [VALUE, VALUE]}}")
    both = dict(above)
    for key, item in when.items():
        values, options = item if isinstance(item, list) else [item], schema.options(key)
        if key != without_length(key):
            never, allowed = [value for value in values if not _is_count(value)], "whole numbers from 0"
        else:
            never = [value for value in values if options and value not in options]
            allowed = ", ".join(options) or "a value, or a list of them"
        if never or not values:
            raise RequestError(
                f"{ROOT}.{name}.when: {override(key, (never or [[]])[0])} never occurs; allowed: {allowed}"
            )
        both[key] = tuple(value for value in values if value in above.get(key, values))
        if not both[key]:
            raise RequestError(
                f"{ROOT}.{name}.when: {key} cannot be {' or '.join(map(text, values))} there; "
                f"allowed: {', '.join(map(text, above[key]))}"
            )
    return both


def _leaf(name: str, item: Mapping[str, Any], when: Conditions) -> Parameter:
    lists = {"length", "each"} & set(item)
    if "choices" in item or not lists or set(item) - _PARTS:
        return Parameter(name, _distribution(name, item), None, when)
    if len(lists) == 1:
        raise RequestError(f"{ROOT}.{name}: a list needs both; allowed: {{length: …, each: …}}")
    for part in ("length", "each"):
        if isinstance(item[part], Mapping) and "when" in item[part]:
            raise RequestError(f"{ROOT}.{name}.{part}.when: a condition holds for a whole list; allowed: beside {part}")
    each, length = _distribution(f"{name}.each", item["each"]), item["length"]
    if isinstance(length, Mapping):
        length = _distribution(f"{name}.length", length)
        if not all(map(_is_count, ends(length))):
            raise RequestError(f"{ROOT}.{name}.length={text(item['length'])}: allowed: whole numbers from 0")
    elif not isinstance(length, str) and not _is_count(length):
        allowed = "a whole number, a leaf, or the key of another list"
        raise RequestError(f"{ROOT}.{name}.length={text(length)}: allowed: {allowed}")
    return Parameter(name, each, length, when)


def _distribution(name: str, item: Any) -> Distribution:
    """What a leaf with choices or bounds is drawn from."""
    if not isinstance(item, Mapping) or (unknown := sorted(set(item) - _PARTS)):
        part = f".{unknown[0]}" if isinstance(item, Mapping) else f"={text(item)}"
        raise RequestError(f"{ROOT}.{name}{part}: no part of a leaf; allowed: {', '.join(sorted(_PARTS))}")
    if "choices" in item:
        return _choices(f"{name}.choices", item["choices"])
    for part in ("low", "high"):
        if part not in item:
            raise RequestError(f"{ROOT}.{name}: {part} is missing; allowed: {{low: NUMBER, high: NUMBER}}")
        if not _is_number(item[part]):
            raise RequestError(f"{ROOT}.{name}.{part}={text(item[part])}: allowed: a number, at most {_LARGEST:g}")
    low, high, log, step = item["low"], item["high"], item.get("log", False), item.get("step")
    if not isinstance(log, bool):
        raise RequestError(f"{ROOT}.{name}.log={text(log)}: allowed: true, false")
    if low > high:
        raise RequestError(f"{ROOT}.{name}: low={text(low)} is above high={text(high)}; allowed: low at most high")
    if log and low <= 0:
        raise RequestError(f"{ROOT}.{name}.low={text(low)}: with log=true allowed: above 0")
    if step is not None and (log or not _is_number(step) or step <= 0):
        raise RequestError(f"{ROOT}.{name}.step={text(step)}: allowed: a number above 0, without log")
    if step is not None and (high - low) / step > _LARGEST:
        raise RequestError(f"{ROOT}.{name}.step={text(step)}: too small for this range; allowed: a greater one")
    with warnings.catch_warnings(action="ignore"):  # the range ends with the last step, where that is below `high`
        if all(isinstance(number, int) for number in (low, high, step or 1)):
            return IntDistribution(low, high, log, step or 1)
        return FloatDistribution(low, high, log, step)


def _choices(name: str, choices: Any) -> CategoricalDistribution:
    if not isinstance(choices, list) or not choices:
        raise RequestError(f"{ROOT}.{name}={text(choices)}: allowed: a list of at least one value")
    written = [text(item) for item in choices]
    if twice := [item for item in written if written.count(item) > 1]:
        raise RequestError(f"{ROOT}.{name}={text(choices)}: {twice[0]} is there twice; allowed: each once")
    plain = [not isinstance(item, list | dict) and str(item)[:1] not in _JSON for item in choices]
    return CategoricalDistribution(
        [item if kept else json.dumps(item) for item, kept in zip(choices, plain, strict=True)]
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST
