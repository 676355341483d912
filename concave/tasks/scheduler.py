"""The scheduler: what an application calls to have tasks run, now, later or again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar, overload

from concave.clock import seconds, to_micros
from concave.errors import ConfigurationError
from concave.kv.protocol import KV
from concave.store.records import NewTask, Query, TaskRecord, TaskStatus
from concave.tasks.batching import Batcher, add_in_steps, in_batches
from concave.tasks.dead_letter import DeadLetterQueue
from concave.tasks.define import TaskDefinition
from concave.tasks.model import Task
from concave.tasks.options import Duration, Key
from concave.tasks.recurring import Misfire, RecurringManager
from concave.tasks.submission import new_task_ids, submission

__all__ = ["TaskScheduler"]

In = TypeVar("In")

STATUSES: tuple[TaskStatus, ...] = (
    "pending",
    "scheduled",
    "running",
    "completed",
    "failed",
    "dead",
    "cancelled",
)
ENDED = frozenset[TaskStatus]({"completed", "dead", "cancelled"})


class TaskScheduler:
    """Adds tasks to a store and looks after them. A task need not be registered to be enqueued.

    Every method raises `StoreError` where the store can't do what it was asked; `enqueue` and `schedule` return
    only once the store has the task. Those that look for tasks find those that the writes of this process have triggered, also where
    they are yet on their way from an outbox: they wait for them, half a second at most.
    """

    def __init__(self, kv: KV) -> None:
        self._kv = kv
        self._batcher = Batcher(self._add)
        self.dead_letters = DeadLetterQueue(kv)

    @property
    def destination(self) -> str:
        """Which store it adds to, the same in every process: where that is, and the prefix there. No password."""
        return f"{self._kv.description} {self._kv.prefix}"

    async def _delivered(self) -> bool:
        # Not at the top: it makes schedulers.
        from concave.tasks.defaults import delivered

        return await delivered(self.destination)

    async def enqueue(
        self,
        task: TaskDefinition[In, Any],
        input: In | Mapping[str, Any] | None = None,
        *,
        priority: int | None = None,
        idempotency_key: Key | None = None,
    ) -> str:
        """Run a task as soon as a worker is free; its id.

        Where its idempotency key is taken, or it was debounced into a waiting task, the id is that task's. Raises
        `TaskInputError` for an input that isn't what the task takes; nothing is stored then.
        """
        return await self._batcher.added(
            submission(task, input, priority=priority, idempotency_key=idempotency_key)
        )

    async def _add(self, tasks: Sequence[NewTask]) -> list[str]:
        # The store is looked up at the call: a KV has one only once it is connected.
        return await self._kv.store.add(tasks)

    @overload
    async def enqueue_many(
        self, task: TaskDefinition[In, Any], inputs: Iterable[In], *, priority: int | None = None
    ) -> list[str]: ...
    @overload
    async def enqueue_many(
        self,
        task: TaskDefinition[Any, Any],
        inputs: Iterable[Mapping[str, Any]],
        *,
        priority: int | None = None,
    ) -> list[str]: ...
    async def enqueue_many(
        self, task: TaskDefinition[Any, Any], inputs: Iterable[Any], *, priority: int | None = None
    ) -> list[str]:
        """Enqueue a task once for each input, in few round trips; the ids in the inputs' order.

        All inputs are checked before the first is stored. Several steps of the store are needed for thousands, so a
        `StoreError` can leave some of them enqueued.
        """
        given = list(inputs)
        ids = new_task_ids(len(given))
        return await self.submit(
            [
                submission(task, each, priority=priority, task_id=task_id)
                for each, task_id in zip(given, ids, strict=True)
            ]
        )

    async def schedule(
        self,
        task: TaskDefinition[In, Any],
        input: In | Mapping[str, Any] | None = None,
        *,
        delay: Duration | None = None,
        at: datetime | None = None,
        priority: int | None = None,
        idempotency_key: Key | None = None,
    ) -> str:
        """Run a task after `delay` (seconds or a timedelta) or `at` an aware datetime; its id.

        A time that has passed means now. Raises as `enqueue` does, and `ConfigurationError` for a naive `at` or a
        negative `delay`.
        """
        return await self._batcher.added(
            submission(task, input, delay=delay, at=at, priority=priority, idempotency_key=idempotency_key)
        )

    async def submit_one(self, task: NewTask) -> str:
        """Hand over a submission made elsewhere, sharing round trips with whatever else is being enqueued."""
        return await self._batcher.submit(task)

    async def submit(self, tasks: Sequence[NewTask]) -> list[str]:
        """Hand over submissions made elsewhere (an outbox). Sending one twice adds it once."""
        return await add_in_steps(self._kv.store, in_batches(tasks))

    def enqueue_from_thread(
        self,
        task: TaskDefinition[In, Any],
        input: In | Mapping[str, Any] | None = None,
        *,
        delay: Duration | None = None,
        at: datetime | None = None,
        priority: int | None = None,
        idempotency_key: Key | None = None,
    ) -> str:
        """`schedule` for synchronous code in a thread (a ``def`` handler or endpoint): blocks that thread only.

        Raises as `schedule` does, and `ConfigurationError` on the event loop's own thread, which it would block for ever,
        and where the KV's loop has ended.
        """
        loop = self._kv.loop
        if _running_loop() is not None:
            raise ConfigurationError("this thread runs an event loop: await scheduler.enqueue(...) instead")
        if loop.is_closed():
            raise ConfigurationError("the event loop that this KV was connected on has ended")
        new = submission(task, input, delay=delay, at=at, priority=priority, idempotency_key=idempotency_key)
        return asyncio.run_coroutine_threadsafe(self.submit_one(new), loop).result()

    async def schedule_recurring(
        self,
        task: TaskDefinition[In, Any],
        input: In | Mapping[str, Any] | None = None,
        *,
        cron: str | None = None,
        interval: Duration | None = None,
        timezone: str = "UTC",
        id: str | None = None,
        misfire: Misfire = "once",
    ) -> str:
        """Run a task by a cron expression or every `interval` (seconds or a timedelta); the schedule's id.

        Declaring the same schedule again, on every boot and replica, changes nothing; under a given `id` a changed
        rule or input replaces the old one. `misfire` says what becomes of slots that no scheduler was there to fire: the latest is
        run ("once"), each of the last hundred ("all"), or the latest unless it is more than a minute late ("skip").
        Raises `InvalidScheduleError` for a rule that can't be, and `ConfigurationError` for an `id` that isn't 1 to 200 printable
        characters.
        """
        return await RecurringManager(self._kv).create(
            task, input, cron=cron, interval=interval, timezone=timezone, id=id, misfire=misfire
        )

    async def cancel(self, task_id: str, *, running: bool = False) -> bool:
        """Cancel a task that waits. False for one that runs, has ended or is unknown.

        With ``running=True`` a task that runs is told to stop at once: an ``async`` handler is cancelled, a ``def``
        handler sees its signal. True then means that it was told; whatever it returns in time still counts.
        """
        await self._delivered()
        store = self._kv.store
        if await store.cancel(task_id):
            return True
        # Between the two looks a run may end and wait for its retry: hence a last one.
        return running and (await store.abort(task_id) or await store.cancel(task_id))

    async def get_task(self, task_id: str) -> Task | None:
        """A task, or None where it never was or its record has expired."""
        record = await self._kv.store.get(task_id)
        if record is None and await self._delivered():
            record = await self._kv.store.get(task_id)
        return None if record is None else Task.from_record(record)

    async def get_tasks(
        self,
        *,
        status: TaskStatus | Sequence[TaskStatus] | None = None,
        name: str | Sequence[str] | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[Task]:
        """Tasks by status, name and time of creation, newest first. `limit` is at most 1,000.

        `status` and `name` take one or several; none at all (an empty list) finds nothing.
        """
        if not 1 <= limit <= 1000 or offset < 0:
            raise ConfigurationError(
                f"limit is 1 to 1000 and offset at least 0, not {limit!r} and {offset!r}"
            )
        statuses, names = _statuses(status), _several(name)
        if (status is not None and not statuses) or (name is not None and not names):
            return []
        await self._delivered()
        query = Query(
            statuses=statuses,
            names=names,
            created_after=None if created_after is None else to_micros(created_after, "created_after"),
            created_before=None if created_before is None else to_micros(created_before, "created_before"),
            limit=limit,
            offset=offset,
        )
        return [Task.from_record(record) for record in await self._kv.store.find(query)]

    async def get_queue_depth(self) -> int:
        """How many tasks wait: pending, scheduled, and failed ones before their retry."""
        await self._delivered()
        return await self._kv.store.depth()

    async def wait(self, task_id: str, *, timeout: Duration | None = None) -> Task | None:
        """Wait until a task has completed, died or been cancelled; the finished task, or None where it is unknown.

        Raises TimeoutError after `timeout` seconds.
        """
        limit = None if timeout is None else seconds(timeout, "timeout")
        told, timed_out = asyncio.Event(), False
        ended: TaskRecord | None = None

        def tell(record: TaskRecord | None) -> None:
            nonlocal ended
            ended = record or ended
            told.set()

        def give_up() -> None:
            nonlocal timed_out
            timed_out = True
            told.set()

        timer = None if limit is None else self._kv.clock.call_later(limit, give_up)
        listener = await self._kv.store.ended(task_id, tell)
        try:
            while (task := await self.get_task(task_id)) is not None and task.status not in ENDED:
                if timed_out:
                    raise TimeoutError(f"task {task_id} is still {task.status} after {limit:g} s")
                await told.wait()
                told.clear()
                if ended is not None:
                    return Task.from_record(ended)
            return task
        finally:
            if timer is not None:
                timer.cancel()
            await listener.close()


def _statuses(status: TaskStatus | Sequence[TaskStatus] | None) -> tuple[TaskStatus, ...]:
    wanted: tuple[Any, ...] = _several(status)
    if unknown := [each for each in wanted if each not in STATUSES]:
        raise ConfigurationError(f"no status {unknown[0]!r}; there are {', '.join(STATUSES)}")
    return wanted


def _several(value: str | Sequence[str] | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
