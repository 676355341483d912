"""The statements that a triggered task costs: its outbox row, and with others the end of that row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final, cast

from pydantic_core import to_json
from sqlalchemy import Connection, Engine, String, Text, any_, bindparam, delete, func, insert, select
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.types import ARRAY
from sqlalchemy.util import await_only

from concave_sqlalchemy.plain import PlainSession
from concave_sqlalchemy.postgresql import executed_directly
from concave_sqlalchemy.sqlite import written_at_commit
from concave_sqlalchemy.tables import database_time, outbox_table, schema_given

__all__ = ["NUMBERED_INSERT", "delete_rows", "insert_rows"]

GIVEN: Final = ("id", "payload", "destination")
"""The columns that a row is given, in their order in the table."""

INSERT: Final = insert(outbox_table).values(created_at=database_time())
NUMBERED_INSERT: Final = INSERT.returning(
    outbox_table.c.id, outbox_table.c.sequence, sort_by_parameter_order=True
)

# One parameter, however many ids: a statement of its own for each number would be compiled, prepared and planned anew.
DELETE_LISTED: Final = delete(outbox_table).where(
    outbox_table.c.id == any_(bindparam("ids", type_=ARRAY(String)))
)
LISTED: Final[Any] = func.json_each(bindparam("ids", type_=Text)).table_valued("value")
DELETE_JSON: Final = delete(outbox_table).where(outbox_table.c.id.in_(select(LISTED.c.value)))


def insert_rows(session: Session, rows: Sequence[Mapping[str, Any]], *, at_commit: bool = False) -> None:
    """Write rows whose numbers nobody asks for. `at_commit`: that may be as late as in the commit, which raises what is wrong then."""
    connection = session.connection()
    insert_them = DIRECTLY.get(connection.dialect.driver)
    if insert_them is None or schema_given(connection) is not None:
        session.execute(INSERT, rows)
        return
    if not connection.in_transaction():
        connection.begin()  # as a statement of SQLAlchemy's does: what it doesn't know of it wouldn't commit
    dialect = connection.dialect
    statement, error = _direct_insert(dialect), dialect.loaded_dbapi.Error
    given = [tuple([row[name] for name in GIVEN]) for row in rows]
    if (
        at_commit
        and dialect.name == "sqlite"
        and _ends_with_commit(session, connection)
        and written_at_commit(connection, statement, given)
    ):
        return
    # Nobody else has the connection of a session that nobody else has.
    is_ours = isinstance(cast("Any", session), PlainSession)
    if is_ours and len(given) == 1 and executed_directly(connection, statement, given[0]):
        return
    try:
        insert_them(connection, statement, given)
    except error as refused:
        lost = dialect.is_disconnect(refused, connection.connection, None)
        if lost:
            connection.invalidate(refused)
        raise DBAPIError.instance(
            statement, None, refused, error, dialect=dialect, connection_invalidated=lost
        ) from refused


def _ends_with_commit(session: Any, connection: Connection) -> bool:
    """Whether the session's commit is the driver's: not in somebody else's transaction, nor where a class makes it another thing."""
    plainly = type(session) in {PlainSession, Session} and isinstance(session.get_bind(), Engine)
    return plainly and not connection.in_nested_transaction()


def delete_rows(session: Session, ids: Sequence[str]) -> None:
    """Delete the rows of these tasks."""
    if session.get_bind().dialect.name == "sqlite":
        session.execute(DELETE_JSON, {"ids": to_json(ids).decode()})
    else:
        session.execute(DELETE_LISTED, {"ids": list(ids)})


def _through_aiosqlite(connection: Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    # To make a cursor, to execute and to close it are three trips to the driver's thread, each as dear as the statement.
    raw: Any = connection.connection.driver_connection
    await_only(raw.executemany(statement, rows))


def _through_cursor(connection: Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    # What a statement of SQLAlchemy's is before it is at its driver takes longer than the database does. The cursor is
    # SQLAlchemy's: it begins the transaction if that hasn't begun, keeps the prepared statement and translates errors.
    cursor = connection.connection.cursor()
    try:
        if len(rows) == 1:
            cursor.execute(statement, rows[0])
        else:
            cursor.executemany(statement, rows)
    finally:
        cursor.close()


DIRECTLY: Final = {"aiosqlite": _through_aiosqlite, "asyncpg": _through_cursor}
"""How drivers are given what needs nothing of SQLAlchemy's but its connection."""


@cache
def _direct_insert(dialect: Dialect) -> str:
    # Inline: nobody asks for the number, so there is no RETURNING.
    return str(INSERT.values({name: bindparam(name) for name in GIVEN}).inline().compile(dialect=dialect))
