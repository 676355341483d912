"""A whole transaction in one greenlet.

SQLAlchemy's drivers wait in greenlets. Its ``AsyncSession`` makes one for each of its calls, which costs as much as a small
statement does, and a request makes many.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.util import await_only, greenlet_spawn

__all__ = ["SessionInGreenlet", "in_one_greenlet"]

T = TypeVar("T")


class SessionInGreenlet:
    """As much of an ``AsyncSession`` as is used here, around its ``Session``, for who is in a greenlet already.

    `for_hooks` is what they get, who are in none: see `outside`.
    """

    def __init__(self, session: Any, for_hooks: AsyncSession | None = None) -> None:
        self.sync_session = session
        self.for_hooks = for_hooks
        self.in_thread = None

    async def close(self) -> None:
        """Close it, which rolls back. That is to be possible from anywhere."""
        await greenlet_spawn(self.sync_session.close)

    def get_bind(self, *args: Any, **options: Any) -> Any:
        """The engine."""
        return self.sync_session.get_bind(*args, **options)

    @asynccontextmanager
    async def begin_nested(self) -> AsyncGenerator[Any]:
        """A savepoint, released at the end and rolled back by whatever is raised."""
        with self.sync_session.begin_nested() as savepoint:
            yield savepoint

    async def execute(self, *args: Any, **options: Any) -> Any:
        """Execute a statement; its rows are fetched by then."""
        return self.sync_session.execute(*args, **options)

    async def run_sync(self, function: Callable[..., T], *args: Any, **options: Any) -> T:
        """Call a function with the session."""
        return function(self.sync_session, *args, **options)

    async def outside(self, work: Coroutine[Any, Any, T]) -> T:
        """Await what isn't the database's, in the task itself.

        Begun in this greenlet and resumed by the loop, as is what a hook begins where tasks are eager, a driver's wait would end in
        this one and not where it is waited for.
        """
        return await_only(work)


async def in_one_greenlet(work: Coroutine[Any, Any, T]) -> T:
    """Await something, all of it in one greenlet. It waits for nothing but a `SessionInGreenlet`, whose calls return at once there."""
    return await greenlet_spawn(_carry_out, work)


def _carry_out(work: Coroutine[Any, Any, Any]) -> Any:
    try:
        work.send(None)
    except StopIteration as ended:
        return ended.value
    work.close()
    raise RuntimeError("a transaction waited for something that isn't its session; that belongs outside()")
