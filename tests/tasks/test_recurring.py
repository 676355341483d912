"""Recurring schedules, locks and KVs: on memory and on Redis."""

import asyncio
import uuid
from typing import Any, cast

import pytest

from concave import (
    ConfigurationError,
    InvalidScheduleError,
    LockNotAcquiredError,
    StoreFullError,
    StoreUnavailableError,
    TaskContext,
    TaskScheduler,
    create_kv,
    define_task,
)
from concave.kv import KV, MemoryKV, RedisKV, kv_from_url
from concave.store.protocol import WORK
from concave.store.records import Due, Fired
from concave.tasks import create_recurring_manager, create_task_lock, start_recurring_scheduler
from concave.testing import FakeClock
from tests.stores.leaks import drop_namespace, keys_of
from tests.tasks.support import ScriptedKV, logged


@define_task(name="report", priority=80)
async def report(ctx: TaskContext, kind: str) -> None: ...


async def announced_work(kv: KV) -> asyncio.Event:
    """An event that is set once there is work for a worker."""
    event = asyncio.Event()
    await kv.store.listen(WORK, lambda _: event.set())
    return event


async def test_declaring_twice_makes_one_schedule_and_a_changed_rule_updates_it(kv: KV) -> None:
    recurring, scheduler = create_recurring_manager(kv), TaskScheduler(kv)
    first = await recurring.create(report, "daily", cron="0 6 * * *", timezone="Europe/Paris")
    assert (
        await scheduler.schedule_recurring(report, "daily", cron="0  6 * * *", timezone="Europe/Paris")
        == first
    )
    assert await recurring.create(report, "weekly", cron="0 6 * * *", timezone="Europe/Paris") != first
    assert await recurring.create(report, "x", interval=60, id="mine") == "mine"
    assert await recurring.create(report, "y", interval=120, id="mine", misfire="all") == "mine"
    mine = await recurring.get("mine")
    assert mine is not None
    assert (mine.interval, mine.input, mine.misfire, mine.enabled) == (120, "y", "all", True)
    assert len(await recurring.list()) == 3
    assert await recurring.get("none") is None
    assert await recurring.delete("mine")
    assert not await recurring.delete("mine")


async def test_pausing_and_resuming(kv: KV) -> None:
    recurring = create_recurring_manager(kv)
    await recurring.create(report, "x", interval=0.001, id="s")
    assert await recurring.pause("s")
    work = await announced_work(kv)
    handle = start_recurring_scheduler(kv)
    paused = await recurring.get("s")
    assert paused is not None
    assert not paused.enabled
    assert await TaskScheduler(kv).get_queue_depth() == 0
    assert await recurring.resume("s")
    assert await recurring.resume("s")
    await work.wait()
    await handle.stop()
    await handle.stop()
    assert not await recurring.pause("none")
    assert not await recurring.resume("none")


async def test_many_schedulers_fire_each_slot_once() -> None:
    clock = FakeClock()
    async with MemoryKV(clock=clock) as kv:
        await create_recurring_manager(kv).create(report, "x", interval=60, id="s")
        handles = [start_recurring_scheduler(kv) for _ in range(10)]
        for _ in range(100):
            clock.advance(60)
            for _ in range(30):
                await asyncio.sleep(0)
        tasks = await TaskScheduler(kv).get_tasks(limit=1000)
        assert len(tasks) == len({task.scheduled_for for task in tasks}) == 100
        assert {task.priority for task in tasks} == {80}
        for handle in handles:
            await handle.stop()


