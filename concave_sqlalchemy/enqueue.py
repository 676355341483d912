"""Tasks that commit with an application's own writes, with no resource and no request."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from datetime import datetime
from typing import Any, TypedDict, Unpack, overload

from sqlalchemy import Engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from concave.errors import ConfigurationError
from concave.store.records import NewTask
from concave.tasks.define import TaskDefinition
from concave.tasks.options import Duration, Key
from concave.tasks.submission import submission
from concave_sqlalchemy.outbox import Outbox
from concave_sqlalchemy.relay import Submission

__all__ = ["EnqueueOptions", "enqueue_in", "relay_at_the_end"]

WRITTEN = "concave_outbox_written"
"""Where a session keeps the ids of the outbox rows of its transaction."""


class EnqueueOptions(TypedDict, total=False):
    """What `enqueue_in` can be told: as `TaskScheduler.schedule`; `key` coalesces as that of a `TaskTrigger` does."""

    delay: Duration | None
    at: datetime | None
    priority: int | None
    idempotency_key: Key | None
    key: str | None


@overload
def enqueue_in(
    session: AsyncSession,
    task: TaskDefinition[Any, Any],
    input: Any = None,
    **options: Unpack[EnqueueOptions],
) -> Coroutine[Any, Any, str]: ...


@overload
def enqueue_in(
    session: Session, task: TaskDefinition[Any, Any], input: Any = None, **options: Unpack[EnqueueOptions]
) -> str: ...


def enqueue_in(
    session: AsyncSession | Session,
    task: TaskDefinition[Any, Any],
    input: Any = None,
    **options: Unpack[EnqueueOptions],
) -> Coroutine[Any, Any, str] | str:
    """Put a task into the outbox of a session's database; its id. It runs if and only if the transaction commits.

    To be awaited for an ``AsyncSession``, and not for a ``Session``. Options are `delay`, `at`, `priority` and
    `idempotency_key`, as of `TaskScheduler.schedule`, and `key`, which coalesces as `TaskTrigger` does. A process's lifespan
    sweeps the outbox of an engine once a resource was declared on it or this was called with it.

    Raises `TaskInputError` for an input that isn't what the task takes, and `ConfigurationError` without an outbox table
    (see `create_outbox_tables`) or for a session that isn't bound to one engine.
    """
    new = submission(
        task,
        input,
        delay=options.get("delay"),
        at=options.get("at"),
        priority=options.get("priority"),
        idempotency_key=options.get("idempotency_key"),
        coalesce=options.get("key"),
    )
    if isinstance(session, AsyncSession):
        return session.run_sync(_write, new)
    return _write(session, new)


def relay_at_the_end(session: Session, outbox: Outbox, ids: Iterable[str]) -> None:
    """Relay these rows once the session's transaction is over. What a rollback took, be it a savepoint's, is not there then."""
    written: list[str] | None = session.info.get(WRITTEN)
    if written is None:
        written = session.info[WRITTEN] = []
        _listen(session, outbox, written)
    written.extend(ids)


def _write(session: Session, new: NewTask) -> str:
    outbox = _outbox_of(session)
    outbox.write_in(session, [Submission(new)])
    relay_at_the_end(session, outbox, [new.id])
    return new.id


def _listen(session: Session, outbox: Outbox, written: list[str]) -> None:
    def ended(_session: Any, transaction: Any) -> None:
        if transaction.parent is None and written:
            ids = list(written)
            written.clear()
            outbox.relay_written(ids)

    event.listen(session, "after_transaction_end", ended)


def _outbox_of(session: Session) -> Outbox:
    engine = session.bind
    if not isinstance(engine, Engine):
        raise ConfigurationError(
            f"enqueue_in() takes a session that is bound to an Engine or AsyncEngine, not to {engine!r}"
        )
    is_async = engine.dialect.is_async
    outbox = Outbox.of(async_sessionmaker(AsyncEngine(engine)) if is_async else sessionmaker(engine))
    # Others know an outbox weakly: it lives as long as its engine.
    vars(engine)["_concave_outbox"] = outbox
    return outbox
