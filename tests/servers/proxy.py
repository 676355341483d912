"""A TCP proxy before a Redis server, which does harm to what passes through it."""

import asyncio
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from enum import Enum
from types import TracebackType
from typing import Any, Self

__all__ = ["Fault", "RedisProxy"]

LARGEST_LINE = 64 * 1024 * 1024
RST_ON_CLOSE = struct.pack("ii", 1, 0)
LISTENS = {b"SUBSCRIBE", b"PSUBSCRIBE", b"SSUBSCRIBE", b"MONITOR"}


class Fault(Enum):
    """What can befall one command."""

    RESET = "connection reset before it is sent"
    DROP = "connection reset after it is carried out"
    CUT = "connection reset in the middle of the reply"
    STALL = "the reply comes late"
    LOADING = "-LOADING Redis is loading the dataset in memory\r\n"
    READONLY = "-READONLY You can't write against a read only replica.\r\n"
    OOM = "-OOM command not allowed when used memory > 'maxmemory'.\r\n"

    @property
    def is_carried_out(self) -> bool:
        """Whether the server does what it is asked, though the client may never learn of it."""
        return self in {Fault.DROP, Fault.CUT, Fault.STALL}


Choose = Callable[[bytes], Fault | None]
"""From a command's name to what is to befall it. Called in the proxy's thread, one command after the other."""


class RedisProxy:
    """Passes commands and replies one by one, with a thread and an event loop of its own.

    `choose` decides about each command but those of a connection's beginning. Where something listens (SUBSCRIBE), the
    connection is passed on as it is from then on; `cut` ends it, as it ends all others. New connections go to the port
    that is its `target` by then.
    """

    def __init__(self, port: int, choose: Choose = lambda _: None, *, stall: float = 2.0) -> None:
        self.choose = choose
        self.done: Counter[Fault] = Counter()
        self.port = 0
        self.target = port
        self._stall = stall
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="redis-proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._swallowed: set[asyncio.StreamWriter] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._listen()).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._close()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """Where clients connect, database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self) -> None:
        """Reset all connections there are now."""
        self._run(self._cut()).result()

    def swallow(self) -> None:
        """Let whatever comes over the connections that listen get lost, both ways, as a firewall does that forgot them."""
        self._swallowed.update(self._connections.values())

    @contextmanager
    def harming(self, choose: Choose) -> Generator[None]:
        """Do harm for a while."""
        before, self.choose = self.choose, choose
        try:
            yield
        finally:
            self.choose = before

    def _run(self, coroutine: "Coroutine[Any, Any, None]") -> "Future[None]":
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=LARGEST_LINE)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _cut(self) -> None:
        connections = dict(self._connections)
        for task, writer in connections.items():
            _reset(writer)
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer
        upstream: asyncio.StreamWriter | None = None
        # Whatever ends a connection on one side ends it on the other: that is all there is to say about it.
        with suppress(OSError, EOFError, asyncio.CancelledError):
            try:
                replies, upstream = await asyncio.open_connection(
                    "127.0.0.1", self.target, limit=LARGEST_LINE
                )
                await self._pass(reader, writer, replies, upstream)
            finally:
                del self._connections[task]
                writer.transport.abort()
                if upstream is not None:
                    upstream.transport.abort()

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        replies: asyncio.StreamReader,
        upstream: asyncio.StreamWriter,
    ) -> None:
        while True:
            command = await _frame(reader)
            name = command.split(b"\r\n", 3)[2].upper()
            fault = self.choose(name)
            if fault is not None:
                self.done[fault] += 1
            if fault in {Fault.LOADING, Fault.READONLY, Fault.OOM}:
                writer.write(fault.value.encode())
                continue
            if fault is Fault.RESET:
                return _reset(writer)
            upstream.write(command)
            if name in LISTENS:
                await asyncio.gather(
                    self._pump(writer, reader, upstream), self._pump(writer, replies, writer)
                )
            reply = await _frame(replies)
            if fault is Fault.STALL:
                await asyncio.sleep(self._stall)
            elif fault is Fault.CUT:
                writer.write(reply[: len(reply) // 2])
                await writer.drain()
                return _reset(writer)
            elif fault is Fault.DROP:
                return _reset(writer)
            writer.write(reply)
            await writer.drain()

    async def _pump(
        self, client: asyncio.StreamWriter, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(65536):
            if client not in self._swallowed:
                writer.write(data)
                await writer.drain()
        raise EOFError


def _reset(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket = writer.get_extra_info("socket")
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
    writer.transport.abort()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    """The bytes of one whole value of the protocol: a command, or a reply to one."""
    line = await reader.readline()
    if not line.endswith(b"\r\n"):
        raise EOFError
    kind, rest = line[:1], line[1:-2]
    if kind in b"$=!" and rest != b"-1":
        return line + await reader.readexactly(int(rest) + 2)
    if kind in b"*~>%|" and rest != b"-1":
        values = int(rest) * (2 if kind in b"%|" else 1) + (kind == b"|")
        return line + b"".join([await _frame(reader) for _ in range(values)])
    return line
