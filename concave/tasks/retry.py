"""What becomes of a task whose handler raised. Pure: an error and the task's options in, a decision out."""

from __future__ import annotations

import traceback

from concave.errors import Discard, RetryLater, TaskInputError, TaskOutputError
from concave.store.records import Decision, Die, Failure, Retry
from concave.tasks.options import LONGEST, RetryConfig, RetryOn

__all__ = ["backoff_delay", "decide", "describe"]

MAX_ERROR_CHARS = 2_000
MAX_TRACEBACK_CHARS = 8_000


def decide(error: BaseException, attempt: int, retry: RetryConfig, chance: float) -> Decision:
    """Retry or die, after `attempt` (1-based) failed with `error`; `chance` (0 to 1) places the jitter.

    - `Discard` dies, `RetryLater` waits as long as it says.
    - An input that this code can't validate is always worth a retry: newer code may take it.
    - A result that isn't valid dies at once: to run the handler again would repeat its effects for the sake of its
      return value.
    - `retry_on` decides about all else; if it raises, the task dies at once.
    """
    failure = describe(error)
    if isinstance(error, Discard):
        return Die(_storable(str(error.reason)[:MAX_ERROR_CHARS]), failure)
    if isinstance(error, RetryLater) and not error.spend_attempt:
        return Retry(_micros(error.delay), None)
    if isinstance(error, TaskOutputError):
        return Die(failure.error, failure)
    if not isinstance(error, TaskInputError | RetryLater):
        try:
            worth_it = _is_worth_it(error, retry.retry_on)
        except BaseException as raised:
            return Die(f"{failure.error} (and retry_on raised {_text(raised)})", failure)
        if not worth_it:
            return Die(f"{failure.error} (retry_on says no)", failure)
    if attempt >= retry.max_attempts:
        return Die(f"{failure.error} (attempt {attempt} of {retry.max_attempts})", failure)
    delay = error.delay if isinstance(error, RetryLater) else backoff_delay(retry, attempt, chance)
    return Retry(_micros(delay), failure)


def backoff_delay(retry: RetryConfig, attempt: int, chance: float) -> float:
    """Seconds to wait after the `attempt`-th failure: by the strategy, capped, plus 10 to 20 % jitter."""
    initial, longest = float(retry.initial_delay), float(retry.max_delay)  # type: ignore[arg-type]
    delay = initial
    match retry.backoff:
        case "exponential":
            # The exponent is bounded: 2.0 ** 1024 overflows, and the cap has long taken over by then.
            delay = initial * 2.0 ** min(attempt - 1, 60)
        case "linear":
            delay = initial * attempt
        case "fixed":
            pass
    return min(delay, longest) * (1.1 + 0.1 * chance)


def describe(error: BaseException) -> Failure:
    """An error as it is kept: its type and text, and the end of its traceback, both bounded."""
    return Failure(_text(error), _storable(_traceback(error)[-MAX_TRACEBACK_CHARS:]))


def _is_worth_it(error: BaseException, retry_on: RetryOn | None) -> bool:
    if retry_on is None:
        return True
    if isinstance(retry_on, type | tuple):
        return isinstance(error, retry_on)
    return bool(retry_on(error))


def _text(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # an error whose __str__ raises must still be recorded
        text = "(its text could not be read)"
    name = type(error).__name__
    return _storable((f"{name}: {text}" if text else name)[:MAX_ERROR_CHARS])


def _traceback(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception:  # an error may break whoever looks at it, not the worker
        return "(its traceback could not be read)"


def _storable(text: str) -> str:
    """The text without lone surrogates (an undecodable file name has them), which UTF-8 can't hold."""
    return text.encode("utf-8", "backslashreplace").decode()


def _micros(delay: float) -> int:
    # Bounded: a number that no store can hold would keep this task, and all that is settled with it, from being settled.
    return round(min(delay, LONGEST) * 1_000_000)
