"""What every store promises of forgetting: whatever ends is gone after its time, and nothing before."""

# ruff: noqa: D102  (a test's name is its documentation)

from __future__ import annotations

from concave.store.protocol import Store
from concave.store.records import Cancel, Complete, Die, Retention
from concave.testing.clock import FakeClock
from concave.testing.suite_support import (
    HOUR,
    SECOND,
    add,
    complete_all,
    found,
    ids_of,
    new_task,
    new_tasks,
    record_of,
    settle,
    status_of,
    take,
    take_one,
)

__all__ = ["RetentionSuite"]


class RetentionSuite:
    """How long things are kept, and `Store.tidy`."""

    async def test_each_end_is_remembered_for_its_own_time(self, store: Store, clock: FakeClock) -> None:
        kept = Retention(completed=10 * SECOND, cancelled=20 * SECOND, dead=30 * SECOND)
        completed, stopped, dead = await store.add(new_tasks(3, retention=kept))
        leases = await take(store)
        await settle(store, leases[0], Complete(b"1"))
        await settle(store, leases[1], Cancel("x"))
        await settle(store, leases[2], Die("x", None))
        cancelled = await add(store, retention=kept)
        await store.cancel(cancelled)
        for going, staying in (
            ({completed}, {stopped, cancelled, dead}),
            ({stopped, cancelled}, {dead}),
            ({dead}, set[str]()),
        ):
            clock.advance_micros(10 * SECOND - 1)
            assert set(await found(store)) == going | staying
            clock.advance_micros(1)
            for task_id in going:
                assert await store.get(task_id) is None
            assert set(await found(store)) == staying
        assert await store.dead_count() == 0

    async def test_what_has_not_ended_is_kept(self, store: Store, clock: FakeClock) -> None:
        brief = Retention(completed=SECOND, cancelled=SECOND, dead=SECOND, key=SECOND)
        waiting = await add(store, delay=400 * 24 * 3600 * SECOND, retention=brief, idempotency_key="k")
        running = await add(store, "runs", retention=brief)
        lease = await take_one(store, "runs", lease=500 * 24 * 3600 * SECOND)
        clock.advance(399 * 24 * 3600)
        await store.tidy()
        assert sorted(await found(store)) == sorted([waiting, running])
        assert await add(store, idempotency_key="k") == waiting
        clock.advance(24 * 3600)
        assert ids_of(await take(store)) == [waiting]
        assert await settle(store, lease, Complete(b"1"))
        assert (await record_of(store, running)).status == "completed"

    async def test_tasks_of_one_name_may_be_kept_for_different_times(
        self, store: Store, clock: FakeClock
    ) -> None:
        lasting = await add(store, retention=Retention(completed=100 * SECOND))
        brief = await add(store, retention=Retention(completed=10 * SECOND))
        for lease in await take(store):
            await settle(store, lease, Complete(b"1"))
        clock.advance(10)
        await store.tidy()
        assert await store.get(brief) is None
        assert await found(store) == [lasting]
        clock.advance(90)
        await store.tidy()
        assert await found(store) == []

    async def test_tidying_takes_nothing_that_is_still_kept(self, store: Store, clock: FakeClock) -> None:
        await store.add(new_tasks(300, retention=Retention(completed=10 * SECOND)))
        await complete_all(store, await take(store, limit=300), Complete(b"1"))
        ids = await store.add(new_tasks(300, retention=Retention(completed=20 * SECOND)))
        await complete_all(store, await take(store, limit=300), Complete(b"1"))
        await store.tidy()
        assert len(await found(store, limit=1000)) == 600
        clock.advance(10)
        for _ in range(10):
            await store.tidy()
        assert await found(store, limit=1000) == list(reversed(ids))

    async def test_one_that_was_forgotten_early_takes_no_later_one_of_its_id_along(
        self, store: Store, clock: FakeClock
    ) -> None:
        new = new_task(retention=Retention(dead=48 * HOUR))
        await store.add([new])
        await settle(store, await take_one(store), Die("x", None))
        clock.advance(1)
        assert await store.purge(0) == 1
        clock.advance(25 * 3600)
        await store.add([new])
        clock.advance(24 * 3600)
        await store.tidy()
        assert await status_of(store, new.id) == "pending"
