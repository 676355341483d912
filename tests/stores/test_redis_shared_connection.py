"""One connection for all calls of a process: whose reply is whose, and what becomes of them when it ends."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError, TimeoutError as RedisTimeoutError

from concave.errors import StoreUnavailableError
from concave.kv import RedisKV
from concave.store.redis.calls import SLOWEST, SharedConnection
from concave.store.redis.wire import packed_command
from concave.testing.suite_support import claim_some, new_tasks
from tests.servers import Fault, RedisProxy
from tests.stores.wires import wires_of


async def test_all_calls_of_a_process_share_one_connection(
    redis_kv: RedisKV, redis_url: str, redis: Redis
) -> None:
    async with RedisKV(redis_url, prefix=redis_kv.prefix, client_name=redis_kv.prefix) as kv:
        await asyncio.gather(*(kv.store.get("unknown") for _ in range(300)))
        assert [each["name"] for each in await redis.client_list()].count(redis_kv.prefix) == 1


@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_cancelled_call_costs_its_neighbours_nothing(
    redis_kv: RedisKV, redis_url: str, protocol: int
) -> None:
    async with RedisKV(redis_url, prefix=redis_kv.prefix, protocol=protocol) as kv:
        ids = await kv.store.add(new_tasks(60))
        for turns in range(8):
            calls = [asyncio.create_task(kv.store.get(task_id)) for task_id in ids]
            for _ in range(turns):
                await asyncio.sleep(0)
            for call in calls[::3]:
                call.cancel()
            found = await asyncio.gather(*calls, return_exceptions=True)
            told = [getattr(each, "id", None) for each in found]
            assert [
                task_id for task_id, other in zip(ids, told, strict=True) if other not in {task_id, None}
            ] == []
            assert all(other is not None for index, other in enumerate(told) if index % 3)


async def test_an_error_is_told_to_who_asked_for_it(redis: Redis) -> None:
    client = SharedConnection(wires_of(redis))
    calls = [
        client.execute_command("PING"),
        client.execute_command("NONSENSE"),
        client.execute_command("PING"),
    ]
    first, second, third = await asyncio.gather(*calls, return_exceptions=True)
    assert (first, third) == (b"PONG", b"PONG")
    assert "NONSENSE" in str(second)
    await client.aclose()


async def test_a_connection_whose_oldest_call_waits_too_long_is_given_up(redis_url: str) -> None:
    stalls = [Fault.STALL]
    with RedisProxy(urlsplit(redis_url).port or 6379, stall=3600) as proxy:
        async with RedisKV(proxy.url, prefix="test-stalled", socket_timeout=0.2) as kv:
            await kv.store.now()
            with proxy.harming(lambda _: stalls.pop() if stalls else None):
                claims = await asyncio.gather(
                    *(claim_some(kv.store) for _ in range(3)), return_exceptions=True
                )
                assert [type(each) for each in claims] == [StoreUnavailableError] * 3
                assert "no reply within 0.2 s" in str(claims[0])
            assert (await claim_some(kv.store)).leases == []


class Mute:
    """A server that takes connections and says nothing."""

    def __init__(self) -> None:
        self.connections = 0
        self.taken = asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []

    @asynccontextmanager
    async def client(self, *, patience: float = 3600) -> AsyncGenerator[SharedConnection]:
        server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        redis: Redis = Redis(
            port=server.sockets[0].getsockname()[1], retry=Retry(NoBackoff(), 0), socket_timeout=None
        )
        client = SharedConnection(wires_of(redis, patience=patience))
        try:
            yield client
        finally:
            await client.aclose()
            await redis.aclose()
            server.close()
            for writer in self._writers:
                writer.transport.abort()

    async def _take(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        self.taken.set()


async def test_who_calls_while_nobody_answers_waits_for_one_attempt_to_connect() -> None:
    server = Mute()
    async with server.client(patience=0.2) as client:
        calls = [client.execute_command("PING") for _ in range(20)]
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(error, Exception)
    assert server.connections == 1


async def test_whoever_waits_for_a_connection_is_told_when_it_is_closed() -> None:
    server = Mute()
    async with server.client() as client:
        call = asyncio.ensure_future(client.execute_command("PING"))
        cancelled = asyncio.ensure_future(client.execute_command("PING"))
        await server.taken.wait()
        cancelled.cancel()
        await client.aclose()
        with pytest.raises(RedisConnectionError, match="closed"):
            await call
        with pytest.raises(asyncio.CancelledError):
            await cancelled


class SlowLine:
    """A line to a server on which, once it is slow, bytes pass when the test says so."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter

    def __init__(self, port: int) -> None:
        self._port = port
        self._pumps: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def slow(self, *, patience: float) -> AsyncGenerator[SharedConnection]:
        listening = await asyncio.start_server(self._take, "127.0.0.1", 0)
        redis: Redis = Redis(port=listening.sockets[0].getsockname()[1], socket_timeout=None)
        client = SharedConnection(wires_of(redis, patience=patience))
        try:
            await client.execute_command("PING")
            for pump in self._pumps:
                pump.cancel()
            await asyncio.wait(self._pumps)
            yield client
        finally:
            await client.aclose()
            await redis.aclose()
            listening.close()
            for writer in (self.client, self.server):
                writer.transport.abort()

    async def pass_up(self, count: int) -> None:
        """Have the server get some of what the client sends."""
        self.server.write(await self._from_client.readexactly(count))

    async def pass_down(self, count: int) -> None:
        """Have the client get some of what the server answers."""
        self.client.write(await self._from_server.readexactly(count))

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._from_client, self.client = reader, writer
        self._from_server, self.server = await asyncio.open_connection("127.0.0.1", self._port)
        ways = [(self._from_client, self.server), (self._from_server, self.client)]
        self._pumps = [asyncio.create_task(self._pump(*way)) for way in ways]

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)


