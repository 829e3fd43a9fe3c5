"""The search space: YAML → suggestions → values by dotted name.

Pure; a trial is anything that has Optuna's ``suggest_*``.

A leaf says how one key of the config is drawn:

    {low: 1e-4, high: 0.3, log: true}              a float; an integer where both bounds are integers; also step
    {choices: [3, 5, 7]}                           one of these; each may be a number, a text, a list or a mapping
    {length: {low: 1, high: 3}, each: LEAF}        a list; length is a number, a leaf, or the key of another list
    _group_: [adam, sgd]                           an option of a Hydra group, beside the leaves of its keys
    when: {optimizer: sgd}                         in any leaf or tree: drawn only where another key has this value,
                                                   or one of these: [adam, adamw]; KEY.length is that of a list

An override on the command line merges into the leaf that was there: choices go before a list, and a list before bounds.
"""

import contextlib
import functools
import graphlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from mnist_sweep.config import schema
from mnist_sweep.config.command import nearest
from mnist_sweep.config.overrides import assigned, override, text
from mnist_sweep.errors import RequestError
from mnist_sweep.sweep.dimensions import Dimension, dimensions, nested, without_length
from mnist_sweep.sweep.leaves import ROOT, Choice, Leaf, Number, OutsideError, Sequence, Trial, Walk, length_of


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
        self.tree = nested(tree)
        found = {dimension.key: dimension for dimension in dimensions(self.tree, "", {})}
        leaves = {key for key in schema.known_keys() if not key.endswith(".name")} | {
            k for k in base if schema.options(k)
        }
        for key in found:
            if key not in leaves:
                raise RequestError(f"{ROOT}.{key}: unknown key; the nearest known one is {nearest(key, leaves)}")
            if not schema.searchable(key):
                raise RequestError(f"{ROOT}.{key}: not searched, being no part of what is trained; leave it out")
        for dimension in found.values():
            for key in dimension.needs() - leaves:
                raise RequestError(
                    f"{ROOT}.{dimension.key}: {key}: unknown key; the nearest known one is {nearest(key, leaves)}"
                )
        self.fixed = sorted({key for key in found if key in set(fixed)})
        drawn = {key: dimension for key, dimension in found.items() if key not in self.fixed}
        try:
            order = graphlib.TopologicalSorter({key: d.needs() & set(drawn) for key, d in drawn.items()}).static_order()
            ordered = [drawn[key] for key in order]
        except graphlib.CycleError as error:
            raise RequestError(f"{ROOT}: a circle of conditions: {' → '.join(error.args[1])}") from error
        self._check_groups(drawn)
        self._check_conditions(drawn)
        self._check_lengths(drawn)
        self.dimensions: list[Dimension] = []
        for dimension in ordered:
            if self._can_be_active(dimension, {before.key for before in self.dimensions}):
                self.dimensions.append(dimension)
        self.inactive = sorted(drawn.keys() - {dimension.key for dimension in self.dimensions})
        if not self.dimensions:
            raise RequestError(f"{ROOT}: nothing is left to search; allowed: at least one key that is not set by hand")

    @classmethod
    def of(cls, config: schema.Config, given: Iterable[str]) -> "Space":
        """The space of a sweep: what its config says, less the keys that the user's overrides set.

        Raises:
            RequestError: as above.
        """
        assert config.sweep is not None
        values = assigned(given)
        if values.get(ROOT) == {}:
            raise RequestError(f"{ROOT}={{}}: adds nothing to the space that is there; allowed: sweep/space=empty")
        # a mapping for a group sets keys of it, and leaves its option open
        fixed = {k for k, value in values.items() if not (isinstance(value, Mapping) and schema.options(k))}
        space = cls(config.sweep.space, config.parameters(), fixed)
        space._check_values()
        return space

    def _can_be_active(self, dimension: Dimension, before: set[str]) -> bool:
        """Whether a key is drawn in some trial, by its conditions and by the keys that may be drawn before it."""
        fixed = {
            key: allowed
            for key, allowed in dimension.when.items()
            if not before & {without_length(key), key.partition(".")[0]}
        }
        return replace(dimension, when=fixed).active(self.base)

    def _check_values(self) -> None:
        """Refuse what no network can have, such as a dropout of 2, before a trial is spent on finding out.

        Raises:
            RequestError: a bound, a choice or a condition is not within the bounds of its key.
        """
        for dimension in self.dimensions:
            for value in [] if schema.options(dimension.key) else dimension.leaf.ends():
                # of a mapping that is a choice, the rest is the config's own
                parts = value.items() if isinstance(value, Mapping) else [("", value)]
                for key, part in parts:
                    if fault := schema.fault(f"{dimension.key}.{key}".rstrip("."), part):
                        said = f"{key}={text(part)}" if key else text(part)
                        raise RequestError(f"{ROOT}.{dimension.key}: {said} {fault}")
            for key, value in ((key, value) for key, allowed in dimension.when.items() for value in allowed):
                plain = not schema.options(key) and key == without_length(key)
                if plain and (fault := schema.fault(key, value)):
                    raise RequestError(f"{ROOT}.{dimension.key}.when: {override(key, value)} never occurs; it {fault}")

    def _check_groups(self, drawn: Mapping[str, Dimension]) -> None:
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
                    f"{ROOT}.{dimension.key}: {group}={lacking[0]} has no {key}; "
                    f"allowed: {'when: ' + text({group: fitting}) if fitting else 'leave it out'}"
                )

    def _check_conditions(self, drawn: Mapping[str, Dimension]) -> None:
        """A condition on a group must name options that exist; whether they are searched now does not matter."""
        for dimension in drawn.values():
            for key, allowed in dimension.when.items():
                options = schema.options(key)
                unknown = [option for option in allowed if options and option not in options]
                if unknown:
                    raise RequestError(
                        f"{ROOT}.{dimension.key}.when: {override(key, unknown[0])} never occurs; "
                        f"allowed: {', '.join(options)}"
                    )

    def _check_lengths(self, drawn: Mapping[str, Dimension]) -> None:
        """The key that a list has its length from must be of a list, whatever is drawn."""
        for dimension in drawn.values():
            key = dimension.leaf.length if isinstance(dimension.leaf, Sequence) else None
            if not isinstance(key, str):
                continue
            lists = any(schema.fault(key, [value] * count) is None for value in (1, 0.5) for count in (1, 2))
            group = key.partition(".")[0]
            if not lists or (group in drawn and key not in drawn):
                why = f"{group} is drawn, and may have none" if lists else "is no list"
                raise RequestError(f"{ROOT}.{dimension.key}.length={key}: {why}; allowed: the key of another list")

    @functools.cached_property
    def conditional(self) -> list[str]:
        """The keys that are not drawn, or not with the same parameters, in every trial."""
        found: list[str] = []
        searched, of_several_lengths = {each.key for each in self.dimensions}, self._of_several_lengths()
        for dimension in self.dimensions:
            length = dimension.leaf.length if isinstance(dimension.leaf, Sequence) else 0
            follows = isinstance(length, str) and length in {*found, *of_several_lengths}
            varies = isinstance(length, Number | Choice | Sequence) and not _single(length)
            if {without_length(key) for key in dimension.when} & searched or follows or varies:
                found.append(dimension.key)
        return found

    def _of_several_lengths(self) -> set[str]:
        """The keys that are drawn from choices among which lists differ in length."""
        chosen = {each.key: each.leaf.choices for each in self.dimensions if isinstance(each.leaf, Choice)}
        return {key for key, choices in chosen.items() if len(set(map(length_of, choices))) > 1}

    @property
    def continuous(self) -> list[str]:
        """The keys with a range of floats without a step: there is no end of values."""
        return [dimension.key for dimension in self.dimensions if dimension.leaf.continuous]

    @property
    def categorical(self) -> list[str]:
        """The keys that are drawn from choices."""
        return [dimension.key for dimension in self.dimensions if dimension.leaf.categorical]

    def describe(self) -> list[tuple[str, str, str]]:
        """For each key what it is drawn from and under which conditions, in words."""
        rows = []
        for dimension in self.dimensions:
            conditions = (f"{key}={' or '.join(map(text, allowed))}" for key, allowed in dimension.when.items())
            rows.append((dimension.key, dimension.leaf.words(), ", ".join(conditions)))
        return rows

    def points(self, limit: int) -> int | None:
        """The number of points, counted one by one along the tree of all draws.

        Args:
            limit: where counting ends.

        Returns:
            None where there are more than `limit`, or no end of them.
        """
        if self.continuous:
            return None
        count, path = 0, list[int]()
        while count < limit:
            walk = Walk(path)
            self.suggest(walk)
            count += 1
            path = walk.next()
            if not path:
                return count
        return None

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Draw a value for each key that is active, by dotted name."""
        known, drawn = dict(self.base), {}
        for dimension in self.dimensions:
            if not dimension.active(known):
                continue
            value = drawn[dimension.key] = dimension.leaf.suggest(trial, dimension.key, known)
            self._learn(known, dimension.key, value)
        return drawn

    def _learn(self, known: dict[str, Any], key: str, value: Any) -> None:
        """Note a value; with another option of a group, what the base says of its keys is not so any more."""
        if schema.options(key) and value != self.base.get(key):
            for other in [other for other in known if other.startswith(f"{key}.")]:
                del known[other]
        known[key] = value

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
        except OutsideError:
            return None
        return parameters

    def partial(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The Optuna parameters for those of the values that the space can propose; the others are left to the sampler.

        Args:
            values: by dotted name, such as those of a trial of another study.
        """
        known = {**self.base, **values}
        parameters: dict[str, Any] = {}
        for dimension in self.dimensions:
            if dimension.key in values and dimension.active(known):
                with contextlib.suppress(OutsideError, KeyError):
                    parameters |= dimension.leaf.encode(dimension.key, values[dimension.key], known)
        return parameters


def _single(leaf: Leaf) -> bool:
    """Whether a leaf always draws the same."""
    return (isinstance(leaf, Number) and leaf.low == leaf.high) or (isinstance(leaf, Choice) and len(leaf.choices) == 1)
