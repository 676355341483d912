"""Talking to Redis: a script call is one round trip, and no error of the driver leaves this file bare."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Generator
from contextlib import contextmanager
from typing import Any, Protocol

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    ClusterError,
    ConnectionError as RedisConnectionError,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    TimeoutError as RedisTimeoutError,
    TryAgainError,
)

from concave.clock import Clock
from concave.errors import StoreDeniedError, StoreError, StoreFullError, StoreUnavailableError
from concave.store.redis.script import load_script

__all__ = ["DRIVERS", "RedisClient", "ScriptCaller", "as_sent", "mapped_errors", "ours"]

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
    """What sends commands: on a connection of our own, or through the driver's client."""

    in_order: bool
    """Whether commands are carried out in the order in which they were sent, also of those that wait for their replies together."""

    def execute_command(self, *args: bytes | str | int) -> Awaitable[Any]:
        """Send a command; its reply. Raises the driver's errors."""
        ...

    async def renew(self) -> None:
        """Have the next call connect anew."""
        ...

    async def aclose(self) -> None:
        """End its connections, for good."""
        ...


PASSING_CODE = re.compile(
    r"(?:^|-)(BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOREPLICAS|READONLY|TRYAGAIN) "
)
"""Codes that the driver doesn't know; and in Redis 6, those of a command within a script, behind "-" in an error's text."""


def ours(error: Exception, where: str) -> StoreError:
    """What an error of the driver's is called here."""
    if isinstance(error, OutOfMemoryError) or (isinstance(error, RedisError) and "-OOM " in str(error)):
        return StoreFullError(f"{where} is out of memory and took nothing")
    if isinstance(error, AuthenticationError):
        return StoreDeniedError(f"{where} refuses the credentials in its URL: {error}")
    # Within a script it may be one way through it that is denied, which others needn't take.
    if isinstance(error, NoPermissionError) and "in script" not in str(error):
        return StoreDeniedError(f"{where} doesn't permit what we need: {error}")
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


def _is_of_a_replica(error: BaseException | None) -> bool:
    return isinstance(error, ReadOnlyError) or "-READONLY " in str(error)


def as_sent(text: str) -> bytes:
    """Text as a server gets it. What UTF-8 can't hold is the name of nothing, and is looked for like anything that isn't there."""
    return text.encode(errors="surrogatepass")


class ScriptCaller:
    """Calls scripts within one namespace. With a `clock`, that is given to the server in place of its own: in tests."""

    def __init__(self, client: RedisClient, namespace: str, where: str, clock: Clock | None = None) -> None:
        self._client = client
        self._namespace = namespace
        self._where = where
        self._clock = clock

    async def call(self, name: str, *args: bytes | str | int) -> Any:
        """Run a verb's script. Sent again, once, with its source where the server doesn't know it."""
        script = load_script(name)
        sent = [as_sent(arg) if type(arg) is str else arg for arg in args]
        given = (1, self._namespace, "" if self._clock is None else self._clock.now(), *sent)
        try:
            try:
                return await self._client.execute_command("EVALSHA", script.sha, *given)
            except NoScriptError:
                return await self._client.execute_command("EVAL", script.source, *given)
        except DRIVERS as error:
            if _is_of_a_replica(error):
                # A master that has become a replica need not end its connections: they would be tried again and again.
                with mapped_errors(self._where):
                    await self._client.renew()
            raise ours(error, self._where) from error

    async def call_again(self, name: str, *args: bytes | str | int) -> Any:
        """`call`, tried once more where there was no answer: for verbs whose answer is the same the second time.

        A connection is lost with what is under way on it, a server's restart say; a user needn't notice.
        """
        try:
            return await self.call(name, *args)
        except StoreUnavailableError:
            return await self.call(name, *args)
