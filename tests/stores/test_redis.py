"""The behavioural suite over the store on Redis."""

import pytest

from concave.kv import RedisKV
from concave.store.protocol import Store
from concave.testing.store_suite import StoreSuite
from concave.testing.store_suite_cold import ColdStoreSuite


@pytest.fixture
def store(redis_kv: RedisKV) -> Store:
    return redis_kv.store


class TestRedis(StoreSuite):
    pass


class TestRedisCold(ColdStoreSuite):
    pass
