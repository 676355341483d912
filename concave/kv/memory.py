"""`memory://`: a store that lives and dies with its process."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Self

from concave.clock import Clock, SystemClock
from concave.errors import ConfigurationError
from concave.store.memory import MemoryStore

__all__ = ["MemoryKV"]

log = logging.getLogger("concave.kv")


class MemoryKV:
    """A KV in this process's memory. Each one made is a world of its own; its twins share it."""

    def __init__(
        self, *, clock: Clock | None = None, prefix: str = "concave", _store: MemoryStore | None = None
    ) -> None:
        self._clock: Clock = clock or SystemClock()
        self._store = _store or MemoryStore(self._clock)
        self._is_twin = _store is not None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.prefix = prefix

    @property
    def store(self) -> MemoryStore:
        return self._store

    @property
    def clock(self) -> Clock:
        return self._clock

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise ConfigurationError("this KV isn't connected: await kv.connect(), or async with kv")
        return self._loop

    @property
    def description(self) -> str:
        return "memory://"

    async def connect(self) -> None:
        if self._loop is None and not self._is_twin:
            log.info("tasks are kept in memory: they end with this process. Set CONCAVE_KV_URL to keep them.")
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        self._loop = None

    def twin(self) -> MemoryKV:
        return MemoryKV(clock=self._clock, prefix=self.prefix, _store=self._store)

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
