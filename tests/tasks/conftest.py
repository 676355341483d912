"""KVs for the tasks' tests, in memory and on Redis: by real time, and by a clock that the test holds."""

import uuid
from collections.abc import AsyncGenerator

import pytest

from concave.clock import Clock
from concave.kv import KV, MemoryKV, RedisKV
from tests.tasks.support import WatchedClock


@pytest.fixture
def clock() -> WatchedClock:
    return WatchedClock()


@pytest.fixture(params=["memory", "redis"])
async def kv(request: pytest.FixtureRequest) -> AsyncGenerator[KV]:
    async for each in _kv(request, None):
        yield each


@pytest.fixture(params=["memory", "redis"])
async def timed_kv(request: pytest.FixtureRequest, clock: WatchedClock) -> AsyncGenerator[KV]:
    async for each in _kv(request, clock):
        yield each


async def _kv(request: pytest.FixtureRequest, clock: Clock | None) -> AsyncGenerator[KV]:
    if request.param == "memory":
        async with MemoryKV(clock=clock) as memory:
            yield memory
        return
    url = request.getfixturevalue("redis_url")
    async with RedisKV(url, prefix=f"test-{uuid.uuid4().hex}", clock=clock) as redis:
        yield redis
