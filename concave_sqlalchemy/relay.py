"""From the outbox to the store, right after a commit. Requests that commit at the same time share round trips."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeAlias

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
"""Seconds that whoever has called the app waits for the store to take its tasks: they are safe in the outbox, and are sent all the same."""

MOMENT = 0.02
"""Seconds that a submission waits for those of other writes under way, to share their round trip. No client waits for it."""

ENOUGH = 8
"""Submissions that wait for no more. To share with more of them saves little, and each keeps a call of the app waiting, with some
sixty objects of its server's and its framework's: at sixteen of them, each lot had the garbage collector look for what is left.
"""


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


class _Taken:
    """To be awaited, or not: whether the store has taken all tasks of a write."""

    def __init__(self, relay: Relay, future: asyncio.Future[None], left: int) -> None:
        self.future = future
        self._relay = relay
        self._left = left

    def __await__(self) -> Generator[Any, None, None]:
        return self._relay.until_taken(self).__await__()

    def less(self) -> None:
        """One of them is done with."""
        self._left -= 1
        if not self._left:
            self.end()

    def end(self) -> None:
        """The wait is over, be it that the patience is."""
        if not self.future.done():
            self.future.set_result(None)


_Gathered: TypeAlias = tuple[NewTask, TaskScheduler | None, _Taken]


class Relay:
    """Sends committed submissions to the store and has their rows deleted, in the background and in batches, of one event loop.

    Writes that are under way at the same time share a round trip: what one of them has committed waits for others, until there are
    enough of them, and for a moment at most. (PostgreSQL's commit_delay and commit_siblings are the same, for its log.)
    """

    def __init__(self, delete: Callable[[Sequence[str]], Awaitable[None]]) -> None:
        self.relayed = Relayed(delete, self.spawn)
        self._loop = asyncio.get_running_loop()
        self._to_come = 0
        """Writes that are under way and may have something to send, of those that began in this turn."""
        self._turn = 0
        """How often the wait for them has ended before they had."""
        self._gathered: list[_Gathered] = []
        self._moment: asyncio.TimerHandle | None = None
        self._waiting: dict[_Taken, float] = {}
        """Who waits, and until when; in the order of these times."""
        self._watch: asyncio.TimerHandle | None = None
        self._background: set[asyncio.Future[Any]] = set()
        self._troubled = False
        self._hangs = False
        """Whether somebody's patience with the store has ended since it last took something."""
        self._left_some = False

    def coming(self) -> AbstractContextManager[None]:
        """A write is under way that may have tasks to send, until this ends: others wait for them."""
        return _Coming(self)

    def _come(self) -> int:
        self._to_come += 1
        return self._turn

    def _go(self, turn: int) -> None:
        if turn == self._turn:
            self._to_come -= 1
        if not self._gathered:
            return
        if not self._to_come or len(self._gathered) >= ENOUGH:
            self._send_gathered()
        elif self._moment is None:
            self._moment = self._loop.call_later(MOMENT, self._wait_no_longer)

    def _wait_no_longer(self) -> None:
        # What is slow is waited for once: a write that waits for a lock isn't to hold up all that come meanwhile.
        self._turn += 1
        self._to_come = 0
        self._send_gathered()

    def send(self, submissions: Sequence[Submission]) -> Awaitable[None]:
        """Send what has been committed, be it awaited or not: together with what others commit, where a write is under way.

        To be called before one's own write is over. The wait ends once the store has them, or with its patience.
        """
        taken = _Taken(self, self._loop.create_future(), len(submissions))
        if not submissions or self._troubled or self._hangs:
            taken.end()  # in an outage only the first waits
        self._gathered += [(each.task, each.scheduler, taken) for each in submissions]
        if submissions and not self._to_come:
            self._send_gathered()
        return taken

    async def until_taken(self, taken: _Taken) -> None:
        """Wait for the store, as long as the patience with one that doesn't answer lasts."""
        if taken.future.done():
            return
        self._waiting[taken] = self._loop.time() + PATIENCE
        if self._watch is None:
            self._watch = self._loop.call_later(PATIENCE, self._let_go)
        try:
            await taken.future
        finally:
            self._waiting.pop(taken, None)

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
        if self._moment is not None:
            self._moment.cancel()
            self._moment = None
        gathered, self._gathered = self._gathered, list[_Gathered]()
        # Each on its own: where one store keeps them waiting, tasks for another don't.
        for scheduler in dict.fromkeys(scheduler for _, scheduler, _ in gathered):
            self.spawn(self._send_all(scheduler, [each for each in gathered if each[1] is scheduler]))

    async def _send_all(self, scheduler: TaskScheduler | None, gathered: Sequence[_Gathered]) -> None:
        try:
            await self._send_to(scheduler, [task for task, _, _ in gathered])
        finally:
            for _, _, taken in gathered:
                taken.less()

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
            self._troubled = self._hangs = False
            self.relayed.add(sent)

    def _let_go(self) -> None:
        """Those whose patience is over wait no longer."""
        self._watch = None
        now = self._loop.time()
        for taken in [each for each, until in self._waiting.items() if until <= now]:
            taken.end()
            del self._waiting[taken]
            self._hangs = True
        if self._waiting:
            self._watch = self._loop.call_at(next(iter(self._waiting.values())), self._let_go)

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


class _Coming:
    __slots__ = ("_relay", "_turn")

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def __enter__(self) -> None:
        self._turn = self._relay._come()  # noqa: SLF001  (of this module)

    def __exit__(self, *_: object) -> None:
        self._relay._go(self._turn)  # noqa: SLF001


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
