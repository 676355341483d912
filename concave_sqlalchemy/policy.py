"""Which of a table's fields clients may see, set, filter by and sort by."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from sqlalchemy import Column, Integer
from sqlalchemy.orm import Mapper

from concave.errors import ConfigurationError
from concave_sqlalchemy.bare_types import bare_type
from concave_sqlalchemy.fields import FieldName, ResourceField, is_version_of_database, name_of, told
from concave_sqlalchemy.filters.values import Kind, kind_of
from concave_sqlalchemy.keys import Key

__all__ = ["Allowed", "Fields", "version_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """Field policies of a resource, as collections of names or attributes (``User.email``); None is every field.

    `readable`: what answers show and `select` may name. `writable`: what bodies may set; by default all but keys and numbers that are
    made here or by the database, which are a client's to choose where they are named. `filterable` and `sortable`: what `filter`
    and ``groupBy``, and `orderBy`, may name, among the readable ones; by default all of those. Hooks and triggers see every field.
    """

    readable: Collection[FieldName] | None = None
    writable: Collection[FieldName] | None = None
    filterable: Collection[FieldName] | None = None
    sortable: Collection[FieldName] | None = None


class Allowed(NamedTuple):
    """What a `Fields` comes to for one table. Each in the columns' order."""

    readable: tuple[ResourceField, ...]
    writable: tuple[ResourceField, ...]
    filterable: tuple[ResourceField, ...]
    sortable: tuple[ResourceField, ...]
    version: ResourceField | None = None
    """The column that counts a row's changes, which nobody but the resource sets."""

    @classmethod
    def of(
        cls, fields: Sequence[ResourceField], key: Key, given: Fields, *, version: FieldName | None = None
    ) -> Allowed:
        """Raises `ConfigurationError` for a name that isn't a field's, or is to be filtered or sorted by and not readable; and
        where the key isn't readable, which paths and cursors show.
        """
        readable = _known(given.readable, fields, "readable")
        if hidden := [name for name in key.names if name not in readable]:
            raise ConfigurationError(f"Fields(readable=…) must have the key, {hidden[0]!r}, which paths show")
        counter = None if version is None else _counter(fields, key, version)
        settable = [field.name for field in fields if not field.generated and field is not counter]
        writable = settable if given.writable is None else _known(given.writable, fields, "writable")
        made = [field.name for field in fields if field.computed or field is counter]
        if unsettable := [name for name in made if name in writable]:
            raise ConfigurationError(f"Fields(writable=…) names {unsettable[0]!r}, which is made here")
        sortable = [field.name for field in fields if kind_of(field) is not Kind.OPAQUE]
        return cls(
            _of(fields, readable),
            _of(fields, writable),
            _of(fields, _readable(given.filterable, fields, readable, "filterable")),
            _of(
                fields,
                [
                    name
                    for name in _readable(given.sortable, fields, readable, "sortable")
                    if name in sortable
                ],
            ),
            counter,
        )


def version_of(mapper: Mapper[Any] | None) -> FieldName | None:
    """The column by which SQLAlchemy's unit of work sees that somebody else has written a row: whoever writes one must count it up.

    None where there is none, or where the database counts it by itself. Raises `ConfigurationError` where nobody can count it here.
    """
    column = cast("Column[Any] | None", None if mapper is None else mapper.version_id_col)
    if mapper is None or column is None or is_version_of_database(column, mapper):
        return None
    # SQLAlchemy's own generator is a function of its mapper's module, without a name.
    counts = getattr(mapper.version_id_generator, "__module__", None) == Mapper.__module__
    if not (counts and isinstance(bare_type(column.type), Integer)) or column.nullable:
        raise ConfigurationError(
            f"{mapper.class_.__name__} has a version_id_col, {column.key!r}, which can't be counted up here: that takes whole"
            " numbers that are never NULL and SQLAlchemy's own version_id_generator, or a column with server_onupdate; name"
            " what is to be counted, version=…, or say version=False, so that nothing is"
        )
    return column


def _counter(fields: Sequence[ResourceField], key: Key, given: FieldName) -> ResourceField:
    found = [field for field in fields if field.name == name_of(given, fields)]
    if (
        not found
        or not isinstance(bare_type(found[0].column.type), Integer)
        or found[0].column.nullable
        or found[0].computed
        or found[0].name in key.names
    ):
        raise ConfigurationError(
            f"version={told(given)} must be a column of whole numbers that is never NULL"
        )
    return found[0]


def _of(fields: Sequence[ResourceField], names: Collection[str]) -> tuple[ResourceField, ...]:
    return tuple(field for field in fields if field.name in names)


def _known(
    given: Collection[FieldName] | None, fields: Sequence[ResourceField], what: str
) -> Collection[str]:
    if given is None:
        return [field.name for field in fields]
    if isinstance(given, str) or not isinstance(given, Collection):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"Fields({what}=…) takes a collection of names, not {told(given)}")
    names: list[str] = []
    for each in given:
        name = name_of(each, fields)
        if name is None:
            raise ConfigurationError(f"Fields({what}=…) names {told(each)}, which is no field")
        names.append(name)
    return names


def _readable(
    given: Collection[FieldName] | None, fields: Sequence[ResourceField], readable: Collection[str], what: str
) -> Collection[str]:
    if given is None:
        return readable
    names = _known(given, fields, what)
    if hidden := [name for name in names if name not in readable]:
        raise ConfigurationError(f"Fields({what}=…) names {hidden[0]!r}, which is not readable")
    return names
