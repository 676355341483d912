"""What every store promises of locks: one owner at a time, and an end."""

# ruff: noqa: D102  (a test's name is its documentation)

from __future__ import annotations

import asyncio

from concave.store.protocol import Store
from concave.testing.clock import FakeClock
from concave.testing.suite_support import LEASE, SECOND

__all__ = ["LocksSuite"]


class LocksSuite:
    """`Store.locks`."""

    async def test_a_lock_has_one_owner(self, store: Store) -> None:
        locks = store.locks
        assert await locks.acquire("l", "me", LEASE)
        assert not await locks.acquire("l", "you", LEASE)
        assert await locks.is_held("l", "me")
        assert not await locks.is_held("l", "you")
        assert not await locks.is_held("other", "me")
        assert await locks.acquire("other", "you", LEASE)

    async def test_only_its_owner_releases_or_extends_a_lock(self, store: Store) -> None:
        locks = store.locks
        await locks.acquire("l", "me", LEASE)
        assert not await locks.extend("l", "you", LEASE)
        assert not await locks.release("l", "you")
        assert await locks.is_held("l", "me")
        assert await locks.release("l", "me")
        assert not await locks.release("l", "me")
        assert not await locks.extend("l", "me", LEASE)
        assert await locks.acquire("l", "you", LEASE)

    async def test_a_lock_ends_at_its_microsecond(self, store: Store, clock: FakeClock) -> None:
        locks = store.locks
        await locks.acquire("l", "me", SECOND)
        clock.advance_micros(SECOND - 1)
        assert not await locks.acquire("l", "you", SECOND)
        clock.advance_micros(1)
        assert not await locks.is_held("l", "me")
        assert not await locks.extend("l", "me", SECOND)
        assert not await locks.release("l", "me")
        assert await locks.acquire("l", "you", SECOND)

    async def test_a_lock_lasts_from_its_latest_renewal(self, store: Store, clock: FakeClock) -> None:
        locks = store.locks
        await locks.acquire("l", "me", 2 * SECOND)
        clock.advance(1)
        assert await locks.extend("l", "me", 2 * SECOND)
        clock.advance(1)
        assert await locks.acquire("l", "me", 2 * SECOND)
        clock.advance_micros(2 * SECOND - 1)
        assert await locks.is_held("l", "me")
        clock.advance_micros(1)
        assert not await locks.is_held("l", "me")

    async def test_of_many_who_want_a_lock_one_gets_it(self, store: Store) -> None:
        got = await asyncio.gather(
            *(store.locks.acquire("l", f"owner-{number}", LEASE) for number in range(50))
        )
        assert got.count(True) == 1
        assert await store.locks.is_held("l", f"owner-{got.index(True)}")
