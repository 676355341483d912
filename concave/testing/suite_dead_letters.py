"""What every store promises of dead tasks: they are kept, revived once, and purged by age."""

# ruff: noqa: D102  (a test's name is its documentation)

from __future__ import annotations

import asyncio

from concave.store.protocol import Store
from concave.store.records import Complete, Die, Failure, Retention, Retry
from concave.testing.clock import FakeClock
from concave.testing.suite_support import (
    HOUR,
    SECOND,
    add,
    complete_all,
    die,
    found,
    new_tasks,
    record_of,
    settle,
    status_of,
    take,
    take_one,
)

__all__ = ["DeadLettersSuite"]


class DeadLettersSuite:
    """`Store.dead`, `dead_count`, `revive` and `purge`."""

    async def test_the_latest_to_die_comes_first(self, store: Store, clock: FakeClock) -> None:
        ids = await die(store, clock, 5)
        latest_first = list(reversed(ids))
        assert [record.id for record in await store.dead(10, 0)] == latest_first
        assert [record.id for record in await store.dead(2, 1)] == latest_first[1:3]
        assert await store.dead(10, 5) == []
        assert await store.dead_count() == 5
        assert await store.dead(1, 0) == [await store.get(ids[-1])]

    async def test_only_the_dead_are_dead(self, store: Store) -> None:
        await store.add(new_tasks(5))
        completed, failed, _running, dead = await take(store, limit=4)
        await settle(store, completed, Complete(b"1"))
        await settle(store, failed, Retry(0, Failure("x")))
        await settle(store, dead, Die("x", None))
        assert [record.id for record in await store.dead(10, 0)] == [dead.task.id]
        assert await store.dead_count() == 1

    # Reviving

    async def test_a_revived_task_starts_afresh(self, store: Store, clock: FakeClock) -> None:
        old = await add(
            store,
            input=b'{"a": []}',
            priority=90,
            max_attempts=4,
            max_crashes=5,
            retention=Retention(dead=HOUR),
        )
        await take_one(store)
        clock.advance(31)
        await settle(store, await take_one(store), Die("boom", Failure("boom")))
        clock.advance(1)
        assert await store.revive(old, "new") == "new"
        assert await store.get(old) is None
        task = await record_of(store, "new")
        assert (task.status, task.attempt, task.crashes, task.failures) == ("pending", 0, 0, ())
        assert (task.input, task.priority, task.max_attempts, task.max_crashes) == (b'{"a": []}', 90, 4, 5)
        assert (task.created_at, task.due_at, task.revived_from) == (clock.now(), clock.now(), old)
        assert (task.retention, task.reason, task.ended_at) == (Retention(dead=HOUR), None, None)
        assert (await store.dead_count(), await store.depth(), await found(store)) == (0, 1, ["new"])
        lease = await take_one(store)
        assert (lease.task.id, lease.task.attempt, lease.suspect) == ("new", 1, False)

    async def test_reviving_again_under_the_same_id_finds_it_done(
        self, store: Store, clock: FakeClock
    ) -> None:
        (old,) = await die(store, clock, 1)
        assert await store.revive(old, "new") == "new"
        assert await store.revive(old, "new") == "new"
        lease = await take_one(store)
        assert await store.revive(old, "new") == "new"
        await settle(store, lease, Complete(b"1"))
        assert await store.revive(old, "new") == "new"
        assert await status_of(store, "new") == "completed"

    async def test_of_many_who_revive_one_succeeds(self, store: Store, clock: FakeClock) -> None:
        (old,) = await die(store, clock, 1)
        revived = await asyncio.gather(*(store.revive(old, f"new-{number}") for number in range(20)))
        (new,) = [task_id for task_id in revived if task_id is not None]
        assert await found(store) == [new]
        assert await store.depth() == 1

    async def test_only_the_dead_are_revived(self, store: Store) -> None:
        ids = await store.add(new_tasks(3))
        running, completed = await take(store, limit=2)
        await settle(store, completed, Complete(b"1"))
        for task_id in (*ids, "unknown"):
            assert await store.revive(task_id, "new") is None
        assert await store.get("new") is None
        assert await settle(store, running, Complete(b"1"))

    async def test_a_revived_task_never_takes_anothers_place(self, store: Store, clock: FakeClock) -> None:
        (old,) = await die(store, clock, 1)
        other = await add(store, input=b"[]")
        assert await store.revive(old, other) is None
        assert (await record_of(store, other)).input == b"[]"
        assert await status_of(store, old) == "dead"

    async def test_a_task_may_die_and_be_revived_again_and_again(
        self, store: Store, clock: FakeClock
    ) -> None:
        (task_id,) = await die(store, clock, 1, idempotency_key="k")
        for number in range(4):
            assert await store.revive(task_id, f"life-{number}") == f"life-{number}"
            assert (await record_of(store, f"life-{number}")).revived_from == task_id
            task_id = f"life-{number}"
            assert await add(store, idempotency_key="k") == task_id
            await settle(store, await take_one(store), Die("boom", None))
        assert await store.dead_count() == 1

    # Purging

    async def test_purge_forgets_what_died_long_enough_ago(self, store: Store, clock: FakeClock) -> None:
        ids = await die(store, clock, 3)  # 3, 2 and 1 seconds ago
        assert await store.purge(3 * SECOND) == 0
        clock.advance_micros(1)
        assert await store.purge(3 * SECOND) == 1
        assert [await status_of(store, task_id) for task_id in ids] == [None, "dead", "dead"]
        assert await store.dead_count() == 2
        assert await store.purge(0) == 2
        assert await store.purge(0) == 0
        assert await store.dead(10, 0) == []
        assert await found(store) == []

    async def test_thousands_are_purged(self, store: Store, clock: FakeClock) -> None:
        await store.add(new_tasks(2500))
        while leases := await take(store, limit=500):
            await complete_all(store, leases, Die("x", None))
        clock.advance(2)
        assert await store.dead_count() == 2500
        assert await store.purge(SECOND) == 2500
        assert await store.dead_count() == 0

    # Their time

    async def test_the_dead_are_counted_as_long_as_they_are_kept(
        self, store: Store, clock: FakeClock
    ) -> None:
        brief = Retention(dead=10 * SECOND)
        await die(store, clock, 2, retention=brief)
        kept = await die(store, clock, 2)
        await die(store, clock, 2, retention=brief)
        kept += await die(store, clock, 2)
        clock.advance(10)
        kept.reverse()
        assert await store.dead_count() == 4
        assert [record.id for record in await store.dead(3, 0)] == kept[:3]
        assert [record.id for record in await store.dead(3, 3)] == kept[3:]

    async def test_what_has_expired_is_neither_revived_nor_purged(
        self, store: Store, clock: FakeClock
    ) -> None:
        first, _ = await die(store, clock, 2, retention=Retention(dead=10 * SECOND))
        clock.advance(10)
        assert await store.revive(first, "new") is None
        assert await store.purge(SECOND) == 0
        assert await store.depth() == 0
