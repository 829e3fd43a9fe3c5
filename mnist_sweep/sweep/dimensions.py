"""The tree of a search space, read: which keys are drawn, how, and under which conditions. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mnist_sweep.config import schema
from mnist_sweep.config.overrides import override, text
from mnist_sweep.errors import RequestError
from mnist_sweep.sweep.leaves import LEAF, ROOT, Choice, Leaf, Sequence, choice, leaf, length_of


@dataclass(frozen=True)
class Dimension:
    """A key that is drawn, and the conditions under which it is: other keys and the values they must have."""

    key: str
    leaf: Leaf
    when: Mapping[str, tuple[Any, ...]]

    def needs(self) -> set[str]:
        """The keys that must be drawn before."""
        follows = {self.leaf.length} if isinstance(self.leaf, Sequence) and isinstance(self.leaf.length, str) else set()
        keys = {*map(without_length, self.when), *follows}
        return keys | {group for group in map(_group, {self.key, *keys}) if group} - {self.key}

    def active(self, known: Mapping[str, Any]) -> bool:
        """Whether the key is drawn, given the values known so far."""
        return all(_known(key, known) in allowed for key, allowed in self.when.items())


def _group(key: str) -> str | None:
    """The group whose option decides what a key is, or whether it is there at all."""
    group, _, inner = key.partition(".")
    return group if inner and schema.options(group) else None


def nested(node: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with a node for each part of a dotted name: ``{model.pool: LEAF}`` as ``{model: {pool: LEAF}}``.

    Raises:
        RequestError: a part of a dotted name is no mapping.
    """
    tree: dict[str, Any] = {}
    for name, item in node.items():
        inner = nested(item) if isinstance(item, Mapping) and name != "when" else item
        for part in reversed(str(name).split(".")):
            inner = {part: inner}
        _merge(tree, inner, str(name))
    return tree


def _merge(tree: dict[str, Any], other: Mapping[str, Any], name: str) -> None:
    for key, item in other.items():
        if key in tree and not (isinstance(tree[key], dict) and isinstance(item, Mapping)):
            raise RequestError(f"{ROOT}.{name}: {key} is there twice; allowed: once")
        if key in tree:
            _merge(tree[key], item, name)
        else:
            tree[key] = item


def dimensions(node: Mapping[str, Any], prefix: str, above: Mapping[str, tuple[Any, ...]]) -> list[Dimension]:
    """The leaves below a node of the tree.

    Args:
        node: of the tree.
        prefix: its dotted name.
        above: the conditions of the nodes that it lies in.

    Raises:
        RequestError: an item is none, or its conditions contradict those above; in one line.
    """
    found: list[Dimension] = []
    for key, item in node.items():
        if key == "_group_":
            found.append(Dimension(prefix, _options(prefix, item), above))
            continue
        if key == "when" and prefix:
            continue  # of this node, read by its caller
        name = f"{prefix}.{key}".lstrip(".")
        if not isinstance(item, Mapping):
            raise RequestError(f"{ROOT}.{name}={text(item)}: allowed: a leaf such as {{low: 0, high: 1}}, or a tree")
        conditions = _both(name, above, _conditions(name, item.get("when", {})))
        inner = all(isinstance(part, Mapping) or key in ("when", "_group_") for key, part in item.items())
        if set(item) & LEAF - {"when"} or ("when" in item and (not inner or len(item) == 1)):
            found.append(Dimension(name, leaf(name, item), conditions))
        else:
            found += dimensions(item, name, conditions)
    return found


def _options(group: str, names: Any) -> Choice:
    """The options of a Hydra group."""
    options = schema.options(group)
    found = choice(f"{group}._group_", names)
    unknown = [name for name in found.choices if not isinstance(name, str) or name not in options]
    if not options:
        groups = [name for name in schema.Config.model_fields if schema.options(name) and schema.searchable(name)]
        raise RequestError(
            f"{ROOT}.{group}._group_: an option of {group} is not searched; allowed for {', '.join(groups)}, "
            f"or leaves of its keys"
        )
    if unknown:
        raise RequestError(
            f"{ROOT}.{group}._group_={text(names)}: no option {text(unknown[0])}; allowed: {', '.join(options)}"
        )
    return found


def _both(
    name: str, above: Mapping[str, tuple[Any, ...]], own: Mapping[str, tuple[Any, ...]]
) -> dict[str, tuple[Any, ...]]:
    """The conditions of a node and of those that it lies in."""
    both = {**above, **own}
    for key in above.keys() & own.keys():
        both[key] = tuple(value for value in own[key] if value in above[key])
        if not both[key]:
            raise RequestError(
                f"{ROOT}.{name}.when: {key} cannot be {' or '.join(map(text, own[key]))} there; "
                f"allowed: {', '.join(map(text, above[key]))}"
            )
    return both


def _conditions(name: str, when: Any) -> dict[str, tuple[Any, ...]]:
    if not isinstance(when, Mapping):
        raise RequestError(f"{ROOT}.{name}.when={text(when)}: allowed: {{KEY: VALUE}} or {{KEY: [VALUE, VALUE]}}")
    for key, value in when.items():
        counts = [value] if not isinstance(value, list) else value
        whole = all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts)
        if not counts or (key != without_length(key) and not whole):
            allowed = "a value, or a list of them" if key == without_length(key) else "whole numbers from 0"
            raise RequestError(f"{ROOT}.{name}.when: {override(key, value)} never occurs; allowed: {allowed}")
    return {key: tuple(value) if isinstance(value, list) else (value,) for key, value in when.items()}


def without_length(key: str) -> str:
    """The key that a condition looks at."""
    return key.removesuffix(".length")


def _known(key: str, known: Mapping[str, Any]) -> Any:
    """The value, or the length of the list, that a condition looks at."""
    return known.get(key) if key == without_length(key) else length_of(known.get(without_length(key)))
