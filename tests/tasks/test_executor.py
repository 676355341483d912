"""One run of one task: how handlers of every kind are called, stopped and judged."""

import asyncio
import contextvars
import functools
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from concave import (
    Discard,
    RetryConfig,
    RetryLater,
    TaskContext,
    TaskScheduler,
    TaskTimeoutError,
    define_task,
)
from concave.clock import Micros
from concave.kv import KV
from concave.store.records import (
    Cancel,
    Complete,
    Decision,
    Die,
    Lease,
    Release,
    Retention,
    Retry,
    TaskRecord,
)
from concave.tasks import executor
from concave.tasks.context import TaskContext as Context
from concave.tasks.executor import Run, StopCause, execute
from concave.tasks.threads import HandlerThreads, call_on
from tests.tasks.support import WatchedClock, ended, working

NOW: Micros = 1_767_225_600_000_000


def record(input: bytes = b"1", attempt: int = 1) -> TaskRecord:
    return TaskRecord(
        "id",
        "t",
        input,
        "running",
        50,
        NOW,
        NOW,
        attempt,
        0,
        0,
        3,
        3,
        None,
        None,
        Retention(),
        started_at=NOW,
    )


@pytest.fixture
async def threads() -> AsyncGenerator[HandlerThreads]:
    pool = HandlerThreads(2, "test")
    yield pool
    pool.close()


def run_of(task: Any, **options: Any) -> Run:
    taken = record(**options)
    return Run(Lease(taken, "n" * 16), task, Context(taken), 0.0)


async def decision_of(
    threads: HandlerThreads, handler: Any, *, input: bytes = b"1", **options: Any
) -> Decision | None:
    run = run_of(define_task("t", handler, **options), input=input)
    return await execute(run, threads, lambda: 0.5)


class Called:
    async def __call__(self, ctx: TaskContext, value: int) -> int:
        return value + 1


class CalledInThread:
    def __call__(self, ctx: TaskContext, value: int) -> int:
        return value + 1

    def method(self, ctx: TaskContext, value: int) -> int:
        return value + 1


async def both(ctx: TaskContext, value: int) -> int:
    return value + 1


def in_thread(ctx: TaskContext, value: int) -> int:
    assert threading.current_thread() is not threading.main_thread()
    return value + 1


def wrapped(handler: Callable[..., Awaitable[Any]]) -> Any:
    def wrapper(*args: Any) -> Awaitable[Any]:
        return handler(*args)

    return wrapper


@pytest.mark.parametrize(
    "handler",
    [
        both,
        in_thread,
        Called(),
        CalledInThread(),
        CalledInThread().method,
        functools.partial(both),
        functools.partial(functools.partial(in_thread)),
        functools.wraps(both)(wrapped(both)),
        wrapped(both),
        lambda ctx, value: value + 1,
        lambda ctx, value: both(ctx, value),  # noqa: PLW0108  a plain function that returns an awaitable
        lambda ctx, value, extra=1: value + extra,
    ],
)
async def test_handlers_of_every_kind_with_context_and_input(threads: HandlerThreads, handler: Any) -> None:
    assert await decision_of(threads, handler) == Complete(b"2")


@pytest.mark.parametrize("handler", [lambda: "x", lambda ctx: "x" if ctx.task_id == "id" else ctx])
async def test_handlers_that_take_less(threads: HandlerThreads, handler: Any) -> None:
    assert await decision_of(threads, handler, input=b"whatever") == Complete(b'"x"')


async def test_the_context_variables_of_the_worker_reach_a_thread(threads: HandlerThreads) -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("set")

    def handler() -> str:
        value = variable.get()
        variable.set("changed there, and there alone")
        return value

    assert await decision_of(threads, handler) == Complete(b'"set"')
    assert variable.get() == "set"


async def test_threads_are_few_and_do_not_keep_the_process(threads: HandlerThreads) -> None:
    running: set[threading.Thread] = set()
    gate, full = threading.Semaphore(0), threading.Semaphore(0)

    def handler() -> None:
        running.add(threading.current_thread())
        full.release()
        gate.acquire()

    runs = [asyncio.create_task(decision_of(threads, handler)) for _ in range(5)]
    for _ in range(2):
        await asyncio.to_thread(full.acquire)
    assert len(running) == 2
    for _ in range(5):
        gate.release()
    assert await asyncio.gather(*runs) == [Complete(b"null")] * 5
    assert len(running) == 2
    assert all(thread.daemon for thread in running)


