"""The outbox: tasks written in the transaction of the row that triggered them, relayed once it has committed.

The way of a task::

    ctx.enqueue ─→ (one INSERT in the request's transaction) ─→ COMMIT ─→ submit to the store ─→ DELETE the row

A crash between any two steps loses nothing: what was committed and not deleted is swept up later. And it doubles nothing: a
row's id is the submission's id, which the store adds once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakValueDictionary

from sqlalchemy import func, literal, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from concave.errors import ConfigurationError, TasksNotInitializedError
from concave.failpoints import armed, reach
from concave.store.records import NewTask
from concave.tasks.defaults import announce_outbox, announced_outboxes, get_task_scheduler
from concave.tasks.outbox import Submit
from concave.tasks.scheduler import TaskScheduler
from concave_sqlalchemy.idempotency import Expiry
from concave_sqlalchemy.outbox_sql import (
    NUMBERED_INSERT,
    Given,
    can_delete_along,
    delete_rows,
    insert_rows,
    named,
)
from concave_sqlalchemy.payload import MalformedError, NewerError, aged, decode, encode, numbered
from concave_sqlalchemy.relay import Relay, Submission, submit_all
from concave_sqlalchemy.tables import database_time, explained, has_table, outbox_table
from concave_sqlalchemy.transactions import AnySession, Sessions, Transactions

__all__ = ["Outbox"]

log = logging.getLogger("concave.outbox")

SWEEP_BATCH = 500
IN_MEMORY = "memory://"


class Outbox:
    """The outbox of one database. `relay` sends what a request has committed, `sweep` what was left behind."""

    def __init__(self, sessions: Sessions) -> None:
        self.transactions = Transactions(sessions)
        self._sessions = sessions
        self._relays: dict[asyncio.AbstractEventLoop, Relay] = {}
        self._explicit: WeakValueDictionary[str, TaskScheduler] = WeakValueDictionary()
        self._newest_at_last_sweep: int | None = None
        self._relays_failed = False
        self._has_table = False
        self._has_written = False
        self._deletes_along: bool | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._expiry = Expiry(self.transactions)

    @classmethod
    def of(cls, sessions: Sessions) -> Outbox:
        """The outbox of the database that these sessions are for: one for all of its resources, announced in this process."""
        transactions = Transactions(sessions)
        for known in announced_outboxes():
            if isinstance(known, cls) and known.serves(sessions, transactions):
                return known
        outbox = cls(sessions)
        announce_outbox(outbox)
        return outbox

    def serves(self, sessions: Sessions, transactions: Transactions) -> bool:
        """Whether it is of the same database."""
        same_engine = transactions.engine is not None and transactions.engine is self.transactions.engine
        return sessions is self._sessions or same_engine

    def serve(self, schedulers: Iterable[TaskScheduler]) -> None:
        """Sweep for these, too, as long as they live: there may be tasks for them from before this process began.

        Not for those in memory: other processes call theirs the same, and have their tasks in memories of their own.
        """
        for each in schedulers:
            if not each.destination.startswith(IN_MEMORY):
                self._explicit.setdefault(each.destination, each)

    def __repr__(self) -> str:
        return f"Outbox({self.transactions.description})"

    def write_in(
        self, session: Session, submissions: Sequence[Submission], *, at_commit: bool = False
    ) -> list[Submission]:
        """Put submissions into a transaction, to be relayed if and only if it commits; the same with their numbers.

        `at_commit`: nothing comes after them but the commit, which may write them.
        """
        if not submissions:
            return []
        rows = self._rows_of(submissions)
        try:
            if not any(each.task.debounce for each in submissions):
                # The first goes by itself: who hasn't made the table is told so.
                insert_rows(session, rows, at_commit=at_commit and self._has_written)
                self._has_written = True
                return list(submissions)
            # Rows get their numbers in the order of `submissions`, while their transaction holds what it has changed: so
            # whoever commits a change of the same row later has higher ones.
            returned = session.execute(NUMBERED_INSERT, [named(row) for row in rows])
            sequences = {row.id: row.sequence for row in returned}
        except DBAPIError as error:
            raise explained(error, outbox_table) from error
        return [each._replace(task=numbered(each.task, sequences[each.task.id])) for each in submissions]

    @property
    def has_written(self) -> bool:
        """Whether its table is there, since it has taken a row."""
        return self._has_written

    def _rows_of(self, submissions: Sequence[Submission]) -> list[Given]:
        return [(task.id, encode(task), self.destination_of(scheduler)) for task, scheduler in submissions]

    def relayed(self) -> Sequence[str]:
        """Rows that were relayed a while ago, for the asking transaction, which commits next, to delete; they are its own from now on.

        That spares them a transaction and, where writes have all of the pool, a connection. None before one has gone well by itself:
        nobody's request is to fail for it.
        """
        return self._relay.relayed.take() if self._deletes_along else ()

    def keep(self, ids: Sequence[str]) -> None:
        """A write was refused to delete these: they are deleted by themselves, and so are all from now on."""
        log.info("a write may not delete %d relayed rows: that is done in transactions of its own", len(ids))
        self._deletes_along = False
        self._relay.relayed.add(ids)

    @property
    def _relay(self) -> Relay:
        loop = asyncio.get_running_loop()
        relay = self._relays.get(loop)
        if relay is None:
            # What a loop that has ended left undone will never be done there: its rows are swept up.
            for ended in [each for each in list(self._relays) if each.is_closed()]:
                self._relays.pop(ended, None)
            relay = self._relays[loop] = Relay(self._delete)
        return relay

    def relay(self, submissions: Sequence[Submission]) -> Awaitable[None] | None:
        """Hand over what has just been committed, in the background; what can't be sent now is swept up later.

        Where it isn't to be left to the background, what to wait for before anybody is answered.
        """
        if not submissions:
            return None
        relay = self._relay
        relay.send(submissions)
        if self.transactions.is_borrowed:
            return self.drain()  # whoever lent the connection goes on to use it
        # A loop may end with the one request that it was made for, as those of test clients do.
        return relay.delivered() if relay.is_young else None

    def relay_written(self, ids: Sequence[str]) -> None:
        """Hand over, in the background, those of these rows that have been committed; from any thread.

        Where no event loop runs, the one that sweeps this outbox does it, and without one they wait for a sweep: as they do in
        somebody else's transaction, where nothing is committed yet, and where whoever has the connection goes on to use it.
        """
        if self.transactions.is_borrowed:
            return
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            if self._loop is not None:
                with suppress(RuntimeError):  # it is closed, or closes at this moment
                    self._loop.call_soon_threadsafe(self._spawn_relay, ids)
        else:
            self._spawn_relay(ids)

    def _spawn_relay(self, ids: Sequence[str]) -> None:
        self._relay.spawn_sending(self._relay_written(ids))

    async def _relay_written(self, ids: Sequence[str]) -> None:
        columns = outbox_table.c
        statement = (
            select(
                columns.id,
                columns.payload,
                columns.sequence,
                columns.destination,
                literal(0.0).label("age"),
            )
            .where(columns.id.in_(ids))
            .order_by(columns.sequence)
        )
        try:
            rows = await self.transactions.read(lambda session: session.execute(statement).all())
        except DBAPIError as error:
            log.warning("%d tasks wait in the outbox for a sweep: %s", len(ids), error)
            return
        schedulers: dict[str | None, TaskScheduler | None] = {None: None}
        schedulers.update(self._explicit.items())
        decoded = await self._decoded([row for row in rows if row.destination in schedulers])
        self._relay.send([Submission(task, schedulers[row.destination]) for row, task in decoded])

    async def delivered(self, destination: str) -> bool:
        """Wait until what is on its way to a store has arrived, no longer than half a second; whether there may have been any.

        From any event loop: others are asked in theirs.
        """
        here = asyncio.get_running_loop()
        relays = [
            (loop, relay)
            for loop, relay in list(self._relays.items())
            if not relay.is_idle and (loop is here or loop.is_running())
        ]
        await asyncio.gather(
            *(
                relay.delivered(destination) if loop is here else relay.delivered_elsewhere(destination)
                for loop, relay in relays
            )
        )
        return bool(relays)

    async def drain(self) -> None:
        """Wait until rows that have been relayed are deleted."""
        await self._relay.drain()

    async def sweep(self, submit: Submit) -> int:
        """Relay what has been here for longer than a live process takes; see `concave.tasks.outbox.Outbox`.

        Longer means: it was here at the last sweep. The first sweep takes everything, since its process has just started, and so
        does one after a relay that failed: who waits for the end of an outage waits for one sweep, not for two.
        Tasks for a trigger's own scheduler go to that one, and wait where this process doesn't know it. Raises what kept tasks
        from their store, once those for other stores are relayed.
        """
        self._loop = asyncio.get_running_loop()
        await self._expiry.sweep()
        # Asked before the newest row is: what fails between the two is the next sweep's.
        for relay in list(self._relays.values()):
            self._relays_failed |= relay.has_left_some()
        newest = await self._newest()
        if newest is None:
            return 0
        known = self._newest_at_last_sweep
        until = newest if known is None or self._relays_failed else known
        self._newest_at_last_sweep, self._relays_failed = newest, False
        # At once: where one store keeps its tasks waiting, others needn't wait for it.
        submits = self._submits(submit)
        ways = [
            self._sweep_to(destination, each, until, is_explicit=each is not submit)
            for destination, each in submits.items()
        ]
        ended = await asyncio.gather(*ways, return_exceptions=True)
        troubles = [each for each in ended if isinstance(each, BaseException)]
        for trouble in troubles[1:]:
            log.warning("could not sweep %r for one of its stores: %s", self, trouble)
        if troubles:
            raise troubles[0]
        return sum(each for each in ended if isinstance(each, int))

    async def _sweep_to(
        self, destination: str | None, submit: Submit, until: int, *, is_explicit: bool
    ) -> int:
        relayed = after = 0
        while rows := await self._left(after, until, destination):
            after = rows[-1].sequence
            if armed:
                await reach("sweep.read")
            tasks = [task for _, task in await self._decoded(rows)]
            try:
                done = await submit_all(submit, tasks) if tasks else []
            except ConfigurationError as error:
                if not is_explicit:
                    raise
                # A store that this process has declared and not connected: others have, or its turn comes.
                log.debug("rows for %s wait: %s", destination, error)
                break
            if armed:
                await reach("sweep.sent")
            await self._delete(done)
            relayed += len(done)
        return relayed

    async def _newest(self) -> int | None:
        """The newest row's number, 0 where there is none; None without a table, which only a trigger needs."""
        if not self._has_table:
            self._has_table = await self.transactions.read(
                lambda session: has_table(session.connection(), outbox_table)
            )
        if not self._has_table:
            return None
        newest = select(func.max(outbox_table.c.sequence))
        return await self.transactions.read(lambda session: session.execute(newest).scalar_one()) or 0

    async def _left(self, after: int, until: int, destination: str | None) -> Sequence[Any]:
        """The next rows to relay, oldest first, each with its age in seconds."""
        columns = outbox_table.c
        statement = (
            select(
                columns.sequence,
                columns.id,
                columns.payload,
                (database_time() - columns.created_at).label("age"),
            )
            .where(
                columns.broken.is_(None),
                columns.sequence > after,
                columns.sequence <= until,
                columns.destination.is_not_distinct_from(destination),
            )
            .order_by(columns.sequence)
            .limit(SWEEP_BATCH)
        )
        if after >= until:
            return ()
        return await self.transactions.read(lambda session: session.execute(statement).all())

    def _submits(self, submit: Submit) -> dict[str | None, Submit]:
        """Who takes the tasks of which destination."""
        submits: dict[str | None, Submit] = {None: submit}
        submits |= {name: scheduler.submit for name, scheduler in self._explicit.items()}
        with suppress(TasksNotInitializedError):
            submits[get_task_scheduler().destination] = submit
        return submits

    def destination_of(self, scheduler: TaskScheduler | None) -> str | None:
        """How an outbox row names the scheduler that its task is for; one that is named so is swept for from now on."""
        if scheduler is None:
            return None
        self._explicit[scheduler.destination] = scheduler
        return scheduler.destination

    async def _decoded(self, rows: Sequence[Any]) -> list[tuple[Any, NewTask]]:
        tasks: list[tuple[Any, NewTask]] = []
        for row in rows:
            try:
                tasks.append((row, aged(decode(row.id, row.payload, row.sequence), row.age)))
            except NewerError as error:
                log.debug("outbox row %s waits: %s", row.id, error)
            except MalformedError as error:
                log.error("outbox row %s can't be read and is put aside: %s", row.id, error)
                await self._put_aside(row.id, str(error))
        return tasks

    async def _put_aside(self, task_id: str, reason: str) -> None:
        statement = update(outbox_table).where(outbox_table.c.id == task_id).values(broken=reason[:1000])
        await self.transactions.write_at_once(lambda session: session.execute(statement))

    async def _delete(self, ids: Sequence[str]) -> None:
        if not ids:
            return

        async def delete(session: AnySession) -> bool:
            await session.run_sync(delete_rows, ids)
            if armed:
                await session.outside(reach("outbox.deleting"))
            if self._deletes_along is None:
                return await session.run_sync(can_delete_along)
            return self._deletes_along

        self._deletes_along = await self.transactions.write(delete, begins_with_write=True)
        if armed:
            await reach("outbox.deleted")
