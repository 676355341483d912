"""The store on Redis."""

from concave.store.redis.store import RedisStore

__all__ = ["RedisStore"]
