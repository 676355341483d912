"""Very many tasks through one process: what it keeps of them doesn't grow, and what the store keeps of them expires."""

import subprocess
import sys
from collections.abc import Callable

import pytest
from redis.asyncio import Redis

from concave import TaskScheduler
from concave.kv import RedisKV
from tests.chaos.app import PREFIX, noop
from tests.chaos.tally import LONG, Tally, sized
from tests.chaos.waiting import eventually
from tests.servers import LoggedProcess, RedisServer

TASKS = sized(5_000, 1_000_000)
BATCH = 1_000
AHEAD = 10
"""Batches that wait at most: it is the worker's memory that is measured, not how fast it is beside who enqueues."""
POINTS = 10
WARM_UP = 2
"""Points until everything that is made once has been made, many times over."""
GROWTH = 5.0
"""MB. A hundred bytes kept of each task would be sixteen times that."""


@pytest.mark.timeout(900)
async def test_memory_stays_flat_and_every_record_expires(report: Callable[[Tally], None]) -> None:
    # It would look at each key; that none is without an expiry is asked here of the server's own count.
    with RedisServer(checked=False) as redis, a_worker(redis.url) as worker:
        worker.wait_for_log("tasks on redis")
        resident = [_resident(worker.pid)]
        async with RedisKV(redis.url, prefix=PREFIX) as kv, Redis.from_url(redis.url) as client:
            scheduler = TaskScheduler(kv)

            async def waiting_at_most(tasks: int) -> None:
                async def so_few() -> bool:
                    return await scheduler.get_queue_depth() <= tasks

                await eventually(so_few, f"at most {tasks} wait")

            for done in range(0, TASKS, BATCH):
                await scheduler.enqueue_many(noop, [None] * BATCH)
                await waiting_at_most(AHEAD * BATCH)
                if (done + BATCH) % (TASKS // POINTS) < BATCH:
                    resident.append(_resident(worker.pid))

            async def all_end() -> bool:
                counted = await client.info("keyspace")
                return bool(counted["db0"]["keys"] == counted["db0"]["expires"])

            await waiting_at_most(0)
            await eventually(all_end, "no key is without an expiry")
            completed = len({key async for key in client.scan_iter(f"{{{PREFIX}}}:t:*", count=1000)})
        assert worker.stop() == 0
    grown = resident[-1] - resident[WARM_UP]
    report(
        Tally(
            "very many tasks through one process",
            f"{TASKS} tasks",
            lost=TASKS - completed,
            figures={
                "keys without an expiry": 0,
                "resident memory of the worker, MB": " ".join(f"{each:.1f}" for each in resident),
                "grown after warm-up": f"{grown:.1f} MB",
            },
        )
    )
    assert not LONG or grown <= GROWTH


def a_worker(url: str) -> LoggedProcess:
    command = [sys.executable, "-m", "concave", "worker", "tests.chaos.app:only_noops"]
    uncovered = {"COVERAGE_PROCESS_START": "", "COVERAGE_PROCESS_CONFIG": ""}  # its memory isn't the worker's
    return LoggedProcess(command, env={"CONCAVE_KV_URL": url, **uncovered})


def _resident(pid: int) -> float:
    """MB."""
    status = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, check=True)
    return int(status.stdout) / 1024
