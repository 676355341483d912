"""What a session does beyond its connection is for its owner: his own class, options, events. Where there is none of it, and no hook
that gets the session, a request needs the connection alone, which costs a third less.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias, TypeVar, cast

from sqlalchemy import Connection, Engine, NestedTransaction, RootTransaction
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session
from sqlalchemy.util import greenlet_spawn

__all__ = ["PlainSession", "listeners_of_all", "plain_engine"]

Listeners: TypeAlias = tuple[Any, ...]

T = TypeVar("T")

WITHOUT_EFFECT: Final = frozenset({"bind", "expire_on_commit", "autoflush"})
"""Options of a session that mean nothing to who uses no objects."""

EVENTS: Final = (
    "do_orm_execute",
    "after_begin",
    "before_commit",
    "after_commit",
    "after_rollback",
    "after_soft_rollback",
    "after_transaction_create",
    "after_transaction_end",
)
"""What listeners may do to a session that has no objects: set a tenant as it begins, say."""


def listeners_of_all() -> Listeners:
    """The listeners that every `Session` has, now and later: they are true once there are any."""
    return tuple(getattr(Session().dispatch, each) for each in EVENTS)


def plain_engine(sessions: Any, listeners: Listeners) -> Engine | None:
    """The engine whose connections do all that these sessions do; None where the sessions do more.

    Asked anew for each transaction, since a factory may be configured, and a listener be added, at any time.
    """
    if not isinstance(sessions, async_sessionmaker):
        return None
    made: Any = cast("Any", sessions).class_
    if made is not AsyncSession or AsyncSession.sync_session_class is not Session:
        return None
    bind = sessions.kw.get("bind")
    if not isinstance(bind, AsyncEngine) or not sessions.kw.keys() <= WITHOUT_EFFECT:
        return None
    return None if any(listeners) else bind.sync_engine


class _Core:
    """As much of a ``Session`` as is used here: a connection from the first statement to the end."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None

    def connection(self) -> Connection:
        """The connection, as long as this isn't closed the same."""
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    def begin(self) -> RootTransaction:
        return self.connection().begin()

    def begin_nested(self) -> NestedTransaction:
        return self.connection().begin_nested()

    def execute(self, statement: Any, parameters: Any = None) -> Any:
        return self.connection().execute(statement, parameters)

    def get_bind(self, *_: Any, **_options: Any) -> Engine:
        return self._engine

    def commit(self) -> None:
        self.connection().commit()

    def close(self) -> None:
        """Give the connection back, which rolls back what isn't committed."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class PlainSession:
    """As much of an ``AsyncSession`` as is used here, on a connection of `engine`."""

    def __init__(self, engine: Engine) -> None:
        self.sync_session = _Core(engine)

    async def close(self) -> None:
        """Close it, which rolls back."""
        await greenlet_spawn(self.sync_session.close)

    def get_bind(self, *_: Any, **_options: Any) -> Engine:
        """The engine."""
        return self.sync_session.get_bind()

    @asynccontextmanager
    async def begin_nested(self) -> AsyncGenerator[NestedTransaction]:
        """A savepoint, released at the end and rolled back by whatever is raised."""
        savepoint = await greenlet_spawn(self.sync_session.begin_nested)
        try:
            yield savepoint
        except BaseException:
            await greenlet_spawn(savepoint.rollback)
            raise
        await greenlet_spawn(savepoint.commit)

    async def execute(self, statement: Any, parameters: Any = None) -> Any:
        """Execute a statement; its rows are fetched by then."""
        return await greenlet_spawn(self.sync_session.execute, statement, parameters)

    async def run_sync(self, function: Callable[..., T], *args: Any, **options: Any) -> T:
        """Call a function with what it takes for a session."""
        return await greenlet_spawn(function, self.sync_session, *args, **options)
