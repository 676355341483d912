"""What SQLite's connections need that are given up in the midst of a statement, as cancelled requests have them be."""

from __future__ import annotations

import sqlite3
from typing import Any
from weakref import WeakSet

from sqlalchemy import Engine, event

__all__ = ["close_with_cursors"]


def close_with_cursors(engine: Engine) -> None:
    """Have connections of aiosqlite, those that are made from now on, close what they have begun together with themselves.

    SQLite keeps a connection that was closed, with its locks, as long as one of its statements is not at its end and something holds
    its cursor: the traceback of a cancellation, until the garbage collector comes by, or for as long as somebody keeps it who reports
    errors. Everybody else would find the file locked.
    """
    if engine.dialect.driver == "aiosqlite" and not event.contains(engine, "do_connect", _use_factory):
        event.listen(engine, "do_connect", _use_factory)


def _use_factory(_dialect: Any, _record: Any, _args: Any, options: dict[str, Any]) -> None:
    options.setdefault("factory", _Connection)


class _Connection(sqlite3.Connection):
    # Inherited, since that is how the driver lets itself be extended.

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._cursors = WeakSet[sqlite3.Cursor]()

    def cursor(self, *args: Any) -> Any:
        cursor: Any = super().cursor(*args)
        self._cursors.add(cursor)
        return cursor

    def close(self) -> None:
        for cursor in list(self._cursors):
            cursor.close()
        super().close()
