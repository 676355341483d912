"""What a session does beyond its connection is for its owner: his own class, options, events. Where there is none of it, and no hook
that gets the session, a request needs the connection alone, which costs a third less.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias, cast

from sqlalchemy import Connection, Engine, NestedTransaction, RootTransaction
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

__all__ = ["PlainSession", "listeners_of_all", "plain_engine"]

Listeners: TypeAlias = tuple[Any, ...]

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


class PlainSession:
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
        """Begin it."""
        return self.connection().begin()

    def begin_nested(self) -> NestedTransaction:
        """A savepoint."""
        return self.connection().begin_nested()

    def execute(self, statement: Any, parameters: Any = None) -> Any:
        """Execute a statement."""
        return self.connection().execute(statement, parameters)

    def get_bind(self, *_: Any, **_options: Any) -> Engine:
        """The engine."""
        return self._engine

    def commit(self) -> None:
        """Commit it."""
        self.connection().commit()

    def rollback(self) -> None:
        """Roll it back."""
        self.connection().rollback()

    def close(self) -> None:
        """Give the connection back, which rolls back what isn't committed."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
