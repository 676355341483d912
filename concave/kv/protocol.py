"""A connection to where tasks are kept."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Protocol, Self

from concave.clock import Clock
from concave.store.protocol import Store

__all__ = ["KV"]


class KV(Protocol):
    """A connection, a namespace in it, and the store that speaks through it. It belongs to one event loop."""

    @property
    def store(self) -> Store:
        """The task store. `ConfigurationError` before `connect`."""
        ...

    @property
    def clock(self) -> Clock:
        """What this process waits by."""
        ...

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop it was connected on."""
        ...

    @property
    def prefix(self) -> str:
        """The namespace there."""
        ...

    @property
    def description(self) -> str:
        """Where it leads, fit for a log: no password."""
        ...

    async def connect(self) -> None:
        """Open it. Raises `StoreUnavailableError`, which names the URL without its password. Twice is harmless."""
        ...

    async def close(self) -> None:
        """Close it. Twice is harmless."""
        ...

    def twin(self) -> KV:
        """A KV of its own to the same place, not connected yet: for another event loop or thread."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
