"""`redis://` and its kin: one server, a cluster, or a set of servers behind sentinels."""

# redis-py types its keyword arguments by half.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import re
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

from redis import VERSION
from redis.asyncio import ConnectionPool, Redis, RedisCluster, Sentinel
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError, RedisClusterException

from concave.clock import Clock, SystemClock
from concave.errors import ConfigurationError, StoreUnavailableError
from concave.store.redis import RedisStore
from concave.store.redis.calls import SharedConnection
from concave.store.redis.client import RedisClient, mapped_errors
from concave.store.redis.driver import DriverClient
from concave.store.redis.topics import RedisTopics
from concave.store.redis.wire import Wires

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
        self._opened: _Opened | None = None
        self._closings = 0
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
        namespace, closings = f"{{{self.prefix}}}:", self._closings
        opened = _open(self._url, namespace, self._options)
        try:
            with mapped_errors(self.description):
                await opened.client.execute_command("PING")
        except TypeError as error:
            await opened.close()
            raise ConfigurationError(f"not an option of the redis client: {error}") from error
        except BaseException:
            await opened.close()
            raise
        if self._closings != closings:
            await opened.close()
            raise StoreUnavailableError(f"{self.description} was closed while it connected")
        if self._opened is not None:  # somebody else has connected meanwhile
            await opened.close()
            return
        self._opened = opened
        self._loop = asyncio.get_running_loop()
        self._topics = RedisTopics(opened.listening, namespace, self.description, SystemClock())
        self._store = RedisStore(
            opened.client,
            self._topics,
            namespace=namespace,
            where=self.description,
            clock=self._given_clock,
        )

    async def close(self) -> None:
        self._closings += 1
        opened, topics = self._opened, self._topics
        self._opened = self._topics = self._store = self._loop = None
        if topics is not None:
            await topics.close()
        if opened is not None:
            await opened.close()

    def twin(self) -> RedisKV:
        return RedisKV(self._url, prefix=self.prefix, clock=self._given_clock, **self._options)

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


class _Opened(NamedTuple):
    """What sends commands, what makes a connection to listen on, and clients of the driver's that are to be closed."""

    client: RedisClient
    listening: Wires
    clients: tuple[Any, ...]

    async def close(self) -> None:
        for client in (self.client, *self.clients):
            await client.aclose()


def _open(url: str, namespace: str, options: dict[str, Any]) -> _Opened:
    scheme, _, rest = url.partition("://")
    kind = scheme.partition("+")[2]
    settings: dict[str, Any] = {
        "socket_connect_timeout": 5.0,
        "socket_timeout": 10.0,
        **({"socket_keepalive": True} if scheme != "unix" else {}),
        **_without_retries(kind),
        **options,
    }
    plain = f"{scheme.partition('+')[0]}://{rest}"
    try:
        if kind == "cluster":
            cluster = RedisCluster.from_url(plain, **settings)
            client = DriverClient(cluster, at_once=cluster.connection_kwargs["max_connections"])
            patience = _patience(cluster.connection_kwargs)
            listening = Wires(partial(_pool_of_cluster, cluster, namespace), patience=patience)
            return _Opened(client, listening, ())
        if kind == "sentinel":
            single, sentinels = _behind_sentinels(plain, settings)
        else:
            single, sentinels = Redis.from_url(plain, **settings), ()
    except ConfigurationError:
        raise
    except (ValueError, TypeError) as error:
        # The error may quote from a password: one with a "/" in it reads like a port.
        reason = REASON if "@" in url else str(error)
        raise ConfigurationError(f"{_without_password(url)} is not a URL for Redis: {reason}") from None
    most = _connections(single)
    of_connections = single.connection_pool.connection_kwargs
    patience = _patience(of_connections)

    async def pool() -> Any:
        return single.connection_pool

    listening = Wires(pool, patience=patience)
    if "retry" in options:
        # A user's own retries are the driver's to carry out.
        return _Opened(DriverClient(single, at_once=most - 1), listening, sentinels)
    # The patience is ours then: the driver's, a task for each writing, swallows cancellations before Python 3.12.
    of_connections["socket_timeout"] = None
    return _Opened(SharedConnection(Wires(pool, patience=patience)), listening, (single, *sentinels))


def _without_retries(kind: str) -> dict[str, Any]:
    # No retries below ours: whether a call may be sent again is the verb's to say.
    if kind == "cluster" and VERSION < (6,):
        # There `retry` was that of each connection, and the cluster had an option of its own.
        return {"cluster_error_retry_attempts": 0}
    return {"retry": Retry(NoBackoff(), 0)}


def _patience(of_connections: dict[str, Any]) -> float | None:
    # Of the connections and not of our settings: a URL may name another (``?socket_timeout=2``).
    seconds: float | None = of_connections["socket_timeout"]
    return seconds


def _connections(client: Any) -> int:
    most: int = client.connection_pool.max_connections
    if most < 2:
        raise ConfigurationError(f"max_connections must be at least 2, of which one listens, not {most}")
    return most


def _behind_sentinels(url: str, settings: dict[str, Any]) -> tuple[Any, tuple[Any, ...]]:
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
    master = sentinel.master_for(
        service,
        db=int(database or 0),
        username=username or None,
        password=password or None,
        ssl=parts.scheme == "rediss",
        **settings,
    )
    return master, tuple(sentinel.sentinels)


async def _pool_of_cluster(cluster: Any, namespace: str) -> Any:
    # What is published at one node is told to all. At that of the namespace, scripts see who listens. With the options of the
    # client's own connections, TLS and credentials among them; and its one connection is all that there will be to close.
    try:
        # The client learns by its commands where that is after a failover, and a process that only listens sends no other.
        await cluster.execute_command("EXISTS", namespace)
        node = cluster.get_node_from_key(namespace)
    except RedisClusterException as error:  # nobody has its slot at the moment; and this is no RedisError
        raise RedisConnectionError(str(error)) from error
    return ConnectionPool(connection_class=node.connection_class, **node.connection_kwargs)


def _without_password(url: str) -> str:
    # By hand: a URL that isn't one may hold a password all the same.
    scheme, _, rest = url.partition("://")
    userinfo, at, hosts = rest.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    return f"{scheme}://{user}{':***' if colon else ''}{at}{hosts.partition('?')[0]}"


def _not_connected() -> ConfigurationError:
    return ConfigurationError("this KV isn't connected: await kv.connect(), or async with kv")
