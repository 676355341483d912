"""A thousand records are overwritten with rubbish: they are put aside, and everything else goes on."""

import logging
import random
from collections import Counter
from collections.abc import Callable

import pytest
from redis.asyncio import Redis

from concave import TaskContext, TaskRegistry, TaskScheduler, define_task
from concave.kv import RedisKV
from concave.tasks import start_task_workers
from tests.chaos.callers import ended
from tests.chaos.tally import Tally
from tests.servers import RedisServer
from tests.stores.test_redis_damage import fuzzed

PREFIX = "chaos"
DAMAGED = 1000
SOUND = 300

runs: Counter[int] = Counter()


@define_task(name="add")
async def add(ctx: TaskContext, number: int) -> int:
    runs[number] += 1
    return number


@pytest.mark.timeout(300)
async def test_a_thousand_damaged_records_keep_nobody_from_listing_and_claiming(
    report: Callable[[Tally], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    runs.clear()
    chance = random.Random(11)
    with RedisServer() as redis:
        async with RedisKV(redis.url, prefix=PREFIX) as kv, Redis.from_url(redis.url) as client:
            scheduler = TaskScheduler(kv)
            damaged = await scheduler.enqueue_many(add, [-1] * DAMAGED)
            sound = await scheduler.enqueue_many(add, range(SOUND))
            for task_id in damaged:
                key = f"{{{PREFIX}}}:t:{task_id}"
                record = await client.get(key)
                assert isinstance(record, bytes)
                await client.set(key, fuzzed(record, chance))
            listed = await scheduler.get_tasks(limit=1000) + await scheduler.get_tasks(
                limit=1000, offset=1000
            )
            (worker,) = await start_task_workers(
                kv, TaskRegistry([add]), 1, concurrency=50, lock_ttl=0.5, heartbeat=0.1, poll_interval=0.05
            )
            tasks = await ended(scheduler, dict(enumerate(sound)))
            await worker.stop()
            aside = len([key async for key in client.scan_iter(match=f"{{{PREFIX}}}:bad:*", count=1000)])
    report(
        Tally(
            "records overwritten with rubbish",
            f"{DAMAGED} damaged beside {SOUND} sound ones",
            lost=sum(task is None for task in tasks.values()),
            duplicated=sum(runs[number] > 1 for number in range(SOUND)),
            overwritten=sum(task.result != number for number, task in tasks.items() if task),
            figures={"sound ones listed": len({task.id for task in listed} & set(sound)), "put aside": aside},
        )
    )
    assert set(sound) <= {task.id for task in listed}
    assert aside > 0
