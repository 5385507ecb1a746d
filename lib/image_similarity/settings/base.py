"""The base class and common types of all sections of the settings."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def as_tuple(value: Any) -> Any:
    """``value`` as a tuple, which is immutable, if it is a string (one entry) or a list; else ``value`` itself."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def as_three(value: Any) -> Any:
    """``value`` as a tuple. ``ValueError`` unless it is a list of three numbers."""
    numbers = as_tuple(value)
    are_numbers = isinstance(numbers, tuple) and all(type(number) in (int, float) for number in numbers)
    if not are_numbers or len(numbers) != 3:
        raise ValueError(f"should be a list of 3 numbers, as [1, 2, 3], not {value!r}")
    return numbers


Strings = Annotated[tuple[str, ...], BeforeValidator(as_tuple), Field(min_length=1)]


class Section(BaseModel):
    # Numbers are finite: runs record settings as JSON, which has no others.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
