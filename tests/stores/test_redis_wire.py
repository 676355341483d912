"""The one connection that all calls share: each gets the reply to what it has sent, whatever happens."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from concave.store.redis.calls import SharedConnection
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
