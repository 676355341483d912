"""Redis is killed and started again under load: what it acknowledged is there, and everyone works on by themselves."""

import asyncio
import itertools
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from concave import TaskScheduler
from concave.kv import RedisKV
from tests.chaos.app import PREFIX, count, runs_in
from tests.chaos.callers import Callers, ended
from tests.chaos.tally import LONG, Tally, sized
from tests.servers import LoggedProcess, RedisServer
from tests.stores.leaks import check_for_leaks

KILLS = sized(3, 20)
TASKS = sized(150, 500)
"""Between kills."""
DOWN_FOR = itertools.cycle(sized((0.0, 0.5), (0.0, 0.5, 2.0, 8.0)))
"""Seconds; the longer it takes, the more seldom those who wait for it try again."""
BACK_WITHIN = 5.0


@pytest.mark.timeout(900)
async def test_what_a_killed_redis_had_acknowledged_is_done_once_and_everyone_works_on(
    tmp_path: Path, report: Callable[[Tally], None]
) -> None:
    runs, pauses = tmp_path / "runs", list[float]()
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(RedisServer(durable=True))
        workers = [stack.enter_context(worker(redis.url, runs)) for _ in range(2)]
        for each in workers:
            each.wait_for_log("tasks on redis")
        kvs = [await stack.enter_async_context(RedisKV(redis.url, prefix=PREFIX)) for _ in range(2)]
        callers = Callers([TaskScheduler(kv) for kv in kvs], count)
        async with callers.calling():
            for _ in range(KILLS):
                await callers.more(TASKS)
                redis.kill()
                await asyncio.sleep(next(DOWN_FOR))
                await asyncio.to_thread(redis.start)
                pauses.append(await _until_one_runs(runs))
        tasks = await ended(TaskScheduler(kvs[0]), callers.promised)
        for each in workers:
            each.stop()
        await check_for_leaks(redis.url, PREFIX)
    ran = Counter(runs_in(runs))
    report(
        Tally(
            "Redis killed and restarted, appendfsync always",
            f"{KILLS} kills over {len(tasks)} tasks",
            lost=sum(task is None for task in tasks.values()) + len(tasks.keys() - ran.keys()),
            duplicated=sum(times > 1 for times in ran.values()),
            overwritten=sum(task.result != number for number, task in tasks.items() if task),
            figures={
                "workers went on after": f"{max(pauses):.1f} s at most, {statistics.median(pauses):.1f} s in the median",
                "errors to callers": dict(callers.refusals),
            },
        )
    )
    assert not LONG or max(pauses) <= BACK_WITHIN


def worker(url: str, runs: Path) -> LoggedProcess:
    command = [sys.executable, "-m", "concave", "worker", "tests.chaos.app:lifespan"]
    return LoggedProcess(command, env={"CONCAVE_KV_URL": url, "CHAOS_RUNS": str(runs)})


async def _until_one_runs(runs: Path) -> float:
    """Seconds until a task has been run."""
    began, before = time.monotonic(), len(runs_in(runs))
    while len(runs_in(runs)) == before:  # noqa: ASYNC110  another process runs them
        await asyncio.sleep(0.01)
    return time.monotonic() - began
