"""Talking to Redis: a script call is one round trip, and no error of the driver leaves this file bare."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    ClusterError,
    ConnectionError as RedisConnectionError,
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    TimeoutError as RedisTimeoutError,
    TryAgainError,
)

from concave.clock import Clock
from concave.errors import StoreError, StoreFullError, StoreUnavailableError
from concave.store.redis.script import Script, load_script

__all__ = ["AT_ONCE", "RedisClient", "ScriptCaller", "heeding_cancellation", "mapped_errors"]

PASSING = (
    BusyLoadingError,
    ClusterDownError,
    ClusterError,
    MasterDownError,
    ReadOnlyError,
    RedisClusterException,
    RedisConnectionError,
    RedisTimeoutError,
    TryAgainError,
    OSError,
)
DRIVERS = (RedisError, *PASSING)
"""What the driver raises; a cluster's errors are no `RedisError`."""


class RedisClient(Protocol):
    """What is used of a redis-py client, single or cluster."""

    async def execute_command(self, *args: Any) -> Any: ...


PASSING_CODE = re.compile(
    r"(?:^|-)(BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOREPLICAS|READONLY|TRYAGAIN) "
)
"""Codes that the driver doesn't know; and in Redis 6, those of a command within a script, behind "-" in an error's text."""


def ours(error: Exception, where: str) -> StoreError:
    """What an error of the driver's is called here."""
    if isinstance(error, OutOfMemoryError) or (isinstance(error, RedisError) and "-OOM " in str(error)):
        return StoreFullError(f"{where} is out of memory and took nothing")
    if isinstance(error, AuthenticationError):
        return StoreError(f"{where} refuses the credentials in its URL: {error}")
    if isinstance(error, PASSING):
        return StoreUnavailableError(f"{where} doesn't answer: {str(error) or type(error).__name__}")
    if PASSING_CODE.search(str(error)):
        return StoreUnavailableError(f"{where} can't answer now: {error}")
    return StoreError(f"{where}: {error}")


@contextmanager
def mapped_errors(where: str) -> Generator[None]:
    """Turn the driver's errors into ours."""
    try:
        yield
    except DRIVERS as error:
        raise ours(error, where) from error


class heeding_cancellation:  # noqa: N801  used like a function, as those of contextlib are
    """Raise CancelledError behind calls of the driver that were cancelled and didn't notice.

    The driver writes within `asyncio.wait_for`, which before Python 3.12 swallows a cancellation that comes in the turn of
    the loop in which the writing ends: whoever called it off would wait on, for its answer and for all that comes after it.
    """

    __slots__ = ("_before", "_task")

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._before = 0 if self._task is None else self._task.cancelling()

    def __exit__(self, *_: object) -> None:
        if self._task is not None and self._task.cancelling() > self._before:
            raise asyncio.CancelledError


def _is_of_a_replica(error: BaseException | None) -> bool:
    return isinstance(error, ReadOnlyError) or "-READONLY " in str(error)


AT_ONCE = 64
"""Calls under way at a time, at most; each has a connection of its own, and others wait for one."""


class ScriptCaller:
    """Calls scripts within one namespace. With a `clock`, that is given to the server in place of its own: in tests.

    A call fails after `patience` seconds without its answer. One deadline for all of it costs less than the driver's, which
    are one for each reading and, before Python 3.12, a task for each writing.
    """

    def __init__(
        self,
        client: RedisClient,
        namespace: str,
        where: str,
        clock: Clock | None = None,
        *,
        at_once: int = AT_ONCE,
        patience: float | None = None,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._where = where
        self._clock = clock
        self._room = asyncio.Semaphore(at_once)
        self._patience = patience

    async def call(self, name: str, *args: bytes | str | int) -> Any:
        """Run a verb's script. Sent again, once, with its source where the server doesn't know it."""
        async with self._room:
            try:
                with heeding_cancellation():
                    async with asyncio.timeout(self._patience):
                        return await self._execute(load_script(name), args)
            except DRIVERS as error:
                if _is_of_a_replica(error):
                    await self._forget_connections()
                raise ours(error, self._where) from error

    async def _execute(self, script: Script, args: Sequence[bytes | str | int]) -> Any:
        moment = "" if self._clock is None else str(self._clock.now())
        given = (1, self._namespace, moment, *args)
        try:
            return await self._client.execute_command("EVALSHA", script.sha, *given)
        except NoScriptError:
            return await self._client.execute_command("EVAL", script.source, *given)

    async def _forget_connections(self) -> None:
        """Close those that are idle, so that the next call connects to whatever its address leads to by then.

        A master that has become a replica need not end its connections: they would be tried again and again. The driver
        closes one behind sentinels, unless the error comes from within a script of Redis 6. A cluster's client has no
        pool of its own, and is told by its nodes where to go.
        """
        pool: Any = getattr(self._client, "connection_pool", None)
        if pool is not None:
            with mapped_errors(self._where):
                await pool.disconnect(inuse_connections=False)

    async def call_again(self, name: str, *args: bytes | str | int) -> Any:
        """`call`, tried once more where there was no answer: for verbs whose answer is the same the second time.

        A pooled connection to a server that has restarted fails at its first use; a user needn't notice.
        """
        try:
            return await self.call(name, *args)
        except StoreUnavailableError:
            return await self.call(name, *args)
