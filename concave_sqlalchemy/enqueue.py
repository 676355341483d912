"""Tasks that commit with an application's own writes, with no resource and no request."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from concave.errors import ConfigurationError
from concave.tasks.define import TaskDefinition
from concave.tasks.options import Duration
from concave.tasks.submission import submission
from concave_sqlalchemy.outbox import Outbox
from concave_sqlalchemy.relay import Submission

__all__ = ["enqueue_in"]

WRITTEN = "concave_outbox_written"
"""Where a session keeps the ids of the outbox rows of its transaction."""


async def enqueue_in(
    session: AsyncSession,
    task: TaskDefinition[Any, Any],
    input: Any = None,
    *,
    delay: Duration | None = None,
    at: datetime | None = None,
    priority: int | None = None,
    idempotency_key: str | None = None,
    key: str | None = None,
) -> str:
    """Put a task into the outbox of a session's database; its id. It runs if and only if the transaction commits.

    Options are those of `TaskScheduler.schedule`; `key` coalesces as `TaskTrigger` does. A process's lifespan sweeps the
    outbox of an engine once a resource was declared on it or this was called with it.

    Raises `TaskInputError` for an input that isn't what the task takes, and `ConfigurationError` without an outbox table
    (see `create_outbox_tables`) or for a session that isn't bound to one ``AsyncEngine``.
    """
    new = submission(
        task, input, delay=delay, at=at, priority=priority, idempotency_key=idempotency_key, coalesce=key
    )
    outbox = _outbox_of(session)
    await outbox.write(session, [Submission(new)])
    written: list[str] | None = session.sync_session.info.get(WRITTEN)
    if written is None:
        written = session.sync_session.info[WRITTEN] = []
        _relay_at_the_end(session, outbox, written)
    written.append(new.id)
    return new.id


def _relay_at_the_end(session: AsyncSession, outbox: Outbox, written: list[str]) -> None:
    """Relay what was written once a transaction is over. What a rollback took, be it a savepoint's, is not there any more."""

    def ended(_session: Any, transaction: Any) -> None:
        if transaction.parent is None and written:
            ids = list(written)
            written.clear()
            outbox.relay_written(ids)

    event.listen(session.sync_session, "after_transaction_end", ended)


def _outbox_of(session: AsyncSession) -> Outbox:
    engine = session.bind
    if not isinstance(engine, AsyncEngine):
        raise ConfigurationError(
            f"enqueue_in() takes a session that is bound to an AsyncEngine, not to {engine!r}"
        )
    outbox = Outbox.of(async_sessionmaker(engine))
    # Others know an outbox weakly: it lives as long as its engine.
    vars(engine.sync_engine)["_concave_outbox"] = outbox
    return outbox
