"""Locks in memory."""

from __future__ import annotations

import threading

from concave.clock import Clock, Micros

__all__ = ["MemoryLocks"]


class MemoryLocks:
    """See `concave.store.protocol.Locks`."""

    def __init__(self, lock: threading.RLock, clock: Clock) -> None:
        self._lock = lock
        self._clock = clock
        self._held: dict[str, tuple[str, Micros]] = {}

    async def acquire(self, name: str, owner: str, ttl: Micros) -> bool:
        with self._lock:
            if self._owner(name) not in {None, owner}:
                return False
            self._held[name] = (owner, self._clock.now() + ttl)
            return True

    async def extend(self, name: str, owner: str, ttl: Micros) -> bool:
        with self._lock:
            if self._owner(name) != owner:
                return False
            self._held[name] = (owner, self._clock.now() + ttl)
            return True

    async def release(self, name: str, owner: str) -> bool:
        with self._lock:
            if self._owner(name) != owner:
                return False
            del self._held[name]
            return True

    async def is_held(self, name: str, owner: str) -> bool:
        with self._lock:
            return self._owner(name) == owner

    def _owner(self, name: str) -> str | None:
        self._drop_ended()
        held = self._held.get(name)
        return held[0] if held else None

    def _drop_ended(self) -> None:
        now = self._clock.now()
        for name in [name for name, (_, end) in self._held.items() if end <= now]:
            del self._held[name]
