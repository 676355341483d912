"""Threads for handlers that are plain functions.

Daemon threads, unlike those of `concurrent.futures`: a handler that never returns must not keep the process from
ending after its task has been handed back.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any

__all__ = ["HandlerThreads", "call_on"]

Job = Callable[[], None]


class HandlerThreads:
    """At most `limit` threads, started when they are needed, ended by `close`. It is not opened again after that."""

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._threads = 0
        self._busy = 0

    def run(self, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Call `function` in a thread, in a copy of this context; a future of what it returns or raises."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        context = copy_context()

        def job() -> None:
            result: Any = None
            error: BaseException | None = None
            try:
                result = context.run(function, *args)
            except BaseException as raised:  # whatever a handler raises, SystemExit too, is its outcome
                error = raised
            call_on(loop, self._finish, future, result, error)

        # The thread first: where the system refuses one, the job must not be left behind for another to run.
        if self._threads < min(self._busy + 1, self._limit):
            name = f"{self._name}-{self._threads + 1}"
            threading.Thread(target=self._serve, name=name, daemon=True).start()
            self._threads += 1
        self._busy += 1
        self._jobs.put(job)
        return future

    def close(self) -> None:
        """Let the threads end, each after the job it is at."""
        for _ in range(self._threads):
            self._jobs.put(None)
        self._threads = 0

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _finish(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self._busy -= 1
        if future.done():
            return
        if error is None:
            future.set_result(result)
        elif isinstance(error, StopIteration | GeneratorExit):
            # A future can't hold the one, and the other closes the coroutines that wait for it instead of reaching them.
            wrapped = RuntimeError(f"the handler raised {type(error).__name__}")
            wrapped.__cause__ = error
            future.set_exception(wrapped)
        else:
            future.set_exception(error)


def call_on(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: object) -> None:
    """Call on another thread's loop, unless that loop has ended in the meantime."""
    try:
        loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:
        if not loop.is_closed():
            raise
