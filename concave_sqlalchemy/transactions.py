"""One request, one transaction; and what SQLite needs for that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from contextvars import ContextVar
from functools import cached_property
from typing import Any, Final, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, StaticPool, Table, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, SessionTransaction, sessionmaker
from sqlalchemy.util import greenlet_spawn

from concave.errors import ConfigurationError
from concave_sqlalchemy.greenlets import SessionInGreenlet, in_one_greenlet
from concave_sqlalchemy.outages import busy, is_outage, outcome_unknown
from concave_sqlalchemy.plain import PlainSession, listeners_of_all, plain_engine
from concave_sqlalchemy.postgresql import notice_statements
from concave_sqlalchemy.sqlite import extend_connections
from concave_sqlalchemy.threads import SessionInThreads, threads_for

__all__ = ["AnySession", "Sessions", "Transactions", "has_begun"]

Sessions: TypeAlias = async_sessionmaker[Any] | sessionmaker[Any]

Result = TypeVar("Result")

AnySession: TypeAlias = SessionInGreenlet | SessionInThreads
"""As much of an ``AsyncSession`` as is used here, whoever waits for the database."""

AT_ONCE: Final = nullcontext()
BORROWED: Final = (Connection, AsyncConnection)
HELD: Final[ContextVar[asyncio.Lock | None]] = ContextVar("concave_held", default=None)
"""The gate of a connection of somebody else's that is passed in this context."""
GATE_PATIENCE = 30.0
"""Seconds that a writer waits for its turn: less than for ever, since a hook may wait for a write of its own app."""


