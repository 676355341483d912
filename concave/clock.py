"""The only place that reads time.

A store's clock decides when a task is due and when a lease ends, so a process's own clock is used for two
things only: as the memory store's clock, and to wait. Both go through `Clock`, so that a test can hold time
in its hand (`concave.testing.FakeClock`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

from concave.errors import ConfigurationError

__all__ = ["Clock", "Micros", "SystemClock", "Timer", "from_micros", "seconds", "sleep", "to_micros"]

Micros = int
"""Microseconds: since the epoch for a point in time, plain for a duration. Whole numbers compare exactly."""


class Timer(Protocol):
    """A call that is yet to come."""

    def cancel(self) -> None:
        """Let it not come."""
        ...


class Clock(Protocol):
    """Where time is read and waited for."""

    def now(self) -> Micros:
        """Wall-clock time in microseconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards, from an arbitrary start."""
        ...

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        """Run `callback` on the running event loop after `delay` seconds."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> Micros:
        """See `Clock`."""
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        """See `Clock`."""
        return time.monotonic()

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        """See `Clock`."""
        return asyncio.get_running_loop().call_later(delay, callback)


async def sleep(clock: Clock, delay: float) -> None:
    """Wait `delay` seconds of `clock`."""
    ended = asyncio.Event()
    timer = clock.call_later(delay, ended.set)
    try:
        await ended.wait()
    finally:
        timer.cancel()


def seconds(duration: float | timedelta, option: str, *, minimum: float = 0.0) -> float:
    """A duration as finite seconds, at least `minimum`; `ConfigurationError` names the option."""
    try:
        if isinstance(duration, str | bytes | bool):
            raise TypeError
        value = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
    except (TypeError, ValueError, OverflowError):
        raise ConfigurationError(f"{option} must be seconds or a timedelta, not {duration!r}") from None
    if not minimum <= value < float("inf"):
        raise ConfigurationError(
            f"{option} must be at least {minimum:g} seconds and finite, not {duration!r}"
        )
    return value


def to_micros(moment: datetime, option: str) -> Micros:
    """An aware datetime as microseconds since the epoch; a naive one is a `ConfigurationError`."""
    if getattr(moment, "tzinfo", None) is None or moment.utcoffset() is None:
        raise ConfigurationError(
            f"{option} must be an aware datetime (say, datetime.now(UTC)), not naive {moment!r}"
        )
    return (moment - _EPOCH) // timedelta(microseconds=1)


def from_micros(moment: Micros) -> datetime:
    """Microseconds since the epoch as an aware datetime in UTC; at most the last one that there is, whatever a record says."""
    try:
        return _EPOCH + timedelta(microseconds=moment)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC) if moment > 0 else datetime.min.replace(tzinfo=UTC)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
