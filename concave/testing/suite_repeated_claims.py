"""Claims that are sent again, since nobody knows whether they were carried out."""

# ruff: noqa: D102  (a test's name is its documentation)

from __future__ import annotations

from concave.store.protocol import Store
from concave.store.records import (
    Complete,
    Release,
)
from concave.testing.clock import FakeClock
from concave.testing.suite_support import (
    claim_of,
    ids_of,
    new_tasks,
    settle,
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
