"""Claims that are sent again, since nobody knows whether they were carried out."""

# ruff: noqa: D102  (a test's name is its documentation)

from __future__ import annotations

from typing import Any

from concave.store.protocol import Store
from concave.store.records import (
    NOTHING_CLAIMED,
    Claim,
    Complete,
    Release,
    Settlement,
)
from concave.testing.clock import FakeClock
from concave.testing.suite_support import (
    LEASE,
    SECOND,
    claim_of,
    ids_of,
    new_tasks,
    settle,
    status_of,
    take,
)

__all__ = ["RepeatedClaimsSuite"]


class RepeatedClaimsSuite:
    """`Store.claim`, and `Store.settle` with one, called again under the same nonce."""

    async def test_the_same_claim_again_returns_the_same_leases(self, store: Store, clock: FakeClock) -> None:
        await store.add(new_tasks(5))
        claim = claim_of(limit=3)
        first = (await store.claim(claim)).leases
        clock.advance(1)
        assert (await store.claim(claim)).leases == first
        assert await store.depth() == 2

    async def test_the_same_claim_again_leaves_out_what_is_no_longer_held(
        self, store: Store, clock: FakeClock
    ) -> None:
        await store.add(new_tasks(5, max_crashes=5))
        claim = claim_of(limit=3)
        first, second, third = (await store.claim(claim)).leases
        await settle(store, first, Complete(b"1"))
        await settle(store, second, Release())
        assert (await store.claim(claim)).leases == [third]
        clock.advance(31)
        await store.reap()
        assert (await store.claim(claim)).leases == []
        assert await store.depth() == 4

    async def test_settling_and_claiming_again_returns_the_same_leases(self, store: Store) -> None:
        await store.add(new_tasks(3))
        lease = await take(store, limit=1)
        claim = claim_of(limit=1)
        first = await store.settle([], claim)
        assert (await store.settle([], claim)).claimed.leases == first.claimed.leases
        again = await store.claim(claim)
        assert again.leases == first.claimed.leases
        assert ids_of(again.leases) != ids_of(lease)
        assert await store.depth() == 1

    async def test_a_claim_on_another_line_of_a_worker_does_not_make_it_forget(self, store: Store) -> None:
        await store.add(new_tasks(4))
        one, other = claim_of(limit=2, line=0), claim_of(limit=2, line=1)
        first, second = (await store.claim(one)).leases, (await store.claim(other)).leases
        assert (await store.claim(one)).leases == first
        assert (await store.claim(other)).leases == second
        assert len({*ids_of(first), *ids_of(second)}) == 4

    # How long there is nothing to do

    # Claims that are counted

    async def test_a_claim_that_comes_after_a_later_one_leases_nothing(self, store: Store) -> None:
        late, later = counted(1, limit=1), counted(2, limit=1)
        assert (await store.claim(later)).leases == []
        ids = await store.add(new_tasks(3))
        assert await store.claim(late) == NOTHING_CLAIMED
        assert (await store.settle([], late)).claimed == NOTHING_CLAIMED
        first = (await store.claim(counted(3, limit=1))).leases
        assert await store.claim(later) == NOTHING_CLAIMED
        assert ids_of(first) == ids[:1]
        assert await store.depth() == 2

    async def test_what_a_late_claim_settles_is_settled(self, store: Store) -> None:
        await store.add(new_tasks(2))
        (lease,) = (await store.claim(counted(2, limit=1))).leases
        settled = await store.settle([Settlement(lease, Complete(b"1"))], counted(1))
        assert (settled.accepted, settled.claimed.leases) == ([True], [])
        assert await status_of(store, lease.task.id) == "completed"

    async def test_a_late_claim_is_known_when_the_leases_of_the_later_one_are_over(
        self, store: Store, clock: FakeClock
    ) -> None:
        await store.claim(counted(2))
        clock.advance_micros(LEASE + SECOND)
        await store.add(new_tasks(1))
        assert (await store.claim(counted(1))).leases == []

    async def test_the_same_counted_claim_again_gets_no_more_than_it_got(self, store: Store) -> None:
        claim = counted(1)
        assert (await store.claim(claim)).leases == []
        ids = await store.add(new_tasks(2))
        # It may have been answered by now, and its worker gone on: who still waits for it asks anew.
        assert await store.claim(claim) == NOTHING_CLAIMED._replace(idle_for=0)
        assert ids_of((await store.claim(counted(2))).leases) == ids

    async def test_a_claim_that_asks_for_something_else_under_its_nonce_is_another(
        self, store: Store
    ) -> None:
        claim = counted(1, limit=2)
        assert (await store.claim(claim)).leases == []
        ids = await store.add(new_tasks(3))
        wider = claim._replace(number=2)
        leases = (await store.claim(wider)).leases
        assert ids_of(leases) == ids[:2]
        withdrawn = claim._replace(limit=0, number=3)
        assert (await store.claim(withdrawn)).leases == leases
        assert (await store.claim(wider)).leases == leases
        assert await store.depth() == 1

    async def test_a_claim_that_was_withdrawn_leases_nothing_when_it_comes(self, store: Store) -> None:
        claim = counted(1)
        await store.claim(claim._replace(limit=0, number=2))
        await store.add(new_tasks(1))
        assert await store.claim(claim) == NOTHING_CLAIMED
        assert await store.depth() == 1

    async def test_each_start_and_each_line_of_a_worker_counts_for_itself(self, store: Store) -> None:
        await store.add(new_tasks(3))
        for claim in (counted(7, limit=1), counted(1, limit=1, line=1), counted(1, "later", limit=1)):
            assert len((await store.claim(claim)).leases) == 1

    async def test_workers_that_share_an_id_do_not_make_one_another_forget(self, store: Store) -> None:
        await store.add(new_tasks(3))
        one, other = counted(7, "one", limit=1), counted(1, "other", limit=1)
        first, second = (await store.claim(one)).leases, (await store.claim(other)).leases
        assert (await store.claim(one)).leases == first
        assert (await store.claim(other)).leases == second
        third = (await store.claim(counted(2, "other", limit=1))).leases
        assert await store.claim(other) == NOTHING_CLAIMED
        assert len({*ids_of(first), *ids_of(second), *ids_of(third)}) == 3
        assert {lease.task.worker_id for lease in (*first, *second, *third)} == {one.worker_id}


def counted(number: int, start: str = "start", **fields: Any) -> Claim:
    """A claim that is counted, of a start of a worker."""
    return claim_of(nonce=f"{start:8.8}{number:08d}", number=number, **fields)
