"""Why overrides are refused, in one line: Hydra's own or pydantic's, with what is at fault and a suggestion."""

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pydantic
from hydra.errors import MissingConfigException, OverrideParseException

from mnist_sweep.config import schema
from mnist_sweep.config.overrides import key_of, override, text

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
        return f"{error.override}: not an override KEY=VALUE; special characters need quotes, as \"KEY='VALUE'\""
    quoted = re.findall(r"'(.*?)'(?!\w)", line)
    nulls = [key_of(item) for item in overrides if item.endswith("=null") and (conf / key_of(item)).is_dir()]
    key: str = getattr(error, "full_key", None) or next(iter(quoted or nulls), "")  # of a null Hydra names no group
    of_file = None
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        key, _, option = error.missing_cfg_file.rpartition("/")
        of_file = f"{key}={option}"
        found = sorted(error.options or [file.stem for file in (conf / key).glob("*.yaml")])
        close = difflib.get_close_matches(option, found, n=1)
        line = f"unknown option; {f'did you mean {close[0]}? ' if close else ''}allowed: {', '.join(found)}"
    elif line.startswith("Could not override"):
        line = _not_there(key, line, any(key_of(item) == "sweep" for item in overrides))
    # Hydra means the last override of the key, or whose text it quotes
    item = next((item for item in reversed(overrides) if key in (key_of(item), item)), of_file)
    return f"{item}: {line}" if item else line


def _not_there(key: str, line: str, sweep: bool) -> str:
    """Why the config has no such key, in a command line that is a sweep's or is not; `line` is what Hydra says."""
    if re.match(r"sweep\W", key) and not sweep:
        return "only within a sweep; add +sweep=optuna"
    if "default" in line or key.startswith("sweep.space."):  # to be added with a +, as Hydra says
        return line
    group, _, last = key.rpartition(".")
    if having := [name for name, section in schema.options(group).items() if last in section.model_fields]:
        return "only with " + " or ".join(f"{group.replace('.', '/')}={name}" for name in having)
    known = {name for name in schema.known_keys() if sweep or not name.startswith("sweep")}
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
            reason = f'should be a text; allowed: "{override(key, str(node))}"'
    return f"{key}={text(node)}: {reason}"