class Transactions:
    """Begins and ends the transactions of one session factory."""

    def __init__(self, sessions: Sessions) -> None:
        if not isinstance(sessions, async_sessionmaker | sessionmaker):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(
                f"session= takes an async_sessionmaker or a sessionmaker, not {sessions!r}"
            )
        self._sessions = sessions
        self._gates: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
        self._begins_by_itself = False
        self._listeners = listeners_of_all()
        if self.engine is not None:
            extend_connections(self.engine)
            notice_statements(self.engine)
            if isinstance(sessions, sessionmaker):
                threads_for(self.engine)  # told now where it can't be

    @property
    def description(self) -> str:
        """Which database, fit for a log."""
        return self.engine.url.render_as_string() if self.engine is not None else repr(self._sessions)

    @property
    def dialect(self) -> str:
        """The name of the database's dialect."""
        return str(self._sessions().get_bind().dialect.name)

    @property
    def driver(self) -> str:
        """The name of the database's driver."""
        return str(self._sessions().get_bind().dialect.driver)

    @property
    def engine(self) -> Engine | None:
        """The engine that the sessions are made for, if there is one for all; of an ``AsyncEngine``, the one within."""
        bind = self._sessions.kw.get("bind")
        if isinstance(bind, AsyncEngine):
            return bind.sync_engine
        return bind if isinstance(bind, Engine) else None

    @property
    def is_threaded(self) -> bool:
        """Whether its sessions block, and so are used in threads."""
        return isinstance(self._sessions, sessionmaker)

    @property
    def is_borrowed(self) -> bool:
        """Whether all of it happens in one connection, and in a transaction of its owner's: SQLAlchemy's recipe for suites of tests."""
        bind = self._sessions.kw.get("bind")
        # Asked for each write: whether it is an instance of an abstract class takes long to say.
        return type(bind) is not AsyncEngine and isinstance(bind, BORROWED)

    def check_holds(self, source: Any) -> None:
        """Raises `ConfigurationError` where ``binds=`` sends a mapped class, or a `Table`, elsewhere than to the outbox's engine.

        Its rows would commit in one database and their tasks in another: a crash between the two would part them.
        """
        if not self._sessions.kw.get("binds"):
            return
        session = self._sessions()
        is_table = isinstance(source, Table)
        bound = session.get_bind(clause=source) if is_table else session.get_bind(source)
        if self.engine is None or bound is not self.engine:
            raise ConfigurationError(
                f"the session factory's binds= sends {source!r} to {bound!r}, and its outbox is that of bind=, which is"
                f" {self.engine!r}: rows and tasks commit together in one database alone, so give that as bind="
            )

    async def write(
        self,
        work: Callable[[AnySession], Coroutine[Any, Any, Result]],
        *,
        hooked: bool = False,
        begins_with_write: bool = False,
    ) -> Result:
        """Have `work` write in a transaction: committed when it returns, rolled back by whatever is raised.

        Where it is `hooked` it is in others' hands, who must not end it: row and tasks would no longer commit together.
        `begins_with_write`: its first statement is one that writes.
        """
        session = self._session(hooked=hooked)
        guard = _CommitGuard(session.sync_session) if hooked else None
        async with self._admission(session, writes=True):
            try:
                transaction = self._transact(session, work, guard=guard, begins_with_write=begins_with_write)
                if isinstance(session, SessionInThreads):
                    return await transaction
                return await in_one_greenlet(transaction)
            except BaseException:
                # That rolls back, and is not to be interrupted by another cancellation.
                await asyncio.shield(asyncio.ensure_future(session.close()))
                if guard is not None:
                    guard.lift()  # not before: what a hook left running could still commit
                raise

    async def _transact(
        self,
        session: AnySession,
        work: Callable[[AnySession], Coroutine[Any, Any, Result]],
        *,
        guard: _CommitGuard | None,
        begins_with_write: bool,
    ) -> Result:
        transaction = None
        if not (begins_with_write and self._begins_by_itself):
            transaction = await session.run_sync(self._begin, begins_with_write=begins_with_write)
        elif guard is not None:
            # Nothing is sent: the first statement begins it, here as there where it isn't begun at all.
            transaction = session.sync_session.begin()
        result = await work(session)
        if transaction is not None and not transaction.is_active:
            raise RuntimeError("a hook rolled the transaction back; to refuse a write, it raises")
        if guard is not None:
            guard.lift()
        await session.run_sync(_commit_and_close)
        return result

    async def write_at_once(self, work: Callable[[Session], Result]) -> Result:
        """What `work` writes, and first of all writes, in a transaction of its own where nothing but the database is waited for."""
        session = self._session()
        async with self._admission(session, writes=True):
            try:
                return await _called(session, self._write_and_close, work)
            except BaseException:
                # As in `write`.
                await asyncio.shield(asyncio.ensure_future(session.close()))
                raise

    async def read(self, work: Callable[[Session], Result]) -> Result:
        """What `work` reads, in a transaction of its own.

        That ends as its connection goes back to the pool, which rolls back: a COMMIT before that would be a round trip for nothing.
        """
        session = self._session()
        async with self._admission(session, writes=False):
            return await _called(session, _read_and_close, work)

    def _session(self, *, hooked: bool = False) -> AnySession:
        engine = None if hooked else plain_engine(self._sessions, self._listeners)
        if engine is not None:
            return SessionInGreenlet(PlainSession(engine))
        session = self._sessions()
        if isinstance(session, AsyncSession):
            return SessionInGreenlet(session.sync_session, for_hooks=session)
        return SessionInThreads(session, self._executor)

    def _admission(self, session: AnySession, *, writes: bool) -> AbstractAsyncContextManager[Any]:
        """Until when a transaction may begin: mostly at once."""
        turn, gate = self._turn(session), self._gate(session, writes=writes)
        if gate is not None and self.is_borrowed:
            # A hook of a request's that has it may ask its own app, in a savepoint of the same transaction.
            return AT_ONCE if gate.locked() and HELD.get() is gate else _held(turn, gate)
        if turn is not None and gate is not None:
            return _both(turn, gate)
        lock = turn or gate
        return AT_ONCE if lock is None else _admitted(lock)

    def _turn(self, session: AnySession) -> asyncio.Semaphore | None:
        """Where threads are needed, a turn before one is taken: see `threads_for`."""
        if not isinstance(session, SessionInThreads):
            return None
        loop = asyncio.get_running_loop()
        if loop not in self._turns:
            self._turns[loop] = asyncio.Semaphore(self._threads)
        return self._turns[loop]

    def _gate(self, session: AnySession, *, writes: bool) -> asyncio.Lock | None:
        """SQLite has one writer at a time: writers of this process queue here, fairly, instead of polling for the file.

        Only where all sessions share one connection (SQLite in memory, or a connection that is given) would a reader meet a writer's
        transaction, or one savepoint another.
        """
        bind = session.get_bind()
        if not isinstance(bind, Connection) and (
            bind.dialect.name != "sqlite" or not (writes or isinstance(bind.pool, StaticPool))
        ):
            return None
        return self._gates.setdefault(asyncio.get_running_loop(), asyncio.Lock())

    @cached_property
    def _threads(self) -> int:
        return threads_for(self._sessions().get_bind())

    @cached_property
    def _executor(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._threads, thread_name_prefix="concave-session")

    def _begin(self, session: Session, *, begins_with_write: bool) -> SessionTransaction:
        bind = session.get_bind()
        if isinstance(bind, Connection) and bind.in_transaction():
            return session.begin()  # in its owner's transaction, which isn't ours to end or to begin anew
        transaction = session.begin()
        if bind.dialect.name == "sqlite":
            connection = session.connection()
            if _begins_with_a_write(connection) and begins_with_write:
                self._begins_by_itself = True
            else:
                _take_write_lock(connection)
        elif not self._begins_by_itself:
            _check_isolation(session.connection())
            self._begins_by_itself = True
        return transaction

    def _write_and_close(self, session: Session, work: Callable[[Session], Result]) -> Result:
        if not self._begins_by_itself:
            self._begin(session, begins_with_write=True)
        result = work(session)
        _commit_and_close(session)
        return result


