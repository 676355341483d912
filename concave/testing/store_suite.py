"""The behaviour that every store must show.

    class TestMyStore(StoreSuite): ...

with pytest fixtures `store` (a connected `Store`) and `clock` (the `FakeClock` it goes by) beside it.
"""

# ruff: noqa: D102  (a test's name is its documentation)

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from concave.store.protocol import Store
from concave.store.records import (
    MAX_FAILURES,
    Cancel,
    Claim,
    Claimed,
    Complete,
    Debounce,
    Decision,
    Die,
    Failure,
    Lease,
    NewTask,
    Release,
    Retention,
    Retry,
    Settlement,
    TaskRecord,
)
from concave.testing.clock import FakeClock

__all__ = ["StoreSuite", "add", "claim_some", "new_task", "settle"]

LEASE = 30_000_000
SECOND = 1_000_000
_numbers = itertools.count(1)


def new_task(name: str = "job", **fields: Any) -> NewTask:
    """A submission with an id of its own."""
    given: dict[str, Any] = {"id": f"task-{next(_numbers)}", "name": name, "input": b"null", **fields}
    return NewTask(**given)


async def add(store: Store, name: str = "job", **fields: Any) -> str:
    """Add one task; the id that stands for it."""
    (task_id,) = await store.add([new_task(name, **fields)])
    return task_id


async def claim_some(store: Store, names: str = "job", limit: int = 10, **fields: Any) -> Claimed:
    """Claim by names, each with its cap behind a colon where it has one: ``"a b:2"``."""
    wanted = tuple((name, int(cap or 0)) for name, _, cap in (each.partition(":") for each in names.split()))
    claim = Claim("worker-1", wanted, limit, LEASE, f"{next(_numbers):016d}")
    return await store.claim(claim._replace(**fields))


async def settle(store: Store, lease: Lease, decision: Decision) -> bool:
    """Settle one lease; whether it was accepted."""
    return (await store.settle([Settlement(lease, decision)])).accepted[0]


async def _status(store: Store, task_id: str) -> str | None:
    task = await store.get(task_id)
    return task.status if task else None


async def _record(store: Store, task_id: str) -> TaskRecord:
    task = await store.get(task_id)
    assert task is not None
    return task


def _ids(claimed: Claimed) -> list[str]:
    return [lease.task.id for lease in claimed.leases]