async def test_a_broken_schedule_is_put_off_and_blocks_nobody(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    async with MemoryKV(clock=clock) as kv:
        recurring = create_recurring_manager(kv)
        for name in ("broken", "zone", "fine"):
            await recurring.create(report, name, interval=60, id=name)
        schedules = kv.store.schedules
        record = await schedules.get("broken")
        assert record is not None
        await schedules.put(record._replace(interval=None, cron=None))
        await schedules.put(record._replace(id="zone", interval=None, cron="* * * * *", timezone="Mars/Base"))
        clock.advance(61)
        work = await announced_work(kv)
        handle = start_recurring_scheduler(kv)
        await work.wait()
        await handle.stop()
        assert [task.input for task in await TaskScheduler(kv).get_tasks()] == ["fine"]
    assert "can't be fired" in caplog.text


async def test_a_store_that_takes_nothing_is_asked_once_a_pass(caplog: pytest.LogCaptureFixture) -> None:
    """A hundred schedules would be a hundred tracebacks a second for as long as it is full."""
    clock = FakeClock()
    async with MemoryKV(clock=clock) as kv:
        for name in "abc":
            await create_recurring_manager(kv).create(report, name, interval=60, id=name)
        clock.advance(61)
        spied = ScriptedKV(kv)
        spied.script.fail("schedules.fire", StoreFullError("full"))
        with logged("full") as told:
            handle = start_recurring_scheduler(spied)
            await told.wait()
        await handle.stop()
        assert spied.script.calls["schedules.fire"] == 1
    assert "can't be fired" not in caplog.text


async def test_what_was_declared_is_declared_again_once_the_store_has_lost_it(redis_url: str) -> None:
    async with RedisKV(redis_url, prefix=f"test-{uuid.uuid4().hex}") as redis:
        kv = ScriptedKV(redis)
        recurring = create_recurring_manager(redis)
        declared: asyncio.Queue[None] = asyncio.Queue()

        async def declare() -> None:
            for name in ("kept", "deleted"):
                await recurring.create(report, name, interval=3600, id=name)
            declared.put_nowait(None)

        handle = start_recurring_scheduler(kv, check_interval=0.001, declare=declare)
        await declared.get()
        await recurring.delete("deleted")
        await kv.script.called("locks.extend", 5)
        assert [each.id for each in await recurring.list()] == ["kept"]
        await drop_namespace(redis_url, redis.prefix)
        await declared.get()
        assert [each.id for each in await recurring.list()] == ["kept", "deleted"]
        await handle.stop()
        for name in ("kept", "deleted"):
            await recurring.delete(name)
        assert await keys_of(redis_url, redis.prefix) == []


async def test_declaring_is_tried_again_where_the_store_does_not_answer_and_never_keeps_from_firing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors: list[Exception] = [StoreUnavailableError("away"), RuntimeError("mine")]
    async with MemoryKV() as kv:
        await create_recurring_manager(kv).create(report, "x", interval=0.001, id="s")

        async def declare() -> None:
            raise errors.pop(0)

        work = await announced_work(kv)
        handle = start_recurring_scheduler(kv, check_interval=0.001, declare=declare)
        await work.wait()
        await kv.close()
        await handle.stop()
    assert errors == []
    assert "not all schedules could be declared" in caplog.text


async def test_the_scheduler_goes_on_after_the_store_was_away(
    kv: KV, monkeypatch: pytest.MonkeyPatch
) -> None:
    due, away = kv.store.schedules.due, [True]

    async def fails_once(limit: int) -> Due:
        if away:
            away.pop()
            raise StoreUnavailableError("away")
        return await due(limit)

    monkeypatch.setattr(kv.store.schedules, "due", fails_once)
    await create_recurring_manager(kv).create(report, "x", interval=0.001)
    work = await announced_work(kv)
    handle = start_recurring_scheduler(kv, check_interval=0.01)
    await work.wait()
    await handle.stop()


@pytest.mark.parametrize(
    "options",
    [{}, {"cron": "x"}, {"cron": "* * * * *", "interval": 1}, {"interval": 0}, {"interval": 1, "timezone": "No/Where"},
     {"cron": "0 0 30 2 *"}, {"interval": "1h"}, {"interval": True}, {"cron": 5}, {"interval": 1, "timezone": None}],
)  # fmt: skip
async def test_rules_that_cannot_be(kv: KV, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidScheduleError):
        await create_recurring_manager(kv).create(report, "x", **options)
    assert await create_recurring_manager(kv).list() == []


async def test_options_of_schedules_that_cannot_be(kv: KV) -> None:
    with pytest.raises(ConfigurationError, match="misfire"):
        await create_recurring_manager(kv).create(report, "x", interval=1, misfire="odd")  # type: ignore[arg-type]
    for bad in ("", "x" * 201, "a\nb", "a\0b", "\ud800", 7, b"id"):
        with pytest.raises(ConfigurationError, match="a schedule's id is 1 to 200 printable characters"):
            await create_recurring_manager(kv).create(report, "x", interval=1, id=cast("Any", bad))
    assert await create_recurring_manager(kv).list() == []
    assert not await kv.store.schedules.fire(Fired("none", 1, 2, None, ()))


async def test_locks(kv: KV) -> None:
    lock = create_task_lock(kv)
    assert await lock.acquire("t", "me", 30)
    assert not await lock.acquire("t", "you", 30)
    assert await lock.extend("t", "me", 30)
    assert await lock.is_held("t", "me")
    assert not await lock.release("t", "you")
    assert await lock.release("t", "me")
    async with lock.hold("t", ttl=5) as lost:
        assert not lost.aborted
        with pytest.raises(LockNotAcquiredError):
            async with lock.hold("t"):
                pass
    async with lock.hold("t"):
        pass
    with pytest.raises(ConfigurationError, match="ttl"):
        await lock.acquire("t", "me", 0)


async def test_a_lock_that_is_held_is_renewed_and_its_loss_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    async with MemoryKV(clock=clock) as kv:
        lock = create_task_lock(kv)
        async with lock.hold("t", ttl=3) as lost:
            for _ in range(10):
                await asyncio.sleep(0)
                clock.advance(1)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            assert not await lock.acquire("t", "you")
            clock.advance(10)
            assert await lock.acquire("t", "you")
            assert await lost.wait() == "the lock could not be renewed for 3 s"
        async with lock.hold("u", ttl=3) as lost:

            async def away(*_: Any) -> bool:
                raise StoreUnavailableError("away")

            monkeypatch.setattr(kv.store.locks, "extend", away)
            while not lost.aborted:
                await asyncio.sleep(0)
                clock.advance(1)
            assert lost.reason == "the lock could not be renewed for 3 s"


async def test_kvs_by_url(monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    monkeypatch.delenv("CONCAVE_KV_URL", raising=False)
    assert (await create_kv()).description == "memory://"
    monkeypatch.setenv("CONCAVE_KV_URL", "redis://user:secret@host/1")
    assert kv_from_url().description == "redis://user:***@host/1"
    for url in ("postgres://x", "nothing", "redis+sentinel://host:1"):
        with pytest.raises(ConfigurationError):
            await create_kv(url)
    with pytest.raises(ConfigurationError, match="prefix"):
        kv_from_url("redis://host", prefix="a{b}")
    for unconnected in (MemoryKV(), kv_from_url(redis_url)):
        with pytest.raises(ConfigurationError, match="connect"):
            _ = unconnected.loop
    with pytest.raises(ConfigurationError, match="connect"):
        _ = kv_from_url(redis_url).store
    with pytest.raises(StoreUnavailableError):
        await create_kv("redis+sentinel://127.0.0.1:1/master")
    with pytest.raises(StoreUnavailableError):
        await create_kv("redis+cluster://127.0.0.1:1")
    async with await create_kv(redis_url, prefix="twice") as kv:
        await kv.connect()
        async with kv.twin() as twin:
            assert twin.description == kv.description
        await kv.close()
        await kv.close()
