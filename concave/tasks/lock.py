"""Locks for what only one process may do at a time. Each check is made where the lock is kept, in one step."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from concave.clock import seconds, sleep
from concave.errors import LockNotAcquiredError, StoreError
from concave.kv.protocol import KV
from concave.tasks.options import Duration
from concave.tasks.signal import AbortSignal

__all__ = ["TaskLock", "create_task_lock"]


class TaskLock:
    """Named locks. A lock ends by itself after its `ttl` (seconds), should its owner die."""

    def __init__(self, kv: KV) -> None:
        self._kv = kv

    async def acquire(self, task_id: str, worker_id: str, ttl: Duration = 30.0) -> bool:
        """Take a lock; True if it was free. An owner that asks again renews it, so that asking twice is safe."""
        return await self._kv.store.locks.acquire(task_id, worker_id, _micros(ttl))

    async def extend(self, task_id: str, worker_id: str, ttl: Duration = 30.0) -> bool:
        """Renew a lock; False if its owner is someone else, or no one any more."""
        return await self._kv.store.locks.extend(task_id, worker_id, _micros(ttl))

    async def release(self, task_id: str, worker_id: str) -> bool:
        """Release a lock; False, and nothing done, if its owner is someone else, or no one any more."""
        return await self._kv.store.locks.release(task_id, worker_id)

    async def is_held(self, task_id: str, worker_id: str) -> bool:
        """Whether `worker_id` holds the lock now."""
        return await self._kv.store.locks.is_held(task_id, worker_id)

    @asynccontextmanager
    async def hold(self, name: str, ttl: Duration = 30.0) -> AsyncGenerator[AbortSignal]:
        """Hold a lock for a block, renewing it three times per `ttl`. Raises `LockNotAcquiredError` if it is taken.

        Yields a signal that is set should the lock be lost meanwhile (the store was out of reach for a whole `ttl`).
        """
        owner, lost = secrets.token_hex(8), AbortSignal()
        if not await self.acquire(name, owner, ttl):
            raise LockNotAcquiredError(f"lock {name!r} is held by someone else")
        renewing = asyncio.create_task(self._renew(name, owner, ttl, lost), name=f"concave-lock-{name}")
        try:
            yield lost
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            await self.release(name, owner)

    async def _renew(self, name: str, owner: str, ttl: Duration, lost: AbortSignal) -> None:
        pause = seconds(ttl, "ttl") / 3
        renewed = self._kv.clock.monotonic()
        while not lost.aborted:
            await sleep(self._kv.clock, pause)
            try:
                if await self.extend(name, owner, ttl):
                    renewed = self._kv.clock.monotonic()
                else:
                    lost.abort("the lock is held by someone else")
            except StoreError as error:
                if self._kv.clock.monotonic() - renewed >= pause * 3:
                    lost.abort(f"the lock could not be renewed: {error}")


def create_task_lock(kv: KV) -> TaskLock:
    """The locks of `kv`."""
    return TaskLock(kv)


def _micros(ttl: Duration) -> int:
    return round(seconds(ttl, "ttl", minimum=0.001) * 1_000_000)
