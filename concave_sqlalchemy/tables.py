"""The outbox's table, in a metadata of its own: for `create_outbox_tables`, or for Alembic's ``target_metadata``."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Float, Integer, MetaData, String, Table, Text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

__all__ = ["create_outbox_tables", "database_time", "metadata", "outbox_table"]

metadata = MetaData()
"""Holds ``concave_outbox``. Give it to Alembic beside your own: ``target_metadata = [Base.metadata, metadata]``."""


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
    Column("created_at", Float, nullable=False),
    # Why a row can't be relayed, if it can't: it is kept for a person to look at, and no longer tried.
    Column("broken", Text, nullable=True),
)


async def create_outbox_tables(engine: AsyncEngine) -> None:
    """Create the outbox's table where it doesn't exist yet."""
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
