"""Overrides → config. What cannot be composed, or is out of bounds, is refused in one line."""

import difflib
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mnist_sweep.config import schema
from mnist_sweep.config.overrides import assigned, command, in_shell, key_of, override, replaced, text, without
from mnist_sweep.errors import RequestError

_PACKAGED = Path(__file__).parent.parent / "conf"
#: The folder of the configs: inside an installed package, beside the package in a checkout.
CONF = _PACKAGED if _PACKAGED.is_dir() else _PACKAGED.parent.parent / "conf"

_SYNONYMS = {"learning_rate": "optimizer.lr", "num_epochs": "trainer.max_epochs"}


@dataclass(frozen=True)
class CommandLine:
    """A command line: Hydra overrides, and the folder of configs that they are composed with.

    A trial, a single run, the winner's retraining and a run on another machine are all command lines.

    Attributes:
        overrides: in Hydra's grammar, as typed.
        config_dir: a further folder of configs, as with ``--config-dir``; None = only the package's own.
    """

    overrides: tuple[str, ...] = ()
    config_dir: Path | None = None

    @classmethod
    def of(cls, overrides: Iterable[str], config_dir: str | Path | None = None) -> "CommandLine":
        """The command line of these overrides."""
        return cls(tuple(overrides), Path(config_dir) if config_dir is not None else None)

    @functools.cached_property
    def config(self) -> schema.Config:
        """The composed and checked config.

        Raises:
            RequestError: an unknown key or option, a wrong type, a value out of bounds, an impossible network.
        """
        return compose(self.overrides, None if self.config_dir is None else str(self.config_dir))

    def add(self, *overrides: str) -> "CommandLine":
        """With further overrides; each takes the place of an earlier one of the same key."""
        return CommandLine(tuple(replaced(self.overrides, overrides)), self.config_dir)

    def with_(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> "CommandLine":
        """With these values: ``with_({"optimizer.lr": 0.1}, seed=3)``."""
        return self.add(*(override(key, value) for key, value in {**(values or {}), **more}.items()))

    def without(self, *prefixes: str) -> "CommandLine":
        """Without the overrides of these keys and of what lies below them."""
        return CommandLine(tuple(without(self.overrides, *prefixes)), self.config_dir)

    def assigned(self) -> dict[str, Any]:
        """What the overrides set, by dotted name; see `overrides.assigned`."""
        return assigned(self.overrides)

    def shell(self) -> str:
        """As it is typed in a POSIX shell."""
        return command(self.overrides, None if self.config_dir is None else str(self.config_dir))

    def __reduce__(self) -> tuple[Any, ...]:  # without the cached config: a worker composes its own
        return CommandLine, (self.overrides, self.config_dir)


def compose(overrides: Sequence[str], config_dir: str | None = None) -> schema.Config:
    """The checked config of these overrides.

    Args:
        overrides: in Hydra's grammar, as on the command line.
        config_dir: a further folder of configs, as with ``--config-dir``.

    Raises:
        RequestError: an unknown key or option, a wrong type, a value out of bounds, an impossible network.
    """
    return compose_with_links(overrides, config_dir)[0]


def compose_with_links(overrides: Sequence[str], config_dir: str | None = None) -> tuple[schema.Config, set[str]]:
    """What `compose` makes, and the names that its values refer to: ``model.dropout`` for ``${model.dropout}``."""
    if line := _no_folder(config_dir):
        raise RequestError(line)
    try:
        composed = _composed(overrides, config_dir)
        plain = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise RequestError(explain(error, overrides, config_dir)) from error
    assert isinstance(plain, dict)
    plain.pop("experiment", None)  # an option chosen, not a value
    return checked(plain), _links(OmegaConf.to_container(composed))


def _links(node: Any) -> set[str]:
    """What the strings within plain data refer to."""
    match node:
        case dict():
            return _links([*node.values()])
        case list():
            return set().union(*map(_links, node))
        case str():
            return set(re.findall(r"\$\{([^{}$]*)", node))
    return set()


def checked(composed: Any) -> schema.Config:
    """The config of plain data that has been composed.

    Raises:
        RequestError: a wrong type, a value out of bounds, an impossible network.
    """
    try:
        return schema.Config.model_validate(composed)
    except pydantic.ValidationError as error:
        raise RequestError(_first_fault(error, composed)) from error


def _composed(overrides: Sequence[str], config_dir: str | None) -> DictConfig:
    search = [f"hydra.searchpath=[{text('file://' + str(Path(config_dir).resolve()))}]"] if config_dir else []
    hydra, outer = GlobalHydra.instance(), GlobalHydra.instance().hydra  # the command line's own, which stays
    hydra.clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra_compose("config", overrides=[*overrides, *search])
    finally:
        hydra.hydra = outer


def nearest(word: str, known: Iterable[str]) -> str:
    """The known dotted name most like the word, compared whole and by its last part."""
    names = sorted(set(known) - {name.rpartition(".")[0] for name in known})  # values, not the mappings around them
    word = _SYNONYMS.get(word, word)
    last = word.rpartition(".")[2]

    def likeness(name: str) -> float:
        whole = difflib.SequenceMatcher(None, word, name).ratio()
        return max(whole, 0.9 * difflib.SequenceMatcher(None, last, name.rpartition(".")[2]).ratio())

    return max(names, key=likeness)


def _first_fault(error: pydantic.ValidationError, composed: Any) -> str:
    """The first of pydantic's complaints as one line: key=value: what is allowed."""
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
    match fault["type"]:
        case "extra_forbidden":
            return (
                f"{key}={text(node)}: unknown key; the nearest known one is {nearest(key, schema.known_keys() - {key})}"
            )
        case "missing" if key.startswith("sweep.") and "name" not in composed["sweep"]:
            return f"{key} is missing: a sweep's config comes with +sweep=optuna, and no experiment sets keys of it"
        case "missing":
            return f"{key} is missing"
        case "value_error" if "=" in str(fault["ctx"]["error"]).split(":")[0]:
            return str(fault["ctx"]["error"])  # names its key itself
        case "value_error":
            return f"{key}={text(node)}: {fault['ctx']['error']}"
        case "dict_type" | "model_attributes_type" if (CONF / (group := key.replace(".", "/"))).is_dir():
            return f"{key}={text(node)}: allowed: a mapping; an option of this group is chosen as {group}=OPTION"
        case "string_type" if isinstance(node, int | float):
            return f"{key}={text(node)}: should be a text; allowed: {in_shell(override(key, str(node)))}"
        case "bool_type" | "bool_parsing":
            return f"{key}={text(node)}: should be true or false"
    message = fault["msg"].removeprefix("Input ").replace(" '32'", " 32").replace("True, False", "true, false")
    return f"{key}={text(node)}: {message}"


def explain(error: Exception, overrides: Sequence[str], config_dir: str | None = None) -> str:
    """One line for what Hydra would not compose: the override at fault and what is allowed in its place."""
    if line := _no_folder(config_dir):
        return line
    parser, read = OverridesParser.create(), []
    for item in overrides:
        try:
            read.append(parser.parse_override(item))
        except HydraException as fault:
            return f"{item}: {_unquoted(item) or f'not an override KEY=VALUE ({_line(fault)})'}"
    for parsed in read:
        if line := _fault_of(parsed, overrides, config_dir):
            return line
    key = getattr(error, "full_key", None)  # of a value that refers to another one
    whose = next((item for item in overrides if key and key_of(item) == key), key)
    return f"{whose}: {_line(error)}" if whose else _line(error)


def _no_folder(config_dir: str | None) -> str | None:
    """What is wrong with a further folder of configs; Hydra goes on without one that is not there."""
    return None if config_dir is None or Path(config_dir).is_dir() else f"--config-dir={config_dir}: no such folder"


def _unquoted(item: str) -> str | None:
    """What to write instead of an override whose value Hydra can only read in quotes; None where that is not it."""
    key, _, value = item.partition("=")
    if not re.fullmatch(r"\+{0,2}[\w./@-]+", key, re.ASCII) or not value or set(value) & set("[]{}'\"$"):
        return None
    if value.startswith("~/"):
        return f"~ is no folder here; allowed: {in_shell(override(key, str(Path(value).expanduser())))}"
    return f"the value needs quotes of its own; allowed: {in_shell(override(key, value))}"


def _line(error: Exception) -> str:
    return " ".join(re.split(r"\n\s*full_key", str(error))[0].split())


def _fault_of(parsed: Override, overrides: Sequence[str], config_dir: str | None) -> str | None:
    key, item = parsed.key_or_group, str(parsed.input_line)
    folders = [folder / key for folder in _folders(config_dir) if (folder / key).is_dir()]
    if parsed.is_sweep_override():
        return f"{item}: several values need --multirun"
    if folders or key == "experiment":
        if line := _unknown_option(parsed, folders):
            return line
        if key == "sweep" and not parsed.is_add():
            return f"{item}: a sweep is added to the config; write +{item}"
        if key.startswith("sweep/") and not any(key_of(other) == "sweep" for other in overrides):
            return f"{item}: only within a sweep; add +sweep=optuna"
        return None
    others = [other for other in overrides if other != item]
    try:
        rest = _composed(others, config_dir)
    except (HydraException, OmegaConfBaseException, ValueError):
        return None  # another override is at fault as well, and is looked at in its turn
    present = _leaves(OmegaConf.to_container(rest))
    if parsed.is_delete() and key in present and OmegaConf.select(rest, key) is None:
        return f"{item}: it has no value now; write {key}=null where an experiment gives it one"
    if parsed.is_add():
        return f"{item}: {key} is there already; write it without +" if key in present else None
    if key in present and key.startswith("sweep.space.") and isinstance(parsed.value(), dict):
        return f"{item}: this leaf has other keys; write ++{item} to replace it"
    if key in present:
        return None
    if key.startswith("sweep.") and "sweep" not in present:
        return f"{item}: only within a sweep; add +sweep=optuna"
    groups = [key[: dot.start()] for dot in re.finditer(r"\.", key)]
    group = next((each for each in reversed(groups) if f"{each}.name" in present), None)
    if key in schema.known_keys() and group:
        have = ", ".join(
            sorted(name for name in present if name.startswith(f"{group}.") and not name.endswith(".name"))
        )
        return f"{item}: {group}={OmegaConf.select(rest, f'{group}.name')} has no such key; it has {have or 'none'}"
    known = present if key.startswith("sweep.space") else present | schema.known_keys()
    return f"{item}: unknown key; the nearest known one is {nearest(key, known - {'experiment'})}"


def _unknown_option(parsed: Override, folders: Sequence[Path]) -> str | None:
    """What is wrong with the option that an override chooses of a group, or with one of several experiments."""
    item, key, given = str(parsed.input_line), parsed.key_or_group, parsed.value()
    if isinstance(given, dict) or (key == "experiment" and parsed.is_delete()):
        return None
    found = sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})
    options = given if isinstance(given, list) and key == "experiment" else [given]
    unknown = [name for name in ("null" if option is None else str(option) for option in options) if name not in found]
    if not unknown:
        return None
    close = difflib.get_close_matches(unknown[0], found, n=1)
    guess = f"did you mean {close[0]}? " if close else ""
    none = "; ~experiment for none" if key == "experiment" and given is None else ""
    return f"{item}: unknown option; {guess}allowed: {', '.join(found) or 'only those of a --config-dir'}{none}"


def _folders(config_dir: str | None) -> list[Path]:
    return [CONF, *([Path(config_dir)] if config_dir else [])]


def _leaves(node: Any, prefix: str = "") -> set[str]:
    """The dotted names of a nested mapping, those of its inner nodes included."""
    if not isinstance(node, dict):
        return {prefix}
    inner = {name for key, item in node.items() for name in _leaves(item, f"{prefix}.{key}".lstrip("."))}
    return inner | ({prefix} if prefix else set())
