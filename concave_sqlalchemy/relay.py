"""From the outbox to the store, right after a commit. Requests that commit at the same time share round trips."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from concave.errors import ConcaveError, TasksNotInitializedError
from concave.failpoints import armed, reach
from concave.store.records import NewTask
from concave.tasks.defaults import get_task_scheduler
from concave.tasks.scheduler import TaskScheduler

__all__ = ["Relay", "Submission"]

log = logging.getLogger("concave.outbox")

PATIENCE = 0.5
"""Seconds that a response waits for the store to take its tasks: they are safe in the outbox, and are sent all the same."""


LINGER = 0.05
"""Seconds that relayed rows gather before one DELETE takes them all: a transaction each would double what a write costs."""


class Submission(NamedTuple):
    """A task on its way through the outbox, and the scheduler it is for, where that isn't the default."""

    task: NewTask
    scheduler: TaskScheduler | None = None


class Relay:
    """Sends committed submissions to the store and has their rows deleted, in the background and in batches."""

    def __init__(self, delete: Callable[[Sequence[str]], Awaitable[None]]) -> None:
        self._delete = delete
        self._to_delete: list[str] = []
        self._background: set[asyncio.Task[None]] = set()
        self._deleting: asyncio.Task[None] | None = None
        self._hurry: asyncio.Event | None = None
        self._troubled = False

    async def send(self, submissions: Sequence[Submission]) -> None:
        """Send; returns once the store has them, or after a moment's patience with a store that doesn't answer."""
        if not submissions:
            return
        sending = self.spawn(self._send(submissions))
        # In an outage only the first response waits.
        if not self._troubled:
            await asyncio.wait({sending}, timeout=PATIENCE)

    async def drain(self) -> None:
        """Wait for what is under way."""
        while self._background:
            if self._hurry is not None:
                self._hurry.set()
            await asyncio.wait(set(self._background))

    async def _send(self, submissions: Sequence[Submission]) -> None:
        outcomes = await asyncio.gather(*map(self._send_one, submissions), return_exceptions=True)
        errors = [each for each in outcomes if isinstance(each, Exception)]
        if not errors:
            self._troubled = False
        for error in errors:
            if isinstance(error, TasksNotInitializedError):
                self._trouble(
                    "no scheduler in this process: tasks wait in the outbox for a process that has one"
                )
            else:
                self._trouble(
                    f"tasks wait in the outbox: {error}", None if isinstance(error, ConcaveError) else error
                )

    async def _send_one(self, submission: Submission) -> None:
        scheduler = submission.scheduler or get_task_scheduler()
        await scheduler.submit_one(submission.task)
        if armed:
            await reach("outbox.sent")
        self._to_delete.append(submission.task.id)
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

    def _trouble(self, message: str, unexpected: Exception | None = None) -> None:
        # Once per outage, not once per request.
        log.log(logging.DEBUG if self._troubled else logging.WARNING, "%s", message, exc_info=unexpected)
        self._troubled = True

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run in the background; `drain` waits for it."""
        task = asyncio.create_task(coroutine, name="concave-relay")
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task
