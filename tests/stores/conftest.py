"""Both stores, on a clock that the test holds."""

import uuid
from collections.abc import AsyncGenerator

import pytest
from redis.asyncio import Redis

from concave.kv import MemoryKV, RedisKV
from concave.testing import FakeClock
from tests.stores.leaks import check_for_leaks, drop_namespace


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def memory_kv(clock: FakeClock) -> AsyncGenerator[MemoryKV]:
    async with MemoryKV(clock=clock) as kv:
        yield kv


@pytest.fixture
async def redis_kv(clock: FakeClock, redis_url: str) -> AsyncGenerator[RedisKV]:
    async with RedisKV(redis_url, prefix=f"test-{uuid.uuid4().hex}", clock=clock) as kv:
        try:
            yield kv
            await check_for_leaks(redis_url, kv.prefix)
        finally:
            await drop_namespace(redis_url, kv.prefix)


@pytest.fixture
async def redis(redis_url: str) -> AsyncGenerator["Redis"]:
    """A plain client, to look at what the store keeps and to do it harm."""
    async with Redis.from_url(redis_url) as client:
        yield client
