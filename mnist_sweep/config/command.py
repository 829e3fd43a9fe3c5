"""A command line, the config that Hydra composes of it, and the one line in which a wrong one is refused."""

import contextlib
import copy
import difflib
import functools
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from mnist_sweep.config import schema
from mnist_sweep.config.overrides import FREE, added, assigned, key_of, override, text, with_path_quoted
from mnist_sweep.errors import RequestError, without_passwords

PROGRAM = "python -m mnist_sweep"
_SPACE = "sweep.space."
#: The likeness, 0 … 1, from which a known name is worth a suggestion.
_NEAR = 0.6
_SYNONYMS = {"learning_rate": "optimizer.lr", "epochs": "trainer.max_epochs", "num_epochs": "trainer.max_epochs"}

for _name in ("MNIST_SWEEP_DATA", "MLFLOW_TRACKING_URI"):
    if os.environ.get(_name) == "":  # an empty variable counts as none, here and in what MLflow reads
        del os.environ[_name]
# `oc.env` would take an empty variable for a value
OmegaConf.register_new_resolver("env", lambda name, default: os.environ.get(name) or default, replace=True)

_PACKAGED = Path(__file__).parent.parent / "conf"
#: The folder of the configs: inside an installed package, beside the package in a checkout.
CONF = _PACKAGED if _PACKAGED.is_dir() else _PACKAGED.parent.parent / "conf"


