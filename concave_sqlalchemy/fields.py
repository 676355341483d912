"""A table's columns as fields of a resource: their names, types and bounds."""

from __future__ import annotations

import binascii
import datetime as dt
import decimal
import enum
import json
import re
import uuid
from base64 import b64decode
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias, cast, get_args

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, NaiveDatetime, WithJsonSchema
from sqlalchemy import Column, Table, UniqueConstraint, inspect, types
from sqlalchemy.orm import ColumnProperty, Mapper, QueryableAttribute
from sqlalchemy.orm.exc import UnmappedColumnError

from concave.errors import ConfigurationError
from concave_sqlalchemy.bare_types import is_zoned
from concave_sqlalchemy.kinds import Kinds, tells_kinds

__all__ = [
    "MAX_INTERVAL",
    "FieldName",
    "ResourceField",
    "fields_of",
    "is_unique",
    "is_version_of_database",
    "name_of",
    "resource_of",
    "table_of",
    "told",
]

MAX_INTERVAL: Final = dt.timedelta(days=700_000)
"""SQLite holds an interval as a moment that much after 1970, and the calendar ends."""

# What values look like in JSON, where Pydantic would say less, or something else.
BASE64: Final = {
    "type": "string",
    "contentEncoding": "base64",
    "pattern": "^([A-Za-z0-9+/_-]{4})*([A-Za-z0-9+/_-]{2}==|[A-Za-z0-9+/_-]{3}=)?$",
}
DECIMAL: Final = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
LOCAL: Final = {"type": "string", "format": "date-time-local"}


class ResourceField(NamedTuple):
    """A column as clients and hooks see it. `name` is the mapped attribute's, or the column's key in a plain table."""

    name: str
    column: Column[Any]
    type: Any
    """What Pydantic checks values by; allows None where the column does."""
    computed: bool
    """Made by the database in every case: nobody can set it."""
    generated: bool
    """Made here or by the database, and not a client's to choose: an identity, or a primary key with a default."""
    has_default: bool
    """May be left out when a row is created."""
    is_key: bool
    by_class: Any = None
    """What a mapped class sets it to in each new row, if it does."""


FieldName: TypeAlias = str | QueryableAttribute[Any] | Column[Any]
"""How an option names a field: ``"email"``, ``User.email`` or ``users.c.email``."""


def name_of(given: FieldName, fields: Iterable[ResourceField]) -> str | None:
    """The name of the field that is meant; None where it is none of these, be it that another table has it."""
    if isinstance(given, str):
        return next((field.name for field in fields if field.name == given), None)
    column: Any = given
    if isinstance(given, QueryableAttribute):
        mapped = getattr(given, "property", None)  # a hybrid has none
        column = mapped.columns[0] if isinstance(mapped, ColumnProperty) else None
    return next((field.name for field in fields if field.column is column), None)


def told(given: object) -> str:
    """What an option was given, for an error: SQLAlchemy's objects have a short text, and a long ``repr``."""
    return str(cast("Any", given)) if isinstance(given, QueryableAttribute | Column) else repr(given)


def table_of(source: Any) -> tuple[Table, Mapper[Any] | None]:
    """The table behind a mapped class or a `Table`. Raises `ConfigurationError` for anything else."""
    if isinstance(source, Table):
        return cast("Any", source), None
    mapper: Any = inspect(source, raiseerr=False)
    if isinstance(mapper, Mapper):
        if mapper.inherits is not None:  # pyright: ignore[reportUnknownMemberType]
            if mapper.concrete:
                raise ConfigurationError(
                    f"{source!r} inherits from another mapped class, and has a table of its own; give use_resource() that Table"
                )
            raise ConfigurationError(
                f"{source!r} inherits the table of another mapped class; give use_resource() the base, or a Table"
            )
        table: Any = mapper.local_table  # pyright: ignore[reportUnknownMemberType]
        if isinstance(table, Table):
            return cast("Any", table), cast("Any", mapper)
    raise ConfigurationError(f"use_resource() takes a mapped class or a Table, not {source!r}")


def resource_of(table: Table) -> str:
    """What hooks and triggers are told that a table is called."""
    return str(table.name)  # plain, for what `_attribute_of` says


def fields_of(table: Table, mapper: Mapper[Any] | None) -> list[ResourceField]:
    """The fields of a table, in the columns' order."""
    named = ((_attribute_of(column, mapper), column) for column in table.columns)
    return [_field(name, column, table, mapper) for name, column in named if name is not None]


