"""Leases: kept while the handler runs, lost when they must be, and then without effect. By a clock that the test holds."""

import asyncio
import logging
import threading
from typing import Any

import pytest

from concave import (
    RetryConfig,
    StoreUnavailableError,
    TaskContext,
    TaskRegistry,
    TaskScheduler,
    create_task_worker,
    define_task,
)
from concave.kv import KV
from concave.store.records import Complete, Settlement
from concave.tasks import TaskWorker
from tests.tasks.support import (
    ScriptedKV,
    WatchedClock,
    claim,
    ended,
    found,
    logged,
    time_passing,
    until,
    working,
)

BEAT = 10.0
AWAY = StoreUnavailableError("away")


async def beats(clock: WatchedClock, spied: ScriptedKV, times: int, *, before: int = 0) -> None:
    """Let that many heartbeats pass, each with its renewal."""
    for beat in range(before + 1, before + times + 1):
        await clock.timer_set(BEAT, beat)
        clock.advance(BEAT)
        await spied.script.called("extend", beat)


async def test_a_blocked_loop_keeps_its_lease_for_three_leases_and_the_log_names_the_task(
    timed_kv: KV, clock: WatchedClock, caplog: pytest.LogCaptureFixture
) -> None:
    spied, scheduler = ScriptedKV(timed_kv), TaskScheduler(timed_kv)

    @define_task(name="blocker")
    async def blocker(ctx: TaskContext) -> int:
        for beat in range(1, 10):  # three leases of 30 s, on the loop itself: the fault under test
            clock.wait_for_timer(BEAT, beat)
            clock.advance(BEAT)
            spied.script.called_in_thread("extend", beat)
        return ctx.attempt

    napping, enough = list[str](), asyncio.Event()

    @define_task(name="napper")
    async def napper(ctx: TaskContext) -> None:
        napping.append(ctx.task_id)
        await enough.wait()

    with caplog.at_level(logging.WARNING):
        async with working(spied, blocker, napper, concurrency=20):
            await scheduler.enqueue_many(napper, [None] * 11)
            await until(lambda: len(napping) == 11)
            task_id = await scheduler.enqueue(blocker)
            task = await ended(timed_kv, task_id)
            enough.set()
    assert (task.status, task.result, task.crashes) == ("completed", 1, 0)
    told = "the event loop has been blocked for at least 10.0 s, now by concave-task-blocker; running: "
    assert f"{told}blocker ({task_id}), napper (" in caplog.text
    assert " and 2 more" in caplog.text


async def test_a_loop_that_stays_blocked_past_timeout_and_grace_is_a_dead_worker(
    timed_kv: KV, clock: WatchedClock
) -> None:
    spied, scheduler = ScriptedKV(timed_kv), TaskScheduler(timed_kv)
    taken: list[int] = []

    async def claim_elsewhere() -> None:
        async with timed_kv.twin() as twin:
            taken.extend(lease.task.crashes for lease in await claim(twin, "blocker"))

    @define_task(name="blocker", timeout=15)
    async def blocker(ctx: TaskContext) -> str:
        for beat in range(1, 6):
            clock.wait_for_timer(BEAT, beat)
            clock.advance(BEAT)
            spied.script.called_in_thread("extend", min(beat, 2))  # at 30 s: past 15 s and a grace of 10 s
        thread = threading.Thread(target=lambda: asyncio.run(claim_elsewhere()))
        thread.start()
        thread.join()
        return "much too late"

    async with working(spied, blocker) as worker:
        with logged("came too late and was refused") as refused:
            task_id = await scheduler.enqueue(blocker)
            await refused.wait()
        assert worker.get_stats().stale_count == 1
    assert spied.script.calls["extend"] == 2
    assert taken == [1]
    task = await found(timed_kv, task_id)
    assert (task.status, task.worker_id, task.crashes) == ("running", "elsewhere", 1)


async def test_a_short_lease_is_renewed_in_thirds_of_it(timed_kv: KV, clock: WatchedClock) -> None:
    spied, scheduler = ScriptedKV(timed_kv), TaskScheduler(timed_kv)

    @define_task(name="slow")
    async def slow(ctx: TaskContext) -> None:
        for beat in range(1, 5):
            clock.wait_for_timer(2, beat)
            clock.advance(2)
            spied.script.called_in_thread("extend", beat)

    async with working(spied, slow, lock_ttl=6, poll_interval=1e6):
        task = await ended(timed_kv, await scheduler.enqueue(slow))
    assert (task.status, task.crashes) == ("completed", 0)


