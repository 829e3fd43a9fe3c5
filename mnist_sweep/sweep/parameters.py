"""The parameters of a search space: read from the YAML tree, each drawn from a distribution of Optuna's."""

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import create_trial
from pydantic import Field, ValidationError

from mnist_sweep.config import schema
from mnist_sweep.config.overrides import text
from mnist_sweep.config.section import Section
from mnist_sweep.errors import RequestError

ROOT = "sweep.space"
Distribution = IntDistribution | FloatDistribution | CategoricalDistribution
#: Chooses a value of a distribution, as Optuna has it, for the parameter of this name.
Choose = Callable[[str, Distribution], Any]
#: Names as in `value_of`, and the values that each may have.
Conditions = Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Parameter:
    """A key of the config that is searched.

    Optuna knows it by its name; the entries of a list are ``KEY[0]``, ``KEY[1]``, …, and a drawn length ``KEY.length``.
    """

    key: str  # its dotted name
    each: Distribution  # of the value, or of each entry of the list
    length: int | str | Distribution | None  # of the list; a text is the key of another list; None = no list
    when: Conditions  # under which it is drawn

    def draw(self, choose: Choose, known: Mapping[str, Any]) -> Any:
        """A value for the config, given those of the keys that it depends on."""
        count = self.length
        if count is None:
            return decoded(self.each, choose(self.key, self.each))
        if isinstance(count, str):
            count = length_of(known.get(count))
        elif not isinstance(count, int):
            count = int(choose(f"{self.key}.length", count))
        return [decoded(self.each, choose(f"{self.key}[{index}]", self.each)) for index in range(count)]

    def active(self, known: Mapping[str, Any]) -> bool:
        """Whether the key is drawn, given the values of the keys that it depends on."""
        return all(value_of(name, known) in allowed for name, allowed in self.when.items())

    def needs(self) -> set[str]:
        """The keys that must be drawn before."""
        keys = {*map(key_of, self.when), *([self.length] if isinstance(self.length, str) else [])}
        groups = {key.partition(".")[0] for key in {self.key, *keys} if "." in key}
        return keys | set(filter(schema.options, groups))

    def ends(self) -> list[Any]:
        """The lowest and the highest value, or all choices."""
        if self.length is None:
            return ends(self.each)
        return [[end] * max([1, *ends(self.length)]) for end in ends(self.each)]

    def words(self) -> tuple[str, str, str]:
        """The key, what it is drawn from, and the conditions."""
        drawn = _words(self.each)
        if self.length is not None:
            drawn += (
                f"; as many as {self.length}" if isinstance(self.length, str) else f"; {_words(self.length)} of them"
            )
        return self.key, drawn, ", ".join(f"{on}={' or '.join(map(text, of))}" for on, of in self.when.items())


def key_of(name: str) -> str:
    """The key of ``KEY``, ``KEY.length`` or ``KEY[0]``."""
    return re.sub(r"\.length$|\[\d+\]$", "", name)


def length_of(value: Any) -> int:
    """The length of a list; a number that stands for one counts as one entry."""
    return len(value) if isinstance(value, list) else 1


def value_of(name: str, values: Mapping[str, Any]) -> Any:
    """What ``KEY``, ``KEY.length`` or ``KEY[0]`` stands for, where one number may stand for all entries of a list."""
    key, value = key_of(name), values.get(key_of(name))
    if name == f"{key}.length":
        return length_of(value)
    if name == key or not isinstance(value, list):
        return value
    return dict(enumerate(value)).get(int(name[len(key) + 1 : -1]))


def encoded(value: Any) -> Any:
    """A value of the config as Optuna has it: lists and mappings are JSON."""
    return json.dumps(value) if isinstance(value, list | dict) or str(value)[:1] in ("[", "{", '"') else value


def decoded(distribution: Distribution, drawn: Any) -> Any:
    """The value for the config of what Optuna drew."""
    if isinstance(distribution, FloatDistribution) and distribution.step:
        low, step = Decimal(str(distribution.low)), Decimal(str(distribution.step))
        return float(low + step * round((drawn - distribution.low) / distribution.step))  # 0.3, not 0.1 + 0.2
    return json.loads(drawn) if isinstance(drawn, str) and drawn[:1] in ("[", "{", '"') else drawn


def first(distribution: Distribution, count: int) -> list[Any]:
    """The first values that Optuna can draw; only one of a range without a step."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices[:count])
    low, step = distribution.low, distribution.step
    steps = round((distribution.high - low) / step) if step else 0
    return [low + (step or 0) * index for index in range(min(count, steps + 1))]


def contains(distribution: Distribution, value: Any) -> bool:
    """Whether a distribution can draw a value, as Optuna has it."""
    try:
        create_trial(value=0, params={"": value}, distributions={"": distribution})
    except ValueError:
        return False
    return True


def ends(item: int | str | Distribution) -> list[Any]:
    """The lowest and the highest value, or all choices; of what is drawn elsewhere none."""
    if isinstance(item, int | str):
        return [item] if isinstance(item, int) else []
    if isinstance(item, CategoricalDistribution):
        return [decoded(item, choice) for choice in item.choices]
    return [item.low, item.high]


def is_count(value: Any) -> bool:
    """Whether it is a whole number from 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _words(item: int | Distribution) -> str:
    if isinstance(item, int | CategoricalDistribution):
        return " | ".join(map(text, ends(item)))
    step = f", step {text(item.step)}" if item.step not in (None, 1) else ""
    return f"{text(item.low)} … {text(item.high)}{', log' if item.log else ''}{step}"