def is_unique(table: Table, column: Column[Any]) -> bool:
    """Whether no two rows can have the same value there."""
    sets = [table.primary_key.columns.values()]
    sets += [each.columns.values() for each in table.constraints if isinstance(each, UniqueConstraint)]
    sets += [each.columns.values() for each in table.indexes if each.unique]
    return bool(column.unique) or [column] in sets


def is_version_of_database(column: Column[Any], mapper: Mapper[Any]) -> bool:
    """Whether this is the version of a class's rows, and the database renews it with each UPDATE, whoever makes that."""
    by_itself = column.system or column.server_onupdate is not None
    return column is mapper.version_id_col and mapper.version_id_generator is False and by_itself


def _attribute_of(column: Column[Any], mapper: Mapper[Any] | None) -> str | None:
    """None for a column that the class doesn't map."""
    # A plain `str`: SQLAlchemy's is a class of its own, which takes Pydantic ten times as long to write as a key of JSON.
    if mapper is None:
        return str(column.key)
    try:
        return str(mapper.get_property_by_column(column).key)
    except UnmappedColumnError:
        return None


def _field(name: str, column: Column[Any], table: Table, mapper: Mapper[Any] | None) -> ResourceField:
    kind: Any = _type_of(column.type)
    nullable, by_class = column.nullable, None
    if mapper is not None and tells_kinds(column, mapper):
        # The ORM can't load a row that doesn't say, either.
        kind, nullable, by_class = Annotated[kind, Kinds(mapper)], False, mapper.polymorphic_identity
    identity = column.identity
    made_by_itself = column.default is not None or column.server_default is not None
    is_serial = column is table.autoincrement_column
    is_renewed = mapper is not None and is_version_of_database(column, mapper)
    is_computed = column.computed is not None or column.system or is_renewed
    return ResourceField(
        name=name,
        column=column,
        type=(kind | None) if nullable and not column.primary_key else _not_null(kind),
        computed=is_computed or (identity is not None and bool(identity.always)),
        generated=(
            is_computed or identity is not None or is_serial or (column.primary_key and made_by_itself)
        ),
        has_default=nullable or made_by_itself or is_serial or by_class is not None,
        is_key=column.primary_key,
        by_class=by_class,
    )


def _type_of(kind: types.TypeEngine[Any]) -> Any:  # noqa: C901, PLR0912  (a table, case by case)
    """The values that a column holds, bounded as PostgreSQL bounds them, so that both databases take the same."""
    match kind:
        case types.PickleType():
            raise ConfigurationError(
                "a PickleType has no JSON, and nothing is unpickled here: leave it out of the class, or use JSON"
            )
        case types.Interval():  # which is a decorator, of SQLAlchemy's own
            return Annotated[dt.timedelta, Field(ge=-MAX_INTERVAL, le=MAX_INTERVAL)]
        case types.TypeDecorator() if is_zoned(kind):
            return AWARE
        case types.TypeDecorator():
            return _type_of(kind.impl_instance)
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
            return (
                Annotated[decimal.Decimal, BeforeValidator(_exact)]
                if kind.asdecimal
                else Annotated[float, Field(allow_inf_nan=False)]
            )
        case types.Numeric():
            return _numeric(kind)
        case types.String():
            return _text(kind.length)
        case types.LargeBinary():
            return Annotated[
                bytes, Field(max_length=kind.length), BeforeValidator(_bytes_of), WithJsonSchema(BASE64)
            ]
        case types.DateTime():
            if not kind.timezone:
                return Annotated[NaiveDatetime, WithJsonSchema(LOCAL)]
            return AWARE
        case types.ARRAY():
            return _array(_type_of(kind.item_type) | None, kind.dimensions or 1)
        case types.Time():
            return dt.time if kind.timezone else Annotated[dt.time, AfterValidator(_without_offset)]
        case types.JSON():
            return Annotated[Any, AfterValidator(_finite)]
        case types.Uuid():
            return uuid.UUID if kind.as_uuid else Annotated[str, AfterValidator(_uuid_text)]
        case _:
            return _python_type(kind)


def _array(item: Any, dimensions: int) -> Any:
    return list[item] if dimensions == 1 else list[_array(item, dimensions - 1)]  # type: ignore[misc]


