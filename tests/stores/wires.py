"""Connections for tests that make a part of a store by themselves."""

from typing import Any

from redis.asyncio import Redis

from concave.store.redis.wire import Wires

__all__ = ["wires_of"]


def wires_of(redis: Redis, *, patience: float = 10) -> Wires:
    """Connections of a client's pool."""

    async def pool() -> Any:
        return redis.connection_pool

    return Wires(pool, patience=patience)
