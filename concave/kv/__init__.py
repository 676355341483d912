"""Where tasks are kept: a URL becomes a connection, a namespace and a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from concave.kv.create import create_kv, kv_from_url
from concave.kv.protocol import KV

if TYPE_CHECKING:
    from concave.kv.memory import MemoryKV
    from concave.kv.redis import RedisKV

__all__ = ["KV", "MemoryKV", "RedisKV", "create_kv", "kv_from_url"]


def __getattr__(name: str) -> Any:
    # The redis client is an extra: importing concave.kv must not need it. And a process needs one store, not all.
    if name == "MemoryKV":
        from concave.kv.memory import MemoryKV

        return MemoryKV
    if name == "RedisKV":
        from concave.kv.redis import RedisKV

        return RedisKV
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
