"""Every error that Concave raises on purpose, in one tree.

    ConcaveError
    ├── ConfigurationError (ValueError)     an option that can't be: the message names it
    │   └── InvalidScheduleError            a cron expression, interval, zone or time that can't be
    ├── TasksNotInitializedError            the process-wide default was asked for before it existed
    ├── TaskInputError (ValueError)         an input that isn't what the task takes; nothing was stored
    │   └── TaskInputTooLargeError          more bytes than the limit
    ├── TaskOutputError (ValueError)        a result that isn't what the task promises, or isn't JSON
    ├── TaskTimeoutError (TimeoutError)     the handler ran longer than its ``timeout``
    ├── TaskAbortedError                    what ``ctx.signal.raise_if_aborted()`` raises
    ├── LockNotAcquiredError                someone else holds the lock
    ├── StoreError                          the store answered with something other than a yes
    │   ├── StoreUnavailableError           no answer: refused, cut off, loading, failing over
    │   ├── StoreDeniedError                it refuses our credentials, or doesn't permit us a command; it did nothing
    │   └── StoreFullError                  it is out of memory and took nothing
    ├── Discard                             raised by a handler: give up on this task now
    └── RetryLater                          raised by a handler: run this task again later

No error of a driver reaches a user bare: each store maps its driver's errors here, with the original as
``__cause__``.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

__all__ = [
    "NO_FAULT_OF_TASKS",
    "ConcaveError",
    "ConfigurationError",
    "Discard",
    "InvalidScheduleError",
    "LockNotAcquiredError",
    "RetryLater",
    "StoreDeniedError",
    "StoreError",
    "StoreFullError",
    "StoreUnavailableError",
    "TaskAbortedError",
    "TaskInputError",
    "TaskInputTooLargeError",
    "TaskOutputError",
    "TaskTimeoutError",
    "TasksNotInitializedError",
]


class ConcaveError(Exception):
    """The root: ``except ConcaveError`` catches all that Concave raises on purpose."""


class ConfigurationError(ConcaveError, ValueError):
    """An option that can't be. The message names the option and what it may be."""


class InvalidScheduleError(ConfigurationError):
    """A cron expression, interval, time zone or point in time that can't be."""


class TasksNotInitializedError(ConcaveError):
    """The process-wide scheduler or registry was asked for before there was one."""


class TaskInputError(ConcaveError, ValueError):
    """An input that isn't what the task takes. Raised at the door; nothing was stored."""


class TaskInputTooLargeError(TaskInputError):
    """An input of more bytes than the limit. Store the data elsewhere and pass its key."""


class TaskOutputError(ConcaveError, ValueError):
    """A handler's result that isn't what the task promises, or that JSON can't hold."""


class TaskTimeoutError(ConcaveError, TimeoutError):
    """A handler ran longer than its task's ``timeout``."""


class TaskAbortedError(ConcaveError):
    """The running task was told to stop; the text says why."""


class LockNotAcquiredError(ConcaveError):
    """Someone else holds the lock."""


class StoreError(ConcaveError):
    """The store did not do what it was asked."""


class StoreUnavailableError(StoreError):
    """The store gave no answer. What was asked may or may not have happened; asking again is safe."""


class StoreDeniedError(StoreError):
    """The store refuses the credentials, or doesn't permit them a command, and did nothing. Its administrator can mend that."""


class StoreFullError(StoreError):
    """The store is out of memory and took nothing."""


NO_FAULT_OF_TASKS: Final = (StoreUnavailableError, StoreDeniedError, StoreFullError)
"""A store that takes nothing from anyone: none of a batch's tasks is to blame, and to try them one by one helps nobody."""


class Discard(ConcaveError):
    """Raised by a handler to give up at once: no retry, straight to the dead letter queue."""

    def __init__(self, reason: str = "discarded by its handler") -> None:
        super().__init__(reason)
        self.reason = reason


class RetryLater(ConcaveError):
    """Raised by a handler to be run again after ``delay`` (seconds or a timedelta).

    It spends no attempt unless ``spend_attempt`` is true: a rate limit is not a failure.
    """

    def __init__(self, delay: float | timedelta, *, reason: str = "", spend_attempt: bool = False) -> None:
        super().__init__(reason or "asked to be run again later")
        self.delay = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)
        self.reason = reason
        self.spend_attempt = spend_attempt
        if not 0 <= self.delay < float("inf"):
            raise ConfigurationError(f"RetryLater(delay=…) must be zero or more seconds, not {delay!r}")
