"""A synchronous ``sessionmaker`` behind the interface of an ``AsyncSession``: what blocks runs in threads.

A session is no place for two threads at once, and a thread can't be cancelled. So whoever is cancelled while a thread works
for it waits for that thread, and only then rolls back.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from anyio import CancelScope
from sqlalchemy import Engine, Pool, QueuePool, SingletonThreadPool
from sqlalchemy.orm import Session, SessionTransaction

from concave.errors import ConfigurationError

__all__ = ["SessionInThreads", "threads_for"]

T = TypeVar("T")

THREADS = 40
"""Of a pool without bounds of its own."""


class SessionInThreads:
    """As much of an ``AsyncSession`` as is used here, around a ``Session``."""

    def __init__(self, session: Session, executor: ThreadPoolExecutor) -> None:
        self.sync_session = session
        self.for_hooks = session
        self.in_thread = self.call
        self._executor = executor

    async def close(self) -> None:
        """Close it, which rolls back."""
        await self.call(self.sync_session.close)

    def get_bind(self, *args: Any, **options: Any) -> Any:
        """The engine; nothing of this blocks."""
        return self.sync_session.get_bind(*args, **options)

    @asynccontextmanager
    async def begin_nested(self) -> AsyncGenerator[SessionTransaction]:
        """A savepoint, released at the end and rolled back by whatever is raised."""
        savepoint = await self.call(self.sync_session.begin_nested)
        try:
            yield savepoint
        except BaseException as error:
            await self.call(savepoint.__exit__, type(error), error, error.__traceback__)
            raise
        await self.call(savepoint.__exit__, None, None, None)

    async def execute(self, *args: Any, **options: Any) -> Any:
        """Execute a statement; its rows are fetched by then."""
        return await self.call(_execute, self.sync_session, *args, **options)

    async def run_sync(self, function: Callable[..., T], *args: Any, **options: Any) -> T:
        """Call a function with the session in a thread."""
        return await self.call(function, self.sync_session, *args, **options)

    async def outside(self, work: Coroutine[Any, Any, T]) -> T:
        """Await what isn't the database's."""
        return await work

    async def call(self, function: Callable[..., T], *args: Any, **options: Any) -> T:
        """Call a function in a thread."""
        context = contextvars.copy_context()
        bound = partial(_called, function, *args, **options)
        work = asyncio.get_running_loop().run_in_executor(self._executor, lambda: context.run(bound))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await _end_of(work)
            raise


def threads_for(engine: Any) -> int:
    """How many transactions of an engine may be under way at once, each with a thread of its own when it needs one.

    No more than its pool keeps connections: they would only wait for one in their threads, until the pool loses its patience.
    """
    pool: Pool | None = engine.pool if isinstance(engine, Engine) else None
    if isinstance(pool, SingletonThreadPool):
        raise ConfigurationError(
            "each thread would see a database of its own: make the engine of SQLite in memory with"
            " poolclass=StaticPool, connect_args={'check_same_thread': False}"
        )
    return (pool.size() if isinstance(pool, QueuePool) else 0) or THREADS


def _called(function: Callable[..., T], *args: Any, **options: Any) -> T:
    try:
        return function(*args, **options)
    except StopIteration as error:
        # A future doesn't take it: whoever waits for this one would wait for ever.
        raise RuntimeError("a function raised StopIteration") from error


def _execute(session: Session, *args: Any, **options: Any) -> Any:
    result: Any = session.execute(*args, **options)
    # Not buffered, the driver might go on reading in whichever thread takes the rows.
    return result.freeze()() if result.returns_rows else result


async def _end_of(work: asyncio.Future[Any]) -> None:
    with CancelScope(shield=True):
        while not work.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({work})
    if not work.cancelled():
        work.exception()  # whoever was cancelled hears of that alone
