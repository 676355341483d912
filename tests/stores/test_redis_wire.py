"""The one connection that all calls share: each gets the reply to what it has sent, whatever happens."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from concave.clock import SystemClock
from concave.store.protocol import WORK
from concave.store.redis import topics as module
from concave.store.redis.calls import SharedConnection
from concave.store.redis.topics import RedisTopics
from concave.store.redis.wire import Wires
from tests.stores.wires import wires_of


@pytest.fixture
async def shared(redis: Redis) -> AsyncGenerator[SharedConnection]:
    client = SharedConnection(wires_of(redis))
    yield client
    await client.aclose()


async def test_what_cannot_be_sent_has_no_part_in_the_replies(shared: SharedConnection) -> None:
    await shared.execute_command("PING")
    with pytest.raises(UnicodeEncodeError):
        await shared.execute_command("ECHO", "half a pair: \ud800")
    async with asyncio.timeout(5):
        assert await shared.execute_command("ECHO", "one") == b"one"
        assert await shared.execute_command("ECHO", "two") == b"two"


async def test_who_waits_for_the_connection_as_it_is_closed_is_refused_and_not_cancelled(
    shared: SharedConnection,
) -> None:
    calls = [asyncio.ensure_future(shared.execute_command("PING")) for _ in range(2)]
    await asyncio.sleep(0)
    assert shared._connecting is not None
    await shared.aclose()
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(outcome, RedisConnectionError)


async def test_who_is_refused_by_the_closing_and_tries_again_makes_no_connection(
    shared: SharedConnection, redis: Redis
) -> None:
    async def twice() -> None:
        with pytest.raises(RedisConnectionError):
            await shared.execute_command("BLPOP", "never", 0)
        await shared.execute_command("PING")

    await shared.execute_command("PING")
    calls = asyncio.ensure_future(twice())
    await asyncio.sleep(0)
    await shared.aclose()
    with pytest.raises(RedisConnectionError):
        await calls
    assert not redis.connection_pool._in_use_connections


class PassingOn:
    """A pool of the driver's that does something besides."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    async def get_connection(self, *args: str) -> Any:
        return await self._pool.get_connection(*args)

    async def release(self, connection: Any) -> None:
        await self._pool.release(connection)


class Ended(PassingOn):
    """Its connections end while it looks whether there is anything to read."""

    async def get_connection(self, *args: str) -> Any:
        connection = await super().get_connection(*args)
        async with Redis(connection_pool=self._pool) as other:
            host, port = connection._writer.get_extra_info("sockname")
            await other.client_kill(f"{host}:{port}")
        assert await connection._reader.read() == b""
        return connection


async def test_a_connection_that_has_ended_by_the_time_it_is_taken_over_is_given_up_at_once(
    redis: Redis,
) -> None:
    async def pool() -> Any:
        return Ended(redis.connection_pool)

    client = SharedConnection(Wires(pool, patience=60))
    async with asyncio.timeout(5):
        with pytest.raises(RedisConnectionError):
            await client.execute_command("PING")
    await client.aclose()


async def test_a_connection_whose_maker_was_cancelled_unnoticed_is_given_back(redis: Redis) -> None:
    """As the driver's `asyncio.wait_for` does before Python 3.12."""

    class Unheeding(PassingOn):
        async def get_connection(self, *args: str) -> Any:
            making = asyncio.current_task()
            assert making is not None
            making.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
            return await super().get_connection(*args)

    async def pool() -> Any:
        return Unheeding(redis.connection_pool)

    wires = Wires(pool, patience=5)
    (outcome,) = await asyncio.gather(wires.open(print, print), return_exceptions=True)
    assert isinstance(outcome, asyncio.CancelledError)
    await wires.close()
    assert not redis.connection_pool._in_use_connections


async def test_two_who_give_back_at_the_same_time_do_it_once(redis: Redis) -> None:
    class Slow(PassingOn):
        async def release(self, connection: Any) -> None:
            await asyncio.sleep(0)
            await super().release(connection)

    async def pool() -> Any:
        return Slow(redis.connection_pool)

    wires = Wires(pool, patience=5)
    opened = [await wires.open(print, print) for _ in range(2)]
    for wire in opened:
        wires.drop(wire)
    await asyncio.gather(wires.close(), wires.close())
    assert not redis.connection_pool._in_use_connections
    assert len(redis.connection_pool._available_connections) == 2


async def test_what_began_to_connect_before_it_was_closed_is_closed_too(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    for turns in range(40):
        topics = RedisTopics(wires_of(redis), "", "redis", SystemClock())
        listening = asyncio.create_task(topics.listen(WORK, print))
        for _ in range(turns):
            await asyncio.sleep(0)
        await topics.close()
        await asyncio.gather(listening, return_exceptions=True)
        assert not redis.connection_pool._in_use_connections, f"after {turns} turns"
    assert caplog.text == ""


async def test_whatever_is_raised_while_it_connects_anew_it_tries_again(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a provider of credentials."""
    monkeypatch.setattr(module, "RECONNECT_PAUSE", 0.01)
    errors = [LookupError("no credentials today")]

    async def pool() -> Any:
        if topics._reconnecting is not None and errors:
            raise errors.pop()
        return redis.connection_pool

    topics = RedisTopics(Wires(pool, patience=5), "", "redis", SystemClock())
    told: asyncio.Queue[bytes | None] = asyncio.Queue()
    await topics.listen(WORK, told.put_nowait)
    assert topics._wire is not None
    topics._wire.abort()
    async with asyncio.timeout(5):
        assert await told.get() is None
    assert errors == []
    await topics.close()
