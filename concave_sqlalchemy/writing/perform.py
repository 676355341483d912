"""One writing request, one transaction; committed before anything is answered."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from sqlalchemy.orm import Session

from concave.failpoints import armed, reach
from concave.hooks import Row
from concave_sqlalchemy.idempotency import Records, in_flight
from concave_sqlalchemy.outbox import Outbox
from concave_sqlalchemy.refusals import ColumnNames, database_errors
from concave_sqlalchemy.transactions import AnySession
from concave_sqlalchemy.write import Write
from concave_sqlalchemy.writing.call import Answer, Call, IdempotencyKey

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

    async def perform_bare(self, work: Callable[[Session], Answer]) -> Answer:
        """Do what a request asks for where no hook runs and no key counts: nothing but the database is waited for."""
        with database_errors(self.names):
            return await self.outbox.transactions.write_at_once(work)

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
            with database_errors(self.names), self.outbox.coming:
                answer = await self.outbox.transactions.write(
                    within, hooked=self.hooked, begins_with_write=begins_with_write
                )
        finally:
            after_commit = write.close()
        if armed:
            await reach("write.committed")
        for callback in after_commit:
            await _call_after_commit(callback)
        if write.submissions:
            await self.outbox.relay(write.submissions)
        return answer


async def _call_after_commit(callback: Any) -> None:
    try:
        result = callback()
        if inspect.isawaitable(result):
            await result
    except Exception:  # the row is committed: whatever this raises, the answer is that it is
        log.exception("a callback of ctx.on_commit raised")
