"""Retrying, pure: an error and a task's options in, a decision out."""

import math
import sys
from datetime import timedelta
from typing import Any, Literal

import pytest
from hypothesis import given, strategies as st

from concave import ConfigurationError, Discard, RetryConfig, RetryLater, TaskInputError, TaskOutputError
from concave.store.records import Die, Retry
from concave.tasks.options import LONGEST
from concave.tasks.retry import backoff_delay, decide, describe

Backoff = Literal["exponential", "linear", "fixed"]
backoffs = st.sampled_from(["exponential", "linear", "fixed"])
delays = st.just(0.0) | st.floats(1e-6, 1e6)
chances = st.floats(0, 1)


def without_jitter(backoff: str, attempt: int, initial: float) -> float:
    factor = {"exponential": 2.0 ** min(attempt - 1, 1000), "linear": attempt, "fixed": 1}[backoff]
    return initial * factor


@given(backoffs, st.integers(1, 10_000), delays, delays, chances)
def test_jitter_only_adds_and_adds_10_to_20_percent_after_the_cap(
    backoff: Backoff, attempt: int, initial: float, longest: float, chance: float
) -> None:
    retry = RetryConfig(backoff=backoff, initial_delay=initial, max_delay=longest)
    plain = min(without_jitter(backoff, attempt, initial), longest)
    delay = backoff_delay(retry, attempt, chance)
    assert plain * 1.1 <= delay or math.isclose(delay, plain * 1.1)
    assert delay <= plain * 1.2 or math.isclose(delay, plain * 1.2)


@given(backoffs, st.integers(1, 100), delays, chances)
def test_a_later_attempt_never_waits_less(
    backoff: Backoff, attempt: int, initial: float, chance: float
) -> None:
    retry = RetryConfig(backoff=backoff, initial_delay=initial, max_delay=1e9)
    assert backoff_delay(retry, attempt + 1, chance) >= backoff_delay(retry, attempt, chance)


@pytest.mark.parametrize(
    "backoff,plain",
    [("exponential", [1, 2, 4, 8, 16, 32, 60, 60]), ("linear", [1, 2, 3, 4, 5, 6, 7, 8]), ("fixed", [1] * 8)],
)
def test_the_guides_delays(backoff: Backoff, plain: list[float]) -> None:
    retry = RetryConfig(backoff=backoff)
    delays_ = [backoff_delay(retry, attempt, 0) / 1.1 for attempt in range(1, 9)]
    assert delays_ == pytest.approx(plain)


@given(st.integers(1, 50), st.integers(1, 50), chances)
def test_it_dies_with_its_last_attempt_and_not_before(attempt: int, most: int, chance: float) -> None:
    decision = decide(ValueError("boom"), attempt, RetryConfig(most), chance)
    if attempt >= most:
        assert isinstance(decision, Die)
        assert decision.reason == f"ValueError: boom (attempt {attempt} of {most})"
    else:
        assert isinstance(decision, Retry)
    assert decision.failure is not None


def choosy(error: BaseException) -> bool:
    return getattr(error, "status", 500) >= 500


class HttpError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


@pytest.mark.parametrize(
    "retry_on,error,again",
    [
        (None, ValueError(), True),
        (choosy, HttpError(503), True),
        (choosy, HttpError(404), False),
        (ValueError, ValueError(), True),
        (ValueError, UnicodeError(), True),
        (ValueError, TypeError(), False),
        ((ValueError, TypeError), TypeError(), True),
        ((), ValueError(), False),
        (lambda error: "truthy", ValueError(), True),
        (lambda error: None, ValueError(), False),
        (BaseException, SystemExit(1), True),
        (Exception, KeyboardInterrupt(), False),
    ],
)
def test_retry_on_decides(retry_on: Any, error: BaseException, again: bool) -> None:
    decision = decide(error, 1, RetryConfig(retry_on=retry_on), 0)
    assert isinstance(decision, Retry) == again
    if isinstance(decision, Die):
        assert decision.reason.endswith("(retry_on says no)")


