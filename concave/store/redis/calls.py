"""Calls that share one connection: each is sent at once, and replies come in the same order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from typing import Any, Final

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError, TimeoutError as RedisTimeoutError

from concave.store.redis.wire import Wire, Wires

__all__ = ["SLOWEST", "SharedConnection"]

SLOWEST: Final = 8192
"""Bytes a second: a line that is slower is taken for dead."""


class SharedConnection:
    """A client with one connection for all calls of an event loop. A lost one is made anew by the next call.

    A call that is cancelled costs its neighbours nothing. Where the oldest has waited longer than its patience, and next to nothing
    has come in that time, the connection is given up and all of them fail: whatever keeps one reply, a server or a network, keeps
    those behind it as well. A large command has the time, besides, that it takes to go out over a slow line.
    """

    in_order = True

    def __init__(self, wires: Wires) -> None:
        self._wires = wires
        self._wire: Wire | None = None
        self._connecting: asyncio.Task[Wire] | None = None
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        """Who waits for a reply, and since when, its way out not counted; in the order of the replies."""
        self._timer: asyncio.TimerHandle | None = None
        self._received = 0
        """How many bytes had come when the oldest was last looked at."""
        self._closed = False

    def execute_command(self, *args: bytes | str | int) -> Awaitable[Any]:
        """Send a command; its reply. Raises the driver's errors."""
        return self._connect_and_send(args) if self._wire is None else self._send(self._wire, args)

    async def renew(self) -> None:
        """End the connection: the next call connects to whatever the address leads to by then."""
        if self._wire is not None:
            self._give_up(self._wire, None)

    async def aclose(self) -> None:
        """End the connection, for good: whoever is refused by that, and tries again, makes no other."""
        self._closed = True
        await self.renew()
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait({self._connecting})
            await self.renew()
        await self._wires.close()

    async def _connect_and_send(self, args: tuple[bytes | str | int, ...]) -> Any:
        if self._closed:
            raise _as_of_the_driver(None)
        if self._connecting is None:
            # One for all: each of many callers would otherwise wait for the failures of those before it.
            self._connecting = asyncio.create_task(self._connect(), name="concave-connect")
            self._connecting.add_done_callback(self._has_connected)
        connecting = self._connecting
        await asyncio.wait({connecting})  # which leaves it alone where this caller is cancelled
        if connecting.cancelled() or connecting.result() is not self._wire:
            # Closed meanwhile. Nobody has cancelled this caller, who is not to be told so.
            raise _as_of_the_driver(None)
        return await self._send(connecting.result(), args)

    async def _connect(self) -> Wire:
        self._wire = await self._wires.open(self._hear, self._give_up)
        return self._wire

    def _has_connected(self, connecting: asyncio.Task[Wire]) -> None:
        self._connecting = None
        if not connecting.cancelled():
            connecting.exception()  # it counts as seen, also where whoever waited for it has left

    def _send(self, wire: Wire, args: tuple[bytes | str | int, ...]) -> asyncio.Future[Any]:
        # First, for it may raise: who waited for a reply to what wasn't sent would get that of the next.
        size = wire.send(*args)
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((reply, loop.time() + size / SLOWEST))
        if self._timer is None and self._wires.patience is not None:
            self._received = wire.received
            self._timer = loop.call_later(self._wires.patience, self._look_at_the_oldest)
        return reply

    def _hear(self, reply: Any) -> None:
        if type(reply) is hiredis.PushNotification:
            return  # news that the server sends unasked, of its maintenance
        waiting, _ = self._waiting.popleft()
        if waiting.done():
            return  # whoever asked was cancelled
        if isinstance(reply, Exception):
            waiting.set_exception(reply)
        else:
            waiting.set_result(reply)

    def _give_up(self, wire: Wire, error: Exception | None) -> None:
        """What is under way fails. Told by the connection that has ended, or ends it."""
        if wire is not self._wire:
            return
        self._wire = None
        self._wires.drop(wire)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            reply, _ = self._waiting.popleft()
            if not reply.done():
                reply.set_exception(_as_of_the_driver(error))

    def _look_at_the_oldest(self) -> None:
        self._timer = None
        if not self._waiting or self._wire is None or self._wires.patience is None:
            return
        loop = asyncio.get_running_loop()
        came, self._received = self._wire.received - self._received, self._wire.received
        left = self._waiting[0][1] + self._wires.patience - loop.time()
        if left <= 0 and came >= self._wires.patience * SLOWEST:
            # A large reply over a slow line: given up while it comes, it would be asked for again and again.
            left = self._wires.patience
        if left > 0:
            self._timer = loop.call_later(min(left, self._wires.patience), self._look_at_the_oldest)
        else:
            self._give_up(self._wire, RedisTimeoutError(f"no reply within {self._wires.patience:g} s"))


def _as_of_the_driver(error: Exception | None) -> Exception:
    if isinstance(error, RedisTimeoutError):
        return RedisTimeoutError(*error.args)
    return RedisConnectionError(str(error) if error is not None else "the connection was closed")
