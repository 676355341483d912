"""A master dies and its replica takes over, in a cluster and behind a sentinel: the same workers and callers work on."""

import asyncio
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import pytest
from redis.asyncio import Redis

from concave import RetryConfig, TaskContext, TaskRegistry, TaskScheduler, define_task
from concave.kv import RedisKV
from concave.tasks import start_task_workers
from tests.chaos.callers import Callers, ended
from tests.chaos.tally import Tally, sized
from tests.servers import ClusterServers, RedisServer, SentinelServers
from tests.stores.leaks import check_for_leaks

PREFIX = "chaos"
TASKS = sized(200, 1000)
"""Before a failover, and again after it."""

runs: Counter[int] = Counter()


@define_task(name="count", retry=RetryConfig(initial_delay=0.01))
async def count(ctx: TaskContext, number: int) -> int:
    runs[number] += 1
    await asyncio.sleep(0.001)
    return number


@dataclass
class Group:
    """Servers that act as one."""

    url: str
    master: Callable[[], RedisServer]
    failovers: int


@contextmanager
def a_cluster() -> Generator[Group]:
    with ClusterServers(masters=3, replicas=1) as servers:
        yield Group(servers.url, lambda: servers.master_of(f"{{{PREFIX}}}:"), sized(1, 5))


@contextmanager
def a_sentinel() -> Generator[Group]:
    with SentinelServers() as servers:
        yield Group(servers.url, servers.current_master, sized(1, 3))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("servers", [a_cluster, a_sentinel])
async def test_callers_and_workers_outlive_their_master(
    servers: Callable[[], AbstractContextManager[Group]], report: Callable[[Tally], None]
) -> None:
    runs.clear()
    replicated: set[int] = set()
    with servers() as group:
        async with RedisKV(group.url, prefix=PREFIX) as kv:
            workers = await start_task_workers(kv, TaskRegistry([count]), 2, lock_ttl=3.0, heartbeat=0.5)
            callers = Callers([TaskScheduler(kv)], count)
            async with callers.calling():
                for _ in range(group.failovers):
                    await callers.more(TASKS)
                    replicated |= await _replicated(group.master(), callers)
                    master = group.master()
                    master.kill()
                    await callers.more(TASKS)
                    master.start()
            tasks = await ended(TaskScheduler(kv), callers.promised)
            for worker in workers:
                await worker.stop()
        await check_for_leaks(group.master().url, PREFIX)
    missing = {number for number, task in tasks.items() if task is None}
    report(
        Tally(
            f"failover of {servers.__name__.replace('_', ' ')}",
            f"{group.failovers} failovers over {len(tasks)} tasks",
            lost=len(missing & replicated),
            overwritten=sum(task.result != number for number, task in tasks.items() if task),
            figures={
                "promised but not replicated when the master died": f"{len(missing - replicated)} lost",
                "completed but not replicated, and so run again": sum(each > 1 for each in runs.values()),
                "errors to callers": dict(callers.refusals),
            },
        )
    )
    assert not [reason for reason in callers.reasons if "CROSSSLOT" in reason]


async def _replicated(master: RedisServer, callers: Callers) -> set[int]:
    """What was promised by now, once the replica has it."""
    promised = set(callers.promised)
    async with Redis.from_url(master.url, socket_timeout=120) as client:
        assert await client.wait(1, 60_000) == 1
    return promised