class Ahead:
    """The running loop's time, which goes on as told, besides."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        real, self._more = loop.time, 0.0
        monkeypatch.setattr(loop, "time", lambda: real() + self._more)

    async def go(self, seconds: float) -> None:
        self._more += seconds
        for _ in range(3):  # a timer that is due, and what it has to do
            await asyncio.sleep(0)


@pytest.mark.parametrize("goes_on", [True, False])
async def test_a_reply_that_comes_slowly_is_waited_for(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, goes_on: bool
) -> None:
    """As long as it comes: given up, it would be asked for again, and be as slow."""
    ahead, line = Ahead(monkeypatch), SlowLine(urlsplit(redis_url).port or 6379)
    large = b"a" * 400_000
    async with line.slow(patience=10) as client:
        call = asyncio.ensure_future(client.execute_command("ECHO", large))
        wire = client._wire
        assert wire is not None
        before = wire.received
        await line.pass_up(len(packed_command(["ECHO", large])))
        for part in range(1, 4):
            await ahead.go(len(large) / SLOWEST + 9 if part == 1 else 9)
            await line.pass_down(100_000)
            while wire.received < before + part * 100_000:  # noqa: ASYNC110  nothing tells of it
                await asyncio.sleep(0)
            assert not call.done()
        if goes_on:
            await line.pass_down(100_000 + len(b"$400000\r\n\r\n"))
            assert await call == large
        else:
            for _ in range(2):
                await ahead.go(11)
            with pytest.raises(RedisTimeoutError, match="no reply within 10 s"):
                await call


async def test_a_large_command_has_the_time_to_go_out(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead, line = Ahead(monkeypatch), SlowLine(urlsplit(redis_url).port or 6379)
    async with line.slow(patience=10) as client:
        call = asyncio.ensure_future(client.execute_command("ECHO", b"a" * SLOWEST * 60))
        for _ in range(6):
            await ahead.go(11)
            assert not call.done()
        await ahead.go(11)
        with pytest.raises(RedisTimeoutError):
            await call
