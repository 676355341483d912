"""What SQLite's connections do beyond the driver's: end what they have begun when they are closed, and commit with some last rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeAlias
from weakref import WeakSet

from sqlalchemy import Connection, Engine, event

__all__ = ["extend_connections", "written_at_commit"]

Rows: TypeAlias = Sequence[tuple[Any, ...]]


def extend_connections(engine: Engine) -> None:
    """Have aiosqlite make connections of ours, from now on; unless the engine's owner has a class of his own."""
    if engine.dialect.driver == "aiosqlite" and not event.contains(engine, "do_connect", _use_factory):
        event.listen(engine, "do_connect", _use_factory)


def written_at_commit(connection: Connection, statement: str, rows: Rows) -> bool:
    """Have a statement be executed, for each of these rows, by the commit of a transaction that has written: in one trip to the driver's thread.

    A trip is as dear as several statements. Whatever is wrong with it is raised by the commit. False where the connection
    isn't one of ours: nothing is done then.
    """
    extended: Any = getattr(connection.connection.driver_connection, "_conn", None)
    if not isinstance(extended, _Connection):
        return False
    extended.at_commit += ((statement, rows),)
    return True


def _use_factory(_dialect: Any, _record: Any, _args: Any, options: dict[str, Any]) -> None:
    options.setdefault("factory", _Connection)


class _Connection(sqlite3.Connection):
    # Inherited, since that is how the driver lets itself be extended.

    at_commit: tuple[tuple[str, Rows], ...] = ()
    """What the next commit executes; a rollback forgets it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._cursors = WeakSet[sqlite3.Cursor]()

    def cursor(self, factory: Any = sqlite3.Cursor) -> Any:
        cursor: Any = super().cursor(factory)
        self._cursors.add(cursor)
        return cursor

    def commit(self) -> None:
        last, self.at_commit = self.at_commit, ()
        for statement, rows in last:
            self.executemany(statement, rows)
        super().commit()

    def rollback(self) -> None:
        self.at_commit = ()
        super().rollback()

    def close(self) -> None:
        # SQLite keeps a connection that was closed, with its locks, as long as one of its statements is not at its end and something
        # holds its cursor: the traceback of a cancellation, until the garbage collector comes by, or for as long as somebody keeps
        # it who reports errors. Everybody else would find the file locked.
        for cursor in list(self._cursors):
            with suppress(sqlite3.ProgrammingError):  # its connection is closed already
                cursor.close()
        super().close()
