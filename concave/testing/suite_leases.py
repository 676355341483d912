"""What every store promises of leases: they last while they are extended, and a crash is not a failure."""

# ruff: noqa: D102  (a test's name is its documentation)

from __future__ import annotations

from concave.store.protocol import Store, abort_topic
from concave.store.records import Complete, Die, Failure, Release, Retry, crash_reason
from concave.testing.clock import FakeClock
from concave.testing.suite_support import (
    LEASE,
    SECOND,
    Heard,
    add,
    found,
    new_tasks,
    record_of,
    settle,
    status_of,
    take,
    take_one,
)

__all__ = ["LeasesSuite"]


class LeasesSuite:
    """`Store.extend`, `reap`, `abort` and `report`."""

    # Extending

    async def test_a_lease_lasts_as_long_as_it_is_extended(self, store: Store, clock: FakeClock) -> None:
        await add(store)
        lease = await take_one(store)
        for _ in range(5):
            clock.advance_micros(LEASE - 1)
            assert await store.extend([lease], LEASE) == ["held"]
            assert await store.reap() == 0
            assert await take(store) == []
        clock.advance_micros(LEASE - 1)
        assert await store.reap() == 0
        clock.advance_micros(1)
        assert await store.reap() == 1

    async def test_a_lease_may_be_extended_by_less_than_it_had(self, store: Store, clock: FakeClock) -> None:
        await add(store)
        lease = await take_one(store)
        assert await store.extend([lease], SECOND) == ["held"]
        clock.advance(1)
        assert await store.reap() == 1

    async def test_a_lease_that_was_extended_twice_at_once_runs_out_once(
        self, store: Store, clock: FakeClock
    ) -> None:
        task_id = await add(store)
        lease = await take_one(store)
        assert await store.extend([lease, lease], LEASE) == ["held", "held"]
        clock.advance_micros(LEASE)
        assert await store.reap() == 1
        assert (await record_of(store, task_id)).crashes == 1

    async def test_only_what_is_held_is_extended(self, store: Store, clock: FakeClock) -> None:
        await store.add(new_tasks(4, max_crashes=5))
        lost, completed, released, held = await take(store)
        await settle(store, completed, Complete(b"1"))
        await settle(store, released, Release())
        clock.advance(20)
        await store.extend([held], LEASE)
        clock.advance(11)
        await store.reap()
        again = await take(store, suspects=2)
        unknown = held._replace(task=held.task._replace(id="unknown"))
        assert await store.extend([lost, held, completed, released, unknown, *again], LEASE) == [
            "lost", "held", "lost", "lost", "lost", "held", "held",
        ]  # fmt: skip
        assert await store.extend([], LEASE) == []

    # Crashes

    async def test_a_lease_that_ran_out_is_a_crash_and_no_failure(
        self, store: Store, clock: FakeClock
    ) -> None:
        task_id = await add(store)
        await take_one(store)
        clock.advance(31)
        assert await store.reap() == 1
        assert await store.reap() == 0
        task = await record_of(store, task_id)
        assert (task.status, task.crashes, task.attempt, task.interruptions) == ("pending", 1, 0, 0)
        assert (task.failures, task.started_at, task.due_at) == ((), None, clock.now())
        assert await store.depth() == 1

    async def test_each_lease_runs_out_at_its_own_time(self, store: Store, clock: FakeClock) -> None:
        ids = await store.add(new_tasks(3))
        for lease in (60 * SECOND, 10 * SECOND, 30 * SECOND):
            await take(store, limit=1, lease=lease)
        for task_id, wait in ((ids[1], 10), (ids[2], 20), (ids[0], 30)):
            clock.advance_micros(wait * SECOND - 1)
            assert await store.reap() == 0
            clock.advance_micros(1)
            assert await store.reap() == 1
            assert (await record_of(store, task_id)).crashes == 1

    async def test_three_counters_are_kept_apart(self, store: Store, clock: FakeClock) -> None:
        task_id = await add(store)
        await take_one(store)
        clock.advance(31)
        await settle(store, await take_one(store), Release())
        await settle(store, await take_one(store), Retry(0, Failure("x")))
        await settle(store, await take_one(store), Retry(0, None))
        await settle(store, await take_one(store), Release())
        await take_one(store)
        clock.advance(31)
        lease = await take_one(store)
        assert (lease.task.attempt, lease.task.crashes, lease.task.interruptions) == (2, 2, 2)
        await settle(store, lease, Complete(b"1"))
        task = await record_of(store, task_id)
        assert (task.attempt, task.crashes, task.interruptions, len(task.failures)) == (2, 2, 2, 1)

    async def test_what_crashes_too_often_is_dead_and_says_so(self, store: Store, clock: FakeClock) -> None:
        task_id = await add(store, max_crashes=3)
        for crashes in (1, 2, 3):
            assert await status_of(store, task_id) == "pending"
            await take_one(store, worker_id="me")
            clock.advance(31)
            assert await store.reap() == 1
            assert (await record_of(store, task_id)).crashes == crashes
        task = await record_of(store, task_id)
        assert (task.status, task.reason, task.attempt) == ("dead", crash_reason(3), 0)
        assert (task.worker_id, task.ended_at) == ("me", clock.now())
        assert [record.id for record in await store.dead(10, 0)] == [task_id]
        assert await store.depth() == 0
        assert await take(store) == []

    async def test_all_that_a_dead_worker_held_is_taken_back(self, store: Store, clock: FakeClock) -> None:
        await store.add([*new_tasks(150, "a"), *new_tasks(150, "b", priority=0)])
        assert len(await take(store, "a b", limit=400)) == 300
        clock.advance(31)
        assert await store.reap() == 300
        assert await store.depth() == 300
        assert len(await take(store, "a b", limit=400, suspects=400)) == 300

    # Aborting

    async def test_abort_tells_the_worker_that_runs_a_task(self, store: Store) -> None:
        heard, other = Heard(), Heard()
        listener = await store.listen(abort_topic("worker-1"), heard)
        unconcerned = await store.listen(abort_topic("worker-2"), other)
        first, second = await store.add(new_tasks(2))
        await take(store, limit=1, worker_id="worker-1")
        await take(store, limit=1, worker_id="worker-2")
        assert await store.abort(first)
        await heard.until(first)
        assert await store.abort(second)
        await other.until(second)
        assert await status_of(store, first) == "running"
        await listener.close()
        await unconcerned.close()

    async def test_who_extends_an_aborted_lease_learns_of_it(self, store: Store) -> None:
        first, _ = await store.add(new_tasks(2))
        leases = await take(store)
        await store.abort(first)
        for _ in range(2):
            assert await store.extend(leases, LEASE) == ["aborted", "held"]
        assert await settle(store, leases[0], Release())
        assert await store.extend([await take_one(store)], LEASE) == ["held"]

    async def test_only_what_runs_can_be_aborted(self, store: Store) -> None:
        task_id = await add(store)
        assert not await store.abort(task_id)
        assert not await store.abort("unknown")
        lease = await take_one(store)
        assert await store.abort(task_id)
        assert await store.abort(task_id)
        await settle(store, lease, Complete(b"1"))
        assert not await store.abort(task_id)
        assert await status_of(store, task_id) == "completed"

    async def test_an_aborted_task_is_cancelled_though_its_worker_died(
        self, store: Store, clock: FakeClock
    ) -> None:
        task_id = await add(store, max_crashes=1)
        await take_one(store, worker_id="me")
        await store.abort(task_id)
        clock.advance(31)
        assert await store.reap() == 1
        task = await record_of(store, task_id)
        assert (task.status, task.crashes, task.worker_id) == ("cancelled", 1, "me")
        assert task.reason
        assert await store.dead_count() == 0

    async def test_an_abort_is_meant_for_one_run(self, store: Store, clock: FakeClock) -> None:
        task_id = await add(store)
        for decision in (Retry(0, Failure("x")), Release()):
            lease = await take_one(store)
            await store.abort(task_id)
            await settle(store, lease, decision)
        await take_one(store)
        clock.advance(31)
        await store.reap()
        assert await status_of(store, task_id) == "pending"

    # Progress

    async def test_progress_is_shown_while_the_task_runs(self, store: Store) -> None:
        task_id = await add(store)
        lease = await take_one(store)
        for progress in (b"[1, 2, null]", b'[2,2,"\xc3\xa9"]'):
            assert await store.report(lease, progress)
            assert (await record_of(store, task_id)).progress == progress
            assert await found(store, statuses=("running",)) == [task_id]

    async def test_progress_goes_with_the_run(self, store: Store, clock: FakeClock) -> None:
        task_id = await add(store, max_crashes=9)
        for decision in (Retry(0, Failure("x")), Retry(0, None), Release(), None, Die("x", None)):
            lease = await take_one(store)
            assert lease.task.progress is None
            assert await store.report(lease, b"1")
            if decision is None:
                clock.advance(31)
                await store.reap()
            else:
                await settle(store, lease, decision)
            assert (await record_of(store, task_id)).progress is None
            assert not await store.report(lease, b"2")
            assert (await record_of(store, task_id)).progress is None
