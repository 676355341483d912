"""Locks on Redis."""

from __future__ import annotations

from concave.clock import Micros
from concave.store.redis.client import ScriptCaller

__all__ = ["RedisLocks"]


class RedisLocks:
    """See `concave.store.protocol.Locks`."""

    def __init__(self, scripts: ScriptCaller) -> None:
        self._scripts = scripts

    async def acquire(self, name: str, owner: str, ttl: Micros) -> bool:
        return bool(await self._scripts.call_again("lock_acquire", name, owner, ttl))

    async def extend(self, name: str, owner: str, ttl: Micros) -> bool:
        return bool(await self._scripts.call_again("lock_extend", name, owner, ttl))

    async def release(self, name: str, owner: str) -> bool:
        return bool(await self._scripts.call("lock_release", name, owner))

    async def is_held(self, name: str, owner: str) -> bool:
        return bool(await self._scripts.call_again("lock_holds", name, owner))
