"""What tells a table's rows apart, one column or several; and a row's key as the last part of its path.

A path holds the key's values, each percent-escaped, with commas between them: ``/7``, ``/eu-1,42``, ``/a%2Cb,7``.
"""

from __future__ import annotations

import decimal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeAlias
from urllib.parse import quote, unquote

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from pydantic_core import to_json, to_jsonable_python
from sqlalchemy import ARRAY, JSON, Column, ColumnElement, LargeBinary, String, Table, and_, bindparam, tuple_
from starlette.types import Scope

from concave.errors import ConfigurationError
from concave_sqlalchemy.bare_types import bare_type
from concave_sqlalchemy.fields import FieldName, ResourceField, is_unique, name_of, told
from concave_sqlalchemy.mount import route_path
from concave_sqlalchemy.problems import Problem

__all__ = ["Key", "KeyValue", "check_has_paths", "key_of", "no_such_row", "path_id", "with_path"]

TAKEN: Final = ("", ".", "..", "count", "batch", "aggregate")
"""What can't be a row's path: it is another's, or clients resolve it before they send it, also as ``%2E``."""

KeyValue: TypeAlias = tuple[Any, ...]
"""A row's key: a value for each of its columns, in their order; of length one where the key is one column."""


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """The columns that tell rows apart: unique together, never NULL."""

    fields: tuple[ResourceField, ...]
    names: tuple[str, ...]
    """Their names."""
    adapters: tuple[TypeAdapter[Any], ...]
    condition: ColumnElement[bool]
    """``WHERE`` it is this row, with parameters that `parameters` names: statements with it are built once."""

    @classmethod
    def of(cls, fields: Sequence[ResourceField]) -> Key:
        """The key of these fields."""
        named = [
            field.column == bindparam(_parameter(at), type_=field.column.type)
            for at, field in enumerate(fields)
        ]
        names = tuple(field.name for field in fields)
        return cls(tuple(fields), names, tuple(TypeAdapter(field.type) for field in fields), and_(*named))

    @property
    def columns(self) -> tuple[Column[Any], ...]:
        """Their columns."""
        return tuple(field.column for field in self.fields)

    def parameters(self, key: KeyValue) -> dict[str, Any]:
        """The parameters of `condition` for one row."""
        return {_parameter(at): value for at, value in enumerate(key)}

    def among(self, keys: Sequence[KeyValue]) -> ColumnElement[bool]:
        """``WHERE`` it is one of these rows."""
        if len(self.fields) == 1:
            return self.columns[0].in_([value for (value,) in keys])
        return tuple_(*self.columns).in_(keys)

    def of_row(self, row: Mapping[str, Any]) -> KeyValue:
        """The key of a row, which is a dict by field name."""
        return tuple([row[name] for name in self.names])

    def part_of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row without anything but its key."""
        return {field.name: row[field.name] for field in self.fields}

    def without(self, body: Mapping[str, Any], key: KeyValue) -> Mapping[str, Any]:
        """A body without the row's own key, which a client that sends back what it got will have in it."""
        own = {
            name
            for name, adapter, value in zip(self.names, self.adapters, key, strict=True)
            if name in body and _is_sent(value, body[name], adapter)
        }
        return {field: value for field, value in body.items() if field not in own} if own else body

    def read(self, text: str) -> KeyValue:
        """The key that a path names (see `path_id`), typed by its columns. Raises `Problem` 404 where it can't be one."""
        parts = text.split(",") if len(self.fields) > 1 else [text]
        if len(parts) != len(self.fields):
            raise no_such_row()
        return tuple(map(_read, self.adapters, map(unquote, parts)))

    def render(self, key: KeyValue) -> str:
        """A key as part of a path, escaped: what `read` takes back."""
        if len(key) == 1 and type(key[0]) is int:  # the usual one, which has nothing to escape
            return str(key[0])
        return ",".join(quote(_text(value), safe="") for value in key)

    def plain(self, key: KeyValue) -> Any:
        """A key as hooks see it: the bare value where it is one column, else the tuple."""
        return key[0] if len(self.fields) == 1 else key


