"""Pydantic models for a table's rows: what a client may send, and what a hook may make of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic_core import to_json
from sqlalchemy import JSON, ClauseElement, literal_column, null

from concave_sqlalchemy.fields import ResourceField
from concave_sqlalchemy.problems import Problem, invalid

__all__ = ["RowSchema", "Validated"]

CONFIG = ConfigDict(
    extra="forbid", ser_json_bytes="base64", val_json_bytes="base64", hide_input_in_errors=True
)

Validated = dict[str, Any]
"""Checked values by field name; only the fields that were given."""


@dataclass(frozen=True, slots=True)
class RowSchema:
    """What may be written to a table, by whom."""

    fields: tuple[ResourceField, ...]
    create: type[BaseModel]
    """A client's new row."""
    patch: type[BaseModel]
    """A client's change of some columns."""
    replace: type[BaseModel]
    """A client's whole row in place of another."""
    insertable: type[BaseModel]
    """A new row after a before-hook: hooks may also set what clients may not."""
    updatable: type[BaseModel]
    """A change after a before-hook."""
    key: ResourceField
    key_adapter: TypeAdapter[Any]

    @classmethod
    def of(cls, name: str, fields: Iterable[ResourceField], key: ResourceField) -> RowSchema:
        """The schema of a table whose rows are told apart by `key`."""
        every = tuple(fields)
        settable = [field for field in every if not field.generated]
        others = [field for field in settable if field is not key]
        columns = [field for field in every if field.column.computed is None]
        return cls(
            fields=every,
            create=_model(f"{name}Create", settable, optional=lambda field: field.has_default),
            patch=_model(f"{name}Patch", others, optional=_always),
            replace=_model(f"{name}Replace", others, optional=lambda field: field.has_default),
            insertable=_model(f"{name}Insert", columns, optional=_always),
            updatable=_model(f"{name}Update", columns, optional=_always),
            key=key,
            key_adapter=TypeAdapter(key.type),
        )

    def read_key(self, text: str) -> Any:
        """The key that a path names; 404 where it can't be one."""
        try:
            return self.key_adapter.validate_strings(text)
        except ValidationError as error:
            raise Problem(404, "there is no such row") from error

    def from_client(self, model: type[BaseModel], body: Mapping[str, Any]) -> Validated:
        """What a client sent, checked; 422 with each field's error where it isn't valid."""
        # As JSON, so that dates, UUIDs and binaries are read from text.
        try:
            return _given(model.model_validate_json(to_json(body)))
        except ValidationError as error:
            raise invalid(error) from error

    def from_hook(self, model: type[BaseModel], data: Mapping[str, Any]) -> Validated:
        """What a before-hook returned, checked as strictly as what a client sends."""
        try:
            return _given(model.model_validate(dict(data)))
        except ValidationError as error:
            raise invalid(error) from error

    def with_defaults(self, data: Validated) -> dict[str, Any]:
        """A whole row for PUT: every writable column that was left out goes back to its default."""
        row = dict(data)
        for field in self.fields:
            if field is not self.key and not field.generated and field.name not in row:
                row[field.name] = _default_of(field)
        return row

    def for_database(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Values by column, as SQLAlchemy takes them."""
        by_name = {field.name: field for field in self.fields}
        return {by_name[name].column.key: _sql_value(by_name[name], value) for name, value in data.items()}


def _model(
    name: str, fields: Iterable[ResourceField], *, optional: Callable[[ResourceField], bool]
) -> type[BaseModel]:
    # Fields get plain names and the columns' as aliases: a column may be called `schema`, `_x` or `model_config`.
    definitions: dict[str, Any] = {
        f"field_{index}": (field.type, Field(default=None if optional(field) else ..., alias=field.name))
        for index, field in enumerate(fields)
    }
    return create_model(name, __config__=CONFIG, **definitions)


def _always(_field: ResourceField) -> bool:
    return True


def _given(model: BaseModel) -> Validated:
    named = type(model).model_fields
    return {str(named[name].alias): getattr(model, name) for name in model.model_fields_set}


def _default_of(field: ResourceField) -> Any:
    default, server_default = field.column.default, field.column.server_default
    if default is not None:
        argument: Any = getattr(default, "arg", None)
        return argument(None) if callable(argument) and not isinstance(argument, ClauseElement) else argument
    if server_default is not None:
        return _server_default(server_default)
    return None


def _server_default(server_default: Any) -> Any:
    argument = server_default.arg
    if isinstance(argument, ClauseElement):
        return argument
    quoted: Any = literal_column("'" + str(argument).replace("'", "''") + "'")  # pyright: ignore[reportUnknownVariableType]
    return quoted


def _sql_value(field: ResourceField, value: Any) -> Any:
    # None in a JSON column is SQL's NULL, as everywhere else, rather than JSON's.
    return null() if value is None and isinstance(field.column.type, JSON) else value