class _CommitGuard:
    """Refuses a session's commit until it is lifted. Savepoints are the hooks' own."""

    def __init__(self, session: Session) -> None:
        self._session = session
        event.listen(session, "before_commit", self._refuse)

    def lift(self) -> None:
        if event.contains(self._session, "before_commit", self._refuse):
            event.remove(self._session, "before_commit", self._refuse)

    def _refuse(self, session: Any) -> None:
        if not session.in_nested_transaction():
            raise RuntimeError(
                "a hook must not commit: the resource does, with the row and its tasks together"
            )


async def _called(session: AnySession, function: Callable[..., Result], *args: Any) -> Result:
    if isinstance(session, SessionInThreads):
        return await session.run_sync(function, *args)
    return await greenlet_spawn(function, session.sync_session, *args)


def _read_and_close(session: Session, work: Callable[[Session], Result]) -> Result:
    try:
        return work(session)
    finally:
        session.close()


@asynccontextmanager
async def _admitted(lock: asyncio.Lock | asyncio.Semaphore) -> AsyncGenerator[None]:
    try:
        async with asyncio.timeout(GATE_PATIENCE):
            await lock.acquire()
    except TimeoutError:
        raise busy() from None
    try:
        yield
    finally:
        lock.release()


@asynccontextmanager
async def _held(turn: asyncio.Semaphore | None, gate: asyncio.Lock) -> AsyncGenerator[None]:
    async with AT_ONCE if turn is None else _admitted(turn), _admitted(gate):
        token = HELD.set(gate)
        try:
            yield
        finally:
            HELD.reset(token)


@asynccontextmanager
async def _both(turn: asyncio.Semaphore, gate: asyncio.Lock) -> AsyncGenerator[None]:
    async with _admitted(turn), _admitted(gate):
        yield


def _check_isolation(connection: Connection) -> None:
    raw: Any = connection.connection.dbapi_connection
    # asyncpg's adapter says so in words, psycopg's and others' connections have a flag.
    if getattr(raw, "isolation_level", None) == "autocommit" or getattr(raw, "autocommit", None) is True:
        raise ConfigurationError(
            "the engine is in AUTOCOMMIT, where nothing can be rolled back: give the resource's session factory"
            " another, say engine.execution_options(isolation_level='READ COMMITTED')"
        )


def _begins_with_a_write(connection: Connection) -> bool:
    """Whether SQLite's driver has begun, or does so with the first change; then that takes the lock, and waits for it in a queue."""
    raw: Any = connection.connection.driver_connection
    return bool(raw.in_transaction) or raw.isolation_level is not None


def _take_write_lock(connection: Connection) -> None:
    # A transaction that reads first and writes later can fail with SQLITE_BUSY at once, whatever the timeout: so it begins as
    # a writer. The driver begins lazily; an engine that was told to begin by itself (SQLAlchemy's recipe, or the driver's
    # autocommit=False) has begun, but as a reader. Nothing has happened in that transaction yet.
    if has_begun(connection):
        connection.exec_driver_sql("COMMIT")
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def has_begun(connection: Connection) -> bool:
    """Whether SQLite's own transaction has: its drivers begin one with the first change."""
    raw: Any = connection.connection.driver_connection
    return bool(raw.in_transaction)


def _commit_and_close(session: Session) -> None:
    try:
        session.commit()
    except BaseException as error:
        # SQLite keeps a transaction whose commit it refuses, for whoever gets the connection next.
        session.rollback()
        if is_outage(error):
            raise outcome_unknown() from error
        raise
    session.close()
