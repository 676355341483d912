"""What is asked of asyncpg itself: a statement of SQLAlchemy's takes longer in its adapter than in its driver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.util import await_only

__all__ = ["executed_directly", "notice_statements"]

DIRECTLY: Final = "concave_directly"
"""Where a connection keeps that its driver may prepare statements as it likes."""
CHOSEN: Final = frozenset(
    {"prepared_statement_cache_size", "prepared_statement_name_func", "statement_cache_size"}
)
"""Options of who has reasons to say how they are prepared: a pooler between here and the server."""


def notice_statements(engine: Engine) -> None:
    """Have asyncpg's connections know, from now on, whether their statements are prepared as usual."""
    if engine.dialect.driver == "asyncpg" and not event.contains(engine, "do_connect", _notice):
        event.listen(engine, "do_connect", _notice)


def executed_directly(connection: Connection, statement: str, parameters: Sequence[Any]) -> bool:
    """Whether the driver has executed a statement, in a transaction that has begun. Errors are those of SQLAlchemy.

    Nobody else may have the connection: SQLAlchemy's adapter makes its users wait for each other, the driver refuses them.
    """
    if not connection.info.get(DIRECTLY):
        return False
    raw: Any = connection.connection.driver_connection
    if not raw.is_in_transaction():
        return False
    try:
        await_only(raw.execute(statement, *parameters))
    except Exception as refused:
        lost = raw.is_closed()
        if lost:
            connection.invalidate(refused)
        raise DBAPIError(statement, None, refused, connection_invalidated=lost) from refused
    return True


def _notice(_dialect: Any, record: Any, _args: Any, options: dict[str, Any]) -> None:
    record.info[DIRECTLY] = CHOSEN.isdisjoint(options)
