"""The behaviour that every store must show, second part: looking, dead letters, schedules, locks, topics."""

# ruff: noqa: D102  (a test's name is its documentation)

from __future__ import annotations

import asyncio
from typing import Any

from concave.store.protocol import WORK, Store, abort_topic, done_topic
from concave.store.records import (
    Complete,
    Die,
    Failure,
    Fired,
    Query,
    Retention,
    Retry,
    ScheduleRecord,
    Settlement,
)
from concave.testing.clock import FakeClock
from concave.testing.store_suite import LEASE, SECOND, add, claim_some, new_task, settle

__all__ = ["ColdStoreSuite"]


def _schedule(now: int, **fields: Any) -> ScheduleRecord:
    given: dict[str, Any] = {
        "id": "s1", "task": new_task("tick", input=b'{"a": []}', priority=80), "cron": None, "interval": 60 * SECOND,
        "timezone": "UTC", "misfire": "once", "enabled": True, "created_at": now, "anchor": now,
        "next_at": now + 60 * SECOND,
    }  # fmt: skip
    return ScheduleRecord(**{**given, **fields})


async def _found(store: Store, **query: Any) -> list[str]:
    return [record.id for record in await store.find(Query(**query))]


class ColdStoreSuite:
    """One test per promise of the verbs that people and dashboards call."""

    # Finding

    async def test_find_tells_every_status_and_the_newest_first(self, store: Store, clock: FakeClock) -> None:
        ids: dict[str, str] = {}
        for status in ("completed", "failed", "dead", "running"):
            ids[status] = await add(store)
            clock.advance(1)
        leases = {lease.task.id: lease for lease in (await claim_some(store)).leases}
        await settle(store, leases[ids["completed"]], Complete(b"1"))
        await settle(store, leases[ids["failed"]], Retry(60 * SECOND, Failure("x")))
        await settle(store, leases[ids["dead"]], Die("x", None))
        ids["cancelled"] = await add(store)
        await store.cancel(ids["cancelled"])
        clock.advance(1)
        ids["scheduled"] = await add(store, delay=90 * SECOND)
        clock.advance(1)
        ids["pending"] = await add(store)
        assert await _found(store) == list(reversed(ids.values()))
        for status, task_id in ids.items():
            (record,) = await store.find(Query(statuses=(status,)))  # type: ignore[arg-type]
            assert (record.id, record.status) == (task_id, status)
            assert record == await store.get(task_id)
        assert await _found(store, statuses=("pending", "dead")) == [ids["pending"], ids["dead"]]

    async def test_find_filters_by_name_and_creation_exclusively(
        self, store: Store, clock: FakeClock
    ) -> None:
        start = clock.now()
        ids: list[str] = []
        for name in ("a", "b", "a", "c"):
            ids.append(await add(store, name=name))
            clock.advance(1)
        assert await _found(store, names=("a",)) == [ids[2], ids[0]]
        assert await _found(store, names=("a", "c", "none")) == [ids[3], ids[2], ids[0]]
        assert await _found(store, created_after=start) == [ids[3], ids[2], ids[1]]
        assert await _found(store, created_before=start + 2 * SECOND) == [ids[1], ids[0]]
        assert await _found(store, created_after=start, created_before=start + 3 * SECOND, names=("a",)) == [
            ids[2]
        ]
        await claim_some(store, "a", limit=1)
        assert await _found(store, statuses=("running",), created_after=start) == []
        assert await _found(store, statuses=("running",), created_before=start + 1) == [ids[0]]

    async def test_pages_are_disjoint_and_complete_however_deep(self, store: Store) -> None:
        ids = await store.add([new_task(f"n{i % 3}", priority=(i % 4) * 25) for i in range(1500)])
        pages = [await _found(store, limit=100, offset=offset) for offset in range(0, 1600, 100)]
        assert [task_id for page in pages for task_id in page] == list(reversed(ids))

    async def test_what_has_fallen_due_is_found_as_pending(self, store: Store, clock: FakeClock) -> None:
        task_id = await add(store, delay=SECOND)
        assert await _found(store, statuses=("scheduled",)) == [task_id]
        clock.advance(1)
        assert await _found(store, statuses=("scheduled",)) == []
        assert await _found(store, statuses=("pending",)) == [task_id]

    async def test_depth_counts_what_waits(self, store: Store) -> None:
        await store.add([new_task() for _ in range(3)] + [new_task(delay=SECOND)])
        assert await store.depth() == 4
        (lease,) = (await claim_some(store, limit=1)).leases
        assert await store.depth() == 3
        await settle(store, lease, Retry(SECOND, Failure("x")))
        assert await store.depth() == 4

    # Cancelling and progress

    async def test_cancel_is_for_what_waits(self, store: Store) -> None:
        pending, delayed = await add(store), await add(store, delay=SECOND)
        assert await store.cancel(pending)
        assert await store.cancel(delayed)
        assert not await store.cancel(pending)
        assert not await store.cancel("unknown")
        assert await store.depth() == 0
        assert (await claim_some(store)).leases == []
        running = await add(store)
        (lease,) = (await claim_some(store)).leases
        assert not await store.cancel(running)
        await settle(store, lease, Complete(b"1"))
        assert not await store.cancel(running)

    async def test_abort_tells_the_worker_and_outlives_it(self, store: Store, clock: FakeClock) -> None:
        told: asyncio.Queue[str | None] = asyncio.Queue()
        listener = await store.listen(abort_topic("worker-1"), told.put_nowait)
        task_id = await add(store)
        assert not await store.abort(task_id)
        await claim_some(store)
        assert await store.abort(task_id)
        assert await told.get() == task_id
        clock.advance(31)
        await store.reap()
        task = await store.get(task_id)
        assert task is not None
        assert task.status == "cancelled"
        await listener.close()

    async def test_progress_is_shown_while_the_task_runs(self, store: Store) -> None:
        task_id = await add(store)
        (lease,) = (await claim_some(store)).leases
        assert await store.report(lease, b"[1,2,null]")
        task = await store.get(task_id)
        assert task is not None
        assert task.progress == b"[1,2,null]"
        await settle(store, lease, Complete(b"1"))
        task = await store.get(task_id)
        assert task is not None
        assert task.progress is None

    # Topics

    async def test_work_is_announced_when_it_concerns_an_idle_worker(self, store: Store) -> None:
        told: asyncio.Queue[str | None] = asyncio.Queue()
        listener = await store.listen(WORK, told.put_nowait)
        await store.add([new_task(delay=60 * SECOND)])
        assert await told.get() == "job"
        await store.add([new_task(delay=30 * SECOND)])  # earlier than any before it
        assert await told.get() == "job"
        await store.add([new_task("other")])
        assert await told.get() == "other"
        await store.add([new_task("capped") for _ in range(2)])
        assert await told.get() == "capped"
        (lease,) = (await claim_some(store, "capped:1")).leases
        await store.settle([Settlement(lease, Complete(b"1"))])
        assert await told.get() == "capped"  # a slot came free
        await listener.close()
        await listener.close()

    async def test_endings_are_announced(self, store: Store) -> None:
        told: asyncio.Queue[str | None] = asyncio.Queue()
        first, second = await add(store), await add(store)
        listeners = [await store.listen(done_topic(each), told.put_nowait) for each in (first, second)]
        assert await store.cancel(second)
        assert await told.get() == second
        (lease,) = (await claim_some(store)).leases
        await settle(store, lease, Complete(b"1"))
        assert await told.get() == first
        for listener in listeners:
            await listener.close()

    # Dead letters

    async def test_the_latest_to_die_comes_first(self, store: Store, clock: FakeClock) -> None:
        ids = await self._dead(store, clock, 3)
        assert [record.id for record in await store.dead(10, 0)] == list(reversed(ids))
        assert [record.id for record in await store.dead(1, 1)] == [ids[1]]
        assert await store.dead_count() == 3

    async def test_a_revived_task_starts_afresh_once(self, store: Store, clock: FakeClock) -> None:
        (old,) = await self._dead(store, clock, 1, input=b'{"a": []}', idempotency_key="k")
        revived = await asyncio.gather(*(store.revive(old, f"new-{i}") for i in range(5)))
        (new,) = [task_id for task_id in revived if task_id]
        assert await store.revive(old, new) == new  # the same call again
        assert await store.get(old) is None
        task = await store.get(new)
        assert task is not None
        assert (task.status, task.attempt, task.failures, task.input) == ("pending", 0, (), b'{"a": []}')
        assert (task.revived_from, task.idempotency_key) == (old, "k")
        assert await add(store, idempotency_key="k") == new
        assert await store.dead_count() == 0
        assert await store.revive("unknown", "x") is None
        assert await store.revive(new, "x") is None

    async def test_a_revived_task_goes_without_a_key_that_a_newer_one_holds(
        self, store: Store, clock: FakeClock
    ) -> None:
        (old,) = await self._dead(
            store, clock, 1, idempotency_key="k", retention=Retention(dead=3600 * SECOND)
        )
        clock.advance(3598)
        assert await add(store, idempotency_key="k") == old
        new = await store.revive(old, "fresh")
        assert new is not None
        assert await store.cancel(new)
        newer = await add(store, idempotency_key="k")
        assert newer not in {old, new}

    async def test_purge_forgets_what_died_long_enough_ago(self, store: Store, clock: FakeClock) -> None:
        ids = await self._dead(store, clock, 3)
        assert await store.purge(3600 * SECOND) == 0
        clock.advance(3598)
        assert await store.purge(3600 * SECOND) == 1
        assert await store.get(ids[0]) is None
        assert await store.dead_count() == 2

    async def _dead(self, store: Store, clock: FakeClock, count: int, **fields: Any) -> list[str]:
        ids: list[str] = []
        for _ in range(count):
            ids.append(await add(store, **fields))
            (lease,) = (await claim_some(store)).leases
            await settle(store, lease, Die("boom", Failure("boom")))
            clock.advance(1)
        return ids

    # Retention

    async def test_ended_tasks_are_forgotten_after_their_time(self, store: Store, clock: FakeClock) -> None:
        kept = Retention(completed=10 * SECOND, cancelled=20 * SECOND, dead=30 * SECOND)
        completed, dead = await store.add([new_task(retention=kept) for _ in range(2)])
        first, second = (await claim_some(store)).leases
        await settle(store, first, Complete(b"1"))
        await settle(store, second, Die("x", None))
        cancelled = await add(store, retention=kept)
        await store.cancel(cancelled)
        for task_id in (completed, cancelled, dead):
            clock.advance_micros(10 * SECOND - 1)
            assert await store.get(task_id) is not None
            clock.advance_micros(1)
            assert await store.get(task_id) is None
            await store.tidy()
        assert await _found(store) == []
        assert await store.dead_count() == 0

    # Schedules

    async def test_a_schedule_is_kept_whole(self, store: Store, clock: FakeClock) -> None:
        schedule = _schedule(clock.now())
        await store.schedules.put(schedule)
        assert await store.schedules.get("s1") == schedule
        assert await store.schedules.list() == [schedule]
        assert await store.schedules.get("none") is None
        assert await store.schedules.delete("s1")
        assert not await store.schedules.delete("s1")
        assert await store.schedules.list() == []

    async def test_declaring_again_keeps_where_it_stands(self, store: Store, clock: FakeClock) -> None:
        start = clock.now()
        await store.schedules.put(_schedule(start))
        clock.advance(10)
        await store.schedules.put(_schedule(clock.now()))
        schedule = await store.schedules.get("s1")
        assert schedule is not None
        assert (schedule.next_at, schedule.anchor, schedule.created_at) == (start + 60 * SECOND, start, start)
        await store.schedules.enable("s1", None)
        await store.schedules.put(_schedule(clock.now(), interval=SECOND, next_at=clock.now() + SECOND))
        schedule = await store.schedules.get("s1")
        assert schedule is not None
        assert (schedule.next_at, schedule.anchor, schedule.created_at) == (
            clock.now() + SECOND,
            clock.now(),
            start,
        )
        assert not schedule.enabled

    async def test_due_schedules_and_pauses(self, store: Store, clock: FakeClock) -> None:
        now = clock.now()
        await store.schedules.put(_schedule(now))
        await store.schedules.put(_schedule(now, id="s2", next_at=now + 90 * SECOND))
        due = await store.schedules.due(10)
        assert (due.now, due.schedules, due.idle_for) == (now, [], 60 * SECOND)
        clock.advance(60)
        due = await store.schedules.due(10)
        assert ([each.id for each in due.schedules], due.idle_for) == (["s1"], 30 * SECOND)
        assert await store.schedules.enable("s1", None)
        due = await store.schedules.due(10)
        assert due.schedules == []
        assert await store.schedules.enable("s1", now)
        assert [each.id for each in (await store.schedules.due(10)).schedules] == ["s1"]
        assert not await store.schedules.enable("none", None)

    async def test_a_slot_is_fired_once_and_its_task_added_in_the_same_step(
        self, store: Store, clock: FakeClock
    ) -> None:
        schedule = _schedule(clock.now())
        await store.schedules.put(schedule)
        clock.advance(60)
        slot = schedule.next_at
        fired = Fired("s1", slot, slot + 60 * SECOND, slot, [schedule.task._replace(id="slot-1", at=slot)])
        outcomes = await asyncio.gather(*(store.schedules.fire(fired) for _ in range(10)))
        assert outcomes.count(True) == 1
        task = await store.get("slot-1")
        assert task is not None
        assert (task.status, task.due_at, task.priority, task.input) == ("pending", slot, 80, b'{"a": []}')
        after = await store.schedules.get("s1")
        assert after is not None
        assert (after.next_at, after.last_at) == (slot + 60 * SECOND, slot)
        assert await store.depth() == 1
        await store.schedules.enable("s1", None)
        assert not await store.schedules.fire(fired._replace(expected_at=after.next_at))
        assert not await store.schedules.fire(fired._replace(schedule_id="none"))

    # Locks

    async def test_a_lock_has_one_owner_and_an_end(self, store: Store, clock: FakeClock) -> None:
        locks = store.locks
        assert await locks.acquire("l", "me", LEASE)
        assert await locks.acquire("l", "me", LEASE)
        assert not await locks.acquire("l", "you", LEASE)
        assert await locks.is_held("l", "me")
        assert not await locks.is_held("l", "you")
        assert not await locks.extend("l", "you", LEASE)
        assert not await locks.release("l", "you")
        clock.advance(29)
        assert await locks.extend("l", "me", LEASE)
        clock.advance(29)
        assert await locks.is_held("l", "me")
        clock.advance(1)
        assert not await locks.is_held("l", "me")
        assert not await locks.extend("l", "me", LEASE)
        assert await locks.acquire("l", "you", LEASE)
        assert await locks.release("l", "you")
        assert not await locks.release("l", "you")

    async def test_now_is_the_clock(self, store: Store, clock: FakeClock) -> None:
        assert await store.now() == clock.now()
