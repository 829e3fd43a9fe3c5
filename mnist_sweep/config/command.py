"""A command line, and the config that Hydra composes of it."""

import contextlib
import copy
import functools
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mnist_sweep.config import explain
from mnist_sweep.config.overrides import assigned, key_of, override, text
from mnist_sweep.config.schema import Config
from mnist_sweep.errors import RequestError

PROGRAM = "python -m mnist_sweep"

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
        return cls(tuple(overrides), Path(config_dir) if config_dir is not None else None)

    @functools.cached_property
    def config(self) -> Config:
        """The composed config; RequestError for an unknown key or option, a wrong value, an impossible network."""
        plain: Any = None
        try:
            plain = OmegaConf.to_container(self.composed, resolve=True)
            plain.pop("experiment", None)  # an option, no value
            return Config.model_validate(plain)
        except pydantic.ValidationError as error:
            raise RequestError(explain.not_valid(error, plain, CONF)) from error
        except (OmegaConfBaseException, ValueError) as error:
            raise RequestError(explain.not_composed(error, self.overrides, CONF)) from error

    @functools.cached_property
    def composed(self) -> DictConfig:
        """What Hydra composes, or refuses; values that refer to others still do."""
        base, changed = self._base or (None, {})
        others = [key for key, value in changed.items() if (CONF / key).is_dir() or set(text(value)) & set("${")]
        if base and not others:  # single values, which are put into a copy in a tenth of Hydra's time
            with contextlib.suppress(RequestError, OmegaConfBaseException):  # Hydra is to say what is wrong
                composed = copy.deepcopy(base.composed)
                for key, value in changed.items():
                    OmegaConf.update(composed, key, value)
                return composed
        search: list[str] = []
        if self.config_dir is not None:
            if not self.config_dir.is_dir():  # Hydra goes on without it
                raise RequestError(f"--config-dir={self.config_dir}: no such folder")
            search = [f"hydra.searchpath=[{text(f'file://{self.config_dir.resolve()}')}]"]
        hydra = GlobalHydra.instance()
        outer = hydra.hydra  # that of a running `hydra.main`, which stays
        hydra.clear()
        try:
            with initialize_config_dir(str(CONF), version_base="1.3"):
                return hydra_compose("config", overrides=[*self.overrides, *search])
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise RequestError(explain.not_composed(error, self.overrides, CONF)) from error
        finally:
            hydra.hydra = outer

    def add(self, *overrides: str) -> "CommandLine":
        """With further overrides; each takes the place of the earlier ones of the same key."""
        places = {_place(item) for item in overrides}
        kept = [item for item in self.overrides if _place(item) not in places]
        return CommandLine((*kept, *overrides), self.config_dir)

    def with_(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> "CommandLine":
        """With these values: ``with_({"optimizer.lr": 0.1}, seed=3)``."""
        changed = {**(values or {}), **more}
        new = self.add(*(override(key, value) for key, value in changed.items()))
        return CommandLine(new.overrides, new.config_dir, (self, changed))

    def without(self, *names: str) -> "CommandLine":
        """Without the overrides of these top-level keys and groups, and of what lies below them."""
        kept = [item for item in self.overrides if re.split(r"[./]", key_of(item))[0] not in names]
        return CommandLine(tuple(kept), self.config_dir)

    def assigned(self) -> dict[str, Any]:
        """What the overrides set, by dotted name."""
        return assigned(self.overrides)

    def shell(self) -> str:
        """As it is typed in a POSIX shell."""
        folder = ["--config-dir", str(self.config_dir)] if self.config_dir is not None else []
        return f"{PROGRAM} {shlex.join([*folder, *self.overrides])}".strip()

    def __reduce__(self) -> tuple[Any, ...]:  # without the cached config: a worker composes its own
        return CommandLine, (self.overrides, self.config_dir)


def _place(item: str) -> tuple[str, bool]:
    """What an override takes the place of others in: a group's option is one thing, values within it are another."""
    key = key_of(item)  # groups are at the top, where no value is a mapping by itself
    return key, "." not in key and item.partition("=")[2].lstrip().startswith("{")
