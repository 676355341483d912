"""What a column's type is in the database, whatever decorators are around it."""

from __future__ import annotations

import datetime as dt
from typing import Any, cast

from sqlalchemy import types
from sqlalchemy.engine.default import DefaultDialect

__all__ = ["bare_type", "has_zones", "is_zoned"]


def bare_type(kind: types.TypeEngine[Any]) -> types.TypeEngine[Any]:
    """What a column's type is in the database, without the decorators around it."""
    # An Interval is one as well, and yet a type of its own: where the database has none, it stands for a moment.
    while isinstance(kind, types.TypeDecorator) and not isinstance(kind, types.Interval):
        kind = kind.impl_instance
    return kind


def is_zoned(kind: types.TypeEngine[Any]) -> bool:
    """Whether a type's moments have an offset: by its own word, or by that of the decorator around it."""
    bare = bare_type(kind)
    if not isinstance(bare, types.DateTime):
        return False
    return bare.timezone or (isinstance(kind, types.TypeDecorator) and _needs_offset(kind))


def has_zones(kind: Any) -> bool:
    """Whether a type's values are such moments, or arrays of them."""
    bare = bare_type(kind)
    return has_zones(cast("Any", bare).item_type) if isinstance(bare, types.ARRAY) else is_zoned(kind)


def _needs_offset(kind: types.TypeDecorator[Any]) -> bool:
    """Whether a decorator takes moments with an offset alone, as SQLAlchemy's recipe does that keeps UTC where there are no zones.

    Nothing but its code says so: it is asked.
    """
    dialect, moment = DefaultDialect(), dt.datetime(2024, 2, 29, tzinfo=dt.UTC)
    try:
        kind.process_bind_param(moment, dialect)
    except Exception:  # noqa: BLE001  (one without, or with something else in mind)
        return False
    try:
        kind.process_bind_param(moment.replace(tzinfo=None), dialect)
    except Exception:  # noqa: BLE001  (whatever it calls that)
        return True
    return False
