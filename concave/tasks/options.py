"""A task's options: how it is retried, debounced and kept. Checked where they are written, not where they bite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from datetime import timedelta
from typing import Any, Literal, cast
from uuid import UUID

from concave.clock import seconds
from concave.errors import ConfigurationError
from concave.store.records import Retention

__all__ = [
    "Backoff",
    "DebounceConfig",
    "Duration",
    "Key",
    "RetentionConfig",
    "RetryConfig",
    "RetryOn",
    "at_least_one",
    "micros",
    "printable",
    "priority_in_range",
]

LONGEST = timedelta(days=36_525).total_seconds()
"""A hundred years, in seconds: more than anyone waits, and less than it takes to overflow a store's numbers."""

Duration = float | timedelta
"""Seconds, or a timedelta."""

Key = str | int | UUID
"""What tells tasks apart: 1 to 512 characters, or a number or a UUID, which is written as text."""

Backoff = Literal["exponential", "linear", "fixed"]

RetryOn = Callable[[BaseException], bool] | type[BaseException] | tuple[type[BaseException], ...]
"""Which errors are worth another attempt: a predicate, or exception types."""


@dataclass(frozen=True, slots=True)
class RetryConfig:
    """When a failed attempt is repeated, and after how long.

    The delay after the n-th failed attempt is ``initial_delay`` times 2^(n-1) (exponential), n (linear) or 1
    (fixed), at most ``max_delay``; then 10 to 20 % are added, so that what failed together doesn't return together.
    """

    max_attempts: int = 3
    _: KW_ONLY
    backoff: Backoff = "exponential"
    initial_delay: Duration = 1.0
    max_delay: Duration = 60.0
    retry_on: RetryOn | None = None

    def __post_init__(self) -> None:
        at_least_one(self.max_attempts, "max_attempts")
        if self.backoff not in {"exponential", "linear", "fixed"}:
            raise ConfigurationError(
                f"backoff must be 'exponential', 'linear' or 'fixed', not {self.backoff!r}"
            )
        if not _is_retry_on(self.retry_on):
            raise ConfigurationError(
                f"retry_on must be a function of the error, or exception types, not {self.retry_on!r}"
            )
        object.__setattr__(self, "initial_delay", seconds(self.initial_delay, "initial_delay"))
        object.__setattr__(self, "max_delay", seconds(self.max_delay, "max_delay"))


@dataclass(frozen=True, slots=True)
class DebounceConfig:
    """Calls within ``window`` of one another become one task, which gets the last input.

    ``key`` tells which calls belong together. Each call restarts the window; ``max_wait`` bounds the wait from the
    first call on.
    """

    window: Duration
    key: Callable[[Any], Key]
    max_wait: Duration | None = None

    def __post_init__(self) -> None:
        if not callable(self.key):
            raise ConfigurationError(f"debounce key must be a function of the input, not {self.key!r}")
        micros(self.window, "debounce window")
        if self.max_wait is not None:
            micros(self.max_wait, "debounce max_wait")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionConfig:
    """How long the record of an ended task is kept, and its idempotency key after it completed."""

    completed: Duration = timedelta(hours=24)
    cancelled: Duration = timedelta(hours=24)
    dead: Duration = timedelta(days=90)
    idempotency_key: Duration = timedelta(hours=24)

    def __post_init__(self) -> None:
        self.in_micros()

    def in_micros(self) -> Retention:
        """The same for the store."""
        return Retention(
            completed=_kept(self.completed, "retention.completed"),
            cancelled=_kept(self.cancelled, "retention.cancelled"),
            dead=_kept(self.dead, "retention.dead"),
            key=_kept(self.idempotency_key, "retention.idempotency_key"),
        )


def priority_in_range(priority: object) -> int:
    """The priority, if it is a whole number from 0 to 100."""
    if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority <= 100:
        raise ConfigurationError(f"priority must be a whole number from 0 to 100, not {priority!r}")
    return priority


def at_least_one(value: object, option: str) -> int:
    """The number, if it is a whole one of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{option} must be a whole number of at least 1, not {value!r}")
    return value


def printable(value: object, what: str, longest: int) -> str:
    """The text, if it can be printed: on one line, and in UTF-8."""
    if not isinstance(value, str) or not 0 < len(value) <= longest or not value.isprintable():
        raise ConfigurationError(f"{what} is 1 to {longest} printable characters, not {value!r}")
    return value


def micros(duration: Duration, option: str, *, minimum: float = 0.0) -> int:
    """A duration for the store: whole microseconds, at most a hundred years of them."""
    value = seconds(duration, option, minimum=minimum)
    if value > LONGEST:
        raise ConfigurationError(f"{option} must be at most a hundred years, not {duration!r}")
    return round(value * 1_000_000)


def _kept(duration: Duration, option: str) -> int:
    return max(1000, micros(duration, option))


def _is_retry_on(value: object) -> bool:
    if isinstance(value, type | tuple):
        types = cast("tuple[object, ...]", value) if isinstance(value, tuple) else (value,)
        return all(isinstance(each, type) and issubclass(each, BaseException) for each in types)
    return value is None or callable(value)
