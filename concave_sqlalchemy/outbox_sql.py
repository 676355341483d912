"""The statements that a triggered task costs: its outbox row, and with others the end of that row."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final, TypeAlias, cast

from pydantic_core import to_json
from sqlalchemy import Connection, Engine, Text, any_, bindparam, delete, func, insert, select
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.types import ARRAY
from sqlalchemy.util import await_only

from concave_sqlalchemy.plain import PlainSession
from concave_sqlalchemy.postgresql import executed_directly
from concave_sqlalchemy.sqlite import written_at_commit
from concave_sqlalchemy.tables import database_time, outbox_table, schema_given

__all__ = [
    "GIVEN",
    "NUMBERED_INSERT",
    "Given",
    "can_delete_along",
    "delete_along",
    "delete_rows",
    "insert_rows",
    "named",
]

GIVEN: Final = ("id", "payload", "destination")
"""The columns that a row is given, in their order in the table."""

Given: TypeAlias = tuple[str, str, str | None]
"""Their values."""

INSERT: Final = insert(outbox_table).values(created_at=database_time())
NUMBERED_INSERT: Final = INSERT.returning(
    outbox_table.c.id, outbox_table.c.sequence, sort_by_parameter_order=True
)

# One parameter, however many ids: a statement of its own for each number would be compiled, prepared and planned anew. Not of VARCHAR,
# as the column is: asyncpg would ask each new connection what an array of that is, by a query of some 30 ms.
THESE: Final = outbox_table.c.id == any_(bindparam("ids", type_=ARRAY(Text)))
DELETE_LISTED: Final = delete(outbox_table).where(THESE)
# It waits for nobody who deletes the same rows: two that hold some of each other's would fail, and one of them may be a request.
DELETE_UNLOCKED: Final = delete(outbox_table).where(
    outbox_table.c.sequence.in_(
        select(outbox_table.c.sequence).where(THESE).with_for_update(skip_locked=True)
    )
)
LISTED: Final[Any] = func.json_each(bindparam("ids", type_=Text)).table_valued("value")
DELETE_JSON: Final = delete(outbox_table).where(outbox_table.c.id.in_(select(LISTED.c.value)))


def insert_rows(session: Session, rows: Sequence[Given], *, at_commit: bool = False) -> None:
    """Write rows whose numbers nobody asks for. `at_commit`: that may be as late as in the commit, which raises what is wrong then."""
    connection = session.connection()
    insert_them = DIRECTLY.get(connection.dialect.driver)
    if insert_them is None or schema_given(connection) is not None:
        session.execute(INSERT, [named(row) for row in rows])
        return
    if not connection.in_transaction():
        connection.begin()  # as a statement of SQLAlchemy's does: what it doesn't know of it wouldn't commit
    dialect = connection.dialect
    statement, error = _direct_insert(dialect), dialect.loaded_dbapi.Error
    if at_commit and _left_to_commit(session, connection, statement, rows):
        return
    # Nobody else has the connection of a session that nobody else has.
    is_ours = isinstance(cast("Any", session), PlainSession)
    if is_ours and len(rows) == 1 and executed_directly(connection, statement, rows[0]):
        return
    try:
        insert_them(connection, statement, rows)
    except error as refused:
        lost = dialect.is_disconnect(refused, connection.connection, None)
        if lost:
            connection.invalidate(refused)
        raise DBAPIError.instance(
            statement, None, refused, error, dialect=dialect, connection_invalidated=lost
        ) from refused


def named(row: Given) -> dict[str, Any]:
    """A row as SQLAlchemy's statements take it."""
    return dict(zip(GIVEN, row, strict=True))


def delete_rows(session: Session, ids: Sequence[str]) -> None:
    """Delete the rows of these tasks."""
    if session.get_bind().dialect.name == "sqlite":
        session.execute(DELETE_JSON, {"ids": to_json(ids).decode()})
    else:
        session.execute(DELETE_LISTED, {"ids": list(ids)})


def delete_along(session: Session, ids: Sequence[str]) -> bool:
    """Delete the rows of these tasks in a transaction of somebody's that commits next, and that is neither kept waiting nor undone for it.

    It may be as late as in the commit. Rows that others delete at this moment are theirs then. False where it was refused.
    """
    if session.get_bind().dialect.name != "sqlite":
        try:
            # Whose request it is may have a role of its own, with rights of its own.
            with session.begin_nested():
                session.execute(DELETE_UNLOCKED, {"ids": list(ids)})
        except DBAPIError as refused:
            if refused.connection_invalidated:
                raise
            return False
        return True
    connection, listed = session.connection(), to_json(ids).decode()
    is_direct = schema_given(connection) is None
    statement = _direct_delete(connection.dialect)
    if not (is_direct and _left_to_commit(session, connection, statement, [(listed,)])):
        session.execute(DELETE_JSON, {"ids": listed})
    return True


def can_delete_along(session: Session) -> bool:
    """Whether other people's transactions may delete rows.

    Not where the database fails one that meets what another has deleted, nor where it doesn't let this role lock rows: that takes
    the right to update them.
    """
    connection = session.connection()
    if connection.dialect.name == "sqlite":
        return True
    if connection.get_isolation_level() != "READ COMMITTED":
        return False
    name = connection.dialect.identifier_preparer.format_table(outbox_table)
    schema = schema_given(connection)
    if schema is not None:
        name = f"{connection.dialect.identifier_preparer.quote_schema(schema)}.{name}"
    may_lock = func.has_table_privilege(name, "UPDATE").label("may_lock_outbox")
    return bool(session.execute(select(may_lock)).scalar_one())


def _left_to_commit(
    session: Session, connection: Connection, statement: str, rows: Sequence[tuple[Any, ...]]
) -> bool:
    """Whether SQLite's commit will do it, in its own trip to the driver's thread."""
    return (
        connection.dialect.name == "sqlite"
        and _ends_with_commit(session, connection)
        and written_at_commit(connection, statement, rows)
    )


def _ends_with_commit(session: Any, connection: Connection) -> bool:
    """Whether the session's commit is the driver's: not in somebody else's transaction, nor where a class makes it another thing."""
    plainly = type(session) in {PlainSession, Session} and isinstance(session.get_bind(), Engine)
    return plainly and not connection.in_nested_transaction()


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


@cache
def _direct_delete(dialect: Dialect) -> str:
    return str(DELETE_JSON.compile(dialect=dialect))