@dataclass(frozen=True)
class CommandLine:
    """A command line: a trial, a single run, the winner's retraining and a run on another machine are all one."""

    overrides: tuple[str, ...] = ()  # in Hydra's grammar, as typed
    config_dir: Path | None = None  # a further folder of configs, as with --config-dir; None = only the package's own
    #: A command line, and the values in which this one differs from it.
    _base: "tuple[CommandLine, Mapping[str, Any]] | None" = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, overrides: Iterable[str], config_dir: str | Path | None = None) -> "CommandLine":
        further = Path(config_dir).expanduser() if config_dir is not None else None
        return cls(tuple(added(with_path_quoted(item)) for item in overrides), further)

    @functools.cached_property
    def config(self) -> schema.Config:
        """The composed config; RequestError for an unknown key or option, a wrong value, an impossible network."""
        plain: Any = None
        try:
            plain = OmegaConf.to_container(self.composed, resolve=True, throw_on_missing=True)
            plain.pop("experiment", None)  # an option, no value
            return schema.Config.model_validate(plain)
        except pydantic.ValidationError as error:
            raise RequestError(_not_valid(error, plain, self.overrides)) from error
        except (OmegaConfBaseException, ValueError) as error:
            raise RequestError(not_composed(error, self.overrides)) from error

    @functools.cached_property
    def composed(self) -> DictConfig:
        """What Hydra composes, or refuses; values that refer to others still do."""
        base, changed = self._base or (None, {})
        others = [key for key, value in changed.items() if (CONF / key).is_dir() or set(text(value)) & set("${")]
        if base and not others:  # single values, which are put into a copy in a tenth of Hydra's time
            with contextlib.suppress(RequestError, OmegaConfBaseException):  # Hydra is to say what is wrong
                composed = copy.deepcopy(base.composed)
                for key, value in changed.items():
                    OmegaConf.update(composed, key, value, force_add=key.startswith(FREE))
                return composed
        if nameless := [item for item in self.overrides if not key_of(item).strip()]:
            raise RequestError(f"{' '.join(nameless[0].split())}: names no key; allowed: KEY=VALUE")
        if self.config_dir is not None and not self.config_dir.is_dir():  # Hydra goes on without it
            raise RequestError(f"--config-dir={self.config_dir}: no such folder")
        hydra = GlobalHydra.instance()
        outer = hydra.hydra  # that of a running `hydra.main`, which stays
        hydra.clear()
        try:
            with initialize_config_dir(str(CONF), version_base="1.3"):
                return hydra_compose("config", overrides=self.portable())
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise RequestError(not_composed(error, self.overrides)) from error
        finally:
            hydra.hydra = outer

    def add(self, *overrides: str) -> "CommandLine":
        """With further overrides; each takes the place of the earlier ones of the same key."""
        places = {_place(item) for item in overrides}
        kept = [item for item in self.overrides if _place(item) not in places]
        return CommandLine((*kept, *map(added, overrides)), self.config_dir)

    def with_(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> "CommandLine":
        """With these values: ``with_({"optimizer.lr": 0.1}, seed=3)``."""
        changed = {**(values or {}), **more}
        new = self.add(*(override(key, value) for key, value in changed.items()))
        return CommandLine(new.overrides, new.config_dir, (self, changed))

    def composed_as(self, config: schema.Config) -> "CommandLine":
        """The same, which has this config and need not compose it, as where its files are not at hand."""
        new = self.add()
        vars(new)["config"] = config
        return new

    def without(self, *names: str) -> "CommandLine":
        """Without the overrides of these top-level keys and groups, and of what lies below them."""
        kept = [item for item in self.overrides if re.split(r"[./]", key_of(item))[0] not in names]
        return CommandLine(tuple(kept), self.config_dir)

    def portable(self) -> list[str]:
        """The overrides, with the further folder of configs among them: they compose the config by themselves."""
        search = f"file://{self.config_dir.resolve()}" if self.config_dir is not None else None
        return [*self.overrides, *([f"hydra.searchpath=[{text(search)}]"] if search else [])]

    def placed_as(self, other: "CommandLine", *keys: str) -> "CommandLine":
        """With the other's place: its configs, and its overrides of these keys; without any, of `schema.PLACE`."""
        mine, theirs = (
            [item for item in each.overrides if schema.within(key_of(item).replace("/", "."), keys or schema.PLACE)]
            for each in (self, other)
        )
        kept = [item for item in self.overrides if item not in mine]
        return CommandLine(self.overrides if mine == theirs else (*kept, *theirs), other.config_dir)

    def assigned(self) -> dict[str, Any]:
        """What the overrides set, by dotted name."""
        return assigned(self.overrides)

    def written(self, *, portable: bool = False) -> list[str]:
        """The overrides, or those of `portable`, as files keep them: without the passwords that were typed."""
        return [without_passwords(item) for item in (self.portable() if portable else self.overrides)]

    def shell(self) -> str:
        """As it is typed in a POSIX shell, without passwords."""
        folder = ["--config-dir", str(self.config_dir)] if self.config_dir is not None else []
        return f"{PROGRAM} {shlex.join([*folder, *self.written()])}".strip()

    def __reduce__(self) -> tuple[Any, ...]:  # without the cached config: a worker composes its own
        return CommandLine, (self.overrides, self.config_dir)


def _place(item: str) -> tuple[str, bool]:
    """What an override takes the place of others in: a group's option is one thing, values within it are another."""
    key = key_of(item)  # groups are at the top, where no value is a mapping by itself
    return key, "." not in key and item.partition("=")[2].lstrip().startswith("{")


def suggested(word: str, known: Iterable[str]) -> str:
    """``; the nearest known one is NAME``, of keys and groups; empty where none is near.

    A key with the same last part goes before others.
    """
    mappings = {name.rpartition(".")[0] for name in known}
    groups = {group for name in mappings if name and (CONF / (group := name.replace(".", "/"))).is_dir()}
    word = _SYNONYMS.get(word, word)
    last = re.split(r"[./]", word)[-1]

    def likeness(name: str) -> tuple[bool, float]:
        own = re.split(r"[./]", name)[-1]
        pairs = (word, name), (last, own)
        return own == last, max(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

    best = max(sorted({*known} - mappings | groups), key=likeness)
    return f"; the nearest known one is {best}" if likeness(best)[1] >= _NEAR else ""


def not_composed(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's error in one line: what is at fault, and a suggestion."""
    line = " ".join(re.split(r"\n\s*(?:full_key|See https|Config search)", str(error))[0].split())
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not an override KEY=VALUE; special characters need quotes, as \"KEY='VALUE'\""
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is missing; allowed: {error.full_key}=…, see conf/ for what it means"
    quoted = re.findall(r"'(.*?)'(?!\w)", line)
    nulls = [key_of(item) for item in overrides if item.endswith("=null") and (CONF / key_of(item)).is_dir()]
    key: str = getattr(error, "full_key", None) or next(iter(quoted or nulls), "")  # of a null Hydra names no group
    of_file = None
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        key, _, option = error.missing_cfg_file.rpartition("/")
        of_file = f"{key}={option}"
        found = sorted(error.options or [file.stem for file in (CONF / key).glob("*.yaml")])
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
    if "default list" in line:  # to be added with a +, as Hydra says
        return line
    if key.startswith(_SPACE):
        inner, keys = key.removeprefix(_SPACE), schema.known_keys() - {"sweep"}
        leaves = [name for name in keys if f"{inner}.".startswith(f"{name}.")]
        leaf = max(leaves, key=len, default="")
        if not leaf or (schema.sections_of(leaf) and not inner.endswith("._group_")):
            return f"unknown key{suggested(inner, {name for name in keys if not name.startswith('sweep.')})}"
        if not schema.searchable(leaf):
            return f"{leaf} is not searched, being no part of what is trained"
        how = "._group_='[…]'" if schema.options(leaf) else "='{low: …, high: …}' or ='{choices: […]}'"
        return f"{leaf} is not in the space; to add a leaf write +{_SPACE}{leaf}{how}"
    group, _, last = key.rpartition(".")
    if having := [name for name, section in schema.options(group).items() if last in section.model_fields]:
        return "only with " + " or ".join(f"{group.replace('.', '/')}={name}" for name in having)
    known = {name for name in schema.known_keys() if sweep or not name.startswith("sweep")}
    return f"unknown key{suggested(key, known)}"


def _not_valid(error: pydantic.ValidationError, composed: dict[str, Any], overrides: Sequence[str]) -> str:
    """The first of pydantic's faults in a config, plain data, which these overrides made, in one line."""
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
        case "union_tag_invalid":
            tags = fault["ctx"]["expected_tags"].replace("'", "")
            return f"{key}.name={text(fault['ctx']['tag'])}: should be one of {tags}"
        case "value_error":
            reason = str(fault["ctx"]["error"])
            if "=" in reason.split(":")[0]:  # it names its key itself
                return reason
        case "extra_forbidden":
            reason = f"unknown key{suggested(key, schema.known_keys() - {key})}"
        case "dict_type" | "model_attributes_type" if (CONF / (group := key.replace(".", "/"))).is_dir():
            reason = f"allowed: a mapping; an option of this group is chosen as {group}=OPTION"
        case "string_type" if isinstance(node, int | float):
            typed = next((item.partition("=")[2] for item in reversed(overrides) if key_of(item) == key), str(node))
            return f'{key}={typed}: should be a text; allowed: "{override(key, typed)}"'
    return f"{key}={text(node)}: {reason}"
