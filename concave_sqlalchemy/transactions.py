"""One request, one transaction; and what SQLite needs for that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import StaticPool, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

__all__ = ["Transactions"]


class Transactions:
    """Begins and ends the transactions of one session factory."""

    def __init__(self, sessions: async_sessionmaker[Any]) -> None:
        self._sessions = sessions
        self._gates: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    @property
    def description(self) -> str:
        """Which database, fit for a log."""
        return self.bind.url.render_as_string() if self.bind is not None else repr(self._sessions)

    @property
    def bind(self) -> AsyncEngine | None:
        """The engine that the sessions are made for, if there is one for all."""
        return self._sessions.kw.get("bind")

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator[AsyncSession]:
        """A transaction that may write; committed at the end, rolled back by whatever is raised."""
        async with self._sessions() as session, self._gate(session), session.begin():
            if session.get_bind().dialect.name == "sqlite":
                await _take_write_lock(session)
            yield session

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[AsyncSession]:
        """A transaction that reads."""
        async with self._sessions() as session:
            # Only where all sessions share one connection (SQLite in memory) would a reader meet a writer's transaction.
            gate = self._gate(session) if isinstance(_pool(session), StaticPool) else _open_gate()
            async with gate, session.begin():
                yield session

    def _gate(self, session: AsyncSession) -> AbstractAsyncContextManager[Any]:
        """SQLite has one writer at a time: writers of this process queue here, fairly, instead of polling for the file."""
        if session.get_bind().dialect.name != "sqlite":
            return _open_gate()
        return self._gates.setdefault(asyncio.get_running_loop(), asyncio.Lock())


@asynccontextmanager
async def _open_gate() -> AsyncGenerator[None]:
    yield


def _pool(session: AsyncSession) -> Any:
    return session.get_bind().engine.pool


async def _take_write_lock(session: AsyncSession) -> None:
    # A transaction that reads first and writes later can fail with SQLITE_BUSY at once, whatever the timeout: so it begins as
    # a writer. The driver begins lazily; an engine that was told to begin by itself (SQLAlchemy's recipe) already has.
    connection = await session.connection()
    raw: Any = await connection.get_raw_connection()
    if not raw.driver_connection.in_transaction:
        await session.execute(text("BEGIN IMMEDIATE"))
