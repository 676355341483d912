"""Stopping a worker: what runs is finished or handed back, and nothing of it costs an attempt."""

import asyncio
import logging
import threading
from typing import Any

import pytest

from concave import (
    ConfigurationError,
    RetryConfig,
    StoreUnavailableError,
    TaskContext,
    TaskRegistry,
    TaskScheduler,
    create_task_worker,
    define_task,
    start_task_workers,
)
from concave.kv import KV
from concave.tasks import runs
from tests.tasks.support import ScriptedKV, WatchedClock, claim, ended, found, time_passing, until, working

AWAY = StoreUnavailableError("away")


class Waiter:
    """A handler that waits until it is released, and tells how it fared."""

    def __init__(self) -> None:
        self.begun, self.release = asyncio.Event(), asyncio.Event()
        self.story: list[str] = []

    def task(self, **options: Any) -> Any:
        async def waiter(ctx: TaskContext) -> str:
            self.begun.set()
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.story.append(ctx.signal.reason or "no reason")
                raise
            return "finished"

        return define_task("waiter", waiter, **options)


async def test_within_the_grace_it_finishes_and_nothing_new_begins(timed_kv: KV) -> None:
    waiter, scheduler = Waiter(), TaskScheduler(timed_kv)
    task = waiter.task()
    async with working(timed_kv, task) as worker:
        first = await scheduler.enqueue(task)
        await waiter.begun.wait()
        stopping = asyncio.create_task(worker.stop(grace=25))
        await asyncio.sleep(0)
        second = await scheduler.enqueue(task)
        waiter.release.set()
        await stopping
        assert worker.get_stats() == worker.get_stats()
        assert (worker.get_stats().status, worker.get_stats().uptime) == ("stopped", 0)
    assert (await found(timed_kv, first)).result == "finished"
    assert (await found(timed_kv, second)).status == "pending"


async def test_beyond_the_grace_it_is_cancelled_and_handed_back_at_once(
    timed_kv: KV, clock: WatchedClock
) -> None:
    waiter, scheduler = Waiter(), TaskScheduler(timed_kv)
    task = waiter.task(retry=RetryConfig(1))
    async with working(timed_kv, task) as worker:
        task_id = await scheduler.enqueue(task)
        await waiter.begun.wait()
        stopping = asyncio.create_task(worker.stop(grace=25))
        await clock.timer_set(25)
        clock.advance(25)
        await stopping
    waiting = await found(timed_kv, task_id)
    assert waiter.story == ["the worker stops"]
    assert (waiting.status, waiting.attempt, waiting.crashes, waiting.interruptions) == ("pending", 0, 0, 1)
    (lease,) = await claim(timed_kv, "waiter")
    assert (lease.task.attempt, lease.suspect) == (1, False)


