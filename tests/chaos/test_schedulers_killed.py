"""Ten schedulers that are killed at random instants: each slot of a recurring schedule is enqueued exactly once."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from concave import Task, TaskScheduler
from concave.kv import RedisKV
from concave.tasks import RecurringSchedule, create_recurring_manager
from tests.chaos import programs
from tests.chaos.fleet import Fleet, Member
from tests.chaos.ledger import Ledger
from tests.chaos.tally import Tally, sized
from tests.chaos.waiting import eventually
from tests.servers import RedisServer

SCHEDULERS = sized(4, 10)
SLOTS = sized(100, 1000)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("schedules", [1, 10])
async def test_each_slot_is_one_task_however_often_schedulers_are_killed(
    schedules: int, tmp_path: Path, redis: RedisServer, fleet: Fleet, report: Callable[[Tally], None]
) -> None:
    interval, slots = sized(0.01, 0.02) * schedules, SLOTS // schedules
    ledger = Ledger(tmp_path / "ledger")
    stopped = threading.Event()
    async with RedisKV(redis.url, prefix=programs.PREFIX) as kv:
        manager = create_recurring_manager(kv)
        members = [fleet.start(programs.recurring_scheduler, url=redis.url) for _ in range(SCHEDULERS)]
        fleet.start(programs.ticker, url=redis.url, ledger=str(ledger.path))
        killing = asyncio.create_task(asyncio.to_thread(_kill_until, stopped, fleet, members))
        ids = [
            await manager.create(programs.tick(None), number, interval=interval, misfire="all")
            for number in range(schedules)
        ]

        async def all_fired() -> bool:
            return all(_slots_fired(each) >= slots for each in await manager.list())

        await eventually(all_fired, "all slots fired")
        stopped.set()
        kills = await killing
        for member in members:
            member.kill()
        declared = await manager.list()
        for each in ids:
            await manager.delete(each)
        tasks = await _all_tasks(TaskScheduler(kv))
        for task in tasks:
            await TaskScheduler(kv).wait(task.id, timeout=30)
    found = Counter(task.id for task in tasks)
    wanted = {each.id: _ids_of_slots(each, _slots_fired(each)) for each in declared}
    first = {task_id for each in wanted.values() for task_id in each[:slots]}
    runs = Counter(entry.more for entry in ledger.entries("ran"))
    report(
        Tally(
            f"{SCHEDULERS} schedulers killed at random ({schedules} schedules every {interval:g} s)",
            f"{SLOTS} slots, {kills} kills",
            lost=len(first - found.keys()),
            duplicated=len(found.keys() - {each for ids in wanted.values() for each in ids})
            + sum(count - 1 for count in runs.values()),
            figures={
                "tasks of them": sum(found[each] for each in first),
                "runs": sum(runs[each] for each in first),
            },
        )
    )


def _kill_until(stopped: threading.Event, fleet: Fleet, members: list[Member]) -> int:
    kills = 0
    while not stopped.is_set():
        fleet.kill_at_random(1, members, (0.0, 0.1))
        kills += 1
    return kills


def _slots_fired(schedule: RecurringSchedule) -> int:
    """How many slots have passed, by the schedule's own account."""
    if schedule.last_run_at is None:
        return 0
    return round((schedule.last_run_at - schedule.created_at) / _interval(schedule))


def _ids_of_slots(schedule: RecurringSchedule, count: int) -> list[str]:
    """The ids that the tasks of the first slots must have, reckoned from the rule alone."""
    slots = (schedule.created_at + number * _interval(schedule) for number in range(1, count + 1))
    return [f"{schedule.id}@{slot.isoformat()}" for slot in slots]


def _interval(schedule: RecurringSchedule) -> timedelta:
    assert schedule.interval is not None
    return timedelta(seconds=schedule.interval)


async def _all_tasks(scheduler: TaskScheduler) -> list[Task]:
    tasks: list[Task] = []
    while page := await scheduler.get_tasks(name="tick", limit=1000, offset=len(tasks)):
        tasks += page
    return tasks
