"""A column's default outside of an INSERT, where no database will fill it in: what PUT needs for columns left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Column, DefaultClause, Identity, Sequence as DatabaseSequence, String, literal, text

from concave_sqlalchemy.fields import ResourceField

__all__ = ["defaults_of"]


def defaults_of(
    fields: Sequence[ResourceField],
    given: Mapping[str, Any],
    *,
    current: Mapping[str, Any],
    columns: Mapping[str, str],
    dialect: str,
) -> dict[str, Any]:
    """The defaults of those `fields` that aren't `given`, by field name: values or SQL expressions.

    A default that looks at the row sees the row to be, by what SQLAlchemy calls its `columns`: of what isn't among the `fields`
    that is the `current` value.
    """
    replaced = {field.name for field in fields}
    row = {columns[name]: value for name, value in current.items() if name not in replaced}
    row |= {columns[name]: value for name, value in given.items()}
    defaults: dict[str, Any] = {}
    for field in fields:
        # A column with `onupdate` is set by the UPDATE itself.
        if field.name not in given and field.column.onupdate is None and field.column.server_onupdate is None:
            by_class = field.by_class
            known, value = _default_of(field.column, row, dialect) if by_class is None else (True, by_class)
            if known:
                defaults[field.name] = row[columns[field.name]] = value
    return defaults


class _Execution(NamedTuple):
    """What SQLAlchemy hands to a default that takes its execution context, as far as one exists here."""

    current_parameters: Mapping[str, Any]

    def get_current_parameters(self, isolate_multiinsert_params: bool = True) -> dict[str, Any]:  # noqa: ARG002, FBT001, FBT002  (SQLAlchemy's signature)
        return dict(self.current_parameters)


def _default_of(column: Column[Any], row: Mapping[str, Any], dialect: str) -> tuple[bool, Any]:
    """Whether there is a default to be known, and which."""
    if isinstance(column.default, DatabaseSequence):
        return True, column.default.next_value()
    default: Any = column.default
    if default is not None:
        return True, default.arg(_Execution(row)) if default.is_callable else default.arg
    if column.server_default is None:
        return True, None
    # SQLite has no such word, and no identities.
    if dialect != "sqlite" and isinstance(column.server_default, DefaultClause | Identity):
        return True, text("DEFAULT")
    # What SQLAlchemy doesn't know (of a trigger, say) is left alone: to go by the word, it would be NULL.
    if not isinstance(column.server_default, DefaultClause):
        return False, None
    argument: Any = column.server_default.arg
    return True, literal(argument, String()) if isinstance(argument, str) else argument
