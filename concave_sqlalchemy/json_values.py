"""Column values that JSON has no way of its own for, as clients see them."""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from sqlalchemy import types

from concave.shown import as_base64
from concave_sqlalchemy.bare_types import bare_type
from concave_sqlalchemy.fields import ResourceField

__all__ = ["Numbers", "shown_type", "writer_of"]

Numbers: TypeAlias = Literal["string", "number"]
"""How exact decimals are shown."""


def writer_of(field: ResourceField, numeric: Numbers) -> Callable[[Any], Any] | None:
    """What makes a field's values, None among them, fit for JSON; None where they are so already."""
    match bare_type(field.column.type):
        case types.LargeBinary():
            return as_base64
        case types.Interval():
            return _duration
        case (types.Numeric() | types.Float()) as kind if kind.asdecimal:
            return _number if numeric == "number" else _digits
        case _:
            return None


def shown_type(field: ResourceField, numeric: Numbers) -> Any:
    """The type of what clients see, as Pydantic describes it."""
    if not _is_number(field, numeric):
        return field.type
    return float | None if field.column.nullable else float


def _is_number(field: ResourceField, numeric: Numbers) -> bool:
    kind = bare_type(field.column.type)
    return numeric == "number" and isinstance(kind, types.Numeric | types.Float) and kind.asdecimal


# A type decorator may have made something else of a value, which is then left to the JSON encoder.


def _duration(value: Any) -> Any:
    """ISO 8601, in days and less: how long a year is depends on who reads it."""
    if not isinstance(value, dt.timedelta):
        return value
    sign = "-" if value < dt.timedelta() else ""
    value = abs(value)
    minutes, seconds = divmod(value.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f".{value.microseconds:06}".rstrip("0") if value.microseconds else ""
    time = "".join(
        f"{amount}{unit}"
        for amount, unit in ((hours, "H"), (minutes, "M"), (f"{seconds}{fraction}", "S"))
        if amount not in {0, "0"}
    )
    days = f"{value.days}D" if value.days else ""
    return f"{sign}P{days}T{time}" if time else f"{sign}P{days or 'T0S'}"


def _digits(value: Any) -> Any:
    # `str` has "1E-8" for 0.00000001, which is neither every digit nor what a body may have.
    return f"{value:f}" if isinstance(value, decimal.Decimal) else value


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, decimal.Decimal) else value
