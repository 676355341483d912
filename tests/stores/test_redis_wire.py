"""The one connection that all calls share: each gets the reply to what it has sent, whatever happens."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from redis.asyncio import Redis

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
