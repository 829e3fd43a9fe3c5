"""What the sections of the config are made of: the strict base and the types that several of them share."""

import typing
from collections.abc import Iterable
from types import UnionType
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]


def one_of(names: Iterable[str], otherwise: str = "unknown") -> AfterValidator:
    """What refuses a text that is none of these names.

    Args:
        names: what is allowed.
        otherwise: what the others are, for the message.
    """
    allowed = list(names)

    def check(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"{otherwise}; allowed: {', '.join(allowed)}")
        return value

    return AfterValidator(check)


class Section(BaseModel):
    """A mapping of the config: no further keys, no conversion of types, no infinities, no changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


def sections(annotation: Any) -> list[type[Section]]:
    """The sections that a field of this type can hold: one, or the members of a union."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, UnionType, Annotated):
        return [found for part in typing.get_args(annotation) for found in sections(part)]
    return []


def options(annotation: Any) -> dict[str, type[Section]]:
    """The sections of a choice by option name, such as ``adam``; empty where there is no choice."""
    named = {
        section: typing.get_args(section.model_fields["name"].annotation)
        for section in sections(annotation)
        if "name" in section.model_fields
    }
    found = {option[0]: section for section, option in named.items() if len(option) == 1}
    return found if len(found) > 1 else {}
