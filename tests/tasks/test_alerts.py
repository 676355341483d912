"""`on_dead_letter`: a callback for what dies, once, wherever it died. On both stores."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from concave import (
    ConfigurationError,
    DeadLetterEntry,
    Discard,
    StoreUnavailableError,
    TaskContext,
    TaskRegistry,
    TaskScheduler,
    create_task_worker,
    define_task,
    task_lifespan,
)
from concave.kv import KV
from concave.store.records import Die, NewTask, Settlement
from concave.tasks import start_task_workers
from concave.tasks.alerts import CHECK_INTERVAL, LAST_CALLS, OVERLAP, PAGE, DeadLetterAlerts
from tests.tasks.support import ScriptedKV, WatchedClock, claim, logged, time_passing, working


@define_task(name="dies")
async def dies(ctx: TaskContext, value: int) -> None:
    raise Discard(f"no use {value}")


class Alerts:
    """A callback that notes what it was called with."""

    def __init__(self) -> None:
        self.entries: list[DeadLetterEntry] = []
        self._called = asyncio.Event()

    async def __call__(self, entry: DeadLetterEntry) -> None:
        self.entries.append(entry)
        self._called.set()

    @property
    def ids(self) -> list[str]:
        return [entry.task_id for entry in self.entries]

    async def until(self, *ids: str) -> None:
        while not set(ids) <= set(self.ids):
            self._called.clear()
            await self._called.wait()


async def die(kv: KV, task_id: str) -> None:
    await kv.store.add([NewTask(task_id, "t", b"1")])
    (lease,) = await claim(kv, "t", nonce=f"{task_id:>16}"[-16:])
    await kv.store.settle([Settlement(lease, Die("no use", None))])


@asynccontextmanager
async def alerting(kv: KV, callback: Any) -> AsyncGenerator[DeadLetterAlerts]:
    alerts = DeadLetterAlerts(kv, callback)
    await alerts.start()
    try:
        yield alerts
    finally:
        await alerts.stop()


async def test_a_worker_calls_for_each_task_that_dies(kv: KV) -> None:
    alerts, scheduler = Alerts(), TaskScheduler(kv)
    async with working(kv, dies, id="w", on_dead_letter=alerts):
        ids = await scheduler.enqueue_many(dies, [1, 2, 3])
        await alerts.until(*ids)
    assert sorted(alerts.ids) == sorted(ids)
    entry = alerts.entries[0]
    assert await scheduler.dead_letters.get(entry.task_id) == entry
    assert entry.reason == f"no use {entry.task.input}"


async def test_a_crash_too_many_is_called_for_by_whoever_finds_it(timed_kv: KV, clock: WatchedClock) -> None:
    alerts = Alerts()
    await timed_kv.store.add([NewTask("pill", "t", b"1", max_crashes=1)])
    await claim(timed_kv, "t")
    async with alerting(timed_kv, alerts):
        clock.advance(31)
        assert await timed_kv.store.reap() == 1
        await alerts.until("pill")
    assert alerts.entries[0].reason == "its worker died 1 times while it ran (max_crashes)"


async def test_of_many_who_listen_one_calls(kv: KV) -> None:
    first, second = Alerts(), Alerts()
    ids = [f"dead-{number}" for number in range(10)]
    async with alerting(kv, first), alerting(kv, second):
        for task_id in ids:
            await die(kv, task_id)
    assert sorted(first.ids + second.ids) == ids


async def test_what_died_before_is_no_news(timed_kv: KV, clock: WatchedClock) -> None:
    alerts = Alerts()
    await die(timed_kv, "old")
    clock.advance(1)
    async with alerting(timed_kv, alerts):
        await die(timed_kv, "new")
    assert alerts.ids == ["new"]


async def test_more_than_a_page_dies_at_once(timed_kv: KV) -> None:
    alerts = Alerts()
    ids = [f"dead-{number:03}" for number in range(2 * PAGE + 1)]
    async with alerting(timed_kv, alerts):
        await timed_kv.store.add([NewTask(task_id, "t", b"1") for task_id in ids])
        leases = await claim(timed_kv, "t", limit=len(ids))
        await timed_kv.store.settle([Settlement(lease, Die("no use", None)) for lease in leases])
    assert sorted(alerts.ids) == ids


async def test_a_long_life_forgets_whom_it_called_for(timed_kv: KV, clock: WatchedClock) -> None:
    alerts = Alerts()
    async with alerting(timed_kv, alerts) as running:
        for number in range(5):
            await die(timed_kv, f"dead-{number}")
            await alerts.until(f"dead-{number}")
            clock.advance(OVERLAP / 1_000_000 + 1)
        await die(timed_kv, "last")
        await alerts.until("last")
    assert list(running._seen) == ["last"]
    assert len(alerts.ids) == 6


async def test_a_plain_function_is_called_in_a_thread(kv: KV) -> None:
    threads: list[str] = []
    called = asyncio.Event()
    loop = asyncio.get_running_loop()

    def page(entry: DeadLetterEntry) -> None:
        threads.append(threading.current_thread().name)
        loop.call_soon_threadsafe(called.set)

    async with alerting(kv, page):
        await die(kv, "dead")
        await called.wait()
    assert threads == ["concave-alerts-1"]


async def test_a_plain_function_may_return_an_awaitable(kv: KV) -> None:
    alerts = Alerts()

    def page(entry: DeadLetterEntry) -> Any:
        return alerts(entry)

    async with alerting(kv, page):
        await die(kv, "dead")
    assert alerts.ids == ["dead"]


async def test_a_callback_that_fails_is_logged_and_the_next_is_called(
    kv: KV, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []

    async def fails(entry: DeadLetterEntry) -> None:
        calls.append(entry.task_id)
        raise ValueError("no network")

    async with alerting(kv, fails):
        await die(kv, "one")
        await die(kv, "two")
    assert sorted(calls) == ["one", "two"]
    assert "on_dead_letter failed for task one (t)" in caplog.text
    assert "no network" in caplog.text


@pytest.mark.parametrize("error", [StoreUnavailableError("away"), RuntimeError("a bug")])
async def test_after_any_error_it_looks_again(timed_kv: KV, clock: WatchedClock, error: Exception) -> None:
    kv, alerts = ScriptedKV(timed_kv), Alerts()
    async with alerting(kv, alerts):
        kv.script.fail("locks.acquire", error)
        with logged("could not look for new dead letters") as told:
            await die(kv, "dead")
            await told.wait()
        clock.advance(CHECK_INTERVAL)
        await alerts.until("dead")
    assert alerts.ids == ["dead"]


async def test_a_callback_that_never_returns_does_not_keep_a_process_from_stopping(
    monkeypatch: pytest.MonkeyPatch, kv: KV
) -> None:
    monkeypatch.setattr("concave.tasks.alerts.LAST_CALLS", 0.01)
    assert LAST_CALLS > 1
    called, cancelled = asyncio.Event(), asyncio.Event()

    async def hangs(entry: DeadLetterEntry) -> None:
        called.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with alerting(kv, hangs):
        await die(kv, "dead")
        await called.wait()
    assert cancelled.is_set()


async def test_a_callback_that_takes_too_long_is_given_up(
    monkeypatch: pytest.MonkeyPatch, kv: KV, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("concave.tasks.alerts.PATIENCE", 0.01)

    async def hangs(entry: DeadLetterEntry) -> None:
        await asyncio.Event().wait()

    async with alerting(kv, hangs):
        await die(kv, "dead")
    assert "on_dead_letter failed for task dead (t)" in caplog.text


async def test_of_several_workers_the_first_calls(kv: KV) -> None:
    alerts, scheduler = Alerts(), TaskScheduler(kv)
    workers = await start_task_workers(kv, TaskRegistry([dies]), 3, on_dead_letter=alerts)
    task_id = await scheduler.enqueue(dies, 1)
    await alerts.until(task_id)
    assert [worker._on_dead_letter for worker in workers] == [alerts, None, None]
    async with time_passing(kv.clock, at_most=5):
        for worker in workers:
            await worker.stop(0)
    assert alerts.ids == [task_id]


@pytest.mark.parametrize("workers", [0, 1])
async def test_a_lifespan_calls_with_and_without_workers(kv: KV, workers: int) -> None:
    alerts = Alerts()
    async with task_lifespan(kv, workers=workers, on_dead_letter=alerts)():
        await die(kv, "dead")
    assert alerts.ids == ["dead"]


async def test_what_dies_while_a_lifespan_stops_is_called_for(kv: KV) -> None:
    alerts, begun = Alerts(), asyncio.Event()

    @define_task(name="short")
    async def short(ctx: TaskContext) -> None:
        begun.set()
        await asyncio.sleep(0.01)
        raise Discard("in the grace")

    async with task_lifespan(kv, tasks=[short], on_dead_letter=alerts)() as state:
        task_id = await state["scheduler"].enqueue(short)
        await begun.wait()
    assert alerts.ids == [task_id]


async def test_what_cannot_be_called_is_refused(kv: KV) -> None:
    callback: Any = "page me"
    with pytest.raises(ConfigurationError, match="on_dead_letter must be a function, not 'page me'"):
        task_lifespan(on_dead_letter=callback)
    with pytest.raises(ConfigurationError, match="on_dead_letter"):
        create_task_worker(kv, TaskRegistry(), on_dead_letter=callback)
