"""The table that every web peer serves, and the engine it is served from. Runs in every peer's own environment."""

import datetime as dt
import os
from typing import Any

from sqlalchemy import Boolean, Column, DateTime, Float, Index, Integer, MetaData, String, Table, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

__all__ = ["URL", "engine_of", "metadata", "now", "users"]

URL = os.environ.get("BENCH_URL", "sqlite+aiosqlite://")
WIDTH = 8
"""Connections: as many as there are requests at a time."""


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


metadata = MetaData()
users = Table(
    "users",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("email", String(200), nullable=False),
    Column("name", String(100), nullable=False),
    Column("role", String(20), nullable=False, default="user"),
    Column("active", Boolean, nullable=False, default=True),
    Column("age", Integer),
    Column("score", Float),
    Column("created_at", DateTime(timezone=True), nullable=False, default=now),
    Index("users_by_created_at", "created_at", "id"),
)


def engine_of(url: str = URL) -> AsyncEngine:
    """An engine with the settings that all have in common."""
    engine = create_async_engine(url, pool_size=WIDTH)
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", _use_the_log)
    return engine


def _use_the_log(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
