"""From a URL to a KV."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from concave.errors import ConfigurationError

if TYPE_CHECKING:
    from concave.kv.protocol import KV

__all__ = ["create_kv", "kv_from_url"]

REDIS_SCHEMES = (
    "redis",
    "rediss",
    "redis+cluster",
    "rediss+cluster",
    "redis+sentinel",
    "rediss+sentinel",
    "unix",
)


def kv_from_url(url: str | None = None, *, prefix: str = "concave", **options: Any) -> KV:
    """A KV for a URL, not connected yet. See `create_kv`."""
    url = url or os.environ.get("CONCAVE_KV_URL") or "memory://"
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme == "memory":
        # Imported when it is asked for, like the other: a process needs one of them.
        from concave.kv.memory import MemoryKV

        try:
            return MemoryKV(prefix=prefix, **options)
        except TypeError as error:
            raise ConfigurationError(f"not an option of memory://: {error}") from error
    if scheme in REDIS_SCHEMES:
        # Imported when it is asked for: the redis client is an extra.
        try:
            from concave.kv.redis import RedisKV
        except ImportError as error:
            raise ConfigurationError(
                f"{scheme}:// needs an extra: pip install 'concave-asgi[redis]'"
            ) from error
        return RedisKV(url, prefix=prefix, **options)
    known = ", ".join(f"{each}://" for each in ("memory", *REDIS_SCHEMES))
    raise ConfigurationError(f"no store for {scheme or 'a URL without a scheme'}:// (there are {known})")


async def create_kv(url: str | None = None, *, prefix: str = "concave", **options: Any) -> KV:
    """A KV for a URL, connected: ``memory://``, ``redis://``, ``rediss://``, ``redis+cluster://``, ``redis+sentinel://``.

    Without a URL it reads ``CONCAVE_KV_URL``, and without that it is memory. Two prefixes on one server never meet.
    Raises `ConfigurationError` for a URL that can't be, `StoreUnavailableError` where nobody answers.
    """
    kv = kv_from_url(url, prefix=prefix, **options)
    await kv.connect()
    return kv