async def test_a_handler_that_ignores_its_timeout_keeps_its_lease_as_long_as_it_runs(
    timed_kv: KV, clock: WatchedClock
) -> None:
    spied, scheduler = ScriptedKV(timed_kv), TaskScheduler(timed_kv)
    begun, release = asyncio.Event(), asyncio.Event()

    @define_task(name="stubborn", timeout=5, retry=RetryConfig(1))
    async def stubborn(ctx: TaskContext) -> str:
        begun.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                assert ctx.signal.reason == "timeout after 5 s"  # the signal comes first
        return "done all the same"

    async with working(spied, stubborn) as worker:
        task_id = await scheduler.enqueue(stubborn)
        await begun.wait()
        with logged("ignores its timeout of 5 s") as reported:
            await beats(clock, spied, 2)
            await reported.wait()
        await beats(clock, spied, 7, before=2)
        assert await claim(timed_kv, "stubborn") == []
        assert worker.get_stats().active_tasks == 1
        release.set()
        task = await ended(timed_kv, task_id)
    assert (task.status, task.attempt, task.crashes) == ("dead", 1, 0)
    assert "longer than its timeout" in (task.last_error or "")


async def test_a_late_completion_is_refused_and_counted(timed_kv: KV, clock: WatchedClock) -> None:
    spied, scheduler = ScriptedKV(timed_kv), TaskScheduler(timed_kv)
    begun, release = asyncio.Event(), asyncio.Event()

    @define_task(name="slow")
    async def slow(ctx: TaskContext) -> str:
        begun.set()
        await release.wait()
        return "late"

    spied.script.fail("extend", AWAY, times=float("inf"))
    async with working(spied, slow, concurrency=1) as worker:
        task_id = await scheduler.enqueue(slow)
        await begun.wait()
        clock.advance(31)
        (lease,) = await claim(timed_kv, "slow")
        assert (lease.task.id, lease.suspect) == (task_id, True)
        with logged("came too late and was refused") as refused:
            release.set()
            await refused.wait()
        assert worker.get_stats().stale_count == 1
    await timed_kv.store.settle([Settlement(lease, Complete(b'"in time"'))])
    task = await found(timed_kv, task_id)
    assert (task.result, task.crashes) == ("in time", 1)


@pytest.mark.parametrize("kind", ["async", "def"])
async def test_a_lost_lease_stops_its_handler_and_nothing_is_settled(
    timed_kv: KV, clock: WatchedClock, kind: str
) -> None:
    spied, scheduler = ScriptedKV(timed_kv), TaskScheduler(timed_kv)
    reasons: list[str | None] = []
    begun, loop = asyncio.Event(), asyncio.get_running_loop()

    async def in_loop(ctx: TaskContext) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            reasons.append(ctx.signal.reason)

    def in_thread(ctx: TaskContext) -> None:
        loop.call_soon_threadsafe(begun.set)
        ctx.signal.wait_in_thread()
        reasons.append(ctx.signal.reason)
        ctx.signal.raise_if_aborted()

    task: Any = define_task("slow", in_loop if kind == "async" else in_thread)
    back = spied.script.fail("extend", AWAY, times=float("inf"))
    async with working(spied, task, concurrency=1) as worker:
        task_id = await scheduler.enqueue(task)
        await begun.wait()
        await clock.timer_set(BEAT)
        clock.advance(31)
        await spied.script.called("extend", 1)
        await claim(timed_kv, "slow")
        back()
        with logged("the lease was lost while its handler ran") as lost:
            await clock.timer_set(1.0)  # the heart beats faster until it gets an answer
            clock.advance(1)
            await lost.wait()
        await until(lambda: not worker.get_stats().active_tasks)
        assert worker.get_stats().failed_count == 0
    assert reasons == ["the lease was lost"]
    assert (await found(timed_kv, task_id)).worker_id == "elsewhere"


async def test_a_worker_that_claims_its_own_lost_task_counts_both_runs(
    timed_kv: KV, clock: WatchedClock
) -> None:
    spied, scheduler = ScriptedKV(timed_kv), TaskScheduler(timed_kv)
    runs: list[asyncio.Event] = []
    begun = asyncio.Event()

    @define_task(name="slow", timeout=None)
    async def slow(ctx: TaskContext) -> int:
        release, number = asyncio.Event(), len(runs)
        runs.append(release)
        begun.set()
        await release.wait()
        return number

    spied.script.fail("extend", AWAY, times=float("inf"))
    async with working(spied, slow, concurrency=3) as worker:
        task_id = await scheduler.enqueue(slow)
        await begun.wait()
        begun.clear()
        clock.advance(29)
        async with time_passing(clock):
            await begun.wait()
        assert worker.get_stats().active_tasks == 2
        with logged("came too late and was refused") as refused:
            runs[0].set()
            await refused.wait()
        runs[1].set()
        task = await ended(timed_kv, task_id)
    assert (task.result, task.crashes) == (1, 1)


