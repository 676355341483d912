"""A clock that a test holds in its hand."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from concave.clock import Micros, Timer, to_micros

__all__ = ["FakeClock"]


@dataclass(slots=True, eq=False)
class _Timer:
    loop: asyncio.AbstractEventLoop
    callback: Callable[[], object]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True

    def fire(self) -> None:
        if not self.cancelled:
            self.callback()


class FakeClock:
    """Time that passes only when it is told to.

    Give it to a store (``MemoryKV(clock=…)``, ``RedisKV(url, clock=…)``): what is due, which leases have ended and how long
    workers wait then follow this clock. Timers may be set from any thread's event loop.
    """

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = to_micros(start, "start")
        self._elapsed = 0
        self._timers: list[tuple[int, int, _Timer]] = []
        self._order = itertools.count()
        self._lock = threading.Lock()

    def now(self) -> Micros:
        """Microseconds since the epoch."""
        return self._now

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        return self._elapsed / 1_000_000

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        """Call back on the running loop once `delay` seconds have been let pass."""
        timer = _Timer(asyncio.get_running_loop(), callback)
        with self._lock:
            due = self._elapsed + max(0, round(delay * 1_000_000))
            heapq.heappush(self._timers, (due, next(self._order), timer))
        return timer

    def advance(self, seconds: float) -> None:
        """Let time pass. What falls due meanwhile is put on its loop, in order, to run when that loop next does."""
        self.advance_micros(round(seconds * 1_000_000))

    def advance_micros(self, micros: Micros) -> None:
        """`advance`, in microseconds."""
        with self._lock:
            target = self._elapsed + micros
            due: list[_Timer] = []
            while self._timers and self._timers[0][0] <= target:
                due.append(heapq.heappop(self._timers)[2])
            self._now += micros
            self._elapsed = target
        for timer in due:
            if not timer.loop.is_closed():
                timer.loop.call_soon_threadsafe(timer.fire)

    @property
    def pending(self) -> int:
        """How many timers wait."""
        with self._lock:
            return sum(not timer.cancelled for _, _, timer in self._timers)
