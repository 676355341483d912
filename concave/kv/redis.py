"""`redis://` and its kin: one server, a cluster, or a set of servers behind sentinels."""

# redis-py types its keyword arguments by half.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import re
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from concave.clock import Clock, SystemClock
from concave.errors import ConfigurationError
from concave.store.redis import RedisStore
from concave.store.redis.client import mapped_errors
from concave.store.redis.topics import RedisTopics

__all__ = ["RedisKV"]

REASON = "a port or an option that can't be, or a name or password with / ? # or @ in it not percent-encoded"
PREFIX = re.compile(r"[^{}\s]{1,100}")


class RedisKV:
    """A KV on Redis. It can be made without a running loop, and belongs to the loop that connects it.

    ``redis+sentinel://host1:26379,host2:26379/mymaster/0`` names the sentinels, the master and the database. `options`
    go to the redis client (``socket_timeout``, ``ssl_ca_certs`` …). `clock` takes the place of the server's, for tests.
    """

    def __init__(
        self, url: str, *, prefix: str = "concave", clock: Clock | None = None, **options: Any
    ) -> None:
        if not PREFIX.fullmatch(prefix):
            raise ConfigurationError(
                f"prefix must be 1 to 100 characters without blanks and braces, not {prefix!r}"
            )
        self._url = url
        self.prefix = prefix
        self._given_clock = clock
        self._clock: Clock = clock or SystemClock()
        self._options = options
        self._client: Any = None
        self._topics: RedisTopics | None = None
        self._store: RedisStore | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def store(self) -> RedisStore:
        if self._store is None:
            raise _not_connected()
        return self._store

    @property
    def clock(self) -> Clock:
        return self._clock

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise _not_connected()
        return self._loop

    @property
    def description(self) -> str:
        return _without_password(self._url)

    async def connect(self) -> None:
        if self._store is not None:
            return
        namespace = f"{{{self.prefix}}}:"
        client, new_pubsub = _open(self._url, self._options)
        try:
            with mapped_errors(self.description):
                await client.execute_command("PING")
        except TypeError as error:
            await client.aclose()
            raise ConfigurationError(f"not an option of the redis client: {error}") from error
        except BaseException:
            await client.aclose()
            raise
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._topics = RedisTopics(new_pubsub, namespace, self.description, SystemClock())
        self._store = RedisStore(
            client, self._topics, namespace=namespace, where=self.description, clock=self._given_clock
        )

    async def close(self) -> None:
        client, topics = self._client, self._topics
        self._client = self._topics = self._store = self._loop = None
        if topics is not None:
            await topics.close()
        if client is not None:
            await client.aclose()

    def twin(self) -> RedisKV:
        return RedisKV(self._url, prefix=self.prefix, clock=self._given_clock, **self._options)

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


def _open(url: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """A client for a URL, and a function that makes a pub/sub connection to the same place."""
    # No retries below ours: whether a call may be sent again is the verb's to say.
    settings: dict[str, Any] = {
        "socket_connect_timeout": 5.0,
        "socket_timeout": 10.0,
        "retry": Retry(NoBackoff(), 0),
        **options,
    }
    scheme, _, rest = url.partition("://")
    if scheme != "unix":
        settings = {"socket_keepalive": True, **settings}
    kind = scheme.partition("+")[2]
    plain = f"{scheme.partition('+')[0]}://{rest}"
    try:
        if kind == "sentinel":
            client = _behind_sentinels(plain, settings)
            return client, client.pubsub
        if kind == "cluster":
            settings.pop("retry")
            cluster = RedisCluster.from_url(plain, **settings)
            return cluster, lambda: _cluster_pubsub(cluster)
        single = Redis.from_url(plain, **settings)
    except (ValueError, TypeError) as error:
        # The error may quote from a password: one with a "/" in it reads like a port.
        reason = REASON if "@" in url else str(error)
        raise ConfigurationError(f"{_without_password(url)} is not a URL for Redis: {reason}") from None
    return single, single.pubsub


def _behind_sentinels(url: str, settings: dict[str, Any]) -> Any:
    parts = urlsplit(url)
    userinfo, _, hosts = parts.netloc.rpartition("@")
    username, _, password = userinfo.partition(":")
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError("it names no master: redis+sentinel://host:26379/mymaster")
    sentinels = [(host.partition(":")[0], int(host.partition(":")[2] or 26379)) for host in hosts.split(",")]
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
        sentinels, sentinel_kwargs={"socket_timeout": settings["socket_connect_timeout"], **query}
    )
    return sentinel.master_for(
        service,
        db=int(database or 0),
        username=username or None,
        password=password or None,
        ssl=parts.scheme == "rediss",
        **settings,
    )


def _cluster_pubsub(cluster: Any) -> Any:
    node = cluster.get_random_node()
    return Redis(host=node.host, port=node.port, **_auth_of(cluster)).pubsub()


def _auth_of(cluster: Any) -> dict[str, Any]:
    kept = ("username", "password", "socket_timeout", "socket_connect_timeout", "ssl")
    return {
        name: value for name, value in cluster.connection_kwargs.items() if name in kept and value is not None
    }


def _without_password(url: str) -> str:
    # By hand: a URL that isn't one may hold a password all the same.
    scheme, _, rest = url.partition("://")
    userinfo, at, hosts = rest.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    return f"{scheme}://{user}{':***' if colon else ''}{at}{hosts.partition('?')[0]}"


def _not_connected() -> ConfigurationError:
    return ConfigurationError("this KV isn't connected: await kv.connect(), or async with kv")
