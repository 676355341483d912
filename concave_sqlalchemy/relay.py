"""From the outbox to the store, right after a commit. Requests that commit at the same time share round trips."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from concave.errors import ConcaveError, TasksNotInitializedError
from concave.failpoints import armed, reach
from concave.hooks import Enqueue
from concave.store.records import NewTask
from concave.tasks.defaults import get_task_scheduler
from concave.tasks.define import TaskDefinition
from concave.tasks.options import Duration
from concave.tasks.scheduler import TaskScheduler
from concave.tasks.submission import submission

__all__ = ["Relay", "Submission", "into"]

log = logging.getLogger("concave.outbox")

PATIENCE = 0.5
"""Seconds that a response waits for the store to take its tasks: they are safe in the outbox, and are sent all the same."""


LINGER = 0.2
"""Seconds that relayed rows gather before one DELETE takes them all: a transaction each would double what a write costs."""


class Submission(NamedTuple):
    """A task on its way through the outbox, and the scheduler it is for, where that isn't the default."""

    task: NewTask
    scheduler: TaskScheduler | None = None


def into(take: Callable[[Submission], bool]) -> Enqueue:
    """The `enqueue` of a transaction's hooks: what `take` doesn't, since the transaction is over, goes straight to a scheduler.

    That one has it when this returns.
    """

    async def enqueue(
        task: TaskDefinition[Any, Any],
        input: Any,
        *,
        delay: Duration | None,
        scheduler: TaskScheduler | None,
        key: str | None,
    ) -> str:
        new = submission(task, input, delay=delay, coalesce=key)
        if take(Submission(new, scheduler)):
            return new.id
        return await (scheduler or get_task_scheduler()).submit_one(new)

    return enqueue


class Relay:
    """Sends committed submissions to the store and has their rows deleted, in the background and in batches."""

    def __init__(self, delete: Callable[[Sequence[str]], Awaitable[None]]) -> None:
        self._delete = delete
        self._to_delete: list[str] = []
        self._background: set[asyncio.Future[Any]] = set()
        self._deleting: asyncio.Task[None] | None = None
        self._hurry: asyncio.Event | None = None
        self._troubled = False

    async def send(self, submissions: Sequence[Submission]) -> None:
        """Send; returns once the store has them, or after a moment's patience with a store that doesn't answer."""
        # Futures, and no tasks: this is part of every request that triggers something.
        sending = [sent for each in submissions if (sent := self._send(each)) is not None]
        # In an outage only the first response waits.
        if sending and not self._troubled:
            await asyncio.wait(sending, timeout=PATIENCE)

    async def drain(self) -> None:
        """Wait for what is under way."""
        loop = asyncio.get_running_loop()
        # What another loop left undone will never be done.
        while ours := {each for each in self._background if each.get_loop() is loop}:
            if self._hurry is not None:
                self._hurry.set()
            await asyncio.wait(ours)

    def _send(self, submission: Submission) -> asyncio.Future[Any] | None:
        try:
            scheduler = submission.scheduler or get_task_scheduler()
        except TasksNotInitializedError:
            self._trouble("no scheduler in this process: tasks wait in the outbox for a process that has one")
            return None
        sent = scheduler.submit_soon(submission.task)
        if armed:
            return self.spawn(self._reach_sent(submission.task.id, sent))
        self._background.add(sent)
        sent.add_done_callback(partial(self._sent, submission.task.id))
        return sent

    async def _reach_sent(self, task_id: str, sent: asyncio.Future[str]) -> None:
        await asyncio.wait({sent})
        if sent.exception() is None:
            await reach("outbox.sent")
        self._sent(task_id, sent)

    def _sent(self, task_id: str, sent: asyncio.Future[str]) -> None:
        self._background.discard(sent)
        error = None if sent.cancelled() else sent.exception()
        if error is not None:
            unexpected = None if isinstance(error, ConcaveError) else error
            self._trouble(f"tasks wait in the outbox: {error}", unexpected)
        elif not sent.cancelled():
            self._troubled = False
            self._to_delete.append(task_id)
            if self._deleting is None or self._deleting.done():
                self._hurry = asyncio.Event()
                self._deleting = self.spawn(self._delete_all(self._hurry))

    async def _delete_all(self, hurry: asyncio.Event) -> None:
        while self._to_delete:
            with suppress(TimeoutError):
                await asyncio.wait_for(hurry.wait(), LINGER)
            ids, self._to_delete = self._to_delete, []
            try:
                await self._delete(ids)
            except Exception as error:  # noqa: BLE001  the rows stay, and are swept up: whatever is wrong with the database, nothing is lost
                log.warning("%d relayed rows could not be deleted yet: %s", len(ids), error)

    def _trouble(self, message: str, unexpected: BaseException | None = None) -> None:
        # Once per outage, not once per request.
        log.log(logging.DEBUG if self._troubled else logging.WARNING, "%s", message, exc_info=unexpected)
        self._troubled = True

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run in the background; `drain` waits for it."""
        task = asyncio.create_task(coroutine, name="concave-relay")
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task
