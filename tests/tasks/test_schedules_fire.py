"""Recurring schedules over time: each slot once, whoever fires it, and no schedule in another's way. By a held clock."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from concave import (
    DebounceConfig,
    RetentionConfig,
    RetryConfig,
    StoreError,
    StoreUnavailableError,
    Task,
    TaskContext,
    TaskInputError,
    TaskScheduler,
    define_task,
    start_recurring_scheduler,
)
from concave.kv import KV
from concave.tasks import RecurringSchedule, create_recurring_manager
from concave.tasks.recurring import POSTPONED
from tests.tasks.support import ScriptedKV, WatchedClock, logged, time_passing

START = datetime(2026, 1, 1, tzinfo=UTC)
AWAY = StoreUnavailableError("away")


@define_task(
    name="report",
    priority=80,
    retry=RetryConfig(7),
    max_crashes=2,
    retention=RetentionConfig(completed=60),
    idempotency_key=lambda kind: "always the same",
    debounce=DebounceConfig(5, key=lambda kind: "all"),
)
async def report(ctx: TaskContext, kind: str) -> None: ...


@asynccontextmanager
async def firing(kv: KV, schedulers: int = 1, **options: Any) -> AsyncGenerator[None]:
    handles = [start_recurring_scheduler(kv, **options) for _ in range(schedulers)]
    try:
        yield
    finally:
        for handle in handles:
            await handle.stop()
            await handle.stop()


async def fired(kv: KV, clock: WatchedClock, count: int, **filters: Any) -> list[Task]:
    """The tasks, oldest slot first, once there are so many. Time may have passed them by: only "all" leaves none out."""
    scheduler, tasks = TaskScheduler(kv), list[Task]()
    async with time_passing(clock, pause=0):
        while len(tasks) < count:
            tasks = await scheduler.get_tasks(limit=1000, **filters)
            await asyncio.sleep(0)
    return sorted(tasks, key=lambda task: task.scheduled_for)


async def schedule_of(kv: KV, schedule_id: str) -> RecurringSchedule:
    schedule = await create_recurring_manager(kv).get(schedule_id)
    assert schedule is not None
    return schedule


async def test_a_slot_is_a_task_with_the_options_of_its_definition_but_for_key_and_debounce(
    timed_kv: KV, clock: WatchedClock
) -> None:
    await create_recurring_manager(timed_kv).create(report, "daily", interval=60, id="s", misfire="all")
    async with firing(timed_kv):
        tasks = await fired(timed_kv, clock, 3)
    assert [task.scheduled_for for task in tasks[:3]] == [START + timedelta(minutes=n) for n in (1, 2, 3)]
    assert [task.id for task in tasks[:3]] == [f"s@2026-01-01T00:0{n}:00+00:00" for n in (1, 2, 3)]
    for task in tasks:
        assert (task.name, task.input, task.priority, task.max_attempts) == ("report", "daily", 80, 7)
        assert (task.status, task.idempotency_key) == ("pending", None)
    record = await timed_kv.store.get(tasks[0].id)
    assert record is not None
    assert (record.max_crashes, record.retention.completed, record.debounce_key) == (2, 60_000_000, None)
    schedule = await schedule_of(timed_kv, "s")
    assert schedule.last_run_at is not None
    assert schedule.next_run_at == schedule.last_run_at + timedelta(minutes=1)
    assert (schedule.task_name, schedule.input, schedule.interval, schedule.cron) == (
        "report",
        "daily",
        60,
        None,
    )


async def test_ten_schedulers_are_as_one(timed_kv: KV, clock: WatchedClock) -> None:
    manager = create_recurring_manager(timed_kv)
    for number in range(3):
        await manager.create(report, f"number {number}", interval=60 * (number + 1), misfire="all")
    async with firing(timed_kv, 10):
        tasks = await fired(timed_kv, clock, 20)
    slots = [(task.input, task.scheduled_for) for task in tasks]
    assert len(slots) == len(set(slots))
    for number in range(3):
        mine = [slot for kind, slot in slots if kind == f"number {number}"]
        step = timedelta(minutes=number + 1)
        assert mine == [START + step * (index + 1) for index in range(len(mine))]


@pytest.mark.parametrize(
    "misfire,minutes",
    [("once", [10]), ("all", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]), ("skip", [10])],
)
async def test_slots_that_nobody_was_there_to_fire(
    timed_kv: KV, clock: WatchedClock, misfire: Any, minutes: list[int]
) -> None:
    await create_recurring_manager(timed_kv).create(report, "x", interval=60, id="s", misfire=misfire)
    clock.advance(600)
    async with firing(timed_kv):
        tasks = await fired(timed_kv, clock, len(minutes))
    expected = [START + timedelta(minutes=minute) for minute in minutes]
    assert [task.scheduled_for for task in tasks[: len(minutes)]] == expected


async def test_a_scheduler_learns_of_a_new_schedule_within_its_check_interval(
    timed_kv: KV, clock: WatchedClock
) -> None:
    async with firing(timed_kv, check_interval=5):
        await clock.timer_set(5)
        await create_recurring_manager(timed_kv).create(report, "x", interval=7, misfire="all")
        (task, *_) = await fired(timed_kv, clock, 1)
    assert task.scheduled_for == START + timedelta(seconds=7)


async def test_a_paused_schedule_makes_up_for_nothing(timed_kv: KV, clock: WatchedClock) -> None:
    manager = create_recurring_manager(timed_kv)
    await manager.create(report, "x", interval=60, id="s", misfire="all")
    await manager.create(report, "marker", interval=60, id="marker")
    assert await manager.pause("s")
    async with firing(timed_kv):
        await fired(timed_kv, clock, 5)
        assert {task.input for task in await TaskScheduler(timed_kv).get_tasks()} == {"marker"}
        assert not (await schedule_of(timed_kv, "s")).enabled
        # Declaring it again, as every boot does, doesn't resume it.
        await manager.create(report, "x", interval=60, id="s", misfire="all")
        assert not (await schedule_of(timed_kv, "s")).enabled
        resumed_at = await timed_kv.store.now()
        assert await manager.resume("s")
        assert await manager.resume("s")
        mine: list[Task] = []
        while not mine:
            mine = [task for task in await fired(timed_kv, clock, 6) if task.input == "x"]
    assert (mine[0].scheduled_for - START).total_seconds() * 1_000_000 > resumed_at - 1_767_225_600_000_000


async def test_a_deleted_schedule_fires_no_more_and_its_tasks_stay(timed_kv: KV, clock: WatchedClock) -> None:
    manager = create_recurring_manager(timed_kv)
    await manager.create(report, "x", interval=60, id="s")
    async with firing(timed_kv):
        count = len(await fired(timed_kv, clock, 1))
        assert await manager.delete("s")
        await manager.create(report, "marker", interval=60, id="marker")
        tasks = await fired(timed_kv, clock, count + 3)
    assert [task.input for task in tasks].count("x") <= count + 1
    assert await manager.list() == [await schedule_of(timed_kv, "marker")]


async def test_a_changed_rule_under_the_same_id_takes_the_old_ones_place(timed_kv: KV) -> None:
    manager = create_recurring_manager(timed_kv)
    assert await manager.create(report, "x", interval=60, id="s") == "s"
    assert await manager.create(report, "y", cron="0 6 * * *", timezone="Europe/Paris", id="s") == "s"
    schedule = await schedule_of(timed_kv, "s")
    assert (schedule.input, schedule.cron, schedule.interval) == ("y", "0 6 * * *", None)
    assert schedule.next_run_at == datetime(2026, 1, 1, 5, tzinfo=UTC)
    assert len(await manager.list()) == 1


async def test_the_same_declaration_is_one_schedule_and_keeps_its_place(
    timed_kv: KV, clock: WatchedClock
) -> None:
    manager, scheduler = create_recurring_manager(timed_kv), TaskScheduler(timed_kv)
    first = await manager.create(report, "x", interval=60)
    clock.advance(45)
    assert await scheduler.schedule_recurring(report, "x", interval=timedelta(minutes=1)) == first
    assert (await schedule_of(timed_kv, first)).next_run_at == START + timedelta(minutes=1)
    assert await scheduler.schedule_recurring(report, "y", interval=60) != first
    with pytest.raises(TaskInputError):
        await manager.create(report, {"not": "text"}, interval=60)
    assert len(await manager.list()) == 2


# Troubles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["schedules.due", "schedules.fire", "connect"])
@pytest.mark.parametrize("error", [AWAY, StoreError("odd"), RuntimeError("a bug")])
async def test_no_error_of_the_store_ends_it(
    timed_kv: KV, clock: WatchedClock, verb: str, error: Exception
) -> None:
    spied = ScriptedKV(timed_kv)
    await create_recurring_manager(timed_kv).create(report, "x", interval=60)
    spied.script.fail(verb, error, times=3)
    async with firing(spied):
        tasks = await fired(timed_kv, clock, 2)
    assert len({task.scheduled_for for task in tasks}) == len(tasks)


async def test_a_slot_whose_answer_was_lost_is_still_one_task(timed_kv: KV, clock: WatchedClock) -> None:
    spied = ScriptedKV(timed_kv)
    await create_recurring_manager(timed_kv).create(report, "x", interval=60, misfire="all")
    spied.script.fail("schedules.fire", AWAY, times=3, carried_out=True)
    async with firing(spied):
        tasks = await fired(timed_kv, clock, 5)
    assert [task.scheduled_for for task in tasks] == [
        START + timedelta(minutes=n + 1) for n in range(len(tasks))
    ]


@pytest.mark.parametrize("error", [StoreError("that one is damaged"), RuntimeError("a bug")])
async def test_a_schedule_that_cannot_be_fired_blocks_no_other(
    timed_kv: KV, clock: WatchedClock, error: Exception
) -> None:
    class OneFails(ScriptedKV):
        @property
        def store(self) -> Any:
            store = super().store
            schedules = store.schedules
            fire = schedules.fire

            async def fails(fired_: Any) -> bool:
                if fired_.schedule_id == "broken":
                    raise error
                return bool(await fire(fired_))

            schedules.fire = fails
            store.schedules = schedules
            return store

    manager = create_recurring_manager(timed_kv)
    await manager.create(report, "broken", interval=59, id="broken")
    await manager.create(report, "fine", interval=60, id="fine")
    with logged("schedule broken (report) can't be fired") as told:
        async with firing(OneFails(timed_kv)):
            tasks = await fired(timed_kv, clock, 3)
            await told.wait()
    assert {task.input for task in tasks} == {"fine"}


@pytest.mark.parametrize(
    "damage",
    [
        {"interval": None},
        {"interval": None, "cron": "* * * * *", "timezone": "Mars/Base"},
        {"interval": None, "cron": "not cron"},
    ],
)
async def test_a_schedule_that_cannot_be_read_is_put_off(
    timed_kv: KV, clock: WatchedClock, damage: dict[str, Any]
) -> None:
    manager = create_recurring_manager(timed_kv)
    await manager.create(report, "broken", interval=60, id="broken")
    await manager.create(report, "fine", interval=60, id="fine")
    record = await timed_kv.store.schedules.get("broken")
    assert record is not None
    await timed_kv.store.schedules.put(record._replace(**damage))
    with logged("schedule broken (report) can't be fired") as told:
        async with firing(timed_kv):
            tasks = await fired(timed_kv, clock, 3)
            await told.wait()
    assert {task.input for task in tasks} == {"fine"}
    later = await timed_kv.store.schedules.get("broken")
    assert later is not None
    assert later.next_at >= record.next_at + POSTPONED
    assert later.last_at is None


async def test_stopping_finishes_the_slot_that_is_being_fired(timed_kv: KV, clock: WatchedClock) -> None:
    spied = ScriptedKV(timed_kv)
    await create_recurring_manager(timed_kv).create(report, "x", interval=60)
    clock.advance(60)
    there, let_through = spied.script.hold_answer("schedules.fire")
    handle = start_recurring_scheduler(spied)
    await there.wait()
    stopping = asyncio.create_task(handle.stop())
    await asyncio.sleep(0)
    assert not stopping.done()
    let_through.set()
    await stopping
    assert len(await TaskScheduler(timed_kv).get_tasks()) == 1
