"""The outbox: tasks written in the transaction of the row that triggered them, relayed once it has committed.

The way of a task::

    ctx.enqueue ─→ (one INSERT in the request's transaction) ─→ COMMIT ─→ submit to the store ─→ DELETE the row

A crash between any two steps loses nothing: what was committed and not deleted is swept up later. And it doubles nothing: a
row's id is the submission's id, which the store adds once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json, to_json
from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from concave.errors import ConfigurationError
from concave.store.records import Debounce, NewTask, Retention
from concave.tasks.defaults import announce_outbox, announced_outboxes
from concave.tasks.outbox import Submit
from concave.tasks.scheduler import TaskScheduler
from concave_sqlalchemy.relay import Relay
from concave_sqlalchemy.tables import database_time, outbox_table
from concave_sqlalchemy.transactions import Transactions

__all__ = ["Outbox", "Submission"]

log = logging.getLogger("concave.outbox")

SWEEP_LIMIT = 500


@dataclass(frozen=True, slots=True)
class Submission:
    """A task on its way through the outbox, and the scheduler it is for, where that isn't the default."""

    task: NewTask
    scheduler: TaskScheduler | None = None


class Outbox:
    """The outbox of one database. `relay` sends what a request has committed, `sweep` what was left behind."""

    def __init__(self, sessions: async_sessionmaker[Any]) -> None:
        self.transactions = Transactions(sessions)
        self._sessions = sessions
        self._relay = Relay(self._delete)
        self._seen: frozenset[str] | None = None

    @classmethod
    def of(cls, sessions: async_sessionmaker[Any]) -> Outbox:
        """The outbox of the database that these sessions are for: one for all of its resources, announced in this process."""
        transactions = Transactions(sessions)
        for known in announced_outboxes():
            if isinstance(known, cls) and known.serves(sessions, transactions):
                return known
        outbox = cls(sessions)
        announce_outbox(outbox)
        return outbox

    def serves(self, sessions: async_sessionmaker[Any], transactions: Transactions) -> bool:
        """Whether it is of the same database."""
        same_engine = transactions.bind is not None and transactions.bind is self.transactions.bind
        return sessions is self._sessions or same_engine

    def __repr__(self) -> str:
        return f"Outbox({self.transactions.description})"

    async def write(self, session: AsyncSession, submissions: Sequence[Submission]) -> None:
        """Put submissions into a transaction; they are relayed if and only if it commits."""
        if not submissions:
            return
        rows = [
            {"id": each.task.id, "payload": encode(each.task), "created_at": database_time()}
            for each in submissions
        ]
        try:
            await session.execute(insert(outbox_table).values(rows))
        except DBAPIError as error:
            raise _explained(error) from error

    async def relay(self, submissions: Sequence[Submission]) -> None:
        """Hand over what has just been committed. Never raises: what can't be sent now is swept up later."""
        await self._relay.send(submissions)

    async def drain(self) -> None:
        """Wait until rows that have been relayed are deleted."""
        await self._relay.drain()

    async def sweep(self, submit: Submit) -> int:
        """Relay what has been here for longer than a live process takes; see `concave.tasks.outbox.Outbox`.

        Longer means: it was here at the last sweep. The first sweep takes everything, since its process has just started.
        """
        statement = (
            select(outbox_table.c.id, outbox_table.c.payload, database_time() - outbox_table.c.created_at)
            .where(outbox_table.c.broken.is_(None))
            .order_by(outbox_table.c.sequence)
            .limit(SWEEP_LIMIT)
        )
        async with self.transactions.reading() as session:
            rows = (await session.execute(statement)).all()
        present = frozenset(row[0] for row in rows)
        left = rows if self._seen is None else [row for row in rows if row[0] in self._seen]
        tasks = await self._decoded(left)
        if tasks:
            await submit(tasks)
            await self._delete([task.id for task in tasks])
        self._seen = present
        return len(tasks)

    async def _decoded(self, rows: Iterable[Any]) -> list[NewTask]:
        tasks: list[NewTask] = []
        for task_id, payload, age in rows:
            try:
                tasks.append(_aged(decode(payload), age))
            except (ValueError, TypeError, KeyError) as error:
                log.error("outbox row %s can't be read and is put aside: %s", task_id, error)
                await self._put_aside(task_id, str(error))
        return tasks

    async def _put_aside(self, task_id: str, reason: str) -> None:
        async with self.transactions.writing() as session:
            await session.execute(
                update(outbox_table).where(outbox_table.c.id == task_id).values(broken=reason[:1000])
            )

    async def _delete(self, ids: Sequence[str]) -> None:
        async with self.transactions.writing() as session:
            await session.execute(delete(outbox_table).where(outbox_table.c.id.in_(ids)))


def encode(task: NewTask) -> str:
    """A submission as JSON."""
    return to_json(
        {**task._asdict(), "input": task.input.decode(), "retention": list(task.retention)}
    ).decode()


def decode(payload: str) -> NewTask:
    """A submission from JSON. Raises ValueError, TypeError or KeyError for what isn't one."""
    fields: dict[str, Any] = from_json(payload)
    debounce = fields["debounce"]
    fields["input"] = fields["input"].encode()
    fields["debounce"] = Debounce(*debounce) if debounce else None
    fields["retention"] = Retention(*fields["retention"])
    return NewTask(**fields)


def _aged(task: NewTask, age: float) -> NewTask:
    """A delay counts from when the row was written, however late it is relayed."""
    return task._replace(delay=max(0, task.delay - round(max(0.0, age) * 1_000_000)))


def _explained(error: DBAPIError) -> Exception:
    text = str(error.orig).lower()
    if outbox_table.name in text and ("no such table" in text or "does not exist" in text):
        return ConfigurationError(
            f"there is no table {outbox_table.name!r}: await create_outbox_tables(engine) once, or add"
            " concave_sqlalchemy.metadata to Alembic's target_metadata"
        )
    return error
