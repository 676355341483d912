"""A connection that the driver makes and we speak on: a reply goes to who waits for it in the turn of the loop in which it comes.

The driver knows how to connect (TLS, sentinels, credentials, databases). Its ways of sending a command and reading the reply,
through streams, locks, pools and a timer for each, take longer than the server does for most of our scripts.
"""

# redis-py types its version by half, and hiredis nothing.
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeAlias

import hiredis
from redis import VERSION
from redis.exceptions import InvalidResponse

from concave.store.redis.driver import heeding_cancellation

__all__ = ["Wire", "Wires", "packed_command"]

UNNAMED: tuple[str, ...] = ("PING",) if VERSION < (5, 3) else ()
"""What a pool is told of the command that a connection is for; later versions don't want to know."""
INCOMPLETE: Final = object()


Hear: TypeAlias = Callable[[Any], object]
"""Gets each reply; an error as an exception."""
End: TypeAlias = "Callable[[Wire, Exception | None], object]"
"""Is told that a connection has ended, and what went wrong with it."""


class Wire(asyncio.Protocol):
    """One connection."""

    def __init__(self, pool: Any, connection: Any, hear: Hear, end: End) -> None:
        self._pool = pool
        self._connection = connection
        self._hear = hear
        self._end = end
        self.received = 0
        """Bytes that have come."""
        self._replies: Any = hiredis.Reader(
            protocolError=InvalidResponse,
            replyError=connection._parser.parse_error,  # noqa: SLF001  a server's codes as the driver's own classes
            notEnoughData=INCOMPLETE,
        )
        # The driver has had the reply to all that it asked, so nothing gets lost between the two of us.
        self._transport: asyncio.Transport = connection._writer.transport  # noqa: SLF001
        self._driver: asyncio.BaseProtocol = self._transport.get_protocol()
        self._transport.set_protocol(self)
        if connection._reader.at_eof() or self._transport.is_closing():  # noqa: SLF001
            # It has ended since the driver looked, and nobody will be told so again.
            asyncio.get_running_loop().call_soon(end, self, None)

    def send(self, *args: bytes | str | int) -> int:
        """Send a command; how many bytes it has. Where the connection has ended, `end` is told, or has been."""
        command = packed_command(args)
        self._transport.write(command)
        return len(command)

    def abort(self) -> None:
        """End it: what is under way gets no reply."""
        self._transport.abort()

    async def close(self) -> None:
        """End it, unless it has ended, and give it back to the driver."""
        await self._connection.disconnect()
        await self._pool.release(self._connection)

    def data_received(self, data: bytes) -> None:
        """Hand on what replies there are by now."""
        self.received += len(data)
        replies = self._replies
        try:
            replies.feed(data)
            while (reply := replies.gets()) is not INCOMPLETE:
                self._hear(reply)
        except InvalidResponse as error:
            self._end(self, error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who listens; and the driver, which waits for this where it closes a connection."""
        self._driver.connection_lost(exc)
        self._end(self, exc)


class Wires:
    """Makes connections, and gives those that have ended back to the driver. `pool_of` finds the pool of the driver's to take one from."""

    def __init__(self, pool_of: Callable[[], Awaitable[Any]], *, patience: float | None) -> None:
        self._pool_of = pool_of
        self._ended: list[Wire] = []
        self.patience = patience
        """Seconds that anyone waits for a server."""

    async def open(self, hear: Hear, end: End) -> Wire:
        """A connection. Raises the driver's errors, and a TimeoutError where its patience is over."""
        await self.close()
        wire: Wire | None = None
        try:
            with heeding_cancellation():
                async with asyncio.timeout(self.patience):
                    pool = await self._pool_of()
                    wire = Wire(pool, await pool.get_connection(*UNNAMED), hear, end)
        except asyncio.CancelledError:
            if wire is not None:  # the driver didn't notice, and nobody will have what it made
                self.drop(wire)
            raise
        return wire

    def drop(self, wire: Wire) -> None:
        """End a connection. It goes back to the driver with the next that is opened: that takes a moment."""
        wire.abort()
        self._ended.append(wire)

    async def close(self) -> None:
        """Give back what has ended."""
        while self._ended:
            # Taken out first: another may be giving back at the same time, and twice is an error.
            wire = self._ended.pop()
            try:
                await wire.close()
            except BaseException:
                self._ended.append(wire)
                raise


def packed_command(args: Sequence[bytes | str | int]) -> bytes:
    """A command as it is sent."""
    parts = [b"*%d\r\n" % len(args)]
    for arg in args:
        data = arg if type(arg) is bytes else str(arg).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)