def read(tree: Mapping[str, Any]) -> Iterator[Parameter]:
    """The parameters of a config's ``sweep.space``; a RequestError where a part cannot be read."""
    nested = OmegaConf.create()
    for name, item in tree.items():  # {model.pool: LEAF} is {model: {pool: LEAF}}
        OmegaConf.update(nested, name, item)
    return _read(OmegaConf.to_container(nested), "", {})


def _read(node: Any, prefix: str, above: Conditions) -> Iterator[Parameter]:
    for part, item in node.items():
        name = f"{prefix}.{part}".lstrip(".")
        if part == "_group_":
            yield Parameter(prefix, _options(prefix, item), None, above)
        elif not isinstance(item, Mapping):
            raise _refused(name, item, "a leaf such as {low: 0, high: 1}, or a tree")
        elif part != "when" or not prefix:  # the conditions of a node are read together with it
            when = _conditions(name, item.get("when", {}), above)
            if {*item} & {"choices", "low", "high", "log", "step", "length", "each"} or {*item} == {"when"}:
                yield _leaf(name, item, when)
            else:
                yield from _read(item, name, when)


def _options(group: str, names: Any) -> Distribution:
    found, options = _distribution(f"{group}._group_", {"choices": names}), schema.options(group)
    if unknown := [name for name in ends(found) if not isinstance(name, str) or name not in options]:
        allowed = ", ".join(options) or f"leaves of the keys of {group}"
        raise RequestError(f"{ROOT}.{group}._group_={text(names)}: no option {text(unknown[0])}; allowed: {allowed}")
    return found


def _conditions(name: str, when: Any, above: Conditions) -> Conditions:
    """The conditions of a node, together with those of the nodes that it lies in."""
    if not isinstance(when, Mapping):
        raise _refused(f"{name}.when", when, "{KEY: VALUE} or {KEY: [VALUE, VALUE]}")
    both = dict(above)
    for key, item in when.items():
        allowed = item if isinstance(item, list) else [item]
        both[str(key)] = tuple(value for value in allowed if value in above.get(key, allowed))
    return both


def _leaf(name: str, item: Mapping[str, Any], when: Conditions) -> Parameter:
    if "choices" in item or not {"length", "each"} & {*item}:
        single = {part: value for part, value in item.items() if part not in ("length", "each", "when")}
        return Parameter(name, _distribution(name, single), None, when)
    length = item.get("length")
    count = _distribution(f"{name}.length", length) if isinstance(length, Mapping) else length
    if not isinstance(count, int | str | Distribution) or not all(map(is_count, ends(count))):
        raise _refused(f"{name}.length", length, "a whole number from 0, a leaf of such, or the key of another list")
    return Parameter(name, _distribution(f"{name}.each", item.get("each")), count, when)


class _Choices(Section):
    choices: Annotated[list[Any], Field(min_length=1)]


class _Range(Section):
    low: Annotated[float, Field(ge=-1e15, le=1e15)]  # beyond this, floats do not tell whole numbers apart
    high: Annotated[float, Field(ge=-1e15, le=1e15)]
    log: bool = False
    step: Annotated[float, Field(ge=1e-12)] | None = None


def _distribution(name: str, item: Any) -> Distribution:
    try:
        if isinstance(item, Mapping) and "choices" in item:
            rest = {part: value for part, value in item.items() if part not in _Range.model_fields}
            return CategoricalDistribution([encoded(choice) for choice in _Choices.model_validate(rest).choices])
        leaf = _Range.model_validate(item)
        with warnings.catch_warnings(action="ignore"):  # the range ends with the last step, where that is below `high`
            if all(isinstance(number, int) for number in (item["low"], item["high"], item.get("step") or 1)):
                return IntDistribution(int(leaf.low), int(leaf.high), leaf.log, int(leaf.step or 1))
            return FloatDistribution(leaf.low, leaf.high, leaf.log, leaf.step)
    except ValueError as error:  # pydantic's or Optuna's
        faults = error.errors() if isinstance(error, ValidationError) else [{"loc": (), "msg": str(error)}]
        why = ": ".join([*map(str, faults[0]["loc"]), str(faults[0]["msg"]).removeprefix("Input ").rstrip(".")])
        allowed = "{low: NUMBER, high: NUMBER}, also with log: true or step: NUMBER; or {choices: [VALUE, …]}"
        raise _refused(name, item, allowed, f"{why}; ") from error


def _refused(name: str, value: Any, allowed: str, why: str = "") -> RequestError:
    return RequestError(f"{ROOT}.{name}={text(value)}: {why}allowed: {allowed}")