@pytest.mark.parametrize("raised", [KeyError("status"), SystemExit(2), RecursionError()])
def test_a_retry_on_that_raises_means_dead_at_once(raised: BaseException) -> None:
    def broken(error: BaseException) -> bool:
        raise raised

    decision = decide(ValueError("boom"), 1, RetryConfig(9, retry_on=broken), 0)
    assert isinstance(decision, Die)
    assert decision.reason.startswith(f"ValueError: boom (and retry_on raised {type(raised).__name__}")


def no(error: BaseException) -> bool:
    return False


def test_orders_of_a_handler_are_followed_whatever_retry_on_says() -> None:
    never = RetryConfig(9, retry_on=no)
    assert decide(RetryLater(30), 9, never, 1) == Retry(30_000_000, None)
    assert decide(RetryLater(timedelta(minutes=1)), 1, never, 1) == Retry(60_000_000, None)
    spending = decide(RetryLater(30, spend_attempt=True, reason="rate limit"), 1, never, 1)
    assert isinstance(spending, Retry)
    assert spending.delay == 30_000_000
    assert spending.failure is not None
    assert spending.failure.error == "RetryLater: rate limit"
    assert isinstance(decide(RetryLater(30, spend_attempt=True), 9, never, 1), Die)
    discarded = decide(Discard("no such user"), 1, RetryConfig(9), 1)
    assert isinstance(discarded, Die)
    assert discarded.reason == "no such user"


@pytest.mark.parametrize("delay", [-1, math.nan, math.inf, timedelta(seconds=-1)])
def test_a_delay_that_cannot_be(delay: Any) -> None:
    with pytest.raises(ConfigurationError, match="delay"):
        RetryLater(delay)


def test_inputs_are_retried_and_outputs_are_not_whatever_retry_on_says() -> None:
    assert isinstance(decide(TaskInputError("x"), 1, RetryConfig(2, retry_on=no), 0), Retry)
    assert isinstance(decide(TaskInputError("x"), 2, RetryConfig(2, retry_on=no), 0), Die)
    assert isinstance(decide(TaskOutputError("x"), 1, RetryConfig(9), 0), Die)


@pytest.mark.parametrize("delay", [1e15, 1e300, sys.float_info.max])
def test_no_delay_is_longer_than_a_store_can_tell(delay: float) -> None:
    longest = round(LONGEST * 1_000_000)
    assert decide(RetryLater(delay), 1, RetryConfig(), 0) == Retry(longest, None)
    decision = decide(ValueError(), 1, RetryConfig(initial_delay=delay, max_delay=delay), 1)
    assert isinstance(decision, Retry)
    assert decision.delay == longest


def test_any_reason_of_a_discard_can_be_kept() -> None:
    odd: Any = ValueError("no text, but an error")
    for reason, kept in ((odd, "no text, but an error"), ("\udcff", "\\udcff"), ("x" * 9999, "x" * 2000)):
        decision = decide(Discard(reason), 1, RetryConfig(), 0)
        assert isinstance(decision, Die)
        assert decision.reason == kept


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_an_error_is_kept_with_its_type_text_and_the_end_of_its_traceback() -> None:
    def raises() -> None:
        try:
            raise KeyError("y" * 5_000)
        except KeyError as error:
            raise ValueError("x" * 5_000) from error

    with pytest.raises(ValueError, match="x") as caught:
        raises()
    failure = describe(caught.value)
    assert failure.error == "ValueError: " + "x" * (2_000 - len("ValueError: "))
    assert len(failure.traceback) == 8_000
    assert failure.traceback.endswith("x" * 5_000 + "\n")
    assert describe(ValueError()).error == "ValueError"
    assert describe(UnspeakableError()).error == "UnspeakableError: (its text could not be read)"


def test_an_error_that_breaks_whoever_looks_at_it_is_kept_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(error: BaseException) -> list[str]:
        raise RuntimeError("broken")

    monkeypatch.setattr("traceback.format_exception", broken)
    failure = describe(ValueError("boom"))
    assert failure[:2] == ("ValueError: boom", "(its traceback could not be read)")