async def test_a_thread_that_is_refused_leaves_no_job_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    pool = HandlerThreads(1, "test")
    with monkeypatch.context() as patched:

        def refuse(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patched.setattr(threading.Thread, "start", refuse)
        decision = await decision_of(pool, lambda: ran.append(1))
    assert isinstance(decision, Retry)
    assert await decision_of(pool, lambda: ran.append(2)) == Complete(b"null")
    assert ran == [2]
    pool.close()


async def test_a_thread_whose_loop_has_gone_ends_quietly() -> None:
    release, ended_ = threading.Event(), threading.Event()
    pool = HandlerThreads(1, "test")

    def handler() -> None:
        release.wait()

    async def leave() -> None:
        pool.run(handler)
        pool.run(ended_.set)

    thread = threading.Thread(target=lambda: asyncio.run(leave()))
    thread.start()
    thread.join()
    release.set()
    assert await asyncio.to_thread(ended_.wait, 60)
    pool.close()


async def test_a_result_that_nobody_waits_for_any_more_is_dropped(threads: HandlerThreads) -> None:
    release = threading.Event()
    future = threads.run(release.wait)
    future.cancel()
    release.set()
    assert await threads.run(lambda: "next") == "next"
    assert future.cancelled()


def test_an_error_of_a_loop_that_lives_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("something else")

    loop = asyncio.new_event_loop()
    monkeypatch.setattr(loop, "call_soon_threadsafe", refuse)
    with pytest.raises(RuntimeError, match="something else"):
        call_on(loop, print)
    loop.close()
    call_on(loop, print)


# How it ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raised", [SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit(), StopIteration()]
)
@pytest.mark.parametrize("kind", ["async", "def"])
async def test_whatever_is_raised_is_a_failed_attempt(
    threads: HandlerThreads, raised: BaseException, kind: str
) -> None:
    async def raises() -> None:
        raise raised

    def raises_in_thread() -> None:
        raise raised

    decision = await decision_of(threads, raises if kind == "async" else raises_in_thread)
    assert isinstance(decision, Retry)
    assert decision.failure is not None


class Mute(Discard):
    def __init__(self) -> None:
        pass  # without its base


class Endless(RetryLater):
    def __init__(self) -> None:
        super().__init__(1)
        del self.delay


@pytest.mark.parametrize("raised", [Mute(), Endless()])
async def test_an_order_that_cannot_be_read_is_a_dead_letter(
    threads: HandlerThreads, raised: BaseException
) -> None:
    async def raises() -> None:
        raise raised

    decision = await decision_of(threads, raises)
    assert isinstance(decision, Die)
    assert type(raised).__name__ in decision.reason


@pytest.mark.parametrize("value", [float("nan"), object(), b"\xff", {"x": float("inf")}, "\udcff"])
async def test_a_result_that_json_cannot_hold_dies_at_once(threads: HandlerThreads, value: Any) -> None:
    decision = await decision_of(threads, lambda: value, retry=RetryConfig(max_attempts=9))
    assert isinstance(decision, Die)
    assert decision.reason.startswith("TaskOutputError: the handler's result: ")


async def test_a_result_that_is_not_what_the_task_promises_dies_at_once(threads: HandlerThreads) -> None:
    decision = await decision_of(threads, lambda: "x", output=int)
    assert isinstance(decision, Die)
    assert "valid integer" in decision.reason


async def test_a_result_has_a_limit(threads: HandlerThreads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "MAX_RESULT_BYTES", 10)
    assert await decision_of(threads, lambda: "x" * 8) == Complete(b'"xxxxxxxx"')
    decision = await decision_of(threads, lambda: "x" * 9)
    assert isinstance(decision, Die)
    assert "11 bytes; the limit is 10" in decision.reason


async def test_an_input_that_this_code_cannot_take_is_worth_a_retry(threads: HandlerThreads) -> None:
    called: list[Any] = []
    decision = await decision_of(
        threads, lambda ctx, value: called.append(value), input=b'"x"', retry=RetryConfig(retry_on=())
    )
    assert decision == Complete(b"null")
    decision = await decision_of(threads, in_thread, input=b'"x"', retry=RetryConfig(retry_on=()))
    assert isinstance(decision, Retry)
    assert called == ["x"]
    assert decision.failure is not None
    assert "this version of the code can't take the input" in decision.failure.error


# Being stopped ----------------------------------------------------------------------------------------------------


def stopped(handler: Any, cause: StopCause, begun: asyncio.Event) -> Any:
    """The decision about a run that was told to stop once it had begun."""

    async def story() -> Decision | None:
        run = run_of(define_task("t", handler))
        pool = HandlerThreads(1, "test")
        decisions: list[Decision | None] = []

        async def body() -> None:
            decisions.append(await execute(run, pool, lambda: 0.5))

        run.task = asyncio.create_task(body())
        await begun.wait()
        assert run.stop(cause, f"because of {cause}")
        assert not run.stop(cause, "again")
        await asyncio.wait({run.task})
        pool.close()
        return decisions[0]

    return story()


CAUSES: list[tuple[StopCause, Callable[[Decision | None], bool]]] = [
    ("timeout", lambda decision: isinstance(decision, Retry)),
    ("shutdown", lambda decision: decision == Release()),
    ("cancelled", lambda decision: decision == Cancel("because of cancelled")),
    ("lease lost", lambda decision: decision is None),
]


