"""How PostgreSQL writes a column's values so that ``row_to_json`` makes of them the JSON that Pydantic makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from sqlalchemy import ColumnElement, Text, and_, case, cast, func, literal_column, null, types

__all__ = ["writer_of"]

Writer: TypeAlias = Callable[[ColumnElement[Any]], ColumnElement[Any]]

# Constants, and not parameters, each of which would be sent with each row.
MOMENT: Final = literal_column("""'YYYY-MM-DD"T"HH24:MI:SS.US'""", Text)
WHOLE_SECOND: Final = literal_column("'.000000'", Text)
NOTHING: Final = literal_column("''", Text)
UTC: Final = literal_column("'UTC'", Text)
IN_UTC: Final = literal_column("'Z'", Text)
POINT: Final = literal_column("'.0'", Text)
SHORTEST_WITH_EXPONENT: Final = literal_column("1e15::float8", types.Double)
INFINITY: Final = literal_column("'infinity'::float8", types.Double)

SINGLE: Final = 24
"""Binary digits up to which PostgreSQL takes a float for one of four bytes, whose decimals are fewer than those of Python's."""

AS_THEY_ARE: Final = frozenset(
    {
        *(types.Integer, types.SmallInteger, types.BigInteger, types.INTEGER, types.SMALLINT, types.BIGINT),
        *(types.String, types.Text, types.Unicode, types.UnicodeText, types.VARCHAR, types.TEXT),
        *(types.Boolean, types.BOOLEAN, types.Date, types.DATE),
    }
)


def writer_of(kind: types.TypeEngine[Any]) -> Writer | None:
    """How the values of a type are written; None where PostgreSQL and Pydantic go different ways.

    By the very type: what is derived from it, an enum or a decorator, makes of its values what it likes.
    """
    bare = type(kind)
    if kind._variant_mapping:  # noqa: SLF001  (there is no other way to ask) # pyright: ignore[reportPrivateUsage]
        return None  # what it is depends on the database
    match kind:
        case types.DateTime() if bare in {types.DateTime, types.TIMESTAMP}:
            return _moment_in_utc if kind.timezone else _moment
        case types.Uuid() if bare in {types.Uuid, types.UUID}:
            return _itself if kind.native_uuid else None
        case types.Float() if bare in {types.Float, types.Double, types.DOUBLE_PRECISION}:
            is_single = kind.precision is not None and kind.precision <= SINGLE
            return None if is_single or kind.asdecimal else _real
        case types.Numeric() if bare in {types.Numeric, types.NUMERIC, types.DECIMAL}:
            return _digits if kind.asdecimal else None
        case _:
            return _itself if bare in AS_THEY_ARE else None


def _itself(column: ColumnElement[Any]) -> ColumnElement[Any]:
    return column


def _digits(column: ColumnElement[Any]) -> ColumnElement[Any]:
    return cast(column, Text)


def _real(column: ColumnElement[Any]) -> ColumnElement[Any]:
    # PostgreSQL has 2 for Python's 2.0. What isn't finite has no JSON, and would fail here; no task is told of it either.
    size = func.abs(column)
    is_whole = and_(column == func.trunc(column), size < SHORTEST_WITH_EXPONENT)
    digits = cast(column, Text)
    written = case((is_whole, digits + POINT), (size < INFINITY, digits), else_=null())
    return cast(written, types.JSON)


def _moment(column: ColumnElement[Any]) -> ColumnElement[Any]:
    # Pydantic has all six digits of a fraction of a second, or none.
    return func.replace(func.to_char(column, MOMENT), WHOLE_SECOND, NOTHING, type_=Text)


def _moment_in_utc(column: ColumnElement[Any]) -> ColumnElement[Any]:
    return _moment(func.timezone(UTC, column)) + IN_UTC
