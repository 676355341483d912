"""What every store promises of settling: decisions are carried out once, and only for the one who holds the lease."""

# ruff: noqa: D102  (a test's name is its documentation)

from __future__ import annotations

import asyncio

from concave.store.protocol import Store
from concave.store.records import (
    MAX_FAILURES,
    Cancel,
    Complete,
    Decision,
    Die,
    Failure,
    Release,
    Retry,
    Settled,
    Settlement,
)
from concave.testing.clock import FakeClock
from concave.testing.suite_support import (
    LEASE,
    SECOND,
    add,
    claim_of,
    ids_of,
    new_tasks,
    record_of,
    settle,
    take,
    take_one,
)

__all__ = ["SettlingSuite"]

DECISIONS: tuple[Decision, ...] = (
    Complete(b"0"),
    Retry(0, Failure("late")),
    Retry(0, None),
    Release(),
    Die("late", Failure("late")),
    Cancel("late"),
)


class SettlingSuite:
    """`Store.settle`."""

    # The five decisions

    async def test_completion_keeps_the_result(self, store: Store, clock: FakeClock) -> None:
        task_id = await add(store)
        started = clock.now()
        lease = await take_one(store, worker_id="me")
        clock.advance(1)
        assert await settle(store, lease, Complete(b'{"x": []}'))
        task = await record_of(store, task_id)
        assert (task.status, task.result, task.attempt, task.reason) == ("completed", b'{"x": []}', 1, None)
        assert (task.started_at, task.ended_at, task.worker_id) == (started, clock.now(), "me")

    async def test_a_failure_waits_for_its_retry_and_is_remembered(
        self, store: Store, clock: FakeClock
    ) -> None:
        task_id = await add(store)
        lease = await take_one(store, worker_id="me")
        clock.advance(1)
        failed_at = clock.now()
        assert await settle(store, lease, Retry(5 * SECOND, Failure("boom é", "trace\nback")))
        task = await record_of(store, task_id)
        assert (task.status, task.attempt, task.due_at) == ("failed", 1, failed_at + 5 * SECOND)
        assert task.failures == (Failure("boom é", "trace\nback", 1, failed_at, "me"),)
        assert (task.started_at, task.ended_at, task.result, task.reason) == (None, None, None, None)
        assert await store.depth() == 1
        clock.advance(5)
        lease = await take_one(store, worker_id="you")
        assert (lease.task.attempt, lease.task.worker_id, lease.task.failures) == (2, "you", task.failures)
        assert await settle(store, lease, Complete(b"1"))
        task = await record_of(store, task_id)
        assert (task.status, task.attempt, task.worker_id, len(task.failures)) == ("completed", 2, "you", 1)

    async def test_the_latest_failures_are_kept_and_all_are_counted(
        self, store: Store, clock: FakeClock
    ) -> None:
        task_id = await add(store, input=b'{"a": []}')
        total = 2 * MAX_FAILURES + 1
        for number in range(total):
            clock.advance(1)
            await settle(store, await take_one(store), Retry(0, Failure(f"{number}", "t" * 1000)))
        task = await record_of(store, task_id)
        assert (task.attempt, task.input) == (total, b'{"a": []}')
        assert [failure.error for failure in task.failures] == [f"{n}" for n in range(total)][-MAX_FAILURES:]
        assert [failure.attempt for failure in task.failures] == list(range(total + 1))[-MAX_FAILURES:]
        await settle(store, await take_one(store), Die("enough", Failure("last")))
        task = await record_of(store, task_id)
        assert (len(task.failures), task.failures[-1].error, task.attempt) == (
            MAX_FAILURES,
            "last",
            total + 1,
        )

    async def test_running_later_spends_no_attempt(self, store: Store, clock: FakeClock) -> None:
        task_id = await add(store)
        await settle(store, await take_one(store), Retry(SECOND, None))
        task = await record_of(store, task_id)
        assert (task.status, task.attempt, task.failures) == ("scheduled", 0, ())
        assert (task.crashes, task.interruptions, task.due_at) == (0, 0, clock.now() + SECOND)
        clock.advance(1)
        assert (await take_one(store)).task.attempt == 1

    async def test_handing_back_is_an_interruption_and_nothing_else(self, store: Store) -> None:
        task_id = await add(store)
        for interruptions in (1, 2):
            assert await settle(store, await take_one(store), Release())
            task = await record_of(store, task_id)
            assert (task.status, task.attempt, task.crashes) == ("pending", 0, 0)
            assert (task.interruptions, task.started_at, task.failures) == (interruptions, None, ())
        assert not (await take_one(store)).suspect

    async def test_death_says_why(self, store: Store, clock: FakeClock) -> None:
        task_id = await add(store)
        await settle(store, await take_one(store), Retry(0, Failure("first")))
        lease = await take_one(store, worker_id="me")
        clock.advance(1)
        assert await settle(store, lease, Die("boom (2 of 2)", Failure("boom")))
        task = await record_of(store, task_id)
        assert (task.status, task.reason, task.attempt) == ("dead", "boom (2 of 2)", 2)
        assert (task.ended_at, task.worker_id, task.result) == (clock.now(), "me", None)
        assert [failure.error for failure in task.failures] == ["first", "boom"]
        assert await store.depth() == 0

    async def test_death_without_a_failure_spends_no_attempt(self, store: Store) -> None:
        task_id = await add(store)
        assert await settle(store, await take_one(store), Die("not wanted", None))
        task = await record_of(store, task_id)
        assert (task.status, task.reason, task.attempt, task.failures) == ("dead", "not wanted", 0, ())

    async def test_cancellation_says_why(self, store: Store, clock: FakeClock) -> None:
        task_id = await add(store)
        assert await settle(store, await take_one(store, worker_id="me"), Cancel("not wanted"))
        task = await record_of(store, task_id)
        assert (task.status, task.reason, task.ended_at) == ("cancelled", "not wanted", clock.now())
        assert (task.worker_id, task.attempt) == ("me", 0)
        assert await store.dead_count() == 0

    # Fencing

    async def test_a_stale_token_changes_nothing(self, store: Store, clock: FakeClock) -> None:
        task_id = await add(store, max_crashes=5)
        old = await take_one(store)
        clock.advance(31)
        new = await take_one(store)
        before = await record_of(store, task_id)
        for decision in DECISIONS:
            assert not await settle(store, old, decision)
        assert not await store.report(old, b"1")
        assert await store.extend([old], LEASE) == ["lost"]
        assert await record_of(store, task_id) == before
        assert await take(store) == []
        assert await settle(store, new, Complete(b"1"))
        assert (await record_of(store, task_id)).result == b"1"

    async def test_a_decision_is_carried_out_once(self, store: Store) -> None:
        for first in DECISIONS:
            await add(store)
            lease = await take_one(store)
            assert await settle(store, lease, first)
            before = await record_of(store, lease.task.id)
            for second in DECISIONS:
                assert not await settle(store, lease, second)
            assert await record_of(store, lease.task.id) == before
            for again in await take(store):
                await settle(store, again, Complete(b"1"))

    async def test_a_task_that_waits_again_is_not_held(self, store: Store, clock: FakeClock) -> None:
        task_id = await add(store, max_crashes=5)
        lease = await take_one(store)
        clock.advance(31)
        assert await store.reap() == 1
        before = await record_of(store, task_id)
        for decision in DECISIONS:
            assert not await settle(store, lease, decision)
        assert await record_of(store, task_id) == before
        assert await store.depth() == 1

    async def test_stale_and_fresh_tokens_of_one_task_in_one_batch(
        self, store: Store, clock: FakeClock
    ) -> None:
        for stale_first in (True, False):
            task_id = await add(store, max_crashes=5)
            old = await take_one(store)
            clock.advance(31)
            new = await take_one(store)
            batch = [Settlement(old, Complete(b"0")), Settlement(new, Complete(b"1"))]
            settled = await store.settle(batch if stale_first else batch[::-1])
            assert settled.accepted == [not stale_first, stale_first]
            task = await record_of(store, task_id)
            assert (task.status, task.result) == ("completed", b"1")

    async def test_two_decisions_about_one_lease_in_one_batch(self, store: Store) -> None:
        for first in DECISIONS:
            await add(store)
            lease = await take_one(store)
            settled = await store.settle([Settlement(lease, first), Settlement(lease, Complete(b"second"))])
            assert settled.accepted == [True, False]
            assert (await record_of(store, lease.task.id)).result != b"second"
            for again in await take(store):
                await settle(store, again, Complete(b"1"))

    async def test_what_nobody_knows_cannot_be_settled(self, store: Store) -> None:
        task_id = await add(store)
        lease = await take_one(store)
        unknown = lease._replace(task=lease.task._replace(id="unknown"))
        settled = await store.settle([Settlement(unknown, Complete(b"1")), Settlement(lease, Complete(b"1"))])
        assert settled == Settled([False, True])
        assert await store.get("unknown") is None
        assert (await record_of(store, task_id)).status == "completed"

    async def test_a_batch_may_hold_every_decision(self, store: Store) -> None:
        ids = await store.add(new_tasks(len(DECISIONS)))
        leases = await take(store)
        settled = await store.settle(
            [Settlement(lease, decision) for lease, decision in zip(leases, DECISIONS, strict=True)]
        )
        assert settled.accepted == [True] * len(DECISIONS)
        assert [(await record_of(store, task_id)).status for task_id in ids] == [
            "completed", "pending", "pending", "pending", "dead", "cancelled",
        ]  # fmt: skip

    async def test_of_many_who_settle_one_lease_one_is_accepted(self, store: Store) -> None:
        task_id = await add(store)
        lease = await take_one(store)
        accepted = await asyncio.gather(
            *(settle(store, lease, Complete(b"%d" % number)) for number in range(20))
        )
        assert accepted.count(True) == 1
        assert (await record_of(store, task_id)).result == b"%d" % accepted.index(True)

    # Settling and claiming in one step

    async def test_a_freed_slot_is_filled_in_the_same_step(self, store: Store) -> None:
        ids = await store.add(new_tasks(5))
        leases = await take(store, "job:2")
        settled = await store.settle([Settlement(leases[0], Complete(b"1"))], claim_of("job:2"))
        assert settled.accepted == [True]
        assert ids_of(settled.claimed.leases) == [ids[2]]
        stale = await store.settle([Settlement(leases[0], Complete(b"1"))], claim_of("job:2"))
        assert (stale.accepted, stale.claimed.leases) == ([False], [])

    async def test_what_is_handed_back_may_be_claimed_in_the_same_step(self, store: Store) -> None:
        await add(store)
        lease = await take_one(store)
        settled = await store.settle([Settlement(lease, Release())], claim_of())
        (again,) = settled.claimed.leases
        assert (again.task.id, again.task.interruptions) == (lease.task.id, 1)
        assert again.token != lease.token
        assert not await settle(store, lease, Complete(b"0"))
        assert await settle(store, again, Complete(b"1"))

    async def test_settling_nothing_is_claiming(self, store: Store) -> None:
        ids = await store.add(new_tasks(2))
        assert await store.settle([]) == Settled([])
        settled = await store.settle([], claim_of(limit=1))
        assert (settled.accepted, ids_of(settled.claimed.leases)) == ([], ids[:1])
        assert ids_of((await store.settle([], claim_of())).claimed.leases) == ids[1:]
        assert (await store.settle([], claim_of())).claimed.leases == []
