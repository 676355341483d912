"""POSTs over sockets to an app behind uvicorn: what its users get, who have a server before it and wait for its answers elsewhere."""

import asyncio
import time
from collections.abc import Iterator, Mapping

from benchmarks.peers.drive import WARM_UP, Call, post
from benchmarks.plan import Figures
from benchmarks.processes import cpu_of
from tests.servers import ServerError, UvicornServer

__all__ = ["serve_posts"]

APP = "benchmarks.peers.concave_sqlalchemy.app:app"


def serve_posts(env: Mapping[str, str], seconds: float, width: int) -> Figures:
    """Start the app, and send it POSTs on so many connections for so many seconds: how many it took a second, and its CPU for each."""
    with UvicornServer(APP, env=env, args=["--no-access-log"]) as server:
        calls = post(201)
        asyncio.run(_send(server.port, calls, WARM_UP, width))
        start, cpu = time.perf_counter(), cpu_of(server.process.pid)
        count = asyncio.run(_send(server.port, calls, seconds, width))
        took, used = time.perf_counter() - start, cpu_of(server.process.pid) - cpu
    return {"rps": count / took, "cpu_us": used / count * 1e6}


async def _send(port: int, calls: Iterator[Call], seconds: float, width: int) -> int:
    end = time.perf_counter() + seconds
    counts = await asyncio.gather(*(_client(port, calls, end) for _ in range(width)))
    return sum(counts)


async def _client(port: int, calls: Iterator[Call], end: float) -> int:
    """One connection, one request after the other until the end; how many were answered as they should be."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    count = 0
    while time.perf_counter() < end:
        call = next(calls)
        writer.write(_request(call))
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(_length(head))
        if not head.startswith(b"HTTP/1.1 %d " % call.status):
            raise ServerError(f"{call.method} {call.path} answered {head!r}")
        count += 1
    writer.close()
    await writer.wait_closed()
    return count


def _request(call: Call) -> bytes:
    head = f"{call.method} {call.path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(call.body)}\r\n\r\n".encode() + call.body


def _length(head: bytes) -> int:
    _, _, rest = head.lower().partition(b"content-length:")
    return int(rest.split(b"\r\n", 1)[0])
