"""One request, one transaction; and what SQLite needs for that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

from sqlalchemy import StaticPool, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from concave.errors import ConfigurationError
from concave_sqlalchemy.problems import Problem

__all__ = ["Transactions"]

Result = TypeVar("Result")

GATE_PATIENCE = 30.0
"""Seconds that a writer waits for its turn: less than for ever, since a hook may wait for a write of its own app."""


class Transactions:
    """Begins and ends the transactions of one session factory."""

    def __init__(self, sessions: async_sessionmaker[Any]) -> None:
        self._sessions = sessions
        self._gates: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
        self._engine_checked = False

    @property
    def description(self) -> str:
        """Which database, fit for a log."""
        return self.bind.url.render_as_string() if self.bind is not None else repr(self._sessions)

    @property
    def dialect(self) -> str:
        """The name of the database's dialect."""
        return str(self._sessions().get_bind().dialect.name)

    @property
    def bind(self) -> AsyncEngine | None:
        """The engine that the sessions are made for, if there is one for all."""
        return self._sessions.kw.get("bind")

    @asynccontextmanager
    async def writing(self, *, hooked: bool = False) -> AsyncGenerator[AsyncSession]:
        """A transaction that may write; committed at the end, rolled back by whatever is raised.

        Where it is `hooked` it is in others' hands, who must not end it: row and tasks would no longer commit together.
        """
        async with self._sessions() as session, self._gate(session), session.begin() as transaction:
            await self._begin(session)
            guard = _CommitGuard(session) if hooked else None
            yield session
            if not transaction.is_active:
                raise RuntimeError("a hook rolled the transaction back; to refuse a write, it raises")
            if guard is not None:
                guard.lift()

    async def read(self, work: Callable[[Session], Result]) -> Result:
        """What `work` reads, in a transaction of its own.

        It runs in one go, in one greenlet: a greenlet for each call of a driver, and a task to close the session, would cost more
        than the query. The transaction ends as its connection goes back to the pool, which rolls back: a COMMIT before that would be
        a round trip for nothing.
        """
        session = self._sessions()
        # Only where all sessions share one connection (SQLite in memory) would a reader meet a writer's transaction.
        if isinstance(_pool(session), StaticPool):
            async with self._gate(session):
                return cast("Result", await session.run_sync(_read_and_close, work))
        return cast("Result", await session.run_sync(_read_and_close, work))

    async def _begin(self, session: AsyncSession) -> None:
        if session.get_bind().dialect.name == "sqlite":
            await _take_write_lock(session)
        elif not self._engine_checked:
            await _check_isolation(session)
            self._engine_checked = True

    def _gate(self, session: AsyncSession) -> AbstractAsyncContextManager[Any]:
        """SQLite has one writer at a time: writers of this process queue here, fairly, instead of polling for the file."""
        if session.get_bind().dialect.name != "sqlite":
            return _open_gate()
        return _turn(self._gates.setdefault(asyncio.get_running_loop(), asyncio.Lock()))


class _CommitGuard:
    """Refuses a session's commit until it is lifted. Savepoints are the hooks' own."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        event.listen(session.sync_session, "before_commit", self._refuse)

    def lift(self) -> None:
        event.remove(self._session.sync_session, "before_commit", self._refuse)

    def _refuse(self, session: Any) -> None:
        if not session.in_nested_transaction():
            raise RuntimeError(
                "a hook must not commit: the resource does, with the row and its tasks together"
            )


def _read_and_close(session: Session, work: Callable[[Session], Result]) -> Result:
    try:
        return work(session)
    finally:
        session.close()


@asynccontextmanager
async def _turn(lock: asyncio.Lock) -> AsyncGenerator[None]:
    try:
        async with asyncio.timeout(GATE_PATIENCE):
            await lock.acquire()
    except TimeoutError:
        raise Problem(503, "the database is busy", headers={"retry-after": "1"}) from None
    try:
        yield
    finally:
        lock.release()


@asynccontextmanager
async def _open_gate() -> AsyncGenerator[None]:
    yield


def _pool(session: AsyncSession) -> Any:
    return session.get_bind().engine.pool


async def _check_isolation(session: AsyncSession) -> None:
    connection = await session.connection()
    raw: Any = await connection.get_raw_connection()
    if getattr(raw.dbapi_connection, "isolation_level", None) == "autocommit":
        raise ConfigurationError(
            "the engine is in AUTOCOMMIT, where nothing can be rolled back: give the resource's session factory"
            " another, say engine.execution_options(isolation_level='READ COMMITTED')"
        )


async def _take_write_lock(session: AsyncSession) -> None:
    # A transaction that reads first and writes later can fail with SQLITE_BUSY at once, whatever the timeout: so it begins as
    # a writer. The driver begins lazily; an engine that was told to begin by itself (SQLAlchemy's recipe, or the driver's
    # autocommit=False) has begun, but as a reader. Nothing has happened in that transaction yet.
    connection = await session.connection()
    raw: Any = await connection.get_raw_connection()
    if raw.driver_connection.in_transaction:
        await session.execute(text("COMMIT"))
    await session.execute(text("BEGIN IMMEDIATE"))
