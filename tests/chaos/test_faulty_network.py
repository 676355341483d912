"""Between us and Redis stands a proxy that does harm: calls are idempotent, so that sending them again is safe."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from concave import Discard, RetryConfig, Task, TaskContext, TaskRegistry, TaskScheduler, define_task
from concave.kv import RedisKV
from concave.tasks import start_recurring_scheduler, start_task_workers
from tests.chaos.callers import Callers, ended
from tests.chaos.tally import Tally, sized
from tests.servers import Fault, RedisProxy, RedisServer
from tests.stores.leaks import check_for_leaks

FAULTS = sized(70, 1000)
CLIENTS = 3
INTERVAL = 0.1
PREFIX = "chaos"

runs: Counter[int] = Counter()


@define_task(name="count", retry=RetryConfig(max_attempts=5, initial_delay=0.01))
async def count(ctx: TaskContext, number: int) -> int:
    """Every third fails at first, every seventh for good."""
    runs[number] += 1
    await asyncio.sleep(random.random() / 100)
    if number % 7 == 0:
        raise Discard("unlucky")
    if number % 3 == 0 and runs[number] == 1:
        raise ConnectionError("at first")
    return number


def _expected_runs(number: int) -> int:
    return 2 if number % 3 == 0 and number % 7 else 1


@define_task(name="tick")
async def tick() -> None: ...


class Harm:
    """Harms every third call of a script, each kind of fault in its turn, until there was enough of it."""

    def __init__(self, enough: int) -> None:
        self.enough = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._left = enough
        self._kinds = itertools.cycle(Fault)

    def __call__(self, command: bytes) -> Fault | None:
        if self._left == 0 or command not in {b"EVAL", b"EVALSHA"} or random.random() > 0.35:
            return None
        self._left -= 1
        if self._left == 0:
            self._loop.call_soon_threadsafe(self.enough.set)
        return next(self._kinds)


@pytest.mark.timeout(900)
async def test_calls_that_go_wrong_on_their_way_lose_and_double_nothing(
    report: Callable[[Tally], None],
) -> None:
    runs.clear()
    with RedisServer() as server, RedisProxy(server.port) as proxy:
        async with AsyncExitStack() as stack:
            direct = TaskScheduler(await stack.enter_async_context(RedisKV(server.url, prefix=PREFIX)))
            kvs = [
                await stack.enter_async_context(RedisKV(proxy.url, prefix=PREFIX, socket_timeout=1.0))
                for _ in range(2 * CLIENTS)
            ]
            await direct.schedule_recurring(tick, interval=INTERVAL, id="tick", misfire="all")
            for kv in kvs[:CLIENTS]:
                (worker,) = await start_task_workers(kv, TaskRegistry([count, tick]), 1, poll_interval=0.1)
                stack.push_async_callback(worker.stop)
            callers = Callers([TaskScheduler(kv) for kv in kvs], count)
            harm = Harm(FAULTS)
            with proxy.harming(harm):
                firing = [start_recurring_scheduler(kv) for kv in kvs[CLIENTS:]]
                async with callers.calling():
                    await harm.enough.wait()
                for each in firing:
                    await each.stop()
            await ended(direct, callers.promised)
            tasks = await _all_tasks(direct)
            ticks = sorted(task.scheduled_for for task in tasks if task.name == "tick")
        await check_for_leaks(server.url, PREFIX)
    counted = Counter(task.input for task in tasks if task.name == "count")
    ran_too_often = [number for number in callers.promised if runs[number] > _expected_runs(number)]
    slots = round((ticks[-1] - ticks[0]).total_seconds() / INTERVAL) + 1
    report(
        Tally(
            "connection reset, replies dropped or cut off, stalls, LOADING, READONLY, OOM",
            f"{sum(proxy.done.values())} faults over {len(callers.promised)} tasks and {slots} slots",
            lost=len(callers.promised.keys() - counted.keys()) + slots - len(set(ticks)),
            duplicated=sum(counted.values())
            - len(counted)
            + len(ran_too_often)
            + len(ticks)
            - len(set(ticks)),
            overwritten=sum(_is_wrong(task) for task in tasks if task.name == "count"),
            figures={"half-written": 0, "errors to callers": dict(callers.refusals)},
        )
    )
    assert set(callers.refusals) <= {"StoreUnavailableError", "StoreFullError"}


def _is_wrong(task: Task) -> bool:
    number = task.input
    if number % 7 == 0:
        return (task.status, task.attempt) != ("dead", 1)
    return (task.status, task.result, task.attempt) != ("completed", number, _expected_runs(number))


async def _all_tasks(scheduler: TaskScheduler) -> list[Task]:
    tasks: list[Task] = []
    while page := await scheduler.get_tasks(limit=1000, offset=len(tasks)):
        tasks += page
    return tasks
