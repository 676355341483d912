"""What every store promises of topics: whoever waits is told, so that nobody has to poll."""

# ruff: noqa: D102  (a test's name is its documentation)

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from concave.store.protocol import DEAD, WORK, Store, done_topic
from concave.store.records import (
    Cancel,
    Complete,
    Debounce,
    Decision,
    Die,
    Failure,
    Release,
    Retry,
    Settlement,
    TaskRecord,
)
from concave.testing.clock import FakeClock
from concave.testing.suite_support import (
    SECOND,
    Heard,
    add,
    claim_of,
    new_task,
    new_tasks,
    settle,
    take,
    take_one,
)

__all__ = ["TopicsSuite"]


class TopicsSuite:
    """`Store.listen`. A message is a hint and may be repeated; that one is missing is what these tests would show."""

    # Work

    async def test_an_empty_queue_that_gets_a_task_is_news(self, store: Store) -> None:
        async with _hearing(store, WORK) as heard:
            for _ in range(3):
                await add(store)
                await heard.until("job")
                await settle(store, await take_one(store), Complete(b"1"))
                heard.forget()
            await store.add([new_task(priority=100), new_task("other", priority=0)])
            await heard.until("job")
            await add(store, priority=0)
            await heard.until("job")

    async def test_a_queue_that_was_emptied_by_cancelling_is_empty(self, store: Store) -> None:
        async with _hearing(store, WORK) as heard:
            for _ in range(3):
                task_id = await add(store)
                await heard.until("job")
                await store.cancel(task_id)
                heard.forget()

    async def test_what_comes_back_is_news(self, store: Store, clock: FakeClock) -> None:
        async with _hearing(store, WORK) as heard:
            await add(store, max_crashes=9)
            await heard.until("job")
            decisions: list[Decision] = [
                Release(), Retry(0, Failure("x")), Retry(0, None), Retry(SECOND, Failure("x")),
            ]  # fmt: skip
            for decision in decisions:
                heard.forget()
                await settle(store, await take_one(store), decision)
                await heard.until("job")
            clock.advance(1)
            lease = await take_one(store)
            clock.advance(31)
            heard.forget()
            await store.reap()
            await heard.until("job")
            await settle(store, await take_one(store), Die("x", None))
            heard.forget()
            assert await store.revive(lease.task.id, "revived") == "revived"
            await heard.until("job")

    async def test_what_is_due_before_all_others_is_news(self, store: Store) -> None:
        async with _hearing(store, WORK) as heard:
            for delay in (60, 30, 10):
                await add(store, delay=delay * SECOND)
                await heard.until("job")
                heard.forget()

    async def test_what_is_due_before_all_others_of_its_name_is_news(self, store: Store) -> None:
        # A worker that doesn't know the earlier task's name has not been told of anything so far.
        async with _hearing(store, WORK) as heard:
            await add(store, "unknown", delay=SECOND)
            await add(store, delay=60 * SECOND)
            await heard.until("job")

    async def test_what_is_due_next_is_news_when_its_forerunner_was_cancelled(self, store: Store) -> None:
        async with _hearing(store, WORK) as heard:
            first = await add(store, delay=SECOND)
            await heard.until("job")
            await store.cancel(first)
            assert await take(store) == []
            heard.forget()
            await add(store, delay=60 * SECOND)
            await heard.until("job")

    async def test_a_free_slot_under_a_cap_is_news(self, store: Store) -> None:
        decisions: list[Decision] = [
            Complete(b"1"), Retry(SECOND, Failure("x")), Retry(SECOND, None), Die("x", None), Cancel("x"),
        ]  # fmt: skip
        await store.add(new_tasks(10))
        async with _hearing(store, WORK) as heard:
            for decision in decisions:
                lease = await take_one(store, "job:1")
                heard.forget()
                await settle(store, lease, decision)
                await heard.until("job")

    async def test_a_free_slot_that_its_worker_does_not_fill_is_news(self, store: Store) -> None:
        await store.add([*new_tasks(4), *new_tasks(4, "other")])
        async with _hearing(store, WORK) as heard:
            first, second = [
                lease for lease in await take(store, "job:2 other:2") if lease.task.name == "job"
            ]
            heard.forget()
            await store.settle([Settlement(first, Complete(b"1"))], claim_of("other:2"))
            await heard.until("job")
            heard.forget()
            await store.settle([Settlement(second, Complete(b"1"))], claim_of("job:2 other:2", limit=0))
            await heard.until("job")

    async def test_a_dead_workers_slot_is_news(self, store: Store, clock: FakeClock) -> None:
        await store.add(new_tasks(3, max_crashes=1))
        await take_one(store, "job:1")
        async with _hearing(store, WORK) as heard:
            clock.advance(31)
            assert await store.reap() == 1
            await heard.until("job")

    # Ends

    async def test_every_end_is_told_to_whoever_waits_for_it(self, store: Store, clock: FakeClock) -> None:
        ids = await store.add(new_tasks(6, max_crashes=1))
        async with _hearing(store, *(done_topic(task_id) for task_id in ids)) as heard:
            await store.cancel(ids[0])
            await heard.until(ids[0])
            decisions: list[Decision] = [Complete(b"1"), Die("x", None), Cancel("x")]
            leases = await take(store)
            for lease, decision in zip(leases[:3], decisions, strict=True):
                await settle(store, lease, decision)
                await heard.until(lease.task.id)
            aborted, crashed = leases[3:]
            await store.abort(aborted.task.id)
            await store.extend([crashed], 60 * SECOND)
            clock.advance(31)
            await store.reap()
            await heard.until(aborted.task.id)
            clock.advance(30)
            await store.reap()
            await heard.until(crashed.task.id)

    async def test_every_death_is_told(self, store: Store, clock: FakeClock) -> None:
        await store.add(new_tasks(3, max_crashes=1))
        died, crashed, completed = await take(store)
        messages: list[str | None] = []
        listener = await store.listen(DEAD, messages.append)
        async with _hearing(store, DEAD) as heard:
            await settle(store, completed, Complete(b"1"))
            await settle(store, died, Die("x", None))
            await heard.until(died.task.id)
            clock.advance(31)
            await store.reap()
            await heard.until(crashed.task.id)
        assert set(messages) <= {None, died.task.id, crashed.task.id}
        await listener.close()

    async def test_all_ends_in_one_step_are_told(self, store: Store) -> None:
        ids = await store.add(new_tasks(3))
        hearers = [Heard() for _ in ids]
        listeners = [
            await store.listen(done_topic(task_id), heard)
            for task_id, heard in zip(ids, hearers, strict=True)
        ]
        await store.settle([Settlement(lease, Complete(b"1")) for lease in await take(store)])
        for task_id, heard in zip(ids, hearers, strict=True):
            await heard.until(task_id)
        for listener in listeners:
            await listener.close()

    async def test_who_waits_for_an_end_is_told_all_of_it_or_that_it_is_there(
        self, store: Store, clock: FakeClock
    ) -> None:
        decisions: list[Decision] = [Complete(b"[1]"), Die("x", Failure("boom")), Cancel("y"), Complete(b"2")]
        several: tuple[dict[str, Any], ...] = (
            {},
            {"debounce": Debounce("d", 0, None), "idempotency_key": "k"},
        )
        for keys in several:
            for decision in decisions:
                task_id = await add(store, **keys)
                told: asyncio.Queue[TaskRecord | None] = asyncio.Queue()
                listener = await store.ended(task_id, told.put_nowait)
                (lease,) = await take(store)
                clock.advance(1)
                await settle(store, lease, decision)
                record = await told.get()
                assert record in {None, await store.get(task_id)}
                await listener.close()
                clock.advance(90 * 86400)

    async def test_of_many_that_end_together_each_is_told(self, store: Store) -> None:
        for count in (3, 50):
            ids = await store.add(new_tasks(count))
            told: dict[str, asyncio.Queue[TaskRecord | None]] = {task_id: asyncio.Queue() for task_id in ids}
            listeners = [await store.ended(task_id, told[task_id].put_nowait) for task_id in ids]
            leases = await take(store, limit=count)
            await store.settle([Settlement(lease, Complete(b"1")) for lease in leases])
            for task_id in ids:
                assert await told[task_id].get() in {None, await store.get(task_id)}
            for listener in listeners:
                await listener.close()

    async def test_who_waits_for_one_task_hears_of_no_other(self, store: Store) -> None:
        first, second = await store.add(new_tasks(2))
        messages: list[str | None] = []
        listener = await store.listen(done_topic(first), messages.append)
        async with _hearing(store, done_topic(second)) as heard:
            await store.cancel(second)
            await heard.until(second)
        assert set(messages) <= {None}
        await listener.close()

    # Listeners

    async def test_all_who_listen_are_told_and_none_that_has_left(self, store: Store) -> None:
        left: list[str | None] = []
        async with _hearing(store, WORK) as first, _hearing(store, WORK) as second:
            listener = await store.listen(WORK, left.append)
            await listener.close()
            await listener.close()
            await add(store)
            await first.until("job")
            await second.until("job")
        assert left == []

    async def test_a_topic_may_be_listened_to_again(self, store: Store) -> None:
        for number in range(5):
            async with _hearing(store, WORK) as heard:
                await add(store, f"job-{number}")
                await heard.until(f"job-{number}")


@asynccontextmanager
async def _hearing(store: Store, *topics: str) -> AsyncGenerator[Heard]:
    heard = Heard()
    listeners = [await store.listen(topic, heard) for topic in topics]
    yield heard
    for listener in listeners:
        await listener.close()
