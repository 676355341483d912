"""The dead letter queue: looked at, run again, forgotten. On both stores."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from concave import ConfigurationError, Discard, RetryConfig, TaskContext, TaskScheduler, define_task
from concave.kv import KV
from concave.store.records import Die, Failure, NewTask, Settlement
from concave.tasks import DeadLetterQueue, create_dead_letter_queue
from concave.tasks.dead_letter import PAGE
from tests.tasks.support import ScriptedKV, WatchedClock, claim, ended, found, time_passing, working


@define_task(
    name="fails", retry=RetryConfig(2, initial_delay=0), idempotency_key=lambda value: f"key-{value}"
)
async def fails(ctx: TaskContext, value: int) -> None:
    raise ValueError(f"boom {value}")


async def dead_tasks(kv: KV, clock: WatchedClock, count: int) -> list[str]:
    """Tasks that died one after the other, the oldest first."""
    ids = [f"dead-{number:03}" for number in range(count)]
    for number, task_id in enumerate(ids):
        await kv.store.add([NewTask(task_id, "t", b"1")])
        (lease,) = await claim(kv, "t", nonce=f"{number:016}")
        await kv.store.settle([Settlement(lease, Die(f"reason {number}", Failure("boom")))])
        clock.advance(1)
    return ids


async def test_a_dead_letter_tells_the_whole_story(timed_kv: KV, clock: WatchedClock) -> None:
    scheduler = TaskScheduler(timed_kv)
    async with working(timed_kv, fails, id="w"):
        task_id = await scheduler.enqueue(fails, 7)
        async with time_passing(clock):
            task = await ended(timed_kv, task_id)
    entry = await scheduler.dead_letters.get(task_id)
    assert entry is not None
    assert (entry.task_id, entry.task, entry.attempts) == (task_id, task, 2)
    assert entry.reason == "ValueError: boom 7 (attempt 2 of 2)" == task.last_error
    assert entry.failed_at == task.completed_at
    assert [(error.attempt, error.error, error.worker_id) for error in task.errors] == [
        (1, "ValueError: boom 7", "w"),
        (2, "ValueError: boom 7", "w"),
    ]
    assert all("test_dead_letters.py" in error.traceback for error in task.errors)
    assert all(error.at.tzinfo is UTC for error in task.errors)


async def test_what_is_not_dead_has_none(timed_kv: KV) -> None:
    dlq, scheduler = create_dead_letter_queue(timed_kv), TaskScheduler(timed_kv)
    waiting = await scheduler.enqueue(fails, 1)
    for task_id in (waiting, "unknown"):
        assert await dlq.get(task_id) is None
        assert await dlq.retry(task_id) is None
    assert (await dlq.list(), await dlq.count(), await dlq.retry_all(), await dlq.purge(1)) == ([], 0, 0, 0)
    assert (await found(timed_kv, waiting)).status == "pending"


async def test_the_latest_to_die_come_first_page_by_page(timed_kv: KV, clock: WatchedClock) -> None:
    ids, dlq = await dead_tasks(timed_kv, clock, 5), create_dead_letter_queue(timed_kv)
    assert [entry.task_id for entry in await dlq.list()] == ids[::-1]
    assert [entry.task_id for entry in await dlq.list(2, 1)] == [ids[3], ids[2]]
    assert await dlq.list(limit=2, offset=5) == []
    assert await dlq.count() == 5
    for limit, offset in ((0, 0), (-1, 0), (1, -1)):
        with pytest.raises(ConfigurationError, match="limit"):
            await dlq.list(limit, offset)


async def test_a_retry_is_a_new_task_that_names_the_old_one_and_takes_its_key(timed_kv: KV) -> None:
    scheduler = TaskScheduler(timed_kv)
    dlq = scheduler.dead_letters
    once: Any = define_task(
        "once", fails.handler, retry=RetryConfig(1), priority=90, idempotency_key=lambda value: f"key-{value}"
    )
    async with working(timed_kv, once):
        old = await scheduler.enqueue(once, 1)
        await ended(timed_kv, old)
    assert await scheduler.enqueue(once, 1) == old  # a dead task holds its key
    new = await dlq.retry(old)
    assert new is not None
    revived = await found(timed_kv, new)
    assert (revived.status, revived.attempt, revived.errors) == ("pending", 0, ())
    assert (revived.input, revived.priority, revived.max_attempts) == (1, 90, 1)
    assert (revived.revived_from, revived.idempotency_key) == (old, "key-1")
    assert await scheduler.get_task(old) is None
    assert (await dlq.count(), await dlq.get(old), await dlq.retry(old)) == (0, None, None)
    assert await scheduler.enqueue(once, 1) == new


async def test_of_many_who_retry_at_once_one_does(timed_kv: KV, clock: WatchedClock) -> None:
    (task_id,) = await dead_tasks(timed_kv, clock, 1)
    async with timed_kv.twin() as twin:
        queues = [DeadLetterQueue(timed_kv), DeadLetterQueue(twin)] * 10
        ids = await asyncio.gather(*(queue.retry(task_id) for queue in queues))
    assert len([new for new in ids if new is not None]) == 1
    assert await TaskScheduler(timed_kv).get_queue_depth() == 1


async def test_retrying_all_takes_each_that_was_dead_once_and_none_that_dies_meanwhile(
    timed_kv: KV, clock: WatchedClock
) -> None:
    count = 2 * PAGE + 10
    old = await dead_tasks(timed_kv, clock, count)

    class DiesAgain(ScriptedKV):
        """Whatever is revived dies again at once, and so comes first in every listing from then on."""

        @property
        def store(self) -> Any:
            store = super().store
            revive = store.revive

            async def revive_and_die(task_id: str, new_id: str) -> Any:
                revived = await revive(task_id, new_id)
                (lease,) = await claim(timed_kv, "t", nonce=f"{new_id:.16}")
                await timed_kv.store.settle([Settlement(lease, Die("again", None))])
                return revived

            store.revive = revive_and_die
            return store

    dlq = create_dead_letter_queue(DiesAgain(timed_kv))
    assert await dlq.retry_all() == count
    assert await dlq.count() == count
    left = {entry.task.revived_from for entry in await dlq.list(limit=count)}
    assert left == set(old)


async def test_purging_by_age(timed_kv: KV, clock: WatchedClock) -> None:
    ids, dlq = await dead_tasks(timed_kv, clock, 5), create_dead_letter_queue(timed_kv)
    assert await dlq.purge(timedelta(days=7)) == 0
    assert await dlq.purge(3.5) == 2
    assert [entry.task_id for entry in await dlq.list()] == ids[:1:-1]
    clock.advance(60)
    assert await dlq.purge(timedelta(minutes=1)) == 3
    assert await dlq.count() == 0


@pytest.mark.parametrize("age", [0, -1, float("nan"), timedelta(0), timedelta(days=365 * 300), "a week"])
async def test_an_age_that_cannot_be_purges_nothing(timed_kv: KV, clock: WatchedClock, age: Any) -> None:
    await dead_tasks(timed_kv, clock, 1)
    clock.advance(1)
    dlq = create_dead_letter_queue(timed_kv)
    with pytest.raises(ConfigurationError, match="older_than"):
        await dlq.purge(age)
    assert await dlq.count() == 1


async def test_a_task_that_takes_its_workers_down_is_a_dead_letter(timed_kv: KV, clock: WatchedClock) -> None:
    pill: Any = define_task("pill", lambda: None, max_crashes=2)
    scheduler = TaskScheduler(timed_kv)
    task_id = await scheduler.enqueue(pill)
    for crash in range(2):
        await claim(timed_kv, "pill", nonce=f"{crash:016}")
        clock.advance(31)
    await timed_kv.store.reap()
    (entry,) = await scheduler.dead_letters.list()
    assert (entry.task_id, entry.attempts, entry.task.crashes) == (task_id, 0, 2)
    assert entry.reason == "its worker died 2 times while it ran (max_crashes)"
    assert entry.failed_at == datetime(2026, 1, 1, 0, 1, 2, tzinfo=UTC)


async def test_a_discarded_task_is_dead_at_its_first_attempt(timed_kv: KV) -> None:
    @define_task(name="discards", retry=RetryConfig(9))
    async def discards() -> None:
        raise Discard("no such user")

    scheduler = TaskScheduler(timed_kv)
    async with working(timed_kv, discards):
        task = await ended(timed_kv, await scheduler.enqueue(discards))
    assert (task.status, task.attempt, task.last_error) == ("dead", 1, "no such user")