def key_of(table: Table, fields: Sequence[ResourceField], id: FieldName | None = None) -> Key:
    """The key of a table: its primary key, or the field that `id` names.

    Raises `ConfigurationError` where there is none, or where it is not unique or may be NULL.
    """
    if id is None:
        keys = [field for field in fields if field.is_key]
        if len(keys) != len(table.primary_key.columns) or not keys:
            raise ConfigurationError(
                f"table {table.name!r} has no primary key that is mapped whole; name a column that is unique: id=…"
            )
        return Key.of(keys)
    found = [field for field in fields if field.name == name_of(id, fields)]
    if not found:
        raise ConfigurationError(f"table {table.name!r} has no column {told(id)}")
    if found[0].column.nullable or not is_unique(table, found[0].column):
        raise ConfigurationError(f"id={told(id)} of table {table.name!r} must be unique and never NULL")
    return Key.of(found)


def check_has_paths(table: Table, key: Key) -> None:
    """Raises `ConfigurationError` for a key whose values neither paths nor cursors can carry."""
    for field in key.fields:
        kind = bare_type(field.column.type)
        called = type(kind).__name__
        if isinstance(kind, JSON | ARRAY) or _is_compound_of_postgresql(kind):
            raise ConfigurationError(
                f"the key {field.name!r} of table {table.name!r} is of type {called}, and a path can't have such values:"
                " name another column that is unique: id=…"
            )


def with_path(field: ResourceField, key: Key) -> ResourceField:
    """The field as it is in a new row, which must have a path of its own."""
    may_be_taken = isinstance(bare_type(field.column.type), String | LargeBinary)
    if key.names != (field.name,) or not may_be_taken:
        return field
    checked: Any = Annotated[
        field.type, AfterValidator(_free), Field(json_schema_extra={"not": {"enum": list(TAKEN)}})
    ]
    return field._replace(type=checked)


def path_id(scope: Scope) -> str:
    """The part of a request's path below the resource, as it was sent: still escaped, so that a comma inside of a value
    isn't one between two values.
    """
    path = route_path(scope)
    # ASGI's `path` is unescaped. `raw_path` isn't, but is optional and holds all that stands before: what unescapes to
    # our part is our part.
    raw = scope.get("raw_path") or b""
    sent = raw.decode("latin-1").partition("?")[0]
    at = len(sent)
    while (at := sent.rfind("/", 0, at)) != -1:
        if unquote(sent[at:]) == path:
            return sent[at + 1 :]
    return quote(path[1:], safe=",")


def _free(value: Any) -> Any:
    if (text := _text(value)) in TAKEN:
        raise ValueError(f"must not be {text!r}, which can't be a row's path")
    return value


def _is_compound_of_postgresql(kind: object) -> bool:
    if not type(kind).__module__.startswith("sqlalchemy.dialects.postgresql"):
        return False  # a dialect is much to import; where the type is from there, it is so already
    from sqlalchemy.dialects.postgresql import HSTORE
    from sqlalchemy.dialects.postgresql.ranges import AbstractRange

    return isinstance(kind, AbstractRange | HSTORE)


def _read(adapter: TypeAdapter[Any], text: str) -> Any:
    try:
        value = adapter.validate_strings(text)
    except ValidationError as error:
        raise no_such_row() from error
    if isinstance(value, int) and not isinstance(value, bool) and str(value) != text:
        raise no_such_row()  # a row has one path, and not 1_0, 1.0 and +1 as well
    return value


def _is_sent(value: Any, sent: Any, adapter: TypeAdapter[Any]) -> bool:
    """Whether what a body has is this value."""
    if str(sent) == str(value):  # whole numbers, texts, UUIDs: the usual ones
        return True
    try:
        return bool(adapter.validate_json(to_json(sent), strict=True) == value)
    except ValidationError:
        return False


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, decimal.Decimal):
        return f"{value:f}"  # as the row shows it
    plain = to_jsonable_python(value, bytes_mode="base64")
    return plain if isinstance(plain, str) else str(plain).lower() if isinstance(plain, bool) else str(plain)


def _parameter(at: int) -> str:
    # Not a column's name: SQLAlchemy reserves those for what an UPDATE sets.
    return f"concave_key_{at}"


def no_such_row() -> Problem:
    """404 for a key that no row has."""
    return Problem(404, "there is no such row")
