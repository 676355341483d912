"""Defining tasks, their options, their retries: what is checked where it is written."""

from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import pytest
from hypothesis import given, strategies as st
from pydantic import BaseModel, Field

from concave import (
    ConfigurationError,
    DebounceConfig,
    Discard,
    RetentionConfig,
    RetryConfig,
    RetryLater,
    TaskContext,
    TaskInputError,
    TaskInputTooLargeError,
    TaskOutputError,
    define_task,
)
from concave.clock import seconds, to_micros
from concave.store.records import Die, Retry
from concave.tasks.retry import backoff_delay, decide
from concave.tasks.submission import new_task_id, submission


async def _handler(ctx: TaskContext, value: int) -> int:
    return value + 1


async def test_every_form_makes_the_same_task() -> None:
    direct = define_task(name="add", handler=_handler)
    decorated = define_task(name="add")(_handler)
    bare = define_task(_handler)
    assert (direct.name, decorated.name, bare.name) == ("add", "add", "_handler")
    assert repr(direct) == "TaskDefinition('add')"
    for task in (direct, decorated, bare):
        assert await task(None, 1) == 2
        assert (task.timeout, task.priority, task.retry.max_attempts) == (300, 50, 3)

    class Called:
        async def __call__(self, ctx: TaskContext, value: int) -> int:
            return value

    assert define_task("callable", Called()).is_async


@pytest.mark.parametrize(
    "options",
    [
        {"priority": 101}, {"priority": -1}, {"priority": True}, {"timeout": 0}, {"timeout": "x"},
        {"max_concurrency": 0}, {"max_crashes": 0}, {"retention": -1}, {"unknown": 1}, {"name": "x" * 201},
        {"name": "a\nb"}, {"input": object()},
    ],
)  # fmt: skip
def test_an_option_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    given: dict[str, Any] = {"name": "t", "handler": _handler, **options}
    with pytest.raises(ConfigurationError):
        define_task(**given)


def test_a_lambda_needs_a_name() -> None:
    with pytest.raises(ConfigurationError, match="needs a name"):
        define_task(lambda: None)


def test_handlers_that_cannot_be() -> None:
    def three(a: Any, b: Any, c: Any) -> None: ...

    def unresolved(ctx: TaskContext, value: "Missing") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    handlers: list[Any] = [three, unresolved]
    for as_any in handlers:
        with pytest.raises(ConfigurationError):
            define_task("x", as_any)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RetryConfig(max_attempts=0),
        lambda: RetryConfig(backoff="odd"),  # type: ignore[arg-type]
        lambda: RetryConfig(initial_delay=-1),
        lambda: RetryConfig(max_delay=float("inf")),
        lambda: DebounceConfig(window=-1, key=str),
        lambda: DebounceConfig(window=1, key=str, max_wait=-1),
        lambda: RetryLater(delay=-1),
        lambda: seconds("x", "option"),  # type: ignore[arg-type]
        lambda: to_micros(datetime(2026, 1, 1), "at"),  # noqa: DTZ001
        lambda: submission(define_task("t", lambda: None), at=datetime.max.replace(tzinfo=UTC)),
    ],
)
def test_configurations_that_cannot_be(make: Any) -> None:
    with pytest.raises(ConfigurationError):
        make()


def test_retention_as_one_duration_or_by_kind() -> None:
    one = define_task("a", _handler, retention=timedelta(hours=1)).retention
    assert (one.completed, one.cancelled, one.dead) == (3600_000_000, 3600_000_000, 90 * 86400_000_000)
    by_kind = define_task("a", _handler, retention=RetentionConfig(dead=60, idempotency_key=30)).retention
    assert (by_kind.dead, by_kind.key) == (60_000_000, 30_000_000)


class Aliased(BaseModel):
    user_id: int = Field(alias="userId")


