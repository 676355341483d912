"""Workers and what they run: on memory and on Redis, by real time, waiting on events and never sleeping."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from concave import (
    ConfigurationError,
    Discard,
    RetryConfig,
    RetryLater,
    StoreUnavailableError,
    Task,
    TaskContext,
    TaskDefinition,
    TaskInputError,
    TaskRegistry,
    TaskScheduler,
    create_task_worker,
    define_task,
    start_task_workers,
)
from concave.kv import KV, MemoryKV
from concave.store.protocol import done_topic
from concave.store.records import Claim, Settled
from concave.tasks import TaskWorker, create_dead_letter_queue
from concave.tasks.defaults import announce_outbox
from concave.tasks.outbox import Submit
from concave.tasks.submission import submission
from concave.testing import FakeClock


class Number(BaseModel):
    n: int


@define_task(name="double")
async def double(ctx: TaskContext, number: Number) -> int:
    return number.n * 2


@asynccontextmanager
async def working(kv: KV, *tasks: TaskDefinition[Any, Any], **options: Any) -> AsyncGenerator[TaskWorker]:
    given: dict[str, Any] = {"poll_interval": 30, **options}
    worker = create_task_worker(kv, TaskRegistry(tasks), **given)
    await worker.start()
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop(grace=0)
        await worker.stop()


async def run(kv: KV, task: TaskDefinition[Any, Any], value: Any = None, **options: Any) -> Task:
    scheduler = TaskScheduler(kv)
    async with working(kv, task, **options):
        done = await scheduler.wait(await scheduler.enqueue(task, value), timeout=60)
    assert done is not None
    return done


async def test_a_task_runs_and_its_result_is_kept(kv: KV) -> None:
    task = await run(kv, double, {"n": 21})
    assert (task.status, task.result, task.attempt, task.last_error) == ("completed", 42, 1, None)
    assert task.completed_at is not None
    assert task.started_at is not None


async def test_handlers_of_every_shape(kv: KV) -> None:
    thread: list[str] = []

    def plain(ctx: TaskContext, number: Number) -> int:
        thread.append(threading.current_thread().name)
        return number.n

    def nothing() -> str:
        return "nothing"

    async def context(ctx: TaskContext) -> list[Any]:
        assert ctx.name == "context"
        assert ctx.started_at >= ctx.scheduled_at
        return [ctx.attempt, ctx.worker_id, ctx.signal.aborted, ctx.state["db"]]

    assert (await run(kv, define_task(name="plain", handler=plain), {"n": 3})).result == 3
    assert thread[0].startswith("concave-")
    assert (await run(kv, define_task(nothing))).result == "nothing"
    result = (await run(kv, define_task(context), id="me", state={"db": 1})).result
    assert result == [1, "me", False, 1]


async def test_failures_are_retried_and_end_in_the_dead_letters(kv: KV) -> None:
    attempts: list[int] = []

    @define_task(retry=RetryConfig(max_attempts=3, initial_delay=0))
    async def fails(ctx: TaskContext) -> None:
        attempts.append(ctx.attempt)
        raise ValueError("boom")

    task = await run(kv, fails)
    assert (task.status, task.attempt, attempts) == ("dead", 3, [1, 2, 3])
    assert "boom" in (task.last_error or "")
    assert [error.attempt for error in task.errors] == [1, 2, 3]
    assert "test_worker.py" in task.errors[0].traceback
    dlq = create_dead_letter_queue(kv)
    (entry,) = await dlq.list()
    assert (entry.task_id, entry.attempts, await dlq.count()) == (task.id, 3, 1)
    assert "boom" in entry.reason
    assert await dlq.get(task.id) == entry
    assert await dlq.get("unknown") is None
    new = await dlq.retry(task.id)
    assert new is not None
    assert await dlq.retry(task.id) is None
    revived = await TaskScheduler(kv).get_task(new)
    assert revived is not None
    assert (revived.status, revived.attempt, revived.revived_from) == ("pending", 0, task.id)
    with pytest.raises(ConfigurationError):
        await dlq.purge(0)
    with pytest.raises(ConfigurationError):
        await dlq.list(0)


async def test_retry_all_and_purge(kv: KV) -> None:
    @define_task(retry=RetryConfig(max_attempts=1))
    async def fails(ctx: TaskContext) -> None:
        raise Discard("never")

    dlq, scheduler = create_dead_letter_queue(kv), TaskScheduler(kv)
    async with working(kv, fails):
        for task_id in await scheduler.enqueue_many(fails, [None, None, None]):
            await scheduler.wait(task_id)
    assert [entry.reason for entry in await dlq.list()] == ["never"] * 3
    assert await dlq.purge(timedelta(days=7)) == 0
    assert await dlq.retry_all() == 3
    assert (await dlq.count(), await scheduler.get_queue_depth()) == (0, 3)


@pytest.mark.parametrize(
    "raised", [SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError(), BaseException("x")]
)
@pytest.mark.parametrize("kind", ["async", "def"])
async def test_whatever_a_handler_raises_is_a_failed_attempt(
    kv: KV, raised: BaseException, kind: str
) -> None:
    async def raises() -> None:
        raise raised

    def raises_in_thread() -> None:
        raise raised

    handler: Any = raises if kind == "async" else raises_in_thread
    task: Any = define_task(name="raises", handler=handler, retry=RetryConfig(max_attempts=1))
    done = await run(kv, task)
    assert (done.status, done.attempt) == ("dead", 1)
    assert (await run(kv, double, {"n": 1})).result == 2


async def test_a_handler_that_asks_for_later_spends_no_attempt(kv: KV) -> None:
    calls: list[int] = []

    @define_task
    async def later(ctx: TaskContext) -> str:
        calls.append(ctx.attempt)
        if len(calls) < 3:
            raise RetryLater(delay=0)
        return "now"

    task = await run(kv, later)
    assert (task.status, task.attempt, calls) == ("completed", 1, [1, 1, 1])


@pytest.mark.parametrize("value", [float("nan"), object(), {1, "x", b"\xff"}])
async def test_a_result_that_json_cannot_hold_is_dead_at_once(kv: KV, value: Any) -> None:
    calls: list[int] = []

    @define_task
    async def odd(ctx: TaskContext) -> Any:
        calls.append(1)
        return value

    task = await run(kv, odd)
    assert (task.status, calls) == ("dead", [1])
    assert "the handler's result" in (task.last_error or "")


async def test_an_input_that_this_code_cannot_take_is_retried_and_then_dead(kv: KV) -> None:
    old: Any = define_task(name="double", handler=double.handler, input=dict[str, str])
    scheduler = TaskScheduler(kv)
    task_id = await scheduler.enqueue(old, {"n": "x"})
    picky = define_task(
        name="double", handler=double.handler, retry=RetryConfig(max_attempts=2, initial_delay=0)
    )
    async with working(kv, picky):
        task = await scheduler.wait(task_id)
    assert task is not None
    assert (task.status, task.attempt) == ("dead", 2)
    assert "can't take the input" in (task.last_error or "")


async def test_a_timeout_sets_the_signal_cancels_and_counts(kv: KV) -> None:
    seen: list[Any] = []

    @define_task(timeout=0.05, retry=RetryConfig(max_attempts=1))
    async def slow(ctx: TaskContext) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(ctx.signal.reason)

    @define_task(timeout=0.05, retry=RetryConfig(max_attempts=1))
    def slow_in_thread(ctx: TaskContext) -> str:
        assert ctx.signal.wait_in_thread()
        return "too late"

    task = await run(kv, slow)
    assert (task.status, task.attempt) == ("dead", 1)
    assert "timeout of 0.05 s" in (task.last_error or "")
    assert seen == ["timeout after 0.05 s"]
    assert (await run(kv, slow_in_thread)).status == "dead"


async def test_a_handler_that_waits_for_its_signal_hears_it_before_it_is_cancelled(kv: KV) -> None:
    heard: list[str] = []

    @define_task(timeout=0.05, retry=RetryConfig(max_attempts=1))
    async def listening(ctx: TaskContext) -> None:
        heard.append(await ctx.signal.wait())
        try:
            await asyncio.Event().wait()
        finally:
            heard.append("cancelled")

    assert (await run(kv, listening)).status == "dead"
    assert heard == ["timeout after 0.05 s", "cancelled"]


async def test_a_handler_that_ignores_its_timeout_keeps_its_slot_and_is_reported(
    kv: KV, caplog: pytest.LogCaptureFixture
) -> None:
    cancelled, finish, reported = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @define_task(timeout=0.01, max_concurrency=1, retry=RetryConfig(max_attempts=1))
    async def stubborn(ctx: TaskContext) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            await finish.wait()
        return "done all the same"

    class Report(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "ignores its timeout" in record.getMessage():
                reported.set()

    report, logger = Report(), logging.getLogger("concave.worker")
    logger.addHandler(report)
    scheduler = TaskScheduler(kv)
    async with working(kv, stubborn) as worker:
        first, second = await scheduler.enqueue_many(stubborn, [None, None])
        await cancelled.wait()
        await reported.wait()
        assert worker.get_stats().active_tasks == 1
        (other,) = [task for task in await scheduler.get_tasks() if task.status == "pending"]
        assert other.id in {first, second}
        finish.set()
        task = await scheduler.wait(first)
    logger.removeHandler(report)
    assert task is not None
    assert task.status == "dead"


async def test_cancelling_a_running_task_reaches_its_handler_at_once(kv: KV) -> None:
    started, in_thread = asyncio.Event(), threading.Event()

    @define_task
    async def long(ctx: TaskContext) -> None:
        started.set()
        await asyncio.Event().wait()

    @define_task
    def long_in_thread(ctx: TaskContext) -> None:
        in_thread.set()
        ctx.signal.wait_in_thread()
        ctx.signal.raise_if_aborted()

    scheduler = TaskScheduler(kv)
    async with working(kv, long, long_in_thread):
        task_id = await scheduler.enqueue(long)
        await started.wait()
        assert not await scheduler.cancel(task_id)
        assert await scheduler.cancel(task_id, running=True)
        task = await scheduler.wait(task_id)
        assert task is not None
        assert task.status == "cancelled"
        task_id = await scheduler.enqueue(long_in_thread)
        await asyncio.to_thread(in_thread.wait)
        assert await scheduler.cancel(task_id, running=True)
        task = await scheduler.wait(task_id)
        assert task is not None
        assert task.status == "cancelled"
        assert not await scheduler.cancel(task_id, running=True)


async def test_stopping_hands_back_what_does_not_finish_and_spends_nothing(kv: KV) -> None:
    started = asyncio.Event()

    @define_task
    async def long(ctx: TaskContext) -> None:
        started.set()
        await ctx.signal.wait()
        assert ctx.signal.reason == "the worker stops"

    scheduler = TaskScheduler(kv)
    async with working(kv, long) as worker:
        task_id = await scheduler.enqueue(long)
        await started.wait()
        await worker.stop(grace=0)
        assert worker.get_stats().status == "stopped"
        task = await scheduler.get_task(task_id)
    assert task is not None
    assert task.status in {"pending", "completed"}
    assert task.interruptions + (task.status == "completed") == 1


async def test_a_handler_that_ignores_the_stop_is_handed_back_while_it_runs(kv: KV) -> None:
    started, finish = threading.Event(), threading.Event()

    @define_task
    def deaf(ctx: TaskContext) -> str:
        started.set()
        finish.wait()
        return "late"

    scheduler = TaskScheduler(kv)
    async with working(kv, deaf) as worker:
        task_id = await scheduler.enqueue(deaf)
        await asyncio.to_thread(started.wait)
        await worker.stop(grace=0)
        task = await scheduler.get_task(task_id)
        assert task is not None
        assert (task.status, task.attempt, task.interruptions) == ("pending", 0, 1)
        finish.set()


async def test_pause_resume_and_stats(kv: KV) -> None:
    scheduler = TaskScheduler(kv)
    async with working(kv, double) as worker:
        worker.pause()
        worker.pause()
        task_id = await scheduler.enqueue(double, Number(n=1))
        assert worker.get_stats().status == "paused"
        async with working(kv, double) as other:
            await scheduler.wait(task_id)
            assert other.get_stats().processed_count == 1
        task_id = await scheduler.enqueue(double, Number(n=1))
        worker.resume()
        worker.resume()
        await scheduler.wait(task_id)
        stats = worker.get_stats()
        assert (stats.status, stats.processed_count, stats.failed_count) == ("running", 1, 0)
        assert stats.uptime > 0


async def test_task_types_limit_a_worker_and_unknown_names_wait(kv: KV) -> None:
    @define_task
    async def other(ctx: TaskContext) -> None: ...

    @define_task(priority=100)
    async def unknown(ctx: TaskContext) -> None: ...

    scheduler = TaskScheduler(kv)
    async with working(kv, double, other, task_types=["double"]):
        waits = [await scheduler.enqueue(other), await scheduler.enqueue(unknown)]
        done = await scheduler.wait(await scheduler.enqueue(double, {"n": 1}))
        assert done is not None
        assert done.result == 2
    assert [task.status for task in await scheduler.get_tasks(name=["other", "unknown"])] == [
        "pending",
        "pending",
    ]
    assert len(waits) == await scheduler.get_queue_depth()


async def test_a_blocked_loop_keeps_its_lease_and_the_log_names_the_task(
    kv: KV, caplog: pytest.LogCaptureFixture
) -> None:
    @define_task(name="blocker")
    async def blocker(ctx: TaskContext) -> int:
        time.sleep(1.2)  # noqa: ASYNC251  three leases, on the loop itself: the fault under test
        return ctx.attempt

    with caplog.at_level(logging.WARNING):
        task = await run(kv, blocker, lock_ttl=0.4, heartbeat=0.1)
    assert (task.status, task.attempt, task.crashes) == ("completed", 1, 0)
    assert "blocked" in caplog.text
    assert "blocker" in caplog.text


async def test_progress_is_shown(kv: KV) -> None:
    shown, finish = asyncio.Event(), asyncio.Event()

    @define_task
    async def steps(ctx: TaskContext) -> None:
        await ctx.progress(3, 10, "third")
        shown.set()
        await finish.wait()

    scheduler = TaskScheduler(kv)
    async with working(kv, steps):
        task_id = await scheduler.enqueue(steps)
        await shown.wait()
        task = await scheduler.get_task(task_id)
        assert task is not None
        assert task.progress is not None
        assert (task.progress.done, task.progress.total, task.progress.message) == (3, 10, "third")
        finish.set()
        await scheduler.wait(task_id)


async def test_a_def_handler_enqueues_with_one_call(kv: KV) -> None:
    scheduler = TaskScheduler(kv)

    @define_task
    def parent(ctx: TaskContext) -> str:
        return scheduler.enqueue_from_thread(double, {"n": 5})

    async with working(kv, parent, double):
        done = await scheduler.wait(await scheduler.enqueue(parent))
        assert done is not None
        child = await scheduler.wait(done.result)
    assert child is not None
    assert child.result == 10
    with pytest.raises(ConfigurationError, match="await"):
        scheduler.enqueue_from_thread(double, {"n": 5})


async def test_a_worker_outlives_its_store_and_settles_what_it_ran_once(
    kv: KV, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    @define_task
    async def once(ctx: TaskContext) -> None:
        ran.append(ctx.task_id)
        failures.extend([settle_fails, settle_fails])

    settle_fails: Callable[[], None] = lambda: None  # noqa: E731
    failures: list[Any] = []
    settle = kv.store.settle

    async def failing(settlements: Any, claim: Claim | None = None) -> Settled:
        if failures:
            failures.pop()
            raise StoreUnavailableError("away")
        return await settle(settlements, claim)

    monkeypatch.setattr(kv.store, "settle", failing)
    task = await run(kv, once)
    assert (task.status, ran) == ("completed", [task.id])


async def test_a_claim_without_an_answer_is_made_again_with_its_nonce(
    kv: KV, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, nonces = kv.store.claim, list[str]()

    async def loses_its_first_answer(wanted: Claim) -> Any:
        claimed = await claim(wanted)
        nonces.append(wanted.nonce)
        if len(nonces) == 1:
            raise StoreUnavailableError("the answer was lost")
        return claimed

    scheduler = TaskScheduler(kv)
    task_id = await scheduler.enqueue(double, {"n": 1})
    monkeypatch.setattr(kv.store, "claim", loses_its_first_answer)
    async with working(kv, double):
        task = await scheduler.wait(task_id)
    assert task is not None
    assert (task.result, task.crashes) == (2, 0)
    assert nonces[0] == nonces[1]


async def test_an_idle_worker_is_woken_and_does_not_poll() -> None:
    clock = FakeClock()
    async with MemoryKV(clock=clock) as kv, working(kv, double):
        scheduler = TaskScheduler(kv)  # on a clock that stands still, nothing but a wake-up can start a task
        for _ in range(3):
            done = await scheduler.wait(await scheduler.enqueue(double, {"n": 1}))
            assert done is not None
        task_id = await scheduler.schedule(double, {"n": 2}, delay=3600)
        for _ in range(3600 // 30):
            await asyncio.sleep(0)
            clock.advance(30)
        done = await scheduler.wait(task_id)
        assert done is not None
        assert done.result == 4


@pytest.mark.parametrize(
    "options,named",
    [
        ({"concurrency": 0}, "concurrency"),
        ({"heartbeat": 20}, "heartbeat"),
        ({"lock_ttl": 0}, "lock_ttl"),
        ({"lock_ttl": "30"}, "lock_ttl"),
        ({"poll_interval": -1}, "poll_interval"),
        ({"task_types": "double"}, "task_types"),
    ],
)
async def test_options_that_cannot_be(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        create_task_worker(MemoryKV(), TaskRegistry(), **options)
    with pytest.raises(ConfigurationError, match="count"):
        await start_task_workers(MemoryKV(), TaskRegistry(), 0)


@pytest.mark.parametrize(
    "call,error",
    [
        (lambda s: s.enqueue(double, {"n": "x"}), TaskInputError),
        (lambda s: s.enqueue(double), TaskInputError),
        (lambda s: s.enqueue(double, {"n": 1}, priority=101), ConfigurationError),
        (lambda s: s.schedule(double, {"n": 1}, at=datetime(2030, 1, 1)), ConfigurationError),  # noqa: DTZ001
        (lambda s: s.schedule(double, {"n": 1}, delay=-1), ConfigurationError),
        (lambda s: s.schedule(double, {"n": 1}, delay=1, at=datetime.now(UTC)), ConfigurationError),
        (lambda s: s.enqueue(double, {"n": 1}, idempotency_key=""), ConfigurationError),
        (lambda s: s.enqueue_many(double, [{"n": 1}, {"n": "x"}]), TaskInputError),
        (lambda s: s.get_tasks(status="odd"), ConfigurationError),
        (lambda s: s.get_tasks(limit=0), ConfigurationError),
    ],
)
async def test_bad_input_stores_nothing(kv: KV, call: Any, error: type[Exception]) -> None:
    scheduler = TaskScheduler(kv)
    with pytest.raises(error):
        await call(scheduler)
    assert await scheduler.get_queue_depth() == 0


async def test_workers_relay_what_outboxes_still_hold(kv: KV) -> None:
    class Left:
        def __init__(self) -> None:
            self.rows = [submission(double, {"n": 4})]
            self.drained = False

        async def sweep(self, submit: Submit) -> int:
            rows, self.rows = self.rows, []
            await submit(rows)
            return len(rows)

        async def delivered(self, destination: str) -> bool:
            return False

        async def drain(self) -> None:
            self.drained = True

    left = Left()
    announce_outbox(left)
    task_id = left.rows[0].id
    scheduler = TaskScheduler(kv)
    workers = await start_task_workers(kv, TaskRegistry([double]), 3, poll_interval=30)
    work = asyncio.Event()
    listener = await kv.store.listen(done_topic(task_id), lambda _: work.set())
    task = await scheduler.get_task(task_id)
    while task is None or task.status != "completed":
        await work.wait()
        task = await scheduler.get_task(task_id)
    await listener.close()
    for worker in workers:
        await worker.stop()
    assert left.drained
