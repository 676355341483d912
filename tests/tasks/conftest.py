"""A KV for the tasks' tests: in memory and on Redis, by real time."""

import uuid
from collections.abc import AsyncGenerator

import pytest

from concave.kv import KV, MemoryKV, RedisKV
from tests.stores.leaks import drop_namespace


@pytest.fixture(params=["memory", "redis"])
async def kv(request: pytest.FixtureRequest) -> AsyncGenerator[KV]:
    if request.param == "memory":
        async with MemoryKV() as memory:
            yield memory
        return
    url = request.getfixturevalue("redis_url")
    async with RedisKV(url, prefix=f"test-{uuid.uuid4().hex}") as redis:
        yield redis
    await drop_namespace(url, redis.prefix)
