"""What the sections of the config are made of: the strict base, and the types that several of them share."""

import pkgutil
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]


def absolute(path: str) -> str:
    """A path as it is meant now, for a process that begins elsewhere."""
    return str(Path(path).expanduser().absolute())


def _found_anywhere(target: str) -> str:
    file, _, name = target.rpartition(":")
    return f"{absolute(file)}:{name}" if file.endswith(".py") else target


#: Code of the user's own: MODULE:NAME, or FILE.py:NAME.
Target = Annotated[str, AfterValidator(_found_anywhere)]
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
#: Of a sweep: its runs are named after it, with what tells them apart behind it.
Name = Annotated[str, Field(pattern=_NAME, max_length=100)]
#: Of a run, and so of its folder and its lock: file systems allow 255 bytes.
RunName = Annotated[str, Field(pattern=_NAME, max_length=200)]


def one_of(names: Collection[str]) -> AfterValidator:
    """What refuses a text that is none of these names."""

    def check(value: str) -> str:
        if value not in names:
            raise ValueError(f"should be one of {', '.join(names)}")
        return value

    return AfterValidator(check)


def above(name: str) -> Any:
    """What is above the config, by its name in ``mnist_sweep.training``; imported only where it is needed."""
    return pkgutil.resolve_name(f"mnist_sweep.training.{name}")


def name_of(section: Any) -> str:
    """By which a section is known, of which some may leave it out; of a mapping or of the section itself."""
    return str(section.get("name", "convnet") if isinstance(section, dict) else getattr(section, "name", "convnet"))


class Section(BaseModel):
    """A mapping of the config: no further keys, no conversion of types, no infinities, no changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())
