"""One writing request, one transaction; committed before anything is answered."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from sqlalchemy.orm import Session
from sqlalchemy.util import await_only

from concave.errors import TaskInputTooLargeError
from concave.failpoints import FailPoint, armed, reach
from concave.hooks import HookContext, PlainTriggers, Row
from concave.tasks.submission import new_task_id
from concave_sqlalchemy.idempotency import Records, in_flight
from concave_sqlalchemy.outbox import Outbox
from concave_sqlalchemy.outbox_sql import delete_along
from concave_sqlalchemy.refusals import ColumnNames, database_errors
from concave_sqlalchemy.relay import Submission
from concave_sqlalchemy.transactions import AnySession
from concave_sqlalchemy.write import Write, too_large
from concave_sqlalchemy.writing.call import Answer, Call, IdempotencyKey
from concave_sqlalchemy.writing.insert_with_tasks import InsertWithTasks, NotAlikeError, TasksToBe, TaskToBe

__all__ = ["Performer", "Work"]

log = logging.getLogger("concave.resource")

Work: TypeAlias = Callable[[Write], Awaitable[Answer]]
"""What a request does in its transaction. The answer is made there: nothing that could fail comes after the commit."""


@dataclass(frozen=True, slots=True, eq=False)
class Performer:
    """Begins and ends the transactions of one resource."""

    resource: str
    outbox: Outbox
    hooked: bool
    """Whether hooks run inside that get the session, in whose hands the transaction is then."""
    records: Records
    names: ColumnNames
    shown: Callable[[Row], Row]
    """How tasks are told of values that JSON has nothing for."""
    inserts: InsertWithTasks
    in_flight: set[str] = field(default_factory=set[str])
    """The idempotency keys of the requests that this process is carrying out."""

    def perform(self, call: Call, work: Work, *, begins_with_write: bool = False) -> Awaitable[Answer]:
        """Do what a request asks for; or answer as before, where its key says that it was done.

        `begins_with_write`: the first statement of `work` is one that writes.
        """
        if call.key is None:
            return self._perform(call, work, begins_with_write=begins_with_write)
        return self._perform_once(call, call.key, work)

    async def _perform_once(self, call: Call, key: IdempotencyKey, work: Work) -> Answer:
        if key.id in self.in_flight:
            raise in_flight()
        self.in_flight.add(key.id)
        try:
            return await self._perform(call, partial(self._once, key, work))
        finally:
            self.in_flight.discard(key.id)

    async def perform_bare(self, work: Callable[[Session], tuple[Answer, Row]]) -> Answer:
        """`perform`, where no hook runs and no key counts: nothing but the database is waited for."""
        with database_errors(self.names):
            answer, _ = await self.outbox.transactions.write_at_once(work)
        return answer

    @property
    def waits_on_the_loop(self) -> bool:
        """Whether transactions are the event loop's own affair, and not that of threads."""
        return not self.outbox.transactions.is_threaded

    async def perform_at_once(
        self,
        call: Call,
        work: Callable[[Session, TasksToBe | None], tuple[Answer, Row]],
        triggers: PlainTriggers,
    ) -> Answer:
        """`perform`, where the one hook has but tasks for the row, and no key counts: one call in one greenlet.

        `work` inserts the row, and the tasks with it where it can; which it confirms then.
        """

        def within(session: Session, *, together: bool = True) -> tuple[Answer, Sequence[Submission]]:
            _pass("write.begun")
            try:
                to_be = self._tasks_to_be(session, call.user, triggers) if together else None
                answer, row = work(session, to_be)
                _pass("write.row")
                written = None if to_be is None else to_be.written
                if written is not None:
                    _pass("write.hooked")
                else:
                    tasks = self._submissions(call, triggers, row, answer.body)
                    _pass("write.hooked")
                    written = self.outbox.write_in(session, tasks, at_commit=True)
            except TaskInputTooLargeError as error:
                raise too_large(error) from error
            if (gone := self.outbox.relayed()) and not delete_along(session, gone):
                self.outbox.keep(gone)
            _pass("write.flushed")
            return answer, written

        with database_errors(self.names):
            write = self.outbox.transactions.write_at_once
            try:
                done = await write(within)
            except NotAlikeError as reason:
                self.inserts.note(reason)
                done = None
            if done is None:
                # Not in the handler: what goes wrong here would be logged with what went wrong there, and with what was sent.
                done = await write(partial(within, together=False))
            answer, submissions = done
        if armed:
            await reach("write.committed")
        if (relayed := self.outbox.relay(submissions)) is not None:
            await relayed
        return answer

    def _tasks_to_be(self, session: Session, user: Any, triggers: PlainTriggers) -> TasksToBe | None:
        """The tasks of a row to be inserted, where they can be inserted with it: not the first ones, of who may not have made the table."""
        if triggers.forms is None or not (self.outbox.has_written and self.inserts.does_for(session)):
            return None
        destination_of = self.outbox.destination_of
        tasks = [
            TaskToBe(form, new_task_id(), destination_of(form.scheduler))
            for form in triggers.forms(self.resource, user)
        ]
        return TasksToBe(self.inserts, tasks)

    def _submissions(
        self, call: Call, triggers: PlainTriggers, row: Row, shown: bytes
    ) -> Sequence[Submission]:
        """The tasks of a row that is there; `shown` is its JSON, as its client gets it."""
        if triggers.forms is not None and self.inserts.tells_as_shown:
            forms = triggers.forms(self.resource, call.user)
            return [Submission(form.filled(new_task_id(), shown), form.scheduler) for form in forms]
        ctx = HookContext(user=call.user, request=call.request, resource=self.resource, shown=self.shown)
        return [Submission(*each) for each in triggers.tasks(ctx, row)]

    async def _once(self, key: IdempotencyKey, work: Work, write: Write) -> Answer:
        answer = await self.records.begin(write.session, key)
        if answer is None:
            answer = await work(write)
            await self.records.keep(write.session, key, answer)
        return answer

    async def _perform(self, call: Call, work: Work, *, begins_with_write: bool = False) -> Answer:
        """BEGIN … hooks and SQL … outbox rows, COMMIT, then what waited for the commit: callbacks and the relay."""
        write = Write(
            self.outbox,
            user=call.user,
            request=call.request,
            resource=self.resource,
            shown=self.shown,
            shares_session=self.hooked,
        )

        async def within(session: AnySession) -> Answer:
            write.session = session
            await write.reach("write.begun")
            answer = await work(write)
            await write.reach("write.hooked")
            await write.finish()
            await write.reach("write.flushed")
            return answer

        try:
            with database_errors(self.names):
                answer = await self.outbox.transactions.write(
                    within, hooked=self.hooked, begins_with_write=begins_with_write
                )
        finally:
            after_commit = write.close()
        if armed:
            await reach("write.committed")
        for callback in after_commit:
            await _call_after_commit(callback)
        if (relayed := self.outbox.relay(write.submissions)) is not None:
            await relayed
        return answer


def _pass(point: FailPoint) -> None:
    if armed:
        await_only(reach(point))


async def _call_after_commit(callback: Any) -> None:
    try:
        result = callback()
        if inspect.isawaitable(result):
            await result
    except Exception:  # the row is committed: whatever this raises, the answer is that it is
        log.exception("a callback of ctx.on_commit raised")
