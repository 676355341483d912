"""Locks for what only one process may do at a time. Each check is made where the lock is kept, in one step."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

from concave.clock import seconds, sleep
from concave.errors import ConcaveError, ConfigurationError, LockNotAcquiredError, StoreError
from concave.kv.protocol import KV
from concave.tasks.options import Duration, micros
from concave.tasks.signal import AbortSignal
from concave.tasks.submission import SURROGATES

__all__ = ["TaskLock", "create_task_lock"]

log = logging.getLogger("concave.lock")


class TaskLock:
    """Named locks. A lock ends by itself after its `ttl` (seconds), should its owner die."""

    def __init__(self, kv: KV) -> None:
        self._kv = kv

    async def acquire(self, task_id: str, worker_id: str, ttl: Duration = 30.0) -> bool:
        """Take a lock; True if it was free. An owner that asks again renews it, so that asking twice is safe.

        Raises `ConfigurationError` for a name or an owner that UTF-8 can't hold: nobody could take it.
        """
        if SURROGATES.search(f"{task_id}{worker_id}"):
            raise ConfigurationError(
                f"a lock and its owner are text in UTF-8, not {task_id!r} and {worker_id!r}"
            )
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
        asked = self._kv.clock.monotonic()
        if not await self.acquire(name, owner, ttl):
            raise LockNotAcquiredError(f"lock {name!r} is held by someone else")
        renewing = asyncio.create_task(
            self._renew(name, owner, ttl, lost, asked), name=f"concave-lock-{name}"
        )
        try:
            yield lost
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            try:
                await self.release(name, owner)
            except StoreError as error:  # what was done under the lock is done: it ends by itself
                log.warning("lock %r could not be released and ends within its ttl: %s", name, error)

    async def _renew(self, name: str, owner: str, ttl: Duration, lost: AbortSignal, asked: float) -> None:
        """Renew three times per `ttl`. The end of a lock that isn't renewed is known without asking anyone."""
        clock, length = self._kv.clock, seconds(ttl, "ttl")
        expired = partial(lost.abort, f"the lock could not be renewed for {length:g} s")
        end = clock.call_later(length - (clock.monotonic() - asked), expired)
        try:
            while not lost.aborted:
                await sleep(clock, length / 3)
                asked = clock.monotonic()
                try:
                    renewed = await self.extend(name, owner, ttl)
                except ConcaveError as error:
                    log.warning("lock %r could not be renewed yet: %s", name, error)
                    continue
                end.cancel()
                if not renewed:
                    lost.abort("the lock is held by someone else, or has run out")
                    return
                end = clock.call_later(length - (clock.monotonic() - asked), expired)
        finally:
            end.cancel()


def create_task_lock(kv: KV) -> TaskLock:
    """The locks of `kv`."""
    return TaskLock(kv)


def _micros(ttl: Duration) -> int:
    return micros(ttl, "ttl", minimum=0.001)