@pytest.mark.parametrize("cause,expected", CAUSES)
@pytest.mark.parametrize("kind", ["async", "def", "wrapped"])
async def test_what_becomes_of_a_run_that_stops_when_told(cause: StopCause, expected: Any, kind: str) -> None:
    begun, loop, order = asyncio.Event(), asyncio.get_running_loop(), list[str]()

    async def waits(ctx: TaskContext) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            order.append(ctx.signal.reason or "cancelled before the signal was set")

    def waits_in_thread(ctx: TaskContext) -> None:
        loop.call_soon_threadsafe(begun.set)
        ctx.signal.wait_in_thread()
        order.append(ctx.signal.reason or "")
        ctx.signal.raise_if_aborted()

    handlers: dict[str, Any] = {
        "async": waits,
        "def": waits_in_thread,
        "wrapped": lambda ctx: waits(ctx),  # noqa: PLW0108  a plain function that returns an awaitable
    }
    assert expected(await stopped(handlers[kind], cause, begun))
    assert order == [f"because of {cause}"]


@pytest.mark.parametrize("cause,counts", [("timeout", False), ("shutdown", True), ("cancelled", True)])
async def test_what_a_handler_returns_in_spite_of_it(cause: StopCause, counts: bool) -> None:
    begun = asyncio.Event()

    async def finishes(ctx: TaskContext) -> str:
        begun.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "finished"

    decision = await stopped(finishes, cause, begun)
    assert (decision == Complete(b'"finished"')) == counts


async def test_a_timeout_is_one_for_retry_on_too_whatever_the_handler_made_of_it() -> None:
    begun = asyncio.Event()

    async def turns_it_into_another(ctx: TaskContext) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("something else") from None

    decision = await stopped(turns_it_into_another, "timeout", begun)
    assert isinstance(decision, Retry)
    assert decision.failure is not None
    assert decision.failure.error.startswith("TaskTimeoutError: ran longer than its timeout of 300 s")
    assert "something else" in decision.failure.traceback


async def test_an_own_timeout_of_a_handler_is_an_error_like_others(threads: HandlerThreads) -> None:
    async def times_out() -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    decision = await decision_of(threads, times_out, retry=RetryConfig(retry_on=TaskTimeoutError))
    assert isinstance(decision, Die)


@pytest.mark.parametrize("first", ["timeout", "shutdown", "lease lost"])
async def test_a_cancellation_outranks_all_but_a_lost_lease(
    threads: HandlerThreads, first: StopCause
) -> None:
    run = run_of(define_task("t", lambda: None))
    run.stop(first, "first")
    assert not run.stop("cancelled", "second")
    assert await execute(run, threads) == (None if first == "lease lost" else Cancel("first"))
    assert not run.stop("shutdown", "third")


@pytest.mark.parametrize("cause,expected", CAUSES)
async def test_a_run_that_is_stopped_before_it_begins_does_not(
    threads: HandlerThreads, cause: StopCause, expected: Any
) -> None:
    called: list[int] = []
    run = run_of(define_task("t", lambda: called.append(1)))
    run.stop(cause, f"because of {cause}")
    assert expected(await execute(run, threads))
    assert called == []


async def test_an_awaitable_made_while_it_was_told_to_stop_is_cancelled_at_its_first_wait() -> None:
    begun, loop, story = asyncio.Event(), asyncio.get_running_loop(), list[str]()

    async def inner() -> None:
        story.append("entered")
        await asyncio.Event().wait()

    def makes(ctx: TaskContext) -> Awaitable[None]:
        loop.call_soon_threadsafe(begun.set)
        ctx.signal.wait_in_thread()
        return inner()

    assert await stopped(makes, "shutdown", begun) == Release()
    assert len(story) <= 1


# Through a worker -------------------------------------------------------------------------------------------------


async def test_a_timeout_is_a_failed_attempt_of_its_task(timed_kv: KV, clock: WatchedClock) -> None:
    begun, reasons = asyncio.Event(), list[Any]()

    @define_task(name="slow", timeout=5, retry=RetryConfig(2, initial_delay=0, retry_on=TaskTimeoutError))
    async def slow(ctx: TaskContext) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            reasons.append((ctx.attempt, ctx.signal.reason))

    scheduler = TaskScheduler(timed_kv)
    async with working(timed_kv, slow) as worker:
        task_id = await scheduler.enqueue(slow)
        for attempt in (1, 2):
            await begun.wait()
            begun.clear()
            await clock.timer_set(5, attempt)
            clock.advance(5)
        task = await ended(timed_kv, task_id)
        assert worker.get_stats().failed_count == 2
    assert (task.status, task.attempt, len(task.errors)) == ("dead", 2, 2)
    assert reasons == [(1, "timeout after 5 s"), (2, "timeout after 5 s")]


async def test_without_a_timeout_it_runs_as_long_as_it_likes(timed_kv: KV, clock: WatchedClock) -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    @define_task(name="long", timeout=None)
    async def long(ctx: TaskContext) -> str:
        begun.set()
        await release.wait()
        return ctx.signal.reason or "undisturbed"

    scheduler = TaskScheduler(timed_kv)
    async with working(timed_kv, long, lock_ttl=1e8, heartbeat=1e7, poll_interval=1e8):
        task_id = await scheduler.enqueue(long)
        await begun.wait()
        clock.advance(1e6)
        release.set()
        assert (await ended(timed_kv, task_id)).result == "undisturbed"
