"""The driver's own client, where a user's options or a cluster want it, and what its calls need besides."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["AT_ONCE", "DriverClient", "heeding_cancellation"]

AT_ONCE = 64
"""Calls under way at a time, at most; each has a connection of its own, and others wait for one."""


class heeding_cancellation:  # noqa: N801  used like a function, as those of contextlib are
    """Raise CancelledError behind calls of the driver that were cancelled and didn't notice.

    The driver writes within `asyncio.wait_for`, which before Python 3.12 swallows a cancellation that comes in the turn of
    the loop in which the writing ends: whoever called it off would wait on, for its answer and for all that comes after it.
    """

    __slots__ = ("_before", "_task")

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._before = 0 if self._task is None else self._task.cancelling()

    def __exit__(self, *_: object) -> None:
        if self._task is not None and self._task.cancelling() > self._before:
            raise asyncio.CancelledError


class DriverClient:
    """A client of redis-py. It counts the seconds of a call, and `at_once` says how many calls there are at a time."""

    in_order = False  # each has a connection of its own

    def __init__(self, client: Any, *, at_once: int) -> None:
        self._client = client
        self._room = asyncio.Semaphore(min(AT_ONCE, at_once))
        self.aclose = client.aclose

    async def execute_command(self, *args: bytes | str | int) -> Any:
        """Send a command; its reply. Raises the driver's errors."""
        async with self._room:
            with heeding_cancellation():
                return await self._client.execute_command(*args)

    async def renew(self) -> None:
        """Close connections that are idle, so that the next call connects to whatever its address leads to by then.

        The driver does so by itself behind sentinels, unless the error comes from within a script of Redis 6. A cluster's client
        has no pool of its own, and is told by its nodes where to go.
        """
        pool: Any = getattr(self._client, "connection_pool", None)
        if pool is not None:
            await pool.disconnect(inuse_connections=False)
