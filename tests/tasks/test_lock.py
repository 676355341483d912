"""Locks: one owner, an end of their own, and no check apart from the act. On both stores, by a held clock."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from concave import ConfigurationError, LockNotAcquiredError, StoreUnavailableError
from concave.kv import KV
from concave.tasks import create_task_lock
from tests.tasks.support import ScriptedKV, WatchedClock, logged

AWAY = StoreUnavailableError("away")


async def test_a_lock_has_one_owner(timed_kv: KV) -> None:
    lock = create_task_lock(timed_kv)
    assert await lock.acquire("task", "me", 30)
    assert await lock.acquire("task", "me")  # asking twice is safe
    assert not await lock.acquire("task", "you", timedelta(seconds=30))
    assert await lock.acquire("another", "you")
    assert await lock.acquire(7, "me")  # type: ignore[arg-type]  # as is natural for the number of a row
    assert (await lock.is_held("task", "me"), await lock.is_held("task", "you")) == (True, False)
    assert not await lock.extend("task", "you")
    assert not await lock.release("task", "you")
    assert await lock.is_held("task", "me")
    assert await lock.release("task", "me")
    assert not await lock.release("task", "me")
    assert not await lock.extend("task", "me")
    assert await lock.acquire("task", "you")


async def test_a_lock_ends_by_itself_unless_it_is_extended(timed_kv: KV, clock: WatchedClock) -> None:
    lock = create_task_lock(timed_kv)
    await lock.acquire("task", "me", 30)
    clock.advance(29)
    assert await lock.extend("task", "me", 30)
    clock.advance(29)
    assert await lock.is_held("task", "me")
    clock.advance(1)
    assert not await lock.is_held("task", "me")
    assert not await lock.extend("task", "me", 30)
    assert await lock.acquire("task", "you", 30)
    assert not await lock.release("task", "me")


async def test_of_many_who_ask_at_once_one_has_it(timed_kv: KV) -> None:
    async with timed_kv.twin() as twin:
        locks = [create_task_lock(timed_kv), create_task_lock(twin)]
        asked = [locks[number % 2].acquire("task", f"owner {number}") for number in range(20)]
        assert sum(await asyncio.gather(*asked)) == 1


async def test_a_lock_that_nobody_can_take(timed_kv: KV) -> None:
    lock = create_task_lock(timed_kv)
    for name, owner in (("\ud800", "me"), ("task", "\udfff")):
        with pytest.raises(ConfigurationError, match="UTF-8"):
            await lock.acquire(name, owner)
        assert not await lock.extend(name, owner)
        assert not await lock.is_held(name, owner)
        assert not await lock.release(name, owner)
    with pytest.raises(ConfigurationError, match="UTF-8"):
        async with lock.hold("\ud800"):
            pass


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), timedelta(0), timedelta(days=365 * 300), "x"])
async def test_a_ttl_that_cannot_be(timed_kv: KV, ttl: Any) -> None:
    lock = create_task_lock(timed_kv)
    with pytest.raises(ConfigurationError, match="ttl"):
        await lock.acquire("task", "me", ttl)
    with pytest.raises(ConfigurationError, match="ttl"):
        async with lock.hold("task", ttl):
            pass


async def test_a_held_lock_is_renewed_and_released(timed_kv: KV, clock: WatchedClock) -> None:
    spied = ScriptedKV(timed_kv)
    lock = create_task_lock(spied)
    async with lock.hold("task", ttl=30) as lost:
        for times in range(1, 10):
            await clock.timer_set(10, times)
            clock.advance(10)
            await spied.script.called("locks.extend", times)
        assert not lost.aborted
        with pytest.raises(LockNotAcquiredError, match="lock 'task' is held by someone else"):
            async with lock.hold("task"):
                pytest.fail("two hold it")
    assert await lock.acquire("task", "me")


async def test_it_is_released_whatever_the_block_does(timed_kv: KV) -> None:
    lock = create_task_lock(timed_kv)

    async def fails() -> None:
        async with lock.hold("task"):
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        await fails()
    holding = asyncio.Event()

    async def waits() -> None:
        async with lock.hold("task"):
            holding.set()
            await asyncio.Event().wait()

    waiting = asyncio.create_task(waits())
    await holding.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await lock.acquire("task", "me")


async def test_the_holder_is_told_of_a_loss(timed_kv: KV, clock: WatchedClock) -> None:
    lock = create_task_lock(timed_kv)
    async with lock.hold("task", ttl=30) as lost:
        await clock.timer_set(10)
        clock.advance(31)  # the process was asleep for longer than the lock
        assert await lock.acquire("task", "you", 30)
        assert await lost.wait() in {
            "the lock is held by someone else, or has run out",
            "the lock could not be renewed for 30 s",
        }
    assert await lock.is_held("task", "you")


async def test_a_lock_that_ran_out_before_it_was_renewed_is_told_at_the_next_renewal(
    timed_kv: KV, clock: WatchedClock
) -> None:
    class Shorter(ScriptedKV):
        """Its locks end sooner than was asked: an operator's hand, or a server that evicts."""

        @property
        def store(self) -> Any:
            store = super().store
            locks = store.locks
            acquire = locks.acquire

            async def briefly(name: str, owner: str, ttl: int) -> bool:
                return bool(await acquire(name, owner, 1_000_000))

            locks.acquire = briefly
            store.locks = locks
            return store

    async with create_task_lock(Shorter(timed_kv)).hold("task", ttl=30) as lost:
        await clock.timer_set(10)
        clock.advance(10)
        assert await lost.wait() == "the lock is held by someone else, or has run out"


async def test_a_store_out_of_reach_for_a_whole_ttl_is_a_loss_and_before_that_it_is_none(
    timed_kv: KV, clock: WatchedClock
) -> None:
    spied = ScriptedKV(timed_kv)
    lock = create_task_lock(spied)
    back = spied.script.fail("locks.extend", AWAY, times=float("inf"))
    async with lock.hold("task", ttl=30) as lost:
        with logged("lock 'task' could not be renewed yet: away") as told:
            for times in (1, 2):
                await clock.timer_set(10, times)
                clock.advance(10)
                await spied.script.called("locks.extend", times)
            await told.wait()
        assert not lost.aborted
        await clock.timer_set(10, 3)
        clock.advance(10)
        assert await lost.wait() == "the lock could not be renewed for 30 s"
        back()


async def test_a_loss_is_told_while_the_store_still_thinks(timed_kv: KV, clock: WatchedClock) -> None:
    spied = ScriptedKV(timed_kv)
    lock = create_task_lock(spied)
    async with lock.hold("task", ttl=30) as lost:
        there, let_through = spied.script.hold_answer("locks.extend")
        await clock.timer_set(10)
        clock.advance(10)
        await there.wait()
        clock.advance(20)
        assert await lost.wait() == "the lock could not be renewed for 30 s"
        let_through.set()


async def test_a_lock_that_cannot_be_released_is_no_failure_of_the_block(timed_kv: KV) -> None:
    spied = ScriptedKV(timed_kv)
    lock = create_task_lock(spied)
    spied.script.fail("locks.release", AWAY)
    with logged("lock 'task' could not be released and ends within its ttl: away") as told:
        async with lock.hold("task"):
            pass
        await told.wait()
    spied.script.fail("locks.acquire", AWAY)
    with pytest.raises(StoreUnavailableError):
        async with lock.hold("task"):
            pass
