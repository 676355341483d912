"""What every store promises of claiming: order, fairness, caps, due times."""

# ruff: noqa: D102  (a test's name is its documentation)

from __future__ import annotations

import asyncio
from collections import Counter

from concave.store.protocol import Store
from concave.store.records import (
    Cancel,
    Complete,
    Decision,
    Die,
    Failure,
    Lease,
    Release,
    Retry,
)
from concave.testing.clock import FakeClock
from concave.testing.suite_support import (
    LEASE,
    SECOND,
    add,
    add_in_turn,
    claim_some,
    complete_all,
    die,
    ids_of,
    new_task,
    new_tasks,
    record_of,
    settle,
    status_of,
    take,
    take_one,
)

__all__ = ["ClaimingSuite"]


class ClaimingSuite:
    """`Store.claim`."""

    async def test_a_lease_shows_the_run(self, store: Store, clock: FakeClock) -> None:
        task_id = await add(store, input=b"[]")
        clock.advance(1)
        lease = await take_one(store, worker_id="me")
        assert lease.task == await record_of(store, task_id)
        assert (lease.task.status, lease.task.attempt, lease.task.worker_id) == ("running", 1, "me")
        assert (lease.task.started_at, lease.task.ended_at, lease.suspect) == (clock.now(), None, False)
        assert await store.depth() == 0

    # Order

    async def test_a_higher_bucket_goes_first(self, store: Store, clock: FakeClock) -> None:
        ids: dict[int, list[str]] = {}
        for priority in (0, 24, 25, 49, 50, 74, 75, 100):
            ids.setdefault(priority // 25, []).extend(await add_in_turn(store, clock, 1, priority=priority))
        best = [*ids[3], *ids[4]]
        claimed = [ids_of(await take(store, limit=2)) for _ in range(4)]
        assert claimed == [best, ids[2], ids[1], ids[0]]

    async def test_the_leases_of_a_claim_come_by_bucket(self, store: Store, clock: FakeClock) -> None:
        names = ["a", "b", "c", "d", "e", "f"]
        ids = [
            (await add_in_turn(store, clock, 1, name=name, priority=25 * (number % 4)))[0]
            for number, name in enumerate(names)
        ]
        claimed = await take(store, " ".join(names))
        buckets = [lease.task.priority for lease in claimed]
        assert buckets == sorted(buckets, reverse=True)
        assert sorted(ids_of(claimed)) == sorted(ids)

    async def test_a_name_is_first_in_first_out_within_its_bucket(
        self, store: Store, clock: FakeClock
    ) -> None:
        first = await add_in_turn(store, clock, 3, priority=50)
        batch = await store.add(new_tasks(20, priority=60))
        clock.advance(1)
        last = await add_in_turn(store, clock, 3, priority=74)
        claimed: list[str] = []
        while leases := await take(store, limit=4):
            claimed += ids_of(leases)
        assert claimed == [*first, *batch, *last]

    async def test_what_comes_back_keeps_its_place(self, store: Store, clock: FakeClock) -> None:
        ids = await add_in_turn(store, clock, 4)
        first, second = await take(store, limit=2)
        clock.advance(1)
        await settle(store, second, Release())
        await settle(store, first, Retry(SECOND, Failure("x")))
        clock.advance(1)
        assert ids_of(await take(store)) == ids

    async def test_of_many_names_each_has_its_turn(self, store: Store, clock: FakeClock) -> None:
        names = [f"n{number}" for number in range(40)]
        for name in names:
            await store.add(new_tasks(4, name))
        served = Counter[str]()
        for _ in range(3):
            clock.advance(1)
            served.update(lease.task.name for lease in await take(store, " ".join(names), limit=32))
        assert set(served) == set(names)
        assert max(served.values()) <= 4

    async def test_names_share_a_claim(self, store: Store, clock: FakeClock) -> None:
        many = await add_in_turn(store, clock, 20, name="a")
        few = await add_in_turn(store, clock, 2, name="b")
        claimed = ids_of(await take(store, "a b", limit=6))
        assert sorted(claimed) == sorted([*few, *many[:4]])

    async def test_names_take_turns_however_long_their_queues(self, store: Store, clock: FakeClock) -> None:
        await store.add([*new_tasks(60, "a"), *new_tasks(30, "b")])
        turns: Counter[str] = Counter()
        for number in range(60):
            clock.advance_micros(1)
            if number == 20:
                await store.add(new_tasks(10, "c"))  # a newcomer waits no longer than the others
            turns.update(lease.task.name for lease in await take(store, "a b c", limit=1))
            if number == 19:
                assert turns == {"a": 10, "b": 10}
        assert turns == {"a": 25, "b": 25, "c": 10}

    async def test_unknown_names_are_left_alone_and_starve_nobody(
        self, store: Store, clock: FakeClock
    ) -> None:
        for number in range(60):
            await store.add(new_tasks(5, f"unknown-{number}", priority=100))
            await store.add(new_tasks(2, f"unknown-{number}", delay=SECOND))
        clock.advance(2)
        known = await add(store, priority=0)
        assert ids_of(await take(store, limit=1)) == [known]
        assert await store.depth() == 60 * 7
        assert await take(store, "nobody nothing") == []
        assert await take(store, "") == []
        assert len(await take(store, "unknown-7", limit=100)) == 7

    # Caps

    async def test_a_cap_counts_the_leases_of_the_whole_fleet(self, store: Store) -> None:
        ids = await store.add(new_tasks(10))
        assert ids_of(await take(store, "job:3", limit=2)) == ids[:2]
        assert ids_of(await take(store, "job:3", worker_id="worker-2")) == ids[2:3]
        assert await take(store, "job:3", worker_id="worker-3") == []
        # The claiming worker's number counts, for it may be of a newer release.
        assert await take(store, "job:2", worker_id="worker-4") == []
        assert ids_of(await take(store, "job:5", worker_id="worker-4")) == ids[3:5]
        assert ids_of(await take(store, "job", worker_id="worker-5")) == ids[5:]

    async def test_a_cap_counts_across_buckets(self, store: Store) -> None:
        await store.add([new_task(priority=priority) for priority in (0, 30, 60, 90) for _ in range(3)])
        assert [lease.task.priority for lease in await take(store, "job:4")] == [90, 90, 90, 60]
        assert await take(store, "job:4") == []

    async def test_a_saturated_name_blocks_nobody(self, store: Store) -> None:
        await store.add(new_tasks(50, "capped", priority=100))
        others = await store.add(new_tasks(3, priority=0))
        leases = await take(store, "capped:1 job", limit=3)
        assert sorted(ids_of(leases)[1:]) == others[:2]
        assert ids_of(await take(store, "capped:1 job", limit=1)) == others[2:]
        assert await take(store, "capped:1 job") == []

    async def test_a_slot_comes_free_however_the_run_ends(self, store: Store, clock: FakeClock) -> None:
        await store.add(new_tasks(12, max_crashes=1))
        decisions: list[Decision] = [
            Complete(b"1"), Retry(SECOND, Failure("x")), Retry(SECOND, None), Die("x", None), Cancel("x"),
        ]  # fmt: skip
        for decision in decisions:
            lease = await take_one(store, "job:1")
            assert await take(store, "job:1") == []
            await settle(store, lease, decision)
        released = await take_one(store, "job:1")
        await settle(store, released, Release())
        assert (await take_one(store, "job:1")).task.id == released.task.id
        clock.advance_micros(LEASE - 1)
        assert await take(store, "job:1") == []
        clock.advance_micros(1)
        assert len(await take(store, "job:1")) == 1  # the dead worker's slot

    async def test_concurrent_claims_never_exceed_a_cap(self, store: Store) -> None:
        await store.add(new_tasks(60))
        claims = await asyncio.gather(
            *(take(store, "job:7", limit=3, worker_id=f"worker-{number}") for number in range(20))
        )
        assert sum(len(leases) for leases in claims) == 7

    # Due times

    async def test_a_task_is_due_at_its_microsecond(self, store: Store, clock: FakeClock) -> None:
        now = clock.now()
        delayed = await add(store, delay=SECOND)
        at = await add(store, at=now + 2 * SECOND)
        past = await add(store, at=now - SECOND)
        assert ids_of(await take(store)) == [past]
        for task_id in (delayed, at):
            clock.advance_micros(SECOND - 1)
            assert await take(store) == []
            assert await status_of(store, task_id) == "scheduled"
            clock.advance_micros(1)
            assert await status_of(store, task_id) == "pending"
            assert ids_of(await take(store)) == [task_id]

    async def test_a_retry_is_due_at_its_microsecond(self, store: Store, clock: FakeClock) -> None:
        task_id = await add(store)
        for failure in (Failure("x"), None):
            await settle(store, await take_one(store), Retry(SECOND, failure))
            clock.advance_micros(SECOND - 1)
            assert await take(store) == []
            assert await status_of(store, task_id) == ("failed" if failure else "scheduled")
            clock.advance_micros(1)
            assert await status_of(store, task_id) == "pending"

    async def test_thousands_that_fall_due_at_once_are_all_claimed(
        self, store: Store, clock: FakeClock
    ) -> None:
        ids = await store.add(new_tasks(2500, delay=SECOND))
        clock.advance(2)
        claimed: list[str] = []
        while leases := await take(store, limit=200):
            claimed += ids_of(leases)
        assert claimed == ids

    # Limits

    async def test_a_claim_takes_no_more_than_its_limit(self, store: Store) -> None:
        ids = await store.add(new_tasks(10))
        assert await take(store, limit=0) == []
        assert ids_of(await take(store, limit=3)) == ids[:3]
        assert ids_of(await take(store, limit=100)) == ids[3:]

    async def test_thousands_may_be_leased_at_once(self, store: Store) -> None:
        ids = await store.add(new_tasks(9000))
        leases: list[Lease] = []
        while more := await take(store, limit=9000):
            leases += more
        assert ids_of(leases) == ids
        assert await store.extend(leases, LEASE) == ["held"] * 9000
        await complete_all(store, leases, Complete(b"1"))
        assert await take(store) == []

    async def test_suspects_are_claimed_no_more_than_asked_for(self, store: Store, clock: FakeClock) -> None:
        suspects = await add_in_turn(store, clock, 3)
        suspects += await add_in_turn(store, clock, 1, name="other", priority=100)
        await take(store, "job other")
        clock.advance(31)
        fresh = await add_in_turn(store, clock, 5)
        leases = await take(store, "job other", limit=3, suspects=1)
        assert {lease.task.id: lease.suspect for lease in leases} == {
            suspects[3]: True, fresh[0]: False, fresh[1]: False,
        }  # fmt: skip
        assert ids_of(await take(store, "job other", suspects=0)) == fresh[2:]
        assert await take(store, "job other", suspects=0) == []
        assert ids_of(await take(store, "job other", suspects=2)) == suspects[:2]
        assert ids_of(await take(store, "job other", suspects=2)) == suspects[2:3]

    async def test_no_task_is_handed_out_twice(self, store: Store) -> None:
        ids = await store.add(new_tasks(200))
        claims = await asyncio.gather(
            *(take(store, limit=7, worker_id=f"worker-{number}") for number in range(40))
        )
        assert sorted(task_id for leases in claims for task_id in ids_of(leases)) == sorted(ids)

    # The same claim again

    async def test_idle_for_is_unknown_when_nothing_is_to_come(self, store: Store) -> None:
        assert (await claim_some(store)).idle_for is None
        await add(store)
        assert (await claim_some(store, limit=1)).idle_for is None  # it got what it wanted: there may be more

    async def test_idle_for_tells_when_the_next_task_falls_due(self, store: Store, clock: FakeClock) -> None:
        await add(store, delay=9 * SECOND)
        await add(store, delay=5 * SECOND, name="other")
        assert (await claim_some(store)).idle_for == 5 * SECOND
        clock.advance_micros(5 * SECOND - 1)
        assert (await claim_some(store, "job other")).idle_for == 1
        clock.advance_micros(1)
        assert len(await take(store, "other", lease=LEASE)) == 1
        assert (await claim_some(store)).idle_for == 4 * SECOND
        clock.advance(4)
        await settle(store, await take_one(store), Retry(2 * SECOND, Failure("x")))
        assert (await claim_some(store)).idle_for == 2 * SECOND

    async def test_idle_for_tells_when_a_lease_runs_out(self, store: Store, clock: FakeClock) -> None:
        await add(store)
        lease = await take_one(store)
        clock.advance(10)
        assert (await claim_some(store)).idle_for == 20 * SECOND
        await settle(store, lease, Complete(b"1"))
        assert (await claim_some(store)).idle_for is None

    async def test_idle_for_forgets_what_was_cancelled(self, store: Store) -> None:
        soon, later = await add(store, delay=SECOND), await add(store, name="other", delay=2 * SECOND)
        await store.cancel(soon)
        assert (await claim_some(store)).idle_for == 2 * SECOND
        await store.cancel(later)
        assert (await claim_some(store)).idle_for is None

    # Dead workers

    async def test_a_claim_takes_back_what_dead_workers_held(self, store: Store, clock: FakeClock) -> None:
        task_id = await add(store)
        await take_one(store, worker_id="dead")
        clock.advance_micros(LEASE - 1)
        assert await take(store) == []
        clock.advance_micros(1)
        lease = await take_one(store)
        assert (lease.task.id, lease.suspect, lease.task.crashes) == (task_id, True, 1)

    async def test_the_dead_are_not_claimed(self, store: Store, clock: FakeClock) -> None:
        await die(store, clock, 3)
        cancelled = await add(store)
        await store.cancel(cancelled)
        assert await take(store) == []
