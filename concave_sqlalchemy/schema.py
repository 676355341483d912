"""Pydantic models for a table's rows: what a client may send, and what a hook may make of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import from_json, to_json
from sqlalchemy import JSON, RowMapping, null

from concave.hooks import Row
from concave.shown import as_json
from concave_sqlalchemy.bare_types import bare_type, has_zones
from concave_sqlalchemy.fields import ResourceField
from concave_sqlalchemy.json_values import Numbers, writer_of
from concave_sqlalchemy.keys import Key, with_path
from concave_sqlalchemy.policy import Allowed
from concave_sqlalchemy.presenting import in_utc
from concave_sqlalchemy.problems import Problem, invalid

__all__ = ["Body", "BodyModel", "RowSchema", "Validated"]

CONFIG = ConfigDict(extra="forbid", hide_input_in_errors=True)

Validated = dict[str, Any]
"""Checked values by field name; only the fields that were given."""


class BodyModel(NamedTuple):
    """What a client may send: `whole` with all required fields, `partial` with any of them left out."""

    whole: type[BaseModel]
    partial: type[BaseModel]


class Body(NamedTuple):
    """What a client sent, checked. `missing`: the complaint about required fields that a before-hook may yet supply."""

    values: Validated
    missing: Problem | None = None

    def lacks(self, name: object) -> bool:
        """Whether the client left a required field out."""
        return self.missing is not None and any(each["field"] == name for each in self.missing.errors)


@dataclass(frozen=True, slots=True, eq=False)
class RowSchema:
    """What may be written to a table, by whom."""

    fields: tuple[ResourceField, ...]
    columns: Mapping[str, str]
    """What SQLAlchemy calls each field's column."""
    create: BodyModel
    """A client's new row."""
    patch: BodyModel
    """A client's change of some columns."""
    replace: BodyModel
    """A client's whole row in place of another."""
    insertable: type[BaseModel]
    """A new row after a before-hook: hooks may also set what clients may not."""
    updatable: type[BaseModel]
    """A change after a before-hook."""
    replaceable: tuple[ResourceField, ...]
    """What PUT sets, whether it is given or not."""
    needs_hook: bool
    """Whether a new row must have what no client may set."""
    key: Key
    zoned: tuple[str, ...]
    """The fields that hold moments in time."""
    numeric: Numbers
    written: Mapping[str, Callable[[Any], Any]]
    """Of fields whose values JSON has no way of its own for: how clients see them (see `json_values`)."""
    json: frozenset[str]
    hidden: frozenset[str]
    """The fields that no answer shows."""

    @classmethod
    def of(
        cls,
        name: str,
        fields: Iterable[ResourceField],
        key: Key,
        allowed: Allowed,
        *,
        numeric: Numbers = "string",
    ) -> RowSchema:
        """The schema of a table whose rows are told apart by `key`, and of which clients see what is `allowed`."""
        every = tuple(fields)
        not_computed = [field for field in every if not (field.computed or field is allowed.version)]
        settable = list(allowed.writable)
        changeable = [field for field in settable if not (field.is_key or field.name in key.names)]
        created = [with_path(field, key) for field in settable]
        patch = _model(f"{name}Patch", changeable, optional=_always)
        return cls(
            fields=every,
            columns={field.name: field.column.key for field in every},
            create=BodyModel(
                _model(f"{name}Create", created, optional=_has_default),
                _model(f"{name}Draft", created, optional=_always),
            ),
            patch=BodyModel(patch, patch),
            replace=BodyModel(_model(f"{name}Replace", changeable, optional=_has_default), patch),
            insertable=_model(
                f"{name}Insert", [with_path(field, key) for field in not_computed], optional=_has_default
            ),
            updatable=_model(
                f"{name}Update",
                [field for field in not_computed if not (field.is_key or field.name in key.names)],
                optional=_always,
            ),
            replaceable=tuple(changeable),
            needs_hook=any(field not in settable and not field.has_default for field in not_computed),
            key=key,
            zoned=tuple(field.name for field in every if has_zones(field.column.type)),
            numeric=numeric,
            written={
                field.name: write for field in every if (write := writer_of(field, numeric)) is not None
            },
            json=frozenset(field.name for field in every if isinstance(bare_type(field.column.type), JSON)),
            hidden=frozenset(field.name for field in every) - {field.name for field in allowed.readable},
        )

    def from_client(self, model: BodyModel, body: Mapping[str, Any], *, hooked: bool) -> Body:
        """What a client sent, checked; 422 with each field's error where it isn't valid.

        With a before-hook, which may supply required fields (an owner, say), missing ones are not yet an error.
        """
        # As JSON, so that dates, UUIDs and binaries are read from text; strictly, so that "1" is no number.
        data = to_json(body)
        try:
            return Body(_given(model.whole.model_validate_json(data, strict=True)))
        except ValidationError as error:
            if not hooked or any(each["type"] != "missing" for each in error.errors(include_url=False)):
                raise invalid(error) from error
            missing = invalid(error)
        return Body(_given(model.partial.model_validate_json(data, strict=True)), missing)

    def from_hook(self, model: type[BaseModel], data: Mapping[str, Any]) -> Validated:
        """What a before-hook made of it, checked again; 422 where it isn't valid."""
        try:
            return _given(model.model_validate(dict(data)))
        except ValidationError as error:
            raise invalid(error) from error

    def for_database(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Values by column, as SQLAlchemy takes them."""
        values = {self.columns[name]: value for name, value in data.items()}
        for name in self.json:
            # None in a JSON column is SQL's NULL, as everywhere else, rather than JSON's.
            if name in data and data[name] is None:
                values[self.columns[name]] = null()
        return values

    def row_of(self, found: RowMapping | Mapping[str, Any]) -> dict[str, Any]:
        """A row, or some fields of it, as hooks see it."""
        row: dict[str, Any] = {**found}
        for name in self.zoned:
            if name in row:
                row[name] = in_utc(row[name])
        return row

    def to_json(self, row: Mapping[str, Any]) -> bytes:
        """A row as clients see it: what is readable of it."""
        return as_json(self._presented(row))

    def shown(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Some fields of a row as clients see them, before they are JSON."""
        return self._presented(self.row_of(row))

    @property
    def shows_all(self) -> bool:
        """Whether clients see a row as tasks are told of it: of each field what JSON itself has for its value."""
        return not (self.hidden or self.written)

    def for_tasks(self, values: Mapping[str, Any]) -> Row:
        """Some of a row's values as JSON, of fields that no answer shows too: tasks are told of all."""
        return from_json(as_json(self._written(values)))  # type: ignore[no-any-return]

    def _presented(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.hidden:
            row = {name: value for name, value in row.items() if name not in self.hidden}
        return self._written(row)

    def _written(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        if not self.written:
            return row
        return {**row, **{name: write(row[name]) for name, write in self.written.items() if name in row}}


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


def _has_default(field: ResourceField) -> bool:
    return field.has_default


def _given(model: BaseModel) -> Validated:
    fields, values = type(model).__pydantic_fields__, vars(model)
    return {cast("str", fields[name].alias): values[name] for name in model.model_fields_set}
