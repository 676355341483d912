"""Commands that go straight to a connection of the driver's pool: the same bytes for two thirds of the time."""

# redis-py types its version by half.
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import VERSION

__all__ = ["DirectClient", "packed_command"]

UNNAMED: tuple[str, ...] = ("EVALSHA",) if VERSION < (5, 3) else ()
"""What a pool is told of the command that a connection is for; later versions don't want to know."""


class DirectClient:
    """A client with a pool, without what its `execute_command` does besides: retries, and looking for callbacks and special cases.

    Its connections are the pool's, which looks at each before it is used, connects it anew where it has to, and knows what
    else is to be done with it. A connection closes itself where a call fails or is cancelled before it has its answer.
    """

    def __init__(self, client: Any) -> None:
        self.connection_pool = client.connection_pool
        self.aclose = client.aclose

    async def execute_command(self, *args: bytes | str | int) -> Any:
        pool = self.connection_pool
        connection = await pool.get_connection(*UNNAMED)
        try:
            await connection.send_packed_command(packed_command(args))
            return await connection.read_response()
        finally:
            await pool.release(connection)


def packed_command(args: Sequence[bytes | str | int]) -> bytes:
    """A command as it is sent."""
    parts = [b"*%d\r\n" % len(args)]
    for arg in args:
        data = arg if type(arg) is bytes else str(arg).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)
