"""The order of a list: what ``orderBy`` asks for, ended by the primary key, so that no two rows are in one place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from sqlalchemy import ColumnElement, Enum, String, type_coerce
from sqlalchemy.types import NULLTYPE

from concave_sqlalchemy.bare_types import bare_type
from concave_sqlalchemy.fields import ResourceField
from concave_sqlalchemy.keys import Key
from concave_sqlalchemy.problems import Problem

__all__ = ["Ordering", "Orders", "Term", "named"]

MAX_TERMS: Final = 10


class Term(NamedTuple):
    """One field of an order. NULL counts as the greatest value: last when ascending, first when descending."""

    field: ResourceField
    descending: bool
    dialect: str

    @property
    def nullable(self) -> bool:
        """Whether there may be NULL."""
        return bool(self.field.column.nullable)

    @property
    def stored(self) -> ColumnElement[Any]:
        """The column as its database holds it, which is how it sorts: what a cursor remembers and compares with.

        Through a type decorator, or as the datetime that SQLite's text stands for, a value might come back as another one.
        """
        bare = bare_type(self.field.column.type)
        if self.dialect == "sqlite":
            # The driver's own values: a column without a type leaves them as they are.
            return type_coerce(self.field.column, NULLTYPE)
        return type_coerce(self.field.column, String() if isinstance(bare, Enum) else bare)

    @property
    def comparable(self) -> ColumnElement[Any]:
        """The column beside a value that `stored` gave."""
        bare = bare_type(self.field.column.type)
        return type_coerce(self.field.column, NULLTYPE if self.dialect == "sqlite" else bare)

    def sort(self, column: ColumnElement[Any] | None = None) -> ColumnElement[Any]:
        """For ORDER BY, by the field or by what stands for it. Of NULL nothing is said where an index's plain order serves."""
        ordered = self.sort_without_null(column)
        if not self.nullable or self.dialect == "postgresql":  # whose default it is
            return ordered
        return ordered.nulls_first() if self.descending else ordered.nulls_last()

    def sort_without_null(self, column: ColumnElement[Any] | None = None) -> ColumnElement[Any]:
        """The same among rows that have a value."""
        chosen = self.field.column if column is None else column
        return chosen.desc() if self.descending else chosen.asc()


Ordering: TypeAlias = tuple[Term, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Orders:
    """The orders that a resource's rows can be listed in."""

    fields: Mapping[str, ResourceField]
    key: Key
    dialect: str

    @classmethod
    def of(cls, fields: Iterable[ResourceField], key: Key, dialect: str) -> Orders:
        """Orders by these fields, and by the key."""
        return cls({field.name: field for field in fields}, key, dialect)

    def read(self, text: str | None) -> Ordering:
        """``a:asc,b:desc`` as an order; ascending where it isn't said. The key follows, in the direction of what stands before.

        Raises `Problem` 400 for what isn't a sortable field, is named twice, or is too much.
        """
        terms: list[Term] = []
        for name, descending in _parts(text or ""):
            field = self.fields.get(name)
            if field is None:
                raise _wrong(f"there is no field {name!r} to order by")
            if any(term.field.name == name for term in terms):
                raise _wrong(f"{name!r} is there twice")
            terms.append(Term(field, descending, self.dialect))
        if len(terms) > MAX_TERMS:
            raise _wrong(f"there are more than {MAX_TERMS} fields")
        given = [term.field.name for term in terms]
        descending = bool(terms) and terms[-1].descending
        # An index on (field, key) then serves both directions.
        terms += [
            Term(field, descending, self.dialect) for field in self.key.fields if field.name not in given
        ]
        return _without_rest(terms, self.key)


def named(ordering: Sequence[Term]) -> str:
    """An order in words: the same for the same order, however it was asked for."""
    return ",".join(f"{term.field.name}:{'desc' if term.descending else 'asc'}" for term in ordering)


def _parts(text: str) -> Iterable[tuple[str, bool]]:
    if not text.strip():
        return
    for part in text.split(","):
        name, _, direction = (piece.strip() for piece in part.partition(":"))
        if direction.lower() not in {"", "asc", "desc"} or not name:
            raise _wrong(f"{part.strip()!r} is not field:asc or field:desc")
        yield name, direction.lower() == "desc"


def _without_rest(terms: Sequence[Term], key: Key) -> Ordering:
    """What follows the whole key has nothing left to order."""
    missing = set(key.names)
    kept: list[Term] = []
    for term in terms:
        if not missing:
            break
        kept.append(term)
        missing.discard(term.field.name)
    return tuple(kept)


def _wrong(message: str) -> Problem:
    return Problem(400, f"orderBy: {message}", errors=[{"field": "orderBy", "message": message}])
