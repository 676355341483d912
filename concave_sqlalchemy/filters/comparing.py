"""A column beside values, in SQL that answers the same on both databases.

They disagree in three things. Text: PostgreSQL orders it by the database's language unless told otherwise, SQLite by code
points; and SQLite's LIKE ignores case. Moments: SQLite holds them as text, with or without a fraction of a second, depending on
who wrote them. A column that was declared with a collation has asked for it, and keeps it.
"""

from __future__ import annotations

import datetime as dt
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from sqlalchemy import (
    Boolean,
    ColumnElement,
    String,
    and_,
    collate,
    func,
    literal,
    not_,
    or_,
    type_coerce,
    types,
)
from sqlalchemy.dialects import sqlite

from concave_sqlalchemy.bare_types import bare_type
from concave_sqlalchemy.fields import ResourceField
from concave_sqlalchemy.filters.patterns import Pattern, ascii_lower, for_database
from concave_sqlalchemy.filters.values import Kind, kind_of

__all__ = [
    "Operand",
    "among",
    "compared",
    "equal_ignoring_case",
    "has_length",
    "is_empty",
    "is_missing",
    "like",
]

Order: TypeAlias = Literal["==", "!=", ">", ">=", "<", "<="]

COMPARE: Mapping[Order, Callable[[Any, Any], ColumnElement[bool]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


@dataclass(frozen=True, slots=True)
class Operand:
    """A column as a filter compares it, on one database."""

    column: ColumnElement[Any]
    kind: Kind
    dialect: str
    is_lettered: bool
    """A moment that is held as text."""
    is_collated: bool
    """A text with an order of its own."""

    @classmethod
    def of(cls, field: ResourceField, dialect: str) -> Operand:
        """The operand that a field is."""
        bare = bare_type(field.column.type)
        is_moment = isinstance(bare, types.DateTime | types.Time)
        return cls(
            field.column,
            kind_of(field),
            dialect,
            # The dialect's own types may have another format, which is their user's affair.
            is_lettered=dialect == "sqlite"
            and is_moment
            and not isinstance(bare, sqlite.DATETIME | sqlite.TIME),
            is_collated=isinstance(bare, String) and bare.collation is not None,
        )

    @property
    def text(self) -> ColumnElement[str]:
        """The column as the text that it holds, whatever a type decorator makes of it."""
        return type_coerce(self.column, String())


def compared(operand: Operand, order: Order, value: Any) -> ColumnElement[bool]:
    """One comparison. Never true of NULL."""
    if operand.is_lettered:
        return _lettered(operand.text, order, *_forms(value))
    is_text = operand.kind is Kind.TEXT and operand.dialect == "postgresql" and not operand.is_collated
    # Equality is the same in every language, and an index in the database's own answers it.
    in_c = is_text and order not in {"==", "!="}
    return _ordered(collate(operand.column, "C") if in_c else operand.column, order, value)


def among(operand: Operand, values: Sequence[Any], *, has_null: bool, negated: bool) -> ColumnElement[bool]:
    """Whether the column is one of `values`, or NULL if that is one of them; or none, if `negated`."""
    if operand.is_lettered:
        equal = [compared(operand, "!=" if negated else "==", value) for value in values]
        found = and_(True, *equal) if negated else or_(False, *equal)
    else:
        found = operand.column.not_in(values) if negated else operand.column.in_(values)
    if not has_null:
        return found
    missing = is_missing(operand)
    return and_(found, not_(missing)) if negated else or_(found, missing)


def like(operand: Operand, pattern: Pattern, *, ignore_case: bool, negated: bool) -> ColumnElement[bool]:
    """Whether the column matches a pattern; or doesn't, if `negated`."""
    text = _lower(operand) if ignore_case else operand.text
    if ignore_case:
        pattern = tuple(piece and ascii_lower(piece) for piece in pattern)
    wanted = literal(for_database(pattern, operand.dialect), String())
    if operand.dialect == "sqlite":
        found = text.op("GLOB", is_comparison=True)(wanted)
        return not_(found) if negated else found
    return text.not_like(wanted, escape="\\") if negated else text.like(wanted, escape="\\")


def equal_ignoring_case(operand: Operand, text: str, *, negated: bool) -> ColumnElement[bool]:
    """Whether the column is this text but for the case of A to Z; or isn't, if `negated`."""
    return _ordered(_lower(operand), "!=" if negated else "==", ascii_lower(text))


def has_length(operand: Operand, order: Order, length: int) -> ColumnElement[bool]:
    """How the number of the column's characters compares."""
    return _ordered(func.length(operand.text), order, length)


def is_missing(operand: Operand) -> ColumnElement[bool]:
    """Whether the column is NULL."""
    return operand.column.is_(None)


def is_empty(operand: Operand) -> ColumnElement[bool]:
    """Whether the column is NULL, or a text without characters."""
    missing = is_missing(operand)
    return or_(missing, operand.text == "") if operand.kind is Kind.TEXT else missing


def _ordered(column: ColumnElement[Any], order: Order, value: Any) -> ColumnElement[bool]:
    # SQLAlchemy has True and False compared for equality alone, unless they are bound.
    return COMPARE[order](column, literal(value, Boolean()) if isinstance(value, bool) else value)


def _lettered(text: ColumnElement[str], order: Order, low: str, high: str) -> ColumnElement[bool]:
    """The same of a moment in letters, of which all that lie between `low` and `high` are one moment."""
    match order:
        case "==":
            return text.between(low, high)
        case "!=":
            return not_(text.between(low, high))
        case ">" | "<=":
            return _ordered(text, order, high)
        case ">=" | "<":
            return _ordered(text, order, low)


def _forms(value: dt.datetime | dt.time) -> tuple[str, str]:
    """The first and the last of a moment's forms in letters: ``…:07`` by CURRENT_TIMESTAMP, ``…:07.000000`` by SQLAlchemy."""
    bare = value.replace(tzinfo=None)
    high = (
        bare.isoformat(" ", "microseconds")
        if isinstance(bare, dt.datetime)
        else bare.isoformat("microseconds")
    )
    return high.rstrip("0").rstrip(".") if "." in high and high.endswith("0") else high, high


def _lower(operand: Operand) -> ColumnElement[str]:
    # SQLite's lower() knows A to Z alone. PostgreSQL's knows as little in the collation "C", and more in others.
    text = collate(operand.text, "C") if operand.dialect == "postgresql" else operand.text
    return func.lower(text, type_=String())
