"""A proposal → the config of a run, checked by arithmetic before anything is spent on it."""

import copy
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mnist_sweep.config import schema
from mnist_sweep.config.command import checked, compose, compose_with_links
from mnist_sweep.config.overrides import override, replaced
from mnist_sweep.config.sweep_options import Bound
from mnist_sweep.errors import RequestError


@dataclass(frozen=True)
class Proposal:
    """What a trial would train.

    Attributes:
        values: the drawn ones, by dotted name.
        overrides: of the run, except its name.
        digest: of the resolved config except the seed: equal proposals have equal ones.
        costs: ``parameters``, and ``multiply_adds`` for one image.
        epochs: at most.
    """

    values: dict[str, Any]
    overrides: list[str]
    digest: str
    costs: dict[str, float]
    epochs: int

    @property
    def drawn(self) -> list[str]:
        """The overrides that say what was drawn."""
        return [override(key, value) for key, value in self.values.items()]


class Proposals:
    """Makes proposals of drawn values.

    Args:
        given: the overrides that all trials have in common.
        config_dir: the further folder of configs that they are composed with.
        constraints: what arithmetic can tell of them is enforced here.
    """

    def __init__(self, given: Sequence[str], config_dir: str | None, constraints: Mapping[str, Bound]) -> None:
        self.given, self.config_dir, self.constraints = list(given), config_dir, constraints
        #: The config without the drawn values of single keys, and what its values refer to, by group options.
        self._bases: dict[tuple[str, ...], tuple[dict[str, Any], set[str]] | None] = {}
        #: Whether the quick way is right, by group options and drawn keys.
        self._quick: dict[tuple[tuple[str, ...], frozenset[str]], bool] = {}
        #: Why Hydra refused these overrides: a sampler may draw what is impossible again and again.
        self._refused: dict[tuple[str, ...], str] = {}

    def make(self, values: Mapping[str, Any]) -> Proposal:
        """The proposal of these values.

        Raises:
            RequestError: the config cannot be, or breaks a constraint; in one line.
        """
        config = self.config(values)
        layers = config.model.layers()
        costs: dict[str, float] = {
            "parameters": sum(layer.parameters for layer in layers),
            "multiply_adds": sum(layer.multiply_adds for layer in layers),
        }
        for name, bound in self.constraints.items():
            if name in costs and bound.violation(costs[name]) > 0:
                allowed = bound.model_dump(exclude_none=True)
                raise RequestError(f"sweep.constraints.{name}={allowed}: the network has {costs[name]:,.0f}")
        resolved = {key: value for key, value in config.material().items() if key != "seed"}
        digest = hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()[:16]
        items = replaced(self.given, [override(key, value) for key, value in values.items()])
        return Proposal(dict(values), items, digest, costs, config.trainer.max_epochs)

    def config(self, values: Mapping[str, Any]) -> schema.Config:
        """The same config as Hydra composes, or the same refusal, but in a fraction of its 50 ms.

        Hydra composes once for each combination of group options; the drawn values of single keys are put into a copy
        of that. The first proposal of each set of keys is composed both ways, and where they differ, Hydra composes all
        that follow; so it does where a value of the config refers to one that is drawn.

        Raises:
            RequestError: the config cannot be.
        """
        groups = tuple(override(key, value) for key, value in values.items() if schema.options(key))
        leaves = {key: value for key, value in values.items() if not schema.options(key)}
        kind = (groups, frozenset(leaves))
        base, links = self._base(groups) or (None, set())
        follows = any(_follows(link, key) for link in links for key in leaves)
        if base is None or follows or not self._quick.get(kind, True):
            return self._composed_by_hydra(values)
        outcome = _outcome(lambda: checked(_filled(base, leaves)))
        if kind not in self._quick:
            hydras = _outcome(lambda: self._composed_by_hydra(values))
            self._quick[kind] = outcome == hydras
            outcome = hydras
        if isinstance(outcome, str):
            raise RequestError(outcome)
        return outcome

    def _composed_by_hydra(self, values: Mapping[str, Any]) -> schema.Config:
        drawn = tuple(override(key, value) for key, value in values.items())
        if drawn in self._refused:
            raise RequestError(self._refused[drawn])
        try:
            return compose(replaced(self.given, drawn), self.config_dir)
        except RequestError as error:
            self._refused[drawn] = str(error)
            raise

    def _base(self, groups: tuple[str, ...]) -> tuple[dict[str, Any], set[str]] | None:
        """An entry of `_bases`; None where the config would be impossible."""
        if groups not in self._bases:
            try:
                config, links = compose_with_links(replaced(self.given, groups), self.config_dir)
                self._bases[groups] = config.plain(), links
            except RequestError:
                self._bases[groups] = None
        return self._bases[groups]


def _follows(link: str, key: str) -> bool:
    """Whether what refers to `link` may change with the value of a key; in doubt it may."""
    if link.startswith("oc.env:"):
        return False
    named = re.fullmatch(r"\w+(\.\w+)*", link)  # neither relative, nor within a list, nor made by a function
    return not named or f"{link}.".startswith(f"{key}.") or f"{key}.".startswith(f"{link}.")


def _outcome(make: Callable[[], schema.Config]) -> schema.Config | str:
    """The config that is made, or why it is refused."""
    try:
        return make()
    except RequestError as error:
        return str(error)


def _filled(base: Mapping[str, Any], leaves: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a config with these values; a key that it does not have is left to the schema to refuse."""
    filled = copy.deepcopy(dict(base))
    for key, value in leaves.items():
        node = filled
        *above, last = key.split(".")
        for part in above:
            node = node.setdefault(part, {})
        node[last] = _merged(node.get(last), value)
    return filled


def _merged(old: Any, new: Any) -> Any:
    """The new value, which in a mapping leaves the entries that it does not name, as an override does."""
    if isinstance(old, dict) and isinstance(new, Mapping):
        return old | {key: _merged(old.get(key), value) for key, value in new.items()}
    return copy.deepcopy(new)
