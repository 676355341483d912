"""Which of a table's fields clients may see, set, filter by and sort by."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from concave.errors import ConfigurationError
from concave_sqlalchemy.fields import ResourceField
from concave_sqlalchemy.filters.values import Kind, kind_of
from concave_sqlalchemy.keys import Key

__all__ = ["Allowed", "Fields"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """Field policies of a resource, as collections of field names; None is every field.

    `readable`: what answers show and `select` may name. `writable`: what bodies may set; by default all but keys and numbers that are
    made here or by the database, which are a client's to choose where they are named. `filterable` and `sortable`: what `filter`
    and ``groupBy``, and `orderBy`, may name, among the readable ones; by default all of those. Hooks and triggers see every field.
    """

    readable: Collection[str] | None = None
    writable: Collection[str] | None = None
    filterable: Collection[str] | None = None
    sortable: Collection[str] | None = None


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a `Fields` comes to for one table. Each in the columns' order."""

    readable: tuple[ResourceField, ...]
    writable: tuple[ResourceField, ...]
    filterable: tuple[ResourceField, ...]
    sortable: tuple[ResourceField, ...]

    @classmethod
    def of(cls, fields: Sequence[ResourceField], key: Key, given: Fields) -> Allowed:
        """Raises `ConfigurationError` for a name that isn't a field's, or is to be filtered or sorted by and not readable; and
        where the key isn't readable, which paths and cursors show.
        """
        every = [field.name for field in fields]
        readable = _known(given.readable, every, "readable")
        if hidden := [name for name in key.names if name not in readable]:
            raise ConfigurationError(f"Fields(readable=…) must have the key, {hidden[0]!r}, which paths show")
        settable = [field.name for field in fields if not field.generated]
        writable = settable if given.writable is None else _known(given.writable, every, "writable")
        if computed := [field.name for field in fields if field.computed and field.name in writable]:
            raise ConfigurationError(f"Fields(writable=…) names {computed[0]!r}, which the database makes")
        sortable = [field.name for field in fields if kind_of(field) is not Kind.OPAQUE]
        return cls(
            _of(fields, readable),
            _of(fields, writable),
            _of(fields, _readable(given.filterable, every, readable, "filterable")),
            _of(
                fields,
                [name for name in _readable(given.sortable, every, readable, "sortable") if name in sortable],
            ),
        )


def _of(fields: Sequence[ResourceField], names: Collection[str]) -> tuple[ResourceField, ...]:
    return tuple(field for field in fields if field.name in names)


def _known(given: Collection[str] | None, every: Collection[str], what: str) -> Collection[str]:
    if isinstance(given, str):
        raise ConfigurationError(f"Fields({what}=…) takes a collection of names, not one text")
    if given is None:
        return every
    if unknown := [name for name in given if name not in every]:
        raise ConfigurationError(f"Fields({what}=…) names {unknown[0]!r}, which is no field")
    return given


def _readable(
    given: Collection[str] | None, every: Collection[str], readable: Collection[str], what: str
) -> Collection[str]:
    if given is None:
        return readable
    if hidden := [name for name in _known(given, every, what) if name not in readable]:
        raise ConfigurationError(f"Fields({what}=…) names {hidden[0]!r}, which is not readable")
    return given