@pytest.mark.parametrize("kind", ["async", "def"])
async def test_a_handler_that_does_not_stop_is_handed_back_while_it_runs(
    timed_kv: KV, clock: WatchedClock, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    begun, release, loop = asyncio.Event(), threading.Event(), asyncio.get_running_loop()
    over, ran = asyncio.Event(), list[str]()

    async def deaf(ctx: TaskContext) -> str:
        begun.set()
        while not over.is_set():
            try:
                await over.wait()
            except asyncio.CancelledError:
                ran.append("cancelled")
        return "late"

    def deaf_in_thread(ctx: TaskContext) -> str:
        loop.call_soon_threadsafe(begun.set)
        release.wait()
        return "late"

    scheduler = TaskScheduler(timed_kv)
    task: Any = define_task("deaf", deaf if kind == "async" else deaf_in_thread)
    async with working(timed_kv, task) as worker:
        task_id = await scheduler.enqueue(task)
        await begun.wait()
        stopping = asyncio.create_task(worker.stop(grace=0))
        await clock.timer_set(runs.UNWIND)
        clock.advance(runs.UNWIND)
        await stopping
        waiting = await found(timed_kv, task_id)
        assert (waiting.status, waiting.attempt, waiting.interruptions) == ("pending", 0, 1)
        assert "is handed back while it runs" in caplog.text
        over.set()
        release.set()
        # The same worker, started again, has threads of its own: the old handler, still there or not, is in no one's way.
        await worker.start()
        async with time_passing(clock):
            task = await ended(timed_kv, task_id)
    assert (task.result, task.attempt, task.interruptions) == ("late", 1, 1)


@pytest.mark.parametrize("why", ["cancelled", "timeout"])
async def test_a_handler_that_was_to_stop_for_good_and_does_not_is_given_up(
    timed_kv: KV, clock: WatchedClock, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Handed back, it would run again: each deploy would undo the cancellation, or give the only attempt once more."""
    begun, release, loop = asyncio.Event(), threading.Event(), asyncio.get_running_loop()

    def deaf(ctx: TaskContext) -> None:
        loop.call_soon_threadsafe(begun.set)
        release.wait()

    scheduler = TaskScheduler(timed_kv)
    task: Any = define_task("deaf", deaf, timeout=5, retry=RetryConfig(1))
    async with working(timed_kv, task) as worker:
        task_id = await scheduler.enqueue(task)
        await begun.wait()
        if why == "cancelled":
            assert await scheduler.cancel(task_id, running=True)
            (run,) = worker._runs.to_renew
            await until(lambda: run.told_to_stop)
        else:
            clock.advance(5)
        stopping = asyncio.create_task(worker.stop(grace=0))
        await clock.timer_set(runs.UNWIND)
        clock.advance(runs.UNWIND)
        await stopping
        release.set()
    ended_as = await found(timed_kv, task_id)
    assert (ended_as.status, ended_as.interruptions) == ("cancelled" if why == "cancelled" else "dead", 0)
    assert f"is given up ({why}) while it runs" in caplog.text
    assert await claim(timed_kv, "deaf") == []


async def test_a_restarted_worker_does_not_wait_for_a_thread_it_left_behind(
    timed_kv: KV, clock: WatchedClock
) -> None:
    begun, release, loop = asyncio.Event(), threading.Event(), asyncio.get_running_loop()

    @define_task(name="deaf")
    def deaf() -> None:
        loop.call_soon_threadsafe(begun.set)
        release.wait()

    @define_task(name="quick", priority=100)
    def quick() -> str:
        return threading.current_thread().name

    scheduler = TaskScheduler(timed_kv)
    async with working(timed_kv, deaf, quick, concurrency=1, id="w") as worker:
        await scheduler.enqueue(deaf)
        await begun.wait()
        async with time_passing(clock, at_most=5):
            await worker.stop(grace=0)
        task_id = await scheduler.enqueue(quick)
        await worker.start()
        assert (await ended(timed_kv, task_id)).result == "concave-w-1"
        release.set()


async def test_stopping_twice_is_harmless_and_the_second_time_may_hurry(timed_kv: KV) -> None:
    waiter, scheduler = Waiter(), TaskScheduler(timed_kv)
    task = waiter.task()
    async with working(timed_kv, task) as worker:
        task_id = await scheduler.enqueue(task)
        await waiter.begun.wait()
        patient = asyncio.create_task(worker.stop(grace=3600))
        await asyncio.sleep(0)
        await worker.stop(grace=0)
        await patient
        await worker.stop()
    assert waiter.story == ["the worker stops"]
    assert (await found(timed_kv, task_id)).interruptions == 1
    with pytest.raises(ConfigurationError, match="grace"):
        await worker.stop(grace=-1)


async def test_a_stop_that_is_itself_cancelled_still_hands_back(timed_kv: KV) -> None:
    waiter, scheduler = Waiter(), TaskScheduler(timed_kv)
    task = waiter.task()
    async with working(timed_kv, task) as worker:
        task_id = await scheduler.enqueue(task)
        await waiter.begun.wait()
        stopping = asyncio.create_task(worker.stop(grace=3600))
        await asyncio.sleep(0)
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        assert worker.get_stats().status == "stopped"
    await until(lambda: bool(waiter.story))
    assert waiter.story == ["the worker stops"]
    assert (await found(timed_kv, task_id)).interruptions == 1


async def test_it_stops_while_the_store_is_out_of_reach(
    timed_kv: KV, clock: WatchedClock, caplog: pytest.LogCaptureFixture
) -> None:
    waiter, scheduler, spied = Waiter(), TaskScheduler(timed_kv), ScriptedKV(timed_kv)
    task = waiter.task()
    with caplog.at_level(logging.WARNING):
        async with working(spied, task) as worker:
            task_id = await scheduler.enqueue(task)
            await waiter.begun.wait()
            for verb in ("settle", "claim", "extend"):
                spied.script.fail(verb, AWAY, times=float("inf"))
            waiter.release.set()
            await spied.script.called("settle", 1)
            async with time_passing(clock, at_most=20):
                await worker.stop(grace=25)
    assert "stops with 1 results unsettled: away" in caplog.text
    assert (
        spied.script.calls["settle"] == 5
    )  # once before it was told to stop, and then at first and three times more
    assert (await found(timed_kv, task_id)).status == "running"


async def test_it_stops_at_once_while_it_waits_for_the_store_to_come_back(timed_kv: KV) -> None:
    spied = ScriptedKV(timed_kv)
    task = Waiter().task()
    back = spied.script.fail("claim", AWAY, times=float("inf"))
    async with working(spied, task) as worker:
        await spied.script.called("claim", 1)
        back()
        await worker.stop()  # on a clock that stands still
    assert spied.script.calls["claim"] == 2


async def test_what_a_lost_answer_leased_is_handed_back_and_not_left_to_look_like_a_crash(
    timed_kv: KV,
) -> None:
    scheduler, spied = TaskScheduler(timed_kv), ScriptedKV(timed_kv)
    waiter = Waiter()
    task = waiter.task()
    task_id = await scheduler.enqueue(task)
    spied.script.fail("claim", AWAY, carried_out=True)
    async with working(spied, task) as worker:
        await spied.script.called("claim", 1)
        assert (await found(timed_kv, task_id)).status == "running"
        await worker.stop()
    waiting = await found(timed_kv, task_id)
    assert (waiting.status, waiting.interruptions, waiting.crashes) == ("pending", 1, 0)
    assert not waiter.begun.is_set()


async def test_a_cancellation_outranks_the_shutdown_it_meets(timed_kv: KV) -> None:
    begun, told, over = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @define_task(name="slow-to-leave")
    async def slow_to_leave(ctx: TaskContext) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            told.set()
            await over.wait()

    scheduler, heard = TaskScheduler(timed_kv), asyncio.Event()
    async with working(timed_kv, slow_to_leave, id="w") as worker:
        task_id = await scheduler.enqueue(slow_to_leave)
        await begun.wait()
        stopping = asyncio.create_task(worker.stop(grace=0))
        await told.wait()
        listener = await timed_kv.store.listen("abort:w", lambda _: heard.set())
        assert await scheduler.cancel(task_id, running=True)
        await heard.wait()
        over.set()
        await stopping
        await listener.close()
    assert (await found(timed_kv, task_id)).status == "cancelled"


async def test_a_start_that_fails_leaves_nothing_behind(timed_kv: KV) -> None:
    spied = ScriptedKV(timed_kv)
    worker = create_task_worker(spied, TaskRegistry(), sweeps=False)
    for verb in ("connect", "listen"):
        spied.script.fail(verb, AWAY)
        with pytest.raises(StoreUnavailableError):
            await worker.start()
        assert worker.get_stats().status == "stopped"
        assert "concave-heartbeat" not in _threads()
    await worker.start()
    await worker.start()
    assert worker.get_stats().status == "running"
    await worker.stop()


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


async def test_of_several_workers_all_start_or_none(timed_kv: KV) -> None:
    waiter = Waiter()
    task = waiter.task()
    calls: list[str] = []

    class SecondFails(ScriptedKV):
        async def connect(self) -> None:
            calls.append("connect")
            if len(calls) == 2:
                raise AWAY
            await super().connect()

    with pytest.raises(StoreUnavailableError):
        await start_task_workers(SecondFails(timed_kv), TaskRegistry([task]), 3)
    assert len(calls) == 2
    await TaskScheduler(timed_kv).enqueue(task)
    await asyncio.sleep(0)
    assert not waiter.begun.is_set()
    assert "concave-heartbeat" not in _threads()


async def test_a_start_that_is_under_way_is_stopped_too(timed_kv: KV) -> None:
    spied = ScriptedKV(timed_kv)
    there, let_through = spied.script.hold_answer("connect")
    worker = create_task_worker(spied, TaskRegistry(), sweeps=False)
    starting = asyncio.create_task(worker.start())
    await there.wait()
    stopping = asyncio.create_task(worker.stop())
    await asyncio.sleep(0)
    let_through.set()
    await asyncio.gather(starting, stopping)
    assert worker.get_stats().status == "stopped"


async def test_two_starts_at_once_are_one(timed_kv: KV) -> None:
    spied = ScriptedKV(timed_kv)
    worker = create_task_worker(spied, TaskRegistry(), sweeps=False)
    await asyncio.gather(worker.start(), worker.start())
    assert spied.script.calls["connect"] == 1
    await worker.stop()


async def test_a_start_that_is_called_off_before_its_heartbeat_runs_ends(
    kv: KV, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread is there and has no loop yet: there is nothing yet by which to stop it."""
    run, there, let_through = asyncio.run, threading.Event(), threading.Event()

    def run_later(main: Any) -> None:
        there.set()
        let_through.wait()
        run(main)

    monkeypatch.setattr(asyncio, "run", run_later)
    starting = asyncio.create_task(create_task_worker(kv, TaskRegistry()).start())
    await asyncio.to_thread(there.wait)
    starting.cancel()
    for _ in range(5):  # turns, in which it is told to stop
        await asyncio.sleep(0)
    let_through.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert "concave-heartbeat" not in _threads()