def test_inputs_are_checked_and_become_json() -> None:
    untyped: Any = define_task("untyped", lambda ctx, value: None)
    value = {"when": datetime(2026, 1, 1, tzinfo=UTC), "id": UUID(int=1), "note": "NaN and Infinity"}
    assert b"2026-01-01T00:00:00Z" in submission(untyped, value).input
    loop: list[Any] = []
    loop.append(loop)
    for bad in (float("nan"), float("inf"), loop, object()):
        with pytest.raises(TaskInputError):
            submission(untyped, bad)
    aliased: Any = define_task("aliased", lambda ctx, value: None, input=Aliased)
    assert submission(aliased, {"userId": 1}).input == b'{"userId":1}'
    assert submission(aliased, Aliased(userId=1)).input == b'{"userId":1}'
    with pytest.raises(TaskInputError, match="userId: Field required"):
        submission(aliased, {"user_id": 1})
    with pytest.raises(TaskInputError):
        submission(aliased, Aliased.model_construct(user_id="x"))
    with pytest.raises(TaskInputTooLargeError, match="limit is 1048576"):
        submission(untyped, "x" * (1024 * 1024))


def test_keys_come_from_the_input() -> None:
    task = define_task(
        "keyed", _handler, idempotency_key=lambda n: f"n-{n}", debounce=DebounceConfig(1, key=str, max_wait=5)
    )
    new = submission(task, 7)
    assert new.idempotency_key == "n-7"
    assert new.debounce is not None
    assert new.debounce[:] == ("7", 1_000_000, 5_000_000, None)
    assert submission(task, 7, idempotency_key="given").idempotency_key == "given"
    slot = submission(task, 7, recurring=True)
    assert (slot.idempotency_key, slot.debounce) == (None, None)
    assert len({new_task_id() for _ in range(1000)}) == 1000


@pytest.mark.parametrize("key, text", [(7, "7"), (UUID(int=7), "00000000-0000-0000-0000-000000000007")])
def test_a_key_that_is_a_number_or_a_uuid_is_written_as_text(key: int | UUID, text: str) -> None:
    task = define_task(
        "keyed", _handler, idempotency_key=lambda _: key, debounce=DebounceConfig(1, lambda _: key)
    )
    new = submission(task, 7)
    assert new.debounce is not None
    assert (new.idempotency_key, new.debounce.key) == (text, text)
    with pytest.raises(ConfigurationError, match="must be text"):
        submission(task, 7, idempotency_key=cast("Any", True))


@given(st.integers(1, 5000), st.floats(0, 1), st.sampled_from(["exponential", "linear", "fixed"]))
def test_jitter_only_adds_ten_to_twenty_percent_after_the_cap(
    attempt: int, chance: float, backoff: Any
) -> None:
    retry = RetryConfig(backoff=backoff, initial_delay=2, max_delay=30)
    plain = {"exponential": 2.0 * 2 ** min(attempt - 1, 60), "linear": 2.0 * attempt, "fixed": 2.0}[backoff]
    assert min(plain, 30) * 1.1 <= backoff_delay(retry, attempt, chance) <= min(plain, 30) * 1.2 + 1e-9


def test_decisions() -> None:
    class UnspeakableError(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    def odd(error: BaseException) -> bool:
        raise RuntimeError("odd")

    retry = RetryConfig(max_attempts=2)
    assert isinstance(decide(ValueError("x"), 1, retry, 0), Retry)
    assert isinstance(decide(ValueError("x"), 2, retry, 0), Die)
    assert isinstance(decide(Discard("x"), 1, retry, 0), Die)
    assert decide(RetryLater(timedelta(seconds=5)), 9, retry, 0) == Retry(5_000_000, None)
    spent = decide(RetryLater(5, spend_attempt=True), 1, retry, 0)
    assert isinstance(spent, Retry)
    assert (spent.delay, spent.failure is not None) == (5_000_000, True)
    assert isinstance(decide(RetryLater(5, spend_attempt=True), 2, retry, 0), Die)
    assert isinstance(decide(TaskOutputError("x"), 1, retry, 0), Die)
    only = RetryConfig(retry_on=(ConnectionError, TimeoutError))
    assert isinstance(decide(ConnectionError(), 1, only, 0), Retry)
    assert isinstance(decide(ValueError(), 1, only, 0), Die)
    assert isinstance(decide(TaskInputError("x"), 1, only, 0), Retry)
    assert isinstance(decide(ValueError(), 1, RetryConfig(retry_on=lambda e: True), 0), Retry)
    died = decide(ValueError("x"), 1, RetryConfig(retry_on=odd), 0)
    assert isinstance(died, Die)
    assert "retry_on raised RuntimeError: odd" in died.reason
    died = decide(UnspeakableError(), 2, retry, 0)
    assert isinstance(died, Die)
    assert "could not be read" in died.reason