def _integer(bits: int) -> Any:
    return Annotated[int, Field(ge=-(2**bits), lt=2**bits), BeforeValidator(_whole)]


def _whole(value: Any) -> Any:
    # In JSON, 1.0 is the whole number 1; some languages write it so.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _numeric(kind: types.Numeric[Any]) -> Any:
    if not kind.asdecimal:
        return Annotated[float, Field(allow_inf_nan=False)]
    return Annotated[
        decimal.Decimal,
        Field(allow_inf_nan=False, max_digits=kind.precision, decimal_places=kind.scale),
        BeforeValidator(_exact),
        WithJsonSchema(_digits(kind.precision, kind.scale), mode="validation"),
    ]


def _exact(value: Any) -> Any:
    """A text or a number as a decimal, strictly: `Decimal` would take "1_0" and " 1 ", too."""
    if isinstance(value, decimal.Decimal):
        return value
    is_written = isinstance(value, str | int | float) and not isinstance(value, bool)
    text = str(value) if is_written else ""
    if not DECIMAL.fullmatch(text):
        raise ValueError("must be a decimal number")
    return decimal.Decimal(text)


def _digits(precision: int | None, scale: int | None) -> dict[str, Any]:
    """A decimal in JSON: a text, or a number, which other programs may take for a float."""
    scale = scale or 0 if precision is not None else scale
    whole = "[0-9]{1,20}" if precision is None else f"[0-9]{{1,{max(precision - (scale or 0), 1)}}}"
    part = "" if scale == 0 else f"(\\.[0-9]{{1,{20 if scale is None else scale}}})?"
    number: dict[str, Any] = {"type": "number"}
    if scale is not None:
        number["multipleOf"] = 1 if scale == 0 else float(f"1e-{scale}")
    if precision is not None:
        bound = 10 ** (precision - (scale or 0))
        number |= {"exclusiveMinimum": -bound, "exclusiveMaximum": bound}
    return {"anyOf": [number, {"type": "string", "pattern": f"^[+-]?{whole}{part}$"}]}


def _text(length: int | None) -> Any:
    described = {"type": "string", "pattern": "^[^\\u0000]*$"} | (
        {} if length is None else {"maxLength": length}
    )
    return Annotated[str, Field(max_length=length), AfterValidator(_without_nul), WithJsonSchema(described)]


def _without_nul(value: str) -> str:
    # PostgreSQL's text can't hold it; SQLite would.
    if "\0" in value:
        raise ValueError("must not contain the character NUL")
    return value


def _not_null(kind: Any) -> Any:
    return Annotated[kind, AfterValidator(_something)] if Any in get_args(kind) else kind


def _something(value: Any) -> Any:
    if value is None:
        raise ValueError("must not be null")
    return value


def _finite(value: Any) -> Any:
    # JSON has no limits to its numbers, and PostgreSQL's reader no infinity.
    try:
        json.dumps(value, allow_nan=False)
    except TypeError:
        return value  # a hook's own object, which the column's serializer may know
    except ValueError:
        raise ValueError("must not hold numbers that are too large") from None
    return value


def _without_offset(time: dt.time) -> dt.time:
    if time.tzinfo is not None:
        raise ValueError("must not have an offset: the column has no time zone")
    return time


def _in_utc(moment: dt.datetime) -> dt.datetime:
    # SQLite forgets the offset: it must be the same for every row, and known (see `RowSchema.row`).
    try:
        return moment.astimezone(dt.UTC)
    except OverflowError:
        raise ValueError("must be within the years 1 to 9999, in UTC too") from None


AWARE: Final[Any] = Annotated[AwareDatetime, AfterValidator(_in_utc)]


def _uuid_text(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise ValueError("must be a UUID") from None


def _bytes_of(value: Any) -> Any:
    """Base64 of either alphabet as bytes."""
    if not isinstance(value, str):
        return value
    try:
        return b64decode(value.replace("-", "+").replace("_", "/"), validate=True)
    except binascii.Error as error:
        raise ValueError(f"must be base64: {error}") from error


def _python_type(kind: types.TypeEngine[Any]) -> Any:
    known: tuple[Any, ...] = (
        dt.datetime,
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
    )
    try:
        found: Any = kind.python_type
    except NotImplementedError:
        return Any
    if issubclass(found, enum.Enum):
        return found
    # Pydantic doesn't know what somebody makes of a `str`.
    return next((each for each in known if issubclass(found, each)), Any)
