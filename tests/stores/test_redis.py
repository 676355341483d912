"""The behavioural suite over the store on Redis; after each test, no key is left that would stay for ever."""

import pytest

from concave.kv import RedisKV
from concave.store.protocol import Store
from concave.testing.store_suite import StoreSuite


@pytest.fixture
def store(redis_kv: RedisKV) -> Store:
    return redis_kv.store


class TestRedis(StoreSuite):
    pass
