"""A table's columns as fields of a resource: their names, types and bounds."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import uuid
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, AwareDatetime, Field, NaiveDatetime
from sqlalchemy import Column, Table, inspect, types
from sqlalchemy.orm import Mapper

from concave.errors import ConfigurationError

__all__ = ["ResourceField", "fields_of", "table_of"]


@dataclass(frozen=True, slots=True)
class ResourceField:
    """A column as clients and hooks see it. `name` is the mapped attribute's, or the column's key in a plain table."""

    name: str
    column: Column[Any]
    type: Any
    """What Pydantic checks values by; allows None where the column does."""
    generated: bool
    """Made by the database in every case: computed, or an identity."""
    has_default: bool
    """May be left out when a row is created."""
    is_key: bool


def table_of(source: Any) -> tuple[Table, Mapper[Any] | None]:
    """The table behind a mapped class or a `Table`. Raises `ConfigurationError` for anything else."""
    if isinstance(source, Table):
        return cast("Any", source), None
    mapper: Any = inspect(source, raiseerr=False)
    if isinstance(mapper, Mapper):
        table: Any = mapper.local_table  # pyright: ignore[reportUnknownMemberType]
        if isinstance(table, Table):
            return cast("Any", table), cast("Any", mapper)
    raise ConfigurationError(f"use_resource() takes a mapped class or a Table, not {source!r}")


def fields_of(table: Table, mapper: Mapper[Any] | None) -> list[ResourceField]:
    """The fields of a table, in the columns' order."""
    return [_field(column, table, mapper) for column in table.columns]


def _field(column: Column[Any], table: Table, mapper: Mapper[Any] | None) -> ResourceField:
    kind = _type_of(column.type)
    identity_always = column.identity is not None and bool(column.identity.always)
    return ResourceField(
        name=column.key if mapper is None else mapper.get_property_by_column(column).key,
        column=column,
        type=(kind | None) if column.nullable and not column.primary_key else kind,
        generated=column.computed is not None or identity_always or column is table.autoincrement_column,
        has_default=bool(column.nullable or column.default or column.server_default or column.identity),
        is_key=column.primary_key,
    )


def _type_of(kind: types.TypeEngine[Any]) -> Any:  # noqa: C901, PLR0912  (a table, case by case)
    """The values that a column holds, bounded as PostgreSQL bounds them, so that both databases take the same."""
    match kind:
        case types.Enum():
            return kind.enum_class if kind.enum_class is not None else Literal[tuple(kind.enums)]
        case types.Boolean():
            return bool
        case types.SmallInteger():
            return _integer(15)
        case types.BigInteger():
            return _integer(63)
        case types.Integer():
            return _integer(31)
        case types.Float():
            return decimal.Decimal if kind.asdecimal else Annotated[float, Field(allow_inf_nan=False)]
        case types.Numeric():
            return _numeric(kind)
        case types.String():
            return _text(kind.length)
        case types.LargeBinary():
            return Annotated[bytes, Field(max_length=kind.length)]
        case types.DateTime():
            return AwareDatetime if kind.timezone else NaiveDatetime
        case types.ARRAY():
            return list[_type_of(kind.item_type) | None]  # type: ignore[misc]
        case types.JSON():
            return Any
        case types.Uuid():
            return uuid.UUID if kind.as_uuid else _text(36)
        case _:
            return _python_type(kind)


def _integer(bits: int) -> Any:
    return Annotated[int, Field(ge=-(2**bits), lt=2**bits)]


def _numeric(kind: types.Numeric[Any]) -> Any:
    if not kind.asdecimal:
        return Annotated[float, Field(allow_inf_nan=False)]
    return Annotated[
        decimal.Decimal, Field(allow_inf_nan=False, max_digits=kind.precision, decimal_places=kind.scale)
    ]


def _text(length: int | None) -> Any:
    return Annotated[str, Field(max_length=length), AfterValidator(_without_nul)]


def _without_nul(value: str) -> str:
    # PostgreSQL's text can't hold it; SQLite would.
    if "\0" in value:
        raise ValueError("must not contain the character NUL")
    return value


def _python_type(kind: types.TypeEngine[Any]) -> Any:
    known: tuple[Any, ...] = (
        dt.date,
        dt.time,
        dt.timedelta,
        bool,
        int,
        float,
        str,
        bytes,
        dict,
        list,
        enum.Enum,
    )
    try:
        found: Any = kind.python_type
    except NotImplementedError:
        return Any
    return found if issubclass(found, known) else Any
