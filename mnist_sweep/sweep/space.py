"""The search space of a sweep: YAML → suggestions → values by dotted name.

A leaf of the tree says how one key of the config is drawn:

    {low: 1e-4, high: 0.3, log: true}              a float; an integer where both bounds are integers; also step
    {choices: [3, 5, 7]}                           one of these; each may be a number, a text, a list or a mapping
    {length: {low: 1, high: 3}, each: LEAF}        a list; length is a number, a leaf, or the key of another list
    _group_: [adam, sgd]                           an option of a Hydra group, beside the leaves of its keys
    when: {optimizer: sgd}                         in any leaf or tree: drawn only where another key has this value,
                                                   or one of these: [adam, adamw]; KEY.length is that of a list

An override on the command line merges into the leaf that was there: choices go before a list, and a list before bounds.
"""

import graphlib
import itertools
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from optuna import Trial
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from mnist_sweep.config import schema
from mnist_sweep.config.command import CommandLine, suggested
from mnist_sweep.config.overrides import FREE, override, text
from mnist_sweep.errors import RequestError, one_line
from mnist_sweep.sweep import parameters
from mnist_sweep.sweep.parameters import ROOT, Choose, Distribution, Parameter, contains, key_of, length_of


class Space:
    """What a sweep may vary: the tree of ``sweep.space`` without the keys that are fixed, since the user set them.

    The base are the values of the config by dotted name, an option of a group under the group's name.

    Raises:
        RequestError: a leaf cannot be read, its key does not exist, or its bounds do not fit.
    """

    def __init__(self, tree: Mapping[str, Any], base: Mapping[str, Any], fixed: Iterable[str] = ()) -> None:
        self.base = dict(base)
        found = {parameter.key: parameter for parameter in parameters.read(tree)}
        for parameter in found.values():
            _check_key(parameter)
        self.fixed = sorted(found.keys() & set(fixed))  # those of the tree
        drawn = {key: parameter for key, parameter in found.items() if key not in self.fixed}
        for parameter in drawn.values():
            self._check_options(parameter, drawn)
        if (
            "model" in self.base.keys() - drawn.keys()
        ):  # so much is settled, and no news: one space serves several networks
            drawn = {key: own for key, each in drawn.items() if (own := self._for_the_network(each))}
        # sorted, so that neither the hash of a text nor the order in the file has a say in the order of draws
        needs = {key: sorted(drawn[key].needs() & drawn.keys() - {key}) for key in sorted(drawn)}
        try:
            order = [*graphlib.TopologicalSorter(needs).static_order()]
        except graphlib.CycleError as error:
            raise RequestError(f"{ROOT}: a circle of conditions: {' → '.join(error.args[1])}") from error
        self.parameters: list[Parameter] = []  # each after those that it depends on
        for key in order:
            if self._can_be_active(drawn[key]):
                self.parameters.append(drawn[key])
        self.inactive = sorted(drawn.keys() - {*self.keys})  # their conditions hold in no trial
        if not self.parameters:
            raise RequestError(f"{ROOT}: nothing is left to search; allowed: at least one key that is not set by hand")

    @classmethod
    def of(cls, command: CommandLine) -> "Space":
        """The space of a sweep: what its config says, less the keys that the command line sets.

        Also raises a RequestError for a value that no network can have, such as a dropout of 2.
        """
        config, values = command.config, command.assigned()
        assert config.sweep is not None
        if values.get(ROOT) == {}:
            raise RequestError(f"{ROOT}={{}}: adds nothing to the space that is there; allowed: sweep/space=empty")
        # a mapping for a group sets keys of it, and leaves its option open
        fixed = {key for key, value in values.items() if not (isinstance(value, Mapping) and schema.options(key))}
        space = cls(config.sweep.space, config.parameters(), fixed)
        for parameter in space.parameters:
            _check_values(parameter)
        return space

    def _check_options(self, parameter: Parameter, drawn: Mapping[str, Parameter]) -> None:
        """A key below a group must exist in every option under which it is drawn."""
        group, _, key = parameter.key.partition(".")
        sections = schema.options(group) if key else {}
        if not sections or (group not in drawn and group in parameter.when):
            return
        options = drawn[group].ends() if group in drawn else [self.base[group]]
        fitting = [option for option in options if key.partition(".")[0] in sections[option].model_fields]
        if lacking := [each for each in options if each not in fitting and each in parameter.when.get(group, options)]:
            allowed = f"when: {text({group: fitting})}" if fitting else "leave it out"
            raise RequestError(f"{ROOT}.{parameter.key}: {group}={lacking[0]} has no {key}; allowed: {allowed}")

    def _for_the_network(self, parameter: Parameter) -> Parameter | None:
        """The same without a condition on which network it is; None where it is another's."""
        when = dict(parameter.when)
        return replace(parameter, when=when) if self.base["model"] in when.pop("model", [self.base["model"]]) else None

    def _can_be_active(self, parameter: Parameter) -> bool:
        """Whether a key is drawn in some trial, by its conditions on keys that are not drawn before it."""
        drawn, when = {*self.keys}, parameter.when
        settled = {on: allowed for on, allowed in when.items() if not {key_of(on), on.split(".")[0]} & drawn}
        return all(when.values()) and replace(parameter, when=settled).active(self.base)

    @property
    def keys(self) -> list[str]:
        """The keys that are searched."""
        return [parameter.key for parameter in self.parameters]

    @property
    def conditional(self) -> list[str]:
        """The keys that are not drawn, or not with the same parameters, in every trial."""
        vary = {each.key for each in self.parameters if each.length is None and len({*map(length_of, each.ends())}) > 1}
        found: list[str] = []
        for parameter in self.parameters:
            length = parameter.length
            drawn = isinstance(length, Distribution) and not length.single()
            if drawn or length in {*vary, *found} or {*map(key_of, parameter.when)} & {*self.keys}:
                found.append(parameter.key)
        return found

    @property
    def continuous(self) -> list[str]:
        """The keys with a range of floats without a step: there is no end of values."""
        return [each.key for each in self.parameters if isinstance(each.each, FloatDistribution) and not each.each.step]

    @property
    def categorical(self) -> list[str]:
        """The keys that are drawn from choices."""
        return [each.key for each in self.parameters if isinstance(each.each, CategoricalDistribution)]

    def largest(self, key: str) -> Any:
        """The largest value that a trial can have of a key whose values are numbers."""
        drawn = [value for parameter in self.parameters if parameter.key == key for value in parameter.ends()]
        return max(drawn if drawn and key not in self.conditional else [*drawn, self.base[key]])

    def describe(self) -> list[tuple[str, str, str]]:
        """Each key, what it is drawn from, and under which conditions, in words."""
        return [each.words() for each in self.parameters]

    def fingerprint(self) -> dict[str, str]:
        """What makes it another space where it changes, by the key of the config."""
        return {f"{ROOT}.{key}": f"{drawn}; when {when}" if when else drawn for key, drawn, when in self.describe()}

    def walk(self, choose: Choose) -> dict[str, Any]:
        """Choose a value for each key that is active, by dotted name."""
        known, drawn = dict(self.base), {}
        for parameter in self.parameters:
            key = parameter.key
            if parameter.active(known):
                drawn[key] = parameter.draw(choose, known)
                if "." not in key and drawn[key] != self.base.get(key):  # the base's keys are those of another option
                    known = {name: value for name, value in known.items() if not name.startswith(f"{key}.")}
                known[key] = drawn[key]
        return drawn

    def suggest(self, trial: Trial | FixedTrial) -> dict[str, Any]:
        """Draw a value for each key that is active, by dotted name.

        A RequestError says that the trial was queued with a value that is none of what is drawn.
        """

        def choose(name: str, of: Distribution) -> Any:
            if isinstance(of, CategoricalDistribution):
                return trial.suggest_categorical(name, of.choices)
            if isinstance(of, IntDistribution):
                return trial.suggest_int(name, of.low, of.high, step=of.step, log=of.log)
            return trial.suggest_float(name, of.low, of.high, step=of.step, log=of.log)

        def checked(name: str, of: Distribution) -> Any:
            try:
                with warnings.catch_warnings(action="ignore"):  # of a value out of range, of a range that has changed
                    value = choose(name, of)
            except ValueError as error:
                raise RequestError(f"{name}: {one_line(error)}") from error
            if not contains(of, value):
                raise RequestError(f"{name}={value}: queued, but none of what is drawn")
            return value

        return self.walk(checked)

    def encode(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """The Optuna parameters that would propose these values, else the base's; None where the space cannot."""
        drawn, outside = self._encoded(values)
        return None if outside else drawn

    def outside(self) -> list[str]:
        """The config's own values that cannot be drawn, ``key=value``."""
        return [override(key, self.base.get(key)) for key in sorted(self._encoded({})[1])]

    def prior(self) -> dict[str, Any]:
        """The config's own values by the names of Optuna's parameters, as far as they can be drawn."""
        drawn, outside = self._encoded({})
        return {name: value for name, value in drawn.items() if key_of(name) not in outside}

    def partial(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The Optuna parameters for those of the values that the space can propose; the sampler draws the others."""
        drawn, outside = self._encoded(values)
        return {name: value for name, value in drawn.items() if key_of(name) in values.keys() - outside}

    def _encoded(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], set[str]]:
        """The Optuna parameters that propose these values, else the base's; the keys of which that is impossible."""
        wanted, drawn, outside = {**self.base, **values}, dict[str, Any](), set[str]()

        def choose(name: str, distribution: Distribution) -> Any:
            value = drawn[name] = parameters.encoded(parameters.value_of(name, wanted))
            if not parameters.contains(distribution, value):
                outside.add(key_of(name))
                return parameters.first(distribution, 1)[0]
            return value

        proposed = self.walk(choose)
        return drawn, outside | {key for key, value in proposed.items() if not same(wanted.get(key), value)}

    def grid(self, most: int, begun: Sequence[Any] = ()) -> Iterator[dict[str, Any]]:
        """Every point that begins with these choices, where no distribution has more than `most` values."""
        given, taken, others = deque(begun), list[Any](), list[list[Any]]()

        def choose(_: str, distribution: Distribution) -> Any:
            if given:
                value = given.popleft()
            else:
                value, *rest = parameters.first(distribution, most)
                others.extend([*taken, other] for other in rest)
            taken.append(value)
            return value

        yield self.walk(choose)
        for other in others:
            yield from self.grid(most, other)

    def points(self, limit: int) -> int | None:
        """The number of points; None where there are more than `limit`, or no end of them."""
        count = limit + 1 if self.continuous else sum(1 for _ in itertools.islice(self.grid(limit + 1), limit + 1))
        return count if count <= limit else None

    def distribution(self, name: str) -> Distribution | None:
        """What the Optuna parameter of this name is drawn from; None where nothing is drawn under it."""
        parameter = next((parameter for parameter in self.parameters if parameter.key == key_of(name)), None)
        found = parameter and (parameter.length if name.endswith(".length") else parameter.each)
        return found if isinstance(found, Distribution) else None


def _check_key(parameter: Parameter) -> None:
    """Refuse a key that does not exist, or is no part of what is trained."""
    names = {key for key in schema.known_keys() if not key.endswith(".name")}
    for name in [parameter.key, *parameter.needs()]:
        if name not in names and not name.startswith(FREE):
            where = name if name == parameter.key else f"{parameter.key}: {name}"
            raise RequestError(f"{ROOT}.{where}: unknown key{suggested(name, names)}")
    if parameter.key == "seed":
        allowed = "sweep.seeds=N, which judges each trial by N seeds, and sweep.winner.seeds, of the winner alone"
        raise RequestError(f"{ROOT}.seed: the luckiest seed would win, and not do so again; allowed: {allowed}")
    if not schema.searchable(parameter.key):
        raise RequestError(f"{ROOT}.{parameter.key}: not searched, being no part of what is trained; leave it out")
    length = parameter.length
    if isinstance(length, str) and all(schema.fault(length, [value] * 2) for value in (0.5, 1)):
        raise RequestError(f"{ROOT}.{parameter.key}.length={length}: is no list; allowed: the key of another list")


def _check_values(parameter: Parameter) -> None:
    """Refuse what no network can have, such as a dropout of 2, before a trial is spent on finding out."""
    for value in [] if schema.options(parameter.key) else parameter.ends():
        # of a mapping that is a choice, the rest is the config's own
        for key, item in value.items() if isinstance(value, Mapping) else [("", value)]:
            if fault := schema.fault(f"{parameter.key}.{key}".rstrip("."), item):
                raise RequestError(f"{ROOT}.{parameter.key}: {override(key, item) if key else text(item)} {fault}")
    for name, value in [(name, value) for name, allowed in parameter.when.items() for value in allowed]:
        if options := schema.options(name):
            fault = None if value in options else f"allowed: {', '.join(options)}"
        elif name != key_of(name):  # KEY.length
            fault = None if parameters.is_count(value) else "allowed: whole numbers from 0"
        else:
            fault = schema.fault(name, value)
        if fault:
            raise RequestError(f"{ROOT}.{parameter.key}.when: {override(name, value)} never occurs; {fault}")


def same(wanted: Any, value: Any) -> bool:
    """Whether both mean the same: one number stands for all entries of a list."""
    if isinstance(value, list) and not isinstance(wanted, list):
        return all(item == wanted for item in value)
    return bool(wanted == value)
