"""The behavioural suite over the store in memory."""

import pytest

from concave.kv import MemoryKV
from concave.store.protocol import Store
from concave.testing.store_suite import StoreSuite


@pytest.fixture
def store(memory_kv: MemoryKV) -> Store:
    return memory_kv.store


class TestMemory(StoreSuite):
    pass
