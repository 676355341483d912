"""Workers that die at random instants: nothing is lost, and only what was running runs again."""

import asyncio
import itertools
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from concave import TaskScheduler
from concave.kv import RedisKV
from tests.chaos import programs
from tests.chaos.counting import all_tasks, by_number, last_runs, none_waits
from tests.chaos.fleet import Fleet
from tests.chaos.ledger import Ledger
from tests.chaos.napping import nap
from tests.chaos.tally import LONG, Tally, sized
from tests.chaos.waiting import eventually
from tests.servers import RedisServer
from tests.stores.leaks import check_for_leaks

KILLS = sized(12, 200)
TASKS_PER_KILL = 100
LOCK_TTL = 1.0
WORKERS = 6


@pytest.mark.timeout(600)
async def test_killed_workers_lose_nothing_and_only_what_ran_runs_again(
    tmp_path: Path, redis: RedisServer, fleet: Fleet, report: Callable[[Tally], None]
) -> None:
    ledger = Ledger(tmp_path / "ledger")
    total, killed_at = KILLS * TASKS_PER_KILL, dict[int, float]()
    options = {"url": redis.url, "ledger": str(ledger.path), "concurrency": 10}
    options |= {"lock_ttl": LOCK_TTL, "heartbeat": LOCK_TTL / 4}
    members = [fleet.start(programs.napper, **options) for _ in range(WORKERS)]
    async with RedisKV(redis.url, prefix=programs.PREFIX) as kv:
        scheduler = TaskScheduler(kv)
        for first in range(0, total, TASKS_PER_KILL):
            numbers = range(first, first + TASKS_PER_KILL)
            await scheduler.enqueue_many(nap(), [(each, random.uniform(0, 0.04)) for each in numbers])
            await asyncio.sleep(random.uniform(0.02, 0.12))  # the random instant is the point
            index = random.randrange(WORKERS)
            killed_at[members[index].pid] = time.monotonic()
            members[index] = fleet.replace(members[index])
        await eventually(lambda: none_waits(scheduler), "every task has ended")
        tasks = await all_tasks(scheduler)
    await check_for_leaks(redis.url, programs.PREFIX)

    last = last_runs(ledger)
    results = {task.input[0]: task.result for task in tasks if task.status == "completed"}
    begun = by_number(ledger.entries("began"))
    again = [runs for runs in begun.values() if len(runs) > 1]
    for_nothing = [runs for runs in again if any(run.pid not in killed_at for run in runs[:-1])]
    # From the kill on: what the store doesn't know of a killed worker's runs, another one has begun by then. A worker may also be
    # killed between taking a task and beginning it. The ledger has no such run, but the store has counted its crash.
    unbegun = {task.input[0]: task.crashes - (len(begun[task.input[0]]) - 1) for task in tasks}
    waits = [
        later.at - killed_at[earlier.pid] - max(0, unbegun[number]) * LOCK_TTL
        for number, runs in begun.items()
        for earlier, later in itertools.pairwise(runs)
        if earlier.pid in killed_at
    ]
    if LONG:
        assert max(waits) <= LOCK_TTL + 1
    report(
        Tally(
            "SIGKILL of workers at random",
            f"{total} tasks, {KILLS} kills",
            lost=total - len(results),
            duplicated=len(for_nothing) + len(tasks) - total,
            overwritten=sum(result != last[number] for number, result in results.items()),
            figures={
                "ran again": len(again),
                "and begun elsewhere after at most": f"{max(waits):.2f} s of lock_ttl {LOCK_TTL:g} s + 1 s",
            },
        )
    )
