"""Hydra overrides as text, in its grammar (https://hydra.cc/docs/advanced/override_grammar/basic/)."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

#: Words that Hydra reads as they stand, as a string and as nothing else.
_PLAIN = re.compile(r"(?:[A-Za-z_/]|\.\.?/)[A-Za-z0-9_./-]*")
#: A path or a URL with characters that Hydra wants quoted, which nobody would think of.
_REST = r"[^'\",(){}\[\]$]*"
_URL = rf"(?:sqlite(?:\+\w+)?:///)?~{_REST}|\w[\w+.-]*://{_REST}[=&;~!]{_REST}"
_PATH = re.compile(rf"([+]{{0,2}}[\w.]+=)({_URL})")
#: Below this lie keys that no YAML file lists: the arguments of a network of the user's own.
FREE = "model.arguments."
_RESERVED = {"null", "true", "false", "nan", "inf"}


def text(value: Any) -> str:
    """The value in Hydra's grammar: None, bool, int, float, str, or lists and mappings (with string keys) of these."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and value.lower() not in _RESERVED else _quoted(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{text(key)}:{text(item)}" for key, item in value.items()) + "}"
    return "[" + ",".join(text(item) for item in value) + "]"


def _quoted(value: str) -> str:
    # Within quotes a backslash escapes only a quote, or a backslash in front of one; to OmegaConf likewise a ${.
    literal = re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + "\\${", value)
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), literal) + "'"


def with_path_quoted(item: str) -> str:
    """The override with quotes around a path such as ``~/x``, or a URL such as ``sqlite:///x.db?timeout=60``."""
    found = _PATH.fullmatch(item)
    return f"{found[1]}{_quoted(found[2])}" if found else item


def override(key: str, value: Any) -> str:
    """``key=value`` in Hydra's grammar."""
    return added(f"{key}={text(value)}")


def added(item: str) -> str:
    """An override of a key that no YAML file lists, so that Hydra adds it; any other as it is."""
    return f"++{item}" if item.startswith(FREE) else item


def key_of(item: str) -> str:
    """The dotted name that an override concerns: ``a.b`` of ``a.b=1``, ``+a.b=1`` and ``~a.b``."""
    return item.partition("=")[0].lstrip("+~").partition("@")[0]


def assigned(items: Iterable[str]) -> dict[str, Any]:
    """What overrides set, by dotted name: ``a.b`` for ``a.b=1``; the mapping ``a`` and ``a.b`` for ``a={b: 1}``."""
    found: dict[str, Any] = {}
    for parsed in OverridesParser.create().parse_overrides(list(items)):
        found |= flattened({parsed.key_or_group: parsed.value()})
    return found


def flattened(values: Mapping[str, Any]) -> dict[str, Any]:
    """All values of nested mappings by dotted name; the mappings are among them."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found[key] = value
        if isinstance(value, Mapping):
            found |= {f"{key}.{part}": item for part, item in flattened(value).items()}
    return found
