"""What every store promises of claims that stand, be they answered later or not."""

# ruff: noqa: D102  (a test's name is its documentation)

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from concave.store.protocol import WORK, Store
from concave.store.records import Claim, Complete, Lease
from concave.testing.clock import FakeClock
from concave.testing.suite_support import (
    SECOND,
    Heard,
    add,
    claim_of,
    ids_of,
    new_tasks,
    settle,
    status_of,
    take,
)

__all__ = ["StandingSuite", "standing", "unheard"]


def standing(names: str = "job", **fields: Any) -> Claim:
    """A claim that stands for a minute at its worker's desk."""
    given: dict[str, Any] = {"desk": "desk", "stands": 60 * SECOND, **fields}
    return claim_of(names, **given)


def unheard(_nonce: str, _leases: Sequence[Lease]) -> None:
    """Somebody is there, and the answer gets lost all the same."""


class StandingSuite:
    """`Claim.stands` and `Store.answers`."""

    async def test_made_again_a_claim_has_what_came_along(self, store: Store) -> None:
        told: list[tuple[str, Sequence[Lease]]] = []
        listener = await store.answers("desk", lambda nonce, leases: told.append((nonce, leases)))
        claim = standing()
        assert (await store.claim(claim)).leases == []
        ids = await store.add(new_tasks(3))
        leases = (await store.claim(claim)).leases
        assert ids_of(leases) == ids
        assert {lease.token for lease in leases} == {claim.nonce}
        assert await take(store) == []
        assert [nonce for nonce, _ in told] in ([], [claim.nonce])
        assert [await settle(store, lease, Complete(b"1")) for lease in leases] == [True] * 3
        await listener.close()

    async def test_a_claim_that_was_withdrawn_gets_nothing(self, store: Store) -> None:
        listener = await store.answers("desk", unheard)
        claim = standing()
        await store.claim(claim)
        assert (await store.claim(claim._replace(limit=0, stands=0))).leases == []
        task_id = await add(store)
        assert await status_of(store, task_id) == "pending"
        assert ids_of(await take(store)) == [task_id]
        await listener.close()

    async def test_a_claim_that_comes_late_does_not_stand_and_ends_none_that_does(self, store: Store) -> None:
        listener = await store.answers("desk", unheard)
        late, claim = (
            standing(number=1, nonce="start---00000001"),
            standing(number=2, nonce="start---00000002"),
        )
        stands = (await store.claim(claim)).stands
        assert (await store.claim(late)).stands is False
        ids = await store.add(new_tasks(1))
        leases = (await store.claim(claim._replace(number=3))).leases
        assert ids_of(leases) == ids
        assert {lease.token for lease in leases} == {claim.nonce}
        assert stands == (await store.claim(standing())).stands
        await listener.close()

    async def test_what_no_claim_stands_for_is_news_as_ever(self, store: Store, clock: FakeClock) -> None:
        heard = Heard()
        listeners = [await store.answers("desk", unheard), await store.listen(WORK, heard)]
        for claim, passing in ((standing("other job:1"), 0), (standing(limit=1), 0), (standing(), 61)):
            await store.claim(claim)
            clock.advance(passing)
            heard.forget()
            await store.add(new_tasks(2))
            await heard.until("job")
            await store.claim(claim._replace(limit=0, stands=0))
            for lease in [*await take(store), *(await store.claim(claim)).leases]:
                await settle(store, lease, Complete(b"1"))
        for listener in listeners:
            await listener.close()

    async def test_many_claims_that_stand_share_what_comes(self, store: Store) -> None:
        desks = [f"desk-{number}" for number in range(3)]
        listeners = [await store.answers(desk, unheard) for desk in desks]
        claims = [standing(desk=desk, worker_id=desk, limit=2) for desk in desks]
        for claim in claims:
            await store.claim(claim)
        ids = await store.add(new_tasks(5))
        leases = [lease for claim in claims for lease in (await store.claim(claim)).leases]
        assert sorted(ids_of(leases)) == sorted(ids)
        for listener in listeners:
            await listener.close()
