"""What a column lets be written in a filter: which kind of value it has, and how a text is read as one."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import math
import re
import uuid
from collections.abc import Callable
from typing import Any, Final

from pydantic import ConfigDict, TypeAdapter, ValidationError
from sqlalchemy import types

from concave_sqlalchemy.bare_types import bare_type, is_zoned
from concave_sqlalchemy.fields import MAX_INTERVAL, ResourceField

__all__ = ["Kind", "kind_of", "read_flag", "read_length", "reader_of"]

Reader = Callable[[str], Any]
"""Reads a text as a column's value; raises ``ValueError`` with a message for the client."""


class Kind(enum.Enum):
    """What can be asked of a column."""

    TEXT = "a text"
    NUMBER = "a number"
    MOMENT = "a date or time"
    ORDERED = "an ordered value"
    """Neither text nor number nor time, and yet before or after another: UUIDs, bytes, booleans."""
    CHOICE = "one of a few values"
    """Enums: databases disagree about their order."""
    OPAQUE = "a value of its own kind"
    """JSON, arrays, and what this library doesn't know: it is there or it isn't, and that is all that can be asked."""


INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
TIME = re.compile(r"[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?")
UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}|[0-9A-Fa-f]{32}")
FLAGS = {"true": True, "false": False, "1": True, "0": False}
MAX_EXPONENT: Final = 1000


def kind_of(field: ResourceField) -> Kind:
    """What can be asked of a field."""
    match bare_type(field.column.type):
        case types.Enum():
            return Kind.CHOICE
        case types.Boolean() | types.Uuid() | types.LargeBinary():
            return Kind.ORDERED
        case types.Integer() | types.Numeric() | types.Float():
            return Kind.NUMBER
        case types.String():
            return Kind.TEXT
        case types.Time() as kind:
            return Kind.OPAQUE if kind.timezone else Kind.MOMENT
        case types.DateTime() | types.Date() | types.Interval():
            return Kind.MOMENT
        case _:
            return Kind.OPAQUE


def reader_of(field: ResourceField) -> Reader:
    """How a text is read as a value of this field's column. Of an opaque one, it stays a text."""
    kind = bare_type(field.column.type)
    match kind:
        case types.Enum():
            return _reader(field.type, "it is none of this field's values")
        case types.Boolean():
            return read_flag
        case types.Uuid():
            return _uuid if kind.as_uuid else _uuid_text
        case types.LargeBinary():
            return _reader(field.type, "a binary value is written as base64")
        case types.Integer():
            return _integer(field)
        case types.Float() | types.Numeric():
            return _decimal if kind.asdecimal else _float
        case types.DateTime():
            return _aware if is_zoned(field.column.type) else _naive
        case types.Date():
            return _date
        case types.Time():
            return _time
        case types.Interval():
            return _interval
        case _:
            return str


def read_flag(text: str) -> bool:
    """``true`` or ``false``."""
    try:
        return FLAGS[text]
    except KeyError:
        raise ValueError("true or false is expected") from None


def read_length(text: str) -> int:
    """How many characters a text has."""
    if not INTEGER.fullmatch(text) or not 0 <= int(text) < 2**31:
        raise ValueError("a whole number of characters is expected")
    return int(text)


def _reader(kind: Any, message: str) -> Reader:
    adapter: TypeAdapter[Any] = TypeAdapter(kind)

    def read(text: str) -> Any:
        try:
            return adapter.validate_strings(text)
        except ValidationError:
            raise ValueError(message) from None

    return read


def _integer(field: ResourceField) -> Reader:
    in_range = _reader(field.type, "the number is out of this field's range")

    def read(text: str) -> int:
        if not INTEGER.fullmatch(text):
            raise ValueError("a whole number is expected")
        return int(in_range(text))

    return read


def _float(text: str) -> float:
    value = float(text) if NUMBER.fullmatch(text) else math.inf
    if not math.isfinite(value):
        raise ValueError("a number is expected")
    return value


def _decimal(text: str) -> decimal.Decimal:
    if not NUMBER.fullmatch(text):
        raise ValueError("a number is expected")
    value = decimal.Decimal(text)
    if len(text) > MAX_EXPONENT or abs(value.adjusted()) > MAX_EXPONENT:
        raise ValueError("the number is out of range")
    return value


def _uuid(text: str) -> uuid.UUID:
    if not UUID.fullmatch(text):
        raise ValueError("a UUID is expected")
    return uuid.UUID(text)


def _uuid_text(text: str) -> str:
    return str(_uuid(text))


def _aware(text: str) -> dt.datetime:
    """A moment; in UTC where no offset is given."""
    if not DATE.match(text):
        raise ValueError("a date and time are expected, as in 2024-02-29T13:00:00Z")
    try:
        moment = dt.datetime.fromisoformat(text)
        return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)
    except (ValueError, OverflowError):
        raise ValueError("a date and time are expected, as in 2024-02-29T13:00:00Z") from None


def _naive(text: str) -> dt.datetime:
    """What a column without time zones holds: in UTC, for one who writes an offset."""
    return _aware(text).replace(tzinfo=None)


def _date(text: str) -> dt.date:
    """A date; a client's date type may only know midnights."""
    if not DATE.match(text):
        raise ValueError("a date is expected, as in 2024-02-29")
    moment = _naive(text)
    if moment.time() != dt.time():
        raise ValueError("a date is expected, without a time of day")
    return moment.date()


def _time(text: str) -> dt.time:
    try:
        return dt.time.fromisoformat(text if TIME.fullmatch(text) else "")
    except ValueError:
        raise ValueError("a time of day is expected, as in 13:00:00") from None


_DURATION: TypeAdapter[dt.timedelta] = TypeAdapter(dt.timedelta, config=ConfigDict(defer_build=True))


def _interval(text: str) -> dt.timedelta:
    try:
        value = _DURATION.validate_strings(text)
    except ValidationError:
        raise ValueError("a duration is expected, as in P1DT12H") from None
    if abs(value) > MAX_INTERVAL:
        raise ValueError("the duration is out of range")
    return value
