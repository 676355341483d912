"""Several Redis servers that act as one: a cluster, and a master with a replica behind a sentinel."""

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from redis import Redis
from redis.exceptions import RedisError

from tests.servers.process import ServerError
from tests.servers.redis import RedisServer

__all__ = ["ClusterServers", "SentinelServers"]

SLOTS = 16_384
NODE_TIMEOUT = "1000"
"""Milliseconds after which a silent server is taken for dead."""
FAILOVER_TIMEOUT = "2000"
"""Milliseconds."""


class ClusterServers:
    """A Redis Cluster: so many masters, each with so many replicas."""

    def __init__(self, masters: int = 3, replicas: int = 0) -> None:
        options = ["--cluster-enabled", "yes", "--cluster-node-timeout", NODE_TIMEOUT]
        # A master goes on taking writes though others are gone; the one that is tested is what matters.
        options += ["--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0"]
        self.servers = [RedisServer(options=options, checked=False) for _ in range(masters * (1 + replicas))]
        self._masters = masters
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for server in self.servers:
                stack.enter_context(server)
            self._join()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def url(self) -> str:
        """One of its servers; a client finds the others."""
        return self.servers[0].url.replace("redis://", "redis+cluster://")

    def master_of(self, key: str) -> RedisServer:
        """The server that answers for a key."""
        slot = int(_ask(self.servers[0], "CLUSTER", "KEYSLOT", key))
        for server in self.servers:
            ranges = _ask(server, "CLUSTER", "SLOTS") if server.process.returncode is None else []
            for first, last, (_, port, *_), *_ in ranges:
                if first <= slot <= last:
                    return next(each for each in self.servers if each.port == port)
        raise ServerError(f"no server answers for slot {slot}")

    def _join(self) -> None:
        masters, replicas = self.servers[: self._masters], self.servers[self._masters :]
        step = SLOTS // self._masters + 1
        for number, master in enumerate(masters):
            _ask(master, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            _ask(master, "CLUSTER", "ADDSLOTS", *range(number * step, min((number + 1) * step, SLOTS)))
        for server in self.servers[1:]:
            _ask(server, "CLUSTER", "MEET", "127.0.0.1", self.servers[0].port)
        self._wait(lambda info: f"cluster_known_nodes:{len(self.servers)}\r" in info, "known to each other")
        for number, replica in enumerate(replicas):
            _ask(replica, "CLUSTER", "REPLICATE", _ask(masters[number % self._masters], "CLUSTER", "MYID"))
        self._wait(lambda info: "cluster_state:ok" in info, "a cluster")
        for replica in replicas:
            replica.process.wait_until(lambda r=replica: _is_in_step(r), "in step with its master")  # type: ignore[misc]

    def _wait(self, ready: Callable[[str], bool], what: str) -> None:
        for server in self.servers:
            server.process.wait_until(
                lambda s=server: ready(_ask(s, "CLUSTER", "INFO").decode()),  # type: ignore[misc]
                what,
            )


class SentinelServers:
    """A master and its replica, watched by a sentinel that makes the one take over from the other."""

    NAME = "mymaster"

    def __init__(self) -> None:
        self.master = RedisServer(options=["--repl-diskless-sync-delay", "0"], checked=False)
        self.replica = RedisServer(options=["--repl-diskless-sync-delay", "0"], checked=False)
        self.sentinel = RedisServer(sentinel=True)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for server in (self.master, self.replica, self.sentinel):
                stack.enter_context(server)
            _ask(self.replica, "REPLICAOF", "127.0.0.1", self.master.port)
            self.replica.process.wait_until(lambda: _is_in_step(self.replica), "in step with its master")
            _ask(self.sentinel, "SENTINEL", "MONITOR", self.NAME, "127.0.0.1", self.master.port, 1)
            _ask(self.sentinel, "SENTINEL", "SET", self.NAME, "down-after-milliseconds", NODE_TIMEOUT)
            # Where it knows of no replica in step, it tries again after twice this time: six minutes, unless told otherwise.
            _ask(self.sentinel, "SENTINEL", "SET", self.NAME, "failover-timeout", FAILOVER_TIMEOUT)
            self.sentinel.process.wait_until(self._knows_the_replica, "aware of the replica")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def url(self) -> str:
        """Where the sentinel is, and what the master is called."""
        return f"redis+sentinel://127.0.0.1:{self.sentinel.port}/{self.NAME}/0"

    def current_master(self) -> RedisServer:
        """The one that the sentinel names."""
        _, port = _ask(self.sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.NAME)
        return next(each for each in (self.master, self.replica) if each.port == int(port))

    def _knows_the_replica(self) -> bool:
        replicas = _ask(self.sentinel, "SENTINEL", "REPLICAS", self.NAME)
        return len(replicas) == 1 and "master-link-status" in repr(replicas) and "'ok'" in repr(replicas)


def _ask(server: RedisServer, *command: Any) -> Any:
    with Redis(port=server.port, socket_timeout=10) as client:
        return client.execute_command(*command)


def _is_in_step(replica: RedisServer) -> bool:
    try:
        return bool(_ask(replica, "INFO", "replication").get("master_link_status") == "up")
    except RedisError:  # it is loading
        return False
