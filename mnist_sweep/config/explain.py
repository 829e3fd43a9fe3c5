"""Why overrides are refused, in one line: the override or the key at fault, and what is allowed in its place.

Hydra and pydantic name what is wrong in their messages; what is added here is the suggestion.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pydantic
from hydra.errors import MissingConfigException, OverrideParseException

from mnist_sweep.config import schema
from mnist_sweep.config.overrides import in_shell, key_of, override, text

_SYNONYMS = {"learning_rate": "optimizer.lr", "epochs": "trainer.max_epochs", "num_epochs": "trainer.max_epochs"}


def nearest(word: str, known: Iterable[str]) -> str:
    """The known dotted name most like the word; one with the same last part before others."""
    names = sorted(set(known) - {name.rpartition(".")[0] for name in known})  # values, not the mappings around them
    word = _SYNONYMS.get(word, word)
    same = [name for name in names if name.rpartition(".")[2] == word.rpartition(".")[2]]
    return difflib.get_close_matches(word, same or names, n=1, cutoff=0.0)[0]


def not_composed(error: Exception, overrides: Sequence[str], conf: Path) -> str:
    """One line for overrides that could not be composed with the configs of a folder; the error is Hydra's."""
    line = " ".join(re.split(r"\n\s*(?:full_key|See https|Config search)", str(error))[0].split())
    if isinstance(error, OverrideParseException):
        key, _, value = error.override.partition("=")
        typed = in_shell(override(key, re.sub("^~/", f"{Path.home()}/", value)))  # a shell leaves this ~ as it is
        hint = f"; a text with such characters needs quotes of its own: {typed}" if value else ""
        return f"{error.override}: not an override KEY=VALUE{hint}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        return f"{_item(group, overrides) or f'{group}={option}'}: {_option(option, conf / group, error.options)}"
    if "must be a string or a list" in line:  # a group's option, which Hydra does not name
        for null in (item for item in overrides if item.endswith("=null") and (conf / key_of(item)).is_dir()):
            return f"{null}: {_option('null', conf / key_of(null))}"
    quoted = re.search(r"'(.*?)'(?!\w)", line)
    named: str = getattr(error, "full_key", None) or (quoted[1] if quoted else "")
    if (item := _item(named, overrides)) is None:
        return line
    if line.startswith("Ambiguous value"):
        return f"{item}: several values need --multirun"
    if line.startswith("Could not append"):
        return f"{item}: {named} is there already; write it without +"
    if line.startswith("Could not override"):
        return f"{item}: {_not_there(item, any(key_of(other) == 'sweep' for other in overrides))}"
    return f"{item}: {line}"


def _item(named: str, overrides: Sequence[str]) -> str | None:
    """The last override that Hydra means by a key or by its own text."""
    return next((item for item in reversed(overrides) if named in (key_of(item), item)), None)


def _option(option: str, folder: Path, options: Sequence[str] | None = None) -> str:
    """What is wrong with the option of a group; `options` are all that Hydra knows, where it tells them."""
    found = sorted(options or [file.stem for file in folder.glob("*.yaml")])
    close = difflib.get_close_matches(option, found, n=1)
    guess = f"did you mean {close[0]}? " if close else ""
    return f"unknown option; {guess}allowed: {', '.join(found)}"


def _not_there(item: str, sweep: bool) -> str:
    """Why the config has nothing that an override could set, in a command line that is a sweep's or is not."""
    key = key_of(item)
    if key == "sweep":
        return f"a sweep is added to the config; write +{item}"
    if re.match(r"sweep\W", key) and not sweep:
        return "only within a sweep; add +sweep=optuna"
    known = {name for name in schema.known_keys() if sweep or not name.startswith("sweep")}
    if key.startswith("sweep.space."):
        known = {f"sweep.space.{name}" for name in known if schema.searchable(name) and not schema.sections_of(name)}
        if any(f"{key}.".startswith(f"{name}.") for name in known):
            return f"not in the space as it is; write ++{item} to search it so"
    group, _, last = key.rpartition(".")
    having = [name for name, section in schema.options(group).items() if last in section.model_fields]
    if having:
        choices = " or ".join(f"{group.replace('.', '/')}={name}" for name in having)
        return f"only with {choices}"
    return f"unknown key; the nearest known one is {nearest(key, known)}"


def not_valid(error: pydantic.ValidationError, composed: dict[str, Any], conf: Path) -> str:
    """One line for a config, plain data, whose values are refused: the first of pydantic's faults."""
    fault = error.errors()[0]
    key: str = ""
    node: Any = composed
    for part in fault["loc"]:
        if isinstance(part, int) and isinstance(node, list) and part < len(node):
            key, node = f"{key}[{part}]", node[part]
        elif isinstance(node, dict) and part in node:
            key, node = f"{key}.{part}".lstrip("."), node[part]
        elif fault["type"] == "missing" and part == fault["loc"][-1]:
            key = f"{key}.{part}".lstrip(".")
        # else: a tag by which pydantic says which member of a union it tried
    reason = fault["msg"].removeprefix("Input ").replace(" '32'", " 32").replace("True, False", "true, false")
    match fault["type"]:
        case "missing":
            of_sweep = key.startswith("sweep.") and "name" not in composed["sweep"]
            return f"{key} is missing" + (": a sweep's config comes with +sweep=optuna" if of_sweep else "")
        case "value_error":
            reason = str(fault["ctx"]["error"])
            if "=" in reason.split(":")[0]:  # it names its key itself
                return reason
        case "extra_forbidden":
            reason = f"unknown key; the nearest known one is {nearest(key, schema.known_keys() - {key})}"
        case "dict_type" | "model_attributes_type" if (conf / (group := key.replace(".", "/"))).is_dir():
            reason = f"allowed: a mapping; an option of this group is chosen as {group}=OPTION"
        case "string_type" if isinstance(node, int | float):
            reason = f"should be a text; allowed: {in_shell(override(key, str(node)))}"
        case "bool_type" | "bool_parsing":
            reason = "should be true or false"
    return f"{key}={text(node)}: {reason}"
