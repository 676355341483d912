"""Thousands of tasks fail at the same moment: whatever they depend on isn't met by all of their retries at once again."""

from collections import Counter
from collections.abc import Callable

import pytest

from concave import TaskScheduler
from concave.kv import RedisKV
from tests.chaos import programs
from tests.chaos.counting import all_tasks
from tests.chaos.fleet import Fleet
from tests.chaos.hostile import failing_at_once
from tests.chaos.tally import Tally, sized
from tests.chaos.waiting import eventually
from tests.servers import RedisServer
from tests.stores.leaks import check_for_leaks

TASKS = sized(2_000, 10_000)
WINDOW = range(66, 72)
"""Seconds after its failure in which a retry with initial_delay=60 may fall: 10 to 20 % later."""
MEAN = TASKS / len(WINDOW)


@pytest.mark.timeout(300)
async def test_retries_of_what_failed_at_once_spread_over_the_jitter_window(
    redis: RedisServer, fleet: Fleet, report: Callable[[Tally], None]
) -> None:
    task = failing_at_once(TASKS)
    async with RedisKV(redis.url, prefix=programs.PREFIX) as kv:
        scheduler = TaskScheduler(kv)
        for _ in range(TASKS // 1000):
            await scheduler.enqueue_many(task, [None] * 1000)
        worker = fleet.start(programs.failer, url=redis.url, tasks=TASKS)

        async def all_failed() -> bool:
            return not await scheduler.get_tasks(status=("pending", "running"), limit=1)

        await eventually(all_failed, "all of them have failed")
        assert worker.stop() == 0
        tasks = await all_tasks(scheduler)
    await check_for_leaks(redis.url, programs.PREFIX)

    failed = [each for each in tasks if each.status == "failed" and len(each.errors) == 1]
    after = Counter(int((each.scheduled_for - each.errors[0].at).total_seconds()) for each in failed)
    due = Counter(int(each.scheduled_for.timestamp()) for each in failed)
    moments = [each.errors[0].at for each in failed]
    report(
        Tally(
            "failures at once, initial_delay=60",
            f"{TASKS} tasks, failed within {(max(moments) - min(moments)).total_seconds():.2f} s",
            lost=TASKS - len(failed),
            duplicated=len(tasks) - TASKS,
            figures={
                "retries by second after the failure": dict(sorted(after.items())),
                "most that fall due in a second": f"{max(due.values())}, of {MEAN:.0f} in the mean",
            },
        )
    )
    assert set(after) == set(WINDOW)
    assert max(after.values()) <= 2 * MEAN
    assert max(due.values()) <= 2 * MEAN