class StoreSuite:
    """One test per promise of `concave.store.protocol.Store`."""

    # Adding

    async def test_what_is_added_is_kept_to_the_byte(self, store: Store, clock: FakeClock) -> None:
        data = b'{"a": [], "n": 12345678901234567890, "s": "\xc3\xa9\\u0000"}'
        task_id = await add(store, input=data, priority=80, max_attempts=7, max_crashes=2)
        task = await _record(store, task_id)
        assert (task.name, task.input, task.status, task.priority) == ("job", data, "pending", 80)
        assert (task.max_attempts, task.max_crashes) == (7, 2)
        assert task.created_at == task.due_at == clock.now()
        assert (task.attempt, task.crashes, task.interruptions) == (0, 0, 0)
        assert (task.started_at, task.ended_at, task.worker_id, task.result) == (None, None, None, None)

    async def test_sending_a_submission_again_adds_nothing_even_when_its_record_is_gone(
        self, store: Store, clock: FakeClock
    ) -> None:
        task = new_task(retention=Retention(completed=SECOND))
        assert await store.add([task, task]) == [task.id, task.id]
        (lease,) = (await claim_some(store)).leases
        await settle(store, lease, Complete(b"1"))
        assert await store.add([task]) == [task.id]
        clock.advance(2)
        assert await store.get(task.id) is None
        assert await store.add([task]) == [task.id]
        assert await store.depth() == 0
        clock.advance(24 * 3600)
        await store.add([task])
        assert await store.depth() == 1

    async def test_an_idempotency_key_makes_one_task_within_a_name(self, store: Store) -> None:
        first = await add(store, idempotency_key="k")
        assert await add(store, idempotency_key="k") == first
        assert await add(store, name="other", idempotency_key="k") != first
        assert await add(store, idempotency_key="k2") != first
        assert await store.depth() == 3

    async def test_names_and_keys_cannot_be_mistaken_for_one_another(self, store: Store) -> None:
        assert await add(store, name="a:b", idempotency_key="c") != await add(
            store, name="a", idempotency_key="b:c"
        )

    async def test_a_hundred_at_once_with_one_key_make_one_task(self, store: Store) -> None:
        ids = await asyncio.gather(*(add(store, idempotency_key="k") for _ in range(100)))
        assert len(set(ids)) == 1
        assert await store.depth() == 1

    async def test_a_key_outlives_completion_and_no_longer_than_it_should(
        self, store: Store, clock: FakeClock
    ) -> None:
        first = await add(
            store, idempotency_key="k", retention=Retention(completed=SECOND, key=3600 * SECOND)
        )
        (lease,) = (await claim_some(store)).leases
        await settle(store, lease, Complete(b"1"))
        clock.advance(3599)
        assert await add(store, idempotency_key="k") == first
        clock.advance(2)
        assert await add(store, idempotency_key="k") != first

    async def test_cancelling_frees_the_key_and_dying_holds_it(self, store: Store, clock: FakeClock) -> None:
        first = await add(store, idempotency_key="k")
        assert await store.cancel(first)
        second = await add(store, idempotency_key="k")
        assert second != first
        (lease,) = (await claim_some(store)).leases
        await settle(store, lease, Die("no", None))
        clock.advance(3 * 24 * 3600)
        assert await add(store, idempotency_key="k") == second
        await store.purge(SECOND)
        assert await add(store, idempotency_key="k") != second

    async def test_debounced_calls_become_one_task_with_the_last_input(
        self, store: Store, clock: FakeClock
    ) -> None:
        debounce = Debounce("k", 5 * SECOND, None)
        first = await add(store, input=b"1", debounce=debounce)
        clock.advance(3)
        again = new_task(input=b"2", debounce=debounce)
        assert await store.add([again]) == [first]
        clock.advance(4)
        assert _ids(await claim_some(store)) == []
        assert (await _record(store, first)).status == "scheduled"
        assert await store.add([again]) == [first]
        clock.advance(1)
        (lease,) = (await claim_some(store)).leases
        assert (lease.task.id, lease.task.input) == (first, b"2")

    async def test_max_wait_bounds_a_debounce(self, store: Store, clock: FakeClock) -> None:
        debounce = Debounce("k", 5 * SECOND, 8 * SECOND)
        first = await add(store, debounce=debounce)
        for _ in range(2):
            clock.advance(4)
            await add(store, debounce=debounce)
        assert _ids(await claim_some(store)) == [first]

    async def test_a_claimed_task_is_no_longer_replaced(self, store: Store, clock: FakeClock) -> None:
        debounce = Debounce("k", SECOND, None)
        first = await add(store, input=b"1", debounce=debounce)
        clock.advance(1)
        (lease,) = (await claim_some(store)).leases
        second = await add(store, input=b"2", debounce=debounce)
        assert second != first
        await settle(store, lease, Retry(10 * SECOND, None))
        assert await add(store, input=b"3", debounce=debounce) == second
        assert (await _record(store, first)).input == b"1"
        await store.cancel(second)
        assert await add(store, input=b"4", debounce=debounce) not in {first, second}

    # Claiming

    async def test_a_higher_bucket_goes_first_and_a_name_is_first_in_first_out(self, store: Store) -> None:
        low, normal, high = [await add(store, priority=priority) for priority in (0, 50, 75)]
        later = await store.add([new_task(priority=100) for _ in range(5)])
        assert _ids(await claim_some(store)) == [high, *later, normal, low]

    async def test_only_known_names_are_claimed_and_unknown_ones_starve_nobody(self, store: Store) -> None:
        unknown = await store.add([new_task("new", priority=100) for _ in range(50)])
        known = await add(store, priority=0)
        assert _ids(await claim_some(store, limit=1)) == [known]
        assert await _status(store, unknown[0]) == "pending"
        assert len(_ids(await claim_some(store, "job new", limit=100))) == 50

    async def test_names_share_a_claim(self, store: Store, clock: FakeClock) -> None:
        many = await store.add([new_task("a") for _ in range(20)])
        few = await store.add([new_task("b") for _ in range(2)])
        claimed = set(_ids(await claim_some(store, "a b", limit=6)))
        assert set(few) < claimed
        assert claimed - set(few) == set(many[:4])
        await store.add([new_task("c") for _ in range(2)])
        turns: list[str] = []
        for _ in range(4):
            clock.advance_micros(1)
            turns += [lease.task.name for lease in (await claim_some(store, "a c", limit=1)).leases]
        assert sorted(turns) == ["a", "a", "c", "c"]

    async def test_a_cap_counts_live_leases_of_all_workers_and_blocks_nobody(
        self, store: Store, clock: FakeClock
    ) -> None:
        capped = await store.add([new_task("capped", priority=100) for _ in range(4)])
        other = await add(store)
        first = await claim_some(store, "capped:2 job", limit=3)
        assert sorted(_ids(first)) == sorted([*capped[:2], other])
        assert _ids(await claim_some(store, "capped:2 job", worker_id="worker-2")) == []
        lease = next(lease for lease in first.leases if lease.task.id == capped[0])
        settled = await store.settle(
            [Settlement(lease, Complete(b"1"))],
            Claim("worker-1", (("capped", 2),), 5, LEASE, f"{next(_numbers):016d}"),
        )
        assert _ids(settled.claimed) == [capped[2]]
        clock.advance(31)
        assert len(_ids(await claim_some(store, "capped:2"))) >= 1  # the dead worker's slots are free again

    async def test_a_task_is_due_at_its_microsecond(self, store: Store, clock: FakeClock) -> None:
        delayed = await add(store, delay=SECOND)
        at = await add(store, at=clock.now() + 2 * SECOND)
        past = await add(store, at=clock.now() - SECOND)
        claimed = await claim_some(store)
        assert (_ids(claimed), claimed.idle_for) == ([past], SECOND)
        assert (await _record(store, delayed)).status == "scheduled"
        clock.advance_micros(SECOND - 1)
        assert (await claim_some(store)).idle_for == 1
        clock.advance_micros(1)
        assert (await _record(store, delayed)).status == "pending"
        assert _ids(await claim_some(store)) == [delayed]
        clock.advance(1)
        assert _ids(await claim_some(store)) == [at]

    async def test_a_lease_shows_the_run(self, store: Store, clock: FakeClock) -> None:
        task_id = await add(store)
        (lease,) = (await claim_some(store, worker_id="me")).leases
        assert lease.task == await _record(store, task_id)
        assert (lease.task.status, lease.task.attempt, lease.task.worker_id) == ("running", 1, "me")
        assert lease.task.started_at == clock.now()

    async def test_the_same_claim_again_returns_what_it_leased(self, store: Store) -> None:
        await store.add([new_task() for _ in range(5)])
        claim = Claim("w", (("job", 0),), 2, LEASE, "n" * 16)
        first = await store.claim(claim)
        again = await store.claim(claim)
        assert sorted(_ids(again)) == sorted(_ids(first))
        await settle(store, first.leases[0], Complete(b"1"))
        assert _ids(await store.claim(claim)) == [first.leases[1].task.id]
        assert await store.depth() == 3

    async def test_no_task_is_handed_out_twice(self, store: Store) -> None:
        ids = await store.add([new_task() for _ in range(100)])
        claims = await asyncio.gather(*(claim_some(store, limit=7, worker_id=f"w{i}") for i in range(20)))
        assert sorted(task_id for claimed in claims for task_id in _ids(claimed)) == sorted(ids)

    # Settling

    async def test_completion_keeps_the_result(self, store: Store, clock: FakeClock) -> None:
        task_id = await add(store)
        (lease,) = (await claim_some(store, worker_id="me")).leases
        clock.advance(1)
        assert await settle(store, lease, Complete(b'{"x": []}'))
        task = await _record(store, task_id)
        assert (task.status, task.result, task.attempt) == ("completed", b'{"x": []}', 1)
        assert (task.started_at, task.ended_at, task.worker_id) == (clock.now() - SECOND, clock.now(), "me")

    async def test_a_failure_waits_for_its_retry_and_is_remembered(
        self, store: Store, clock: FakeClock
    ) -> None:
        task_id = await add(store)
        (lease,) = (await claim_some(store, worker_id="me")).leases
        assert await settle(store, lease, Retry(5 * SECOND, Failure("boom", "trace")))
        task = await _record(store, task_id)
        assert (task.status, task.attempt, task.due_at) == ("failed", 1, clock.now() + 5 * SECOND)
        assert task.failures == (Failure("boom", "trace", 1, clock.now(), "me"),)
        assert _ids(await claim_some(store)) == []
        assert await store.depth() == 1
        clock.advance(5)
        assert (await _record(store, task_id)).status == "pending"
        (lease,) = (await claim_some(store)).leases
        assert lease.task.attempt == 2
        assert await settle(store, lease, Complete(b"1"))
        assert len((await _record(store, task_id)).failures) == 1

    async def test_the_latest_failures_are_kept_and_all_are_counted(self, store: Store) -> None:
        task_id = await add(store)
        for number in range(MAX_FAILURES + 5):
            (lease,) = (await claim_some(store)).leases
            await settle(store, lease, Retry(0, Failure(f"{number}")))
        task = await _record(store, task_id)
        assert task.attempt == MAX_FAILURES + 5
        assert [failure.error for failure in task.failures] == [str(n) for n in range(5, MAX_FAILURES + 5)]

    async def test_retrying_later_and_handing_back_spend_no_attempt(self, store: Store) -> None:
        task_id = await add(store)
        (lease,) = (await claim_some(store)).leases
        await settle(store, lease, Retry(SECOND, None))
        task = await _record(store, task_id)
        assert (task.status, task.attempt) == ("scheduled", 0)
        task_id = await add(store)
        (lease,) = (await claim_some(store)).leases
        await settle(store, lease, Release())
        task = await _record(store, task_id)
        assert (task.status, task.attempt, task.crashes, task.interruptions) == ("pending", 0, 0, 1)

    async def test_death_and_cancellation_say_why(self, store: Store, clock: FakeClock) -> None:
        dead, cancelled = await add(store), await add(store)
        first, second = (await claim_some(store)).leases
        assert await settle(store, first, Die("boom (3 of 3)", Failure("boom")))
        assert await settle(store, second, Cancel("not wanted"))
        task = await _record(store, dead)
        assert (task.status, task.reason, task.attempt, task.ended_at) == (
            "dead",
            "boom (3 of 3)",
            1,
            clock.now(),
        )
        task = await _record(store, cancelled)
        assert (task.status, task.reason) == ("cancelled", "not wanted")

    async def test_a_stale_token_changes_nothing(self, store: Store, clock: FakeClock) -> None:
        task_id = await add(store, max_crashes=5)
        (old,) = (await claim_some(store)).leases
        clock.advance(31)
        (new,) = (await claim_some(store)).leases
        decisions: list[Decision] = [
            Complete(b"0"), Retry(0, Failure("x")), Release(), Die("x", None), Cancel("x"),
        ]  # fmt: skip
        for decision in decisions:
            assert not await settle(store, old, decision)
        assert await store.extend([old, new], LEASE) == [False, True]
        assert not await store.report(old, b"1")
        assert (await _record(store, task_id)).status == "running"
        settled = await store.settle([Settlement(old, Complete(b"0")), Settlement(new, Complete(b"1"))])
        assert settled.accepted == [False, True]
        assert (await _record(store, task_id)).result == b"1"

    # Leases

    async def test_a_lease_lasts_as_long_as_it_is_extended(self, store: Store, clock: FakeClock) -> None:
        task_id = await add(store)
        (lease,) = (await claim_some(store)).leases
        for _ in range(4):
            clock.advance(20)
            assert await store.extend([lease], LEASE) == [True]
            assert await store.reap() == 0
        clock.advance(30)
        assert await store.reap() == 1
        task = await _record(store, task_id)
        assert (task.status, task.crashes, task.attempt, task.interruptions) == ("pending", 1, 0, 0)
        assert await store.extend([], LEASE) == []

    async def test_idle_for_tells_when_a_lease_will_run_out(self, store: Store, clock: FakeClock) -> None:
        await add(store)
        await claim_some(store)
        clock.advance(10)
        assert (await claim_some(store)).idle_for == 20 * SECOND

    async def test_what_crashes_too_often_is_dead(self, store: Store, clock: FakeClock) -> None:
        task_id = await add(store, max_crashes=2)
        for _ in range(2):
            assert _ids(await claim_some(store)) == [task_id]
            clock.advance(31)
        assert _ids(await claim_some(store)) == []
        task = await _record(store, task_id)
        assert (task.status, task.crashes, task.attempt) == ("dead", 2, 0)
        assert "died 2 times" in (task.reason or "")

    async def test_suspects_are_claimed_no_more_than_asked_for(self, store: Store, clock: FakeClock) -> None:
        ids = await store.add([new_task() for _ in range(3)])
        await claim_some(store)
        clock.advance(31)
        fresh = await add(store)
        claimed = await claim_some(store, suspects=1)
        assert sorted(_ids(claimed)) == sorted([ids[0], fresh])
        assert [lease.suspect for lease in claimed.leases if lease.task.id == ids[0]] == [True]
        assert _ids(await claim_some(store, suspects=0)) == []
        assert len(_ids(await claim_some(store, suspects=5))) == 2