async def test_what_the_store_has_not_taken_yet_is_renewed_too(timed_kv: KV, clock: WatchedClock) -> None:
    """The store takes renewals and refuses settlements, for longer than a lease: nothing is run again."""
    spied, scheduler = ScriptedKV(timed_kv), TaskScheduler(timed_kv)
    ran: list[int] = []

    @define_task(name="once")
    async def once(ctx: TaskContext) -> str:
        ran.append(ctx.attempt)
        return "done"

    back = spied.script.fail("settle", AWAY, times=float("inf"))
    async with working(spied, once):
        task_id = await scheduler.enqueue(once)
        await spied.script.called("settle", 1)
        await beats(clock, spied, 5)
        assert await claim(timed_kv, "once") == []
        back()
        async with time_passing(clock):
            task = await ended(timed_kv, task_id)
    assert (task.status, task.crashes, ran) == ("completed", 0, [1])


@pytest.mark.parametrize("verb,error", [("extend", RuntimeError("odd")), ("extend", AWAY), ("connect", AWAY)])
async def test_the_heart_beats_on_after_any_error(
    timed_kv: KV, clock: WatchedClock, verb: str, error: Exception
) -> None:
    spied, scheduler = ScriptedKV(timed_kv), TaskScheduler(timed_kv)
    begun, release = asyncio.Event(), asyncio.Event()

    @define_task(name="slow")
    async def slow(ctx: TaskContext) -> None:
        begun.set()
        await release.wait()

    async with working(spied, slow):
        task_id = await scheduler.enqueue(slow)
        await begun.wait()
        spied.script.fail(verb, error)
        with logged(f"could not renew leases: {error}") as told:
            await clock.timer_set(BEAT)
            clock.advance(BEAT)
            await told.wait()
        before = spied.script.calls["extend"]
        await clock.timer_set(1.0)
        clock.advance(1)
        await spied.script.called("extend", before + 1)
        release.set()
        assert (await ended(timed_kv, task_id)).crashes == 0


async def test_a_task_that_ends_during_a_beat_has_lost_nothing(
    timed_kv: KV, clock: WatchedClock, caplog: pytest.LogCaptureFixture
) -> None:
    spied, scheduler = ScriptedKV(timed_kv), TaskScheduler(timed_kv)
    begun, release = asyncio.Event(), asyncio.Event()

    @define_task(name="slow")
    async def slow(ctx: TaskContext) -> None:
        begun.set()
        await release.wait()

    asked, go_on = threading.Event(), threading.Event()

    class Slow(ScriptedKV):
        def twin(self) -> "Slow":
            return Slow(self._kv.twin(), self.script)

        @property
        def store(self) -> Any:
            store = super().store

            async def later(*args: Any) -> Any:
                asked.set()
                go_on.wait()
                return await super(Slow, self).store.extend(*args)

            store.extend = later
            return store

    slowed = Slow(timed_kv, spied.script)
    async with working(slowed, slow):
        task_id = await scheduler.enqueue(slow)
        await begun.wait()
        await clock.timer_set(BEAT)
        clock.advance(BEAT)
        await asyncio.to_thread(asked.wait)
        release.set()
        await ended(timed_kv, task_id)
        go_on.set()
        await spied.script.called("extend", 1)
        await asyncio.sleep(0)
    assert "lost" not in caplog.text


async def test_a_heart_that_cannot_start_lets_nothing_start(
    timed_kv: KV, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_loop(main: Any) -> None:
        main.close()
        raise OSError("too many open files")

    worker = create_task_worker(timed_kv, TaskRegistry(), sweeps=False)
    with monkeypatch.context() as patched:
        patched.setattr(asyncio, "run", no_loop)
        with pytest.raises(OSError, match="too many"):
            await worker.start()
    assert worker.get_stats().status == "stopped"
    await worker.start()
    assert worker.get_stats().status == "running"
    await worker.stop()


async def test_the_heart_hears_of_an_abort_whose_message_was_lost(
    timed_kv: KV, clock: WatchedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TaskWorker, "_on_abort", lambda self, task_id: None)  # no message ever reaches it
    spied, scheduler, begun = ScriptedKV(timed_kv), TaskScheduler(timed_kv), asyncio.Event()

    @define_task(name="endless")
    async def endless(ctx: TaskContext) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with working(spied, endless):
        task_id = await scheduler.enqueue(endless)
        await begun.wait()
        assert await scheduler.cancel(task_id, running=True)
        await beats(clock, spied, 1)
        assert (await ended(timed_kv, task_id)).status == "cancelled"
