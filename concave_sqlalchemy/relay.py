"""From the outbox to the store, right after a commit. Requests that commit at the same time share round trips."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, NamedTuple

from concave.errors import (
    NO_FAULT_OF_TASKS,
    ConcaveError,
    ConfigurationError,
    TasksNotInitializedError,
)
from concave.failpoints import armed, reach
from concave.hooks import HandOver
from concave.store.records import NewTask
from concave.tasks.defaults import get_task_scheduler
from concave.tasks.outbox import Submit
from concave.tasks.scheduler import TaskScheduler
from concave_sqlalchemy.relayed import Relayed

__all__ = ["Relay", "Submission", "into", "submit_all"]

log = logging.getLogger("concave.outbox")

PATIENCE = 0.5
"""Seconds that is waited for a store that doesn't answer. The tasks are safe in the outbox, and are sent all the same."""

MOMENT = 0.02
"""Seconds between two round trips, unless there is `ENOUGH` for one. What comes after a quieter time is sent at once."""

ENOUGH = 32
"""Submissions that wait for no more: to share with more of them saves nothing to speak of."""

MOST = 10_000
"""Submissions on their way. Beyond so many they wait in the outbox: a store that hangs isn't to fill the memory of a web process."""


class Submission(NamedTuple):
    """A task on its way through the outbox, and the scheduler it is for, where that isn't the default."""

    task: NewTask
    scheduler: TaskScheduler | None = None


def into(take: Callable[[Submission], bool]) -> HandOver:
    """Where the tasks of a transaction's hooks go: what `take` doesn't, since the transaction is over, goes straight to a scheduler.

    That one has it when this returns.
    """

    async def submit(new: NewTask, scheduler: TaskScheduler | None) -> str:
        if take(Submission(new, scheduler)):
            return new.id
        return await (scheduler or get_task_scheduler()).submit_one(new)

    return submit


class Relay:
    """Sends committed submissions to the store and has their rows deleted, in the background and in batches, of one event loop.

    What is committed within a moment shares a round trip, which costs as much as a task does. Nobody is kept waiting by that: who
    looks for a task has it sent.
    """

    def __init__(self, delete: Callable[[Sequence[str]], Awaitable[None]]) -> None:
        self.relayed = Relayed(delete, self.spawn)
        self._loop = asyncio.get_running_loop()
        self._sent_at = -MOMENT
        """When something was sent last, by the loop's clock."""
        self._gathered: list[Submission] = []
        self._timer: asyncio.TimerHandle | None = None
        self._under_way = 0
        """Submissions that are gathered or being sent."""
        self._is_first = True
        self._sending: set[asyncio.Task[None]] = set()
        self._background: set[asyncio.Task[None]] = set()
        self._troubled = False
        self._left_some = False

    def send(self, submissions: Sequence[Submission]) -> None:
        """Send what has been committed, in the background."""
        if self._under_way > MOST:
            self._trouble("the store is slow to take them: tasks wait in the outbox")
            return
        self._under_way += len(submissions)
        self._gathered += submissions
        if len(self._gathered) >= ENOUGH:
            self._send_gathered()
        elif self._timer is None:
            moment = self._sent_at + MOMENT - self._loop.time()
            if moment <= 0:
                self._send_gathered()
            else:
                self._timer = self._loop.call_later(moment, self._send_gathered)

    def is_first(self) -> bool:
        """Whether nobody has asked before."""
        is_first, self._is_first = self._is_first, False
        return is_first

    @property
    def is_idle(self) -> bool:
        """Whether nothing is on its way. True from any thread."""
        return not (self._gathered or self._sending)

    async def delivered(self) -> None:
        """Wait until what is on its way by now has arrived; no longer than the patience with a store lasts."""
        for _ in range(2):  # what a session has written is read first, and sent then
            self._send_gathered()
            if self._sending:
                await asyncio.wait(self._sending, timeout=PATIENCE)

    async def drain(self) -> None:
        """Wait for what is under way."""
        self._send_gathered()
        self.relayed.delete_now()
        while self._background:
            await asyncio.wait(self._background)
            self._send_gathered()
            self.relayed.delete_now()

    def has_left_some(self) -> bool:
        """Whether it has given up on something since it was last asked: that is in the outbox, however young."""
        left_some, self._left_some = self._left_some, False
        return left_some

    def _send_gathered(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._gathered:
            return
        self._sent_at = self._loop.time()
        gathered, self._gathered = self._gathered, list[Submission]()
        # Each on its own: where one store keeps them waiting, tasks for another don't.
        for scheduler in dict.fromkeys(scheduler for _, scheduler in gathered):
            self.spawn_sending(
                self._send_all(scheduler, [task for task, given in gathered if given is scheduler])
            )

    async def _send_all(self, scheduler: TaskScheduler | None, tasks: Sequence[NewTask]) -> None:
        try:
            await self._send_to(scheduler, tasks)
        finally:
            self._under_way -= len(tasks)

    async def _send_to(self, given: TaskScheduler | None, tasks: Sequence[NewTask]) -> None:
        try:
            sent = await submit_all((given or get_task_scheduler()).submit, tasks)
        except TasksNotInitializedError:
            self._trouble("no scheduler in this process: tasks wait in the outbox for a process that has one")
            return
        except ConcaveError as error:
            self._trouble(f"tasks wait in the outbox: {error}")
            return
        if armed:
            await reach("outbox.sent")
        if sent:
            self._troubled = False
            self.relayed.add(sent)

    def _trouble(self, message: str) -> None:
        # Once per outage, not once per request.
        log.log(logging.DEBUG if self._troubled else logging.WARNING, "%s", message)
        self._troubled = self._left_some = True

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run in the background; `drain` waits for it."""
        task = asyncio.create_task(coroutine, name="concave-relay")
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    def spawn_sending(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """The same for what has tasks to send: `delivered` waits for it, too."""
        task = self.spawn(coroutine)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)


async def submit_all(submit: Submit, tasks: Sequence[NewTask]) -> list[str]:
    """Hand tasks over, together, or one by one where that fails for one of them; the ids of those that were taken.

    Raises what is no task's fault: a store that takes none (`NO_FAULT_OF_TASKS`), or no scheduler; the others needn't be tried.
    """
    failure = await _submit(submit, tasks)
    if failure is None:
        return [task.id for task in tasks]
    failures = [failure] if len(tasks) == 1 else [await _submit(submit, [task]) for task in tasks]
    refused = [(task, failure) for task, failure in zip(tasks, failures, strict=True) if failure is not None]
    if refused:
        # One message, and one traceback: there may be hundreds of them, at each sweep.
        log.error(
            "%d of %d tasks can't be relayed and wait in the outbox; the first is %s (%s)",
            len(refused),
            len(tasks),
            refused[0][0].id,
            refused[0][0].name,
            exc_info=refused[0][1],
        )
    return [task.id for task, failure in zip(tasks, failures, strict=True) if failure is None]


async def _submit(submit: Submit, tasks: Sequence[NewTask]) -> Exception | None:
    """What kept these from being taken, where it may be one of theirs."""
    try:
        await submit(tasks)
    except (*NO_FAULT_OF_TASKS, TasksNotInitializedError, ConfigurationError):
        raise
    except Exception as error:  # noqa: BLE001  whatever it is, the others have their turn
        return error
    return None
