"""From the outbox to the store, right after a commit. Requests that commit at the same time share round trips."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
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
"""Tasks on their way to one store. Beyond so many they wait in the outbox: a store that hangs isn't to fill a web process's memory."""

YOUNG = 0.3
"""Seconds for which an event loop's writes are waited for, from the first on: it may have been made for one request, and end with it."""


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
        self._began = self._loop.time()
        self._sent_at = -MOMENT
        """When something was sent last, by the loop's clock."""
        self._gathered: dict[TaskScheduler | None, list[NewTask]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._being_sent: Counter[TaskScheduler | None] = Counter()
        self._sending: dict[asyncio.Task[None], TaskScheduler | None] = {}
        """To where; None where that isn't known yet, or nowhere."""
        self._full: set[TaskScheduler | None] = set()
        self._background: set[asyncio.Task[None]] = set()
        self._troubled = False
        self._left_some = False

    def send(self, submissions: Sequence[Submission]) -> None:
        """Send what has been committed, in the background. The default scheduler is the one of this moment."""
        default = _default_scheduler()
        gathered, enough = self._gathered, False
        for task, given in submissions:
            scheduler = given or default
            tasks = gathered.get(scheduler, ())
            if len(tasks) + self._being_sent.get(scheduler, 0) >= MOST:
                self._leave(scheduler)
                continue
            if not tasks:
                tasks = gathered[scheduler] = []
            tasks.append(task)
            enough |= len(tasks) >= ENOUGH
        if enough:
            self._send_gathered()
        elif gathered and self._timer is None:
            moment = self._sent_at + MOMENT - self._loop.time()
            if moment <= 0:
                self._send_gathered()
            else:
                self._timer = self._loop.call_later(moment, self._send_gathered)

    def _leave(self, scheduler: TaskScheduler | None) -> None:
        # Once, until what is on its way has arrived.
        if scheduler not in self._full:
            log.warning("a store is slow to take tasks: more of them wait in the outbox")
        self._full.add(scheduler)
        self._left_some = True

    @property
    def is_young(self) -> bool:
        """Whether its loop may be one that ends with the request that it was made for. In an outage only the first waits for that."""
        return not self._troubled and self._loop.time() < self._began + YOUNG

    @property
    def is_idle(self) -> bool:
        """Whether nothing is on its way. True from any thread."""
        return not (self._gathered or self._being_sent or self._sending)

    async def delivered(self, destination: str | None = None) -> None:
        """Wait until what is on its way to a store by now, or to any, has arrived; no longer than the patience with a store lasts."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                for _ in range(2):  # what a session has written is read first, and sent then
                    self._send_gathered()
                    if sending := self._sending_to(destination):
                        await asyncio.wait(sending)

    async def delivered_elsewhere(self, destination: str) -> None:
        """The same for who is in another event loop than its own."""
        told, here = asyncio.Event(), asyncio.get_running_loop()

        def tell(_: object) -> None:
            with suppress(RuntimeError):  # whoever asked has ended
                here.call_soon_threadsafe(told.set)

        def ask() -> None:
            self.spawn(self.delivered(destination)).add_done_callback(tell)

        with suppress(RuntimeError, TimeoutError):  # it has ended, or ends
            self._loop.call_soon_threadsafe(ask)
            async with asyncio.timeout(PATIENCE):
                await told.wait()

    def _sending_to(self, destination: str | None) -> list[asyncio.Task[None]]:
        return [
            task
            for task, scheduler in self._sending.items()
            if destination is None or scheduler is None or scheduler.destination == destination
        ]

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
        gathered = self._gathered
        # Before they are no longer gathered: at no moment does it look idle from another thread.
        self._being_sent.update({scheduler: len(tasks) for scheduler, tasks in gathered.items()})
        self._gathered = {}
        # Each on its own: where one store keeps them waiting, tasks for another don't.
        for scheduler, tasks in gathered.items():
            sending = self.spawn_sending(self._send_to(scheduler, tasks), scheduler)
            sending.add_done_callback(partial(self._sent, scheduler, len(tasks)))

    def _sent(self, scheduler: TaskScheduler | None, count: int, sending: asyncio.Task[None]) -> None:
        # Not by the task itself: one that is cancelled may never have begun.
        self._left_some |= sending.cancelled()
        self._being_sent[scheduler] -= count
        if not self._being_sent[scheduler]:
            del self._being_sent[scheduler]
            self._full.discard(scheduler)

    async def _send_to(self, scheduler: TaskScheduler | None, tasks: Sequence[NewTask]) -> None:
        if scheduler is None:
            self._trouble("no scheduler in this process: tasks wait in the outbox for a process that has one")
            return
        try:
            sent = await submit_all(scheduler.submit, tasks)
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

    def spawn_sending(
        self, coroutine: Coroutine[Any, Any, None], scheduler: TaskScheduler | None = None
    ) -> asyncio.Task[None]:
        """The same for what has tasks to send: `delivered` waits for it, too."""
        task = self.spawn(coroutine)
        self._sending[task] = scheduler
        task.add_done_callback(self._sending.pop)
        return task


def _default_scheduler() -> TaskScheduler | None:
    try:
        return get_task_scheduler()
    except TasksNotInitializedError:
        return None


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
