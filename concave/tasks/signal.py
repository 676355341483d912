"""The signal that tells a running handler to stop. Safe to use from any thread."""

from __future__ import annotations

import asyncio
import threading

from concave.errors import TaskAbortedError
from concave.tasks.threads import call_on

__all__ = ["AbortSignal"]


class AbortSignal:
    """Set once, with a reason: a timeout, a shutdown, a cancellation, a lost lease."""

    __slots__ = ("_event", "_lock", "_reason", "_waiters")

    def __init__(self) -> None:
        self._reason: str | None = None
        self._lock: threading.Lock = _LOCK
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._event: threading.Event | None = None

    @property
    def aborted(self) -> bool:
        """Whether the handler should stop."""
        return self._reason is not None

    @property
    def reason(self) -> str | None:
        """Why, or None while it may go on."""
        return self._reason

    def raise_if_aborted(self) -> None:
        """Raise `TaskAbortedError` if the handler should stop."""
        if self._reason is not None:
            raise TaskAbortedError(self._reason)

    async def wait(self) -> str:
        """Wait until the handler should stop; the reason."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._lock:
            if self._reason is not None:
                return self._reason
            self._waiters.append((loop, future))
        try:
            await future
        finally:
            with self._lock:
                self._waiters = [waiter for waiter in self._waiters if waiter[1] is not future]
        return str(self._reason)

    def wait_in_thread(self, timeout: float | None = None) -> bool:
        """Block this thread until the handler should stop (True) or `timeout` seconds passed (False)."""
        with self._lock:
            if self._reason is not None:
                return True
            self._event = self._event or threading.Event()
        return self._event.wait(timeout)

    def abort(self, reason: str) -> bool:
        """Set the signal. False if it was set before: the first reason stands."""
        with self._lock:
            if self._reason is not None:
                return False
            self._reason = reason
            waiters, event = list(self._waiters), self._event
        if event is not None:
            event.set()
        for loop, future in waiters:
            if _runs_here(loop):
                _resolve(future)  # so that who waits is told before anything that comes after this
            else:
                call_on(loop, _resolve, future)
        return True


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


_LOCK = threading.Lock()
# One lock for all signals: it is held for a few instructions, and a lock per task would cost more than it saves.
