"""The outbox's table and its neighbour, in a metadata of their own: for `create_outbox_tables`, or for Alembic's ``target_metadata``."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, overload

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    inspect,
    text,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlalchemy.sql.functions import FunctionElement

from concave.errors import ConfigurationError

__all__ = [
    "create_outbox_tables",
    "database_time",
    "explained",
    "has_table",
    "idempotency_table",
    "metadata",
    "outbox_table",
    "schema_given",
]

metadata = MetaData()
"""Holds ``concave_outbox`` and ``concave_idempotency``. Give it to Alembic beside your own: ``target_metadata = [Base.metadata, metadata]``."""

CREATION_LOCK = 0x636F_6E63_6176_65
"""PostgreSQL's advisory lock of those who create the table: "concave" in ASCII."""


class database_time(FunctionElement[float]):  # noqa: N801  (a SQL function, named as one)
    """Seconds since the epoch by the database's clock, at this very moment and not at the transaction's start."""

    type = Float()
    inherit_cache = True


@compiles(database_time, "postgresql")
def _postgresql(_element: Any, _compiler: Any, **_options: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


@compiles(database_time, "sqlite")
def _sqlite(_element: Any, _compiler: Any, **_options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


outbox_table = Table(
    "concave_outbox",
    metadata,
    # The order of writing. Never read as "all after the last one seen": transactions commit in another order.
    Column("sequence", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("id", String(200), nullable=False, unique=True),
    Column("payload", Text, nullable=False),
    # The store that a trigger's own scheduler adds to; NULL for whichever is the default of who relays it.
    Column("destination", Text, nullable=True),
    Column("created_at", Float, nullable=False),
    # Why a row can't be relayed, if it can't: it is kept for a person to look at, and no longer tried.
    Column("broken", Text, nullable=True),
    # Without it SQLite would number from 1 again whenever the outbox has run empty.
    sqlite_autoincrement=True,
)

idempotency_table = Table(
    "concave_idempotency",
    metadata,
    # A digest of resource, user and key.
    Column("id", String(64), primary_key=True),
    # A digest of what was asked.
    Column("fingerprint", String(64), nullable=False),
    # What was answered.
    Column("status", Integer, nullable=False),
    Column("headers", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("expires_at", Float, nullable=False, index=True),
)


@overload
def create_outbox_tables(engine: AsyncEngine) -> Coroutine[Any, Any, None]: ...


@overload
def create_outbox_tables(engine: Engine) -> None: ...


def create_outbox_tables(engine: AsyncEngine | Engine) -> Coroutine[Any, Any, None] | None:
    """Create the outbox's table, and that of the answers to requests with an Idempotency-Key, where they don't exist yet. Any number of processes may do so at once.

    To be awaited for an ``AsyncEngine``, and not for an ``Engine``.
    """
    if isinstance(engine, AsyncEngine):
        return _create_through(engine)
    with engine.begin() as connection:
        _create(connection)
    return None


async def _create_through(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(_create)


def _create(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        # There, IF NOT EXISTS alone fails for one of two who look at the same time.
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": CREATION_LOCK})
    for table in metadata.sorted_tables:
        connection.execute(CreateTable(table, if_not_exists=True))
        for index in table.indexes:
            connection.execute(CreateIndex(index, if_not_exists=True))


def schema_given(connection: Connection) -> str | None:
    """Where the tables are by the connection's ``schema_translate_map``, as in an app with a schema for each tenant."""
    given = connection.get_execution_options().get("schema_translate_map")
    schema: str | None = given.get(None) if given else None
    return schema


def has_table(connection: Connection, table: Table) -> bool:
    """Whether one of these tables is there."""
    return inspect(connection).has_table(table.name, schema=schema_given(connection))


def explained(error: DBAPIError, table: Table) -> Exception:
    """An error, or what to do about it where it is that this table isn't there."""
    text = str(error.orig).lower()
    if table.name in text and ("no such table" in text or "does not exist" in text):
        return ConfigurationError(
            f"there is no table {table.name!r}: await create_outbox_tables(engine) once, or add"
            " concave_sqlalchemy.metadata to Alembic's target_metadata"
        )
    return error
