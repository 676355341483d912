"""Rows as they come from the database → what is JSON as clients see it, with as little in between as there can be."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias, cast

__all__ = ["Presenter", "in_utc", "presenter"]

Presenter: TypeAlias = Callable[[Sequence[Any]], dict[str, Any]]
"""A row's values, in order → what `as_json` takes. Values beyond those that are shown are left out."""


def presenter(
    shown: Sequence[str], *, zoned: Collection[str], written: Mapping[str, Callable[[Any], Any]]
) -> Presenter:
    """What shows rows of these fields. `zoned`: moments that may come in another zone than UTC, or without one. `written`: see `RowSchema`."""
    names = tuple(shown)
    special: list[tuple[str, Callable[[Any], Any]]] = [(name, in_utc) for name in names if name in zoned]
    special += [(name, written[name]) for name in names if name in written]

    def plain(row: Sequence[Any]) -> dict[str, Any]:
        return dict(zip(names, row, strict=False))

    def changed(row: Sequence[Any]) -> dict[str, Any]:
        found = dict(zip(names, row, strict=False))
        for name, change in special:
            found[name] = change(found[name])
        return found

    return changed if special else plain


def in_utc(value: Any) -> Any:
    """A moment in UTC, or a list of them: psycopg gives them in the session's time zone, and SQLite, which has none, without."""
    if isinstance(value, dt.datetime):
        return value if value.tzinfo is dt.UTC else _moved(value)
    return [in_utc(each) for each in cast("Any", value)] if isinstance(value, list) else value


def _moved(moment: dt.datetime) -> dt.datetime:
    if moment.tzinfo is None:
        return moment.replace(tzinfo=dt.UTC)  # as which it is written through a resource
    try:
        return moment.astimezone(dt.UTC)
    except OverflowError:
        return moment  # in the calendar's first or last hours: an answer must not fail for it
