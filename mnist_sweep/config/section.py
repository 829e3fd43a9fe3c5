"""What the sections of the config are made of: the strict base and the types that several of them share."""

import typing
from collections.abc import Collection
from types import UnionType
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]


def one_of(names: Collection[str]) -> AfterValidator:
    """What refuses a text that is none of these names."""

    def check(value: str) -> str:
        if value not in names:
            raise ValueError(f"should be one of {', '.join(names)}")
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
