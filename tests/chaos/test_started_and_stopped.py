"""Workers and lifespans, started and stopped again and again at every stage of their lives: nothing stays behind."""

import asyncio
import gc
import logging
import random
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from weakref import WeakSet

import pytest
from redis.asyncio import Redis

from concave import Schedule, TaskContext, TaskRegistry, TaskScheduler, define_task, task_lifespan
from concave.kv import KV, MemoryKV, RedisKV
from concave.tasks import defaults, start_task_workers
from tests.chaos.counting import all_tasks, none_waits
from tests.chaos.tally import Tally, sized
from tests.chaos.waiting import eventually

TIMES = sized(20, 200)

Life = Callable[[], AbstractAsyncContextManager[object]]

interrupted: set[str] = set()
"""The tasks that run until they are interrupted; the next time they return at once."""


@define_task(name="quick")
async def quick() -> None: ...


@define_task(name="long")
async def long(ctx: TaskContext) -> None:
    if ctx.task_id not in interrupted:
        interrupted.add(ctx.task_id)
        await asyncio.sleep(3600)


@define_task(name="long-in-thread")
def long_in_thread(ctx: TaskContext) -> None:
    if ctx.task_id not in interrupted:
        interrupted.add(ctx.task_id)
        while not ctx.signal.aborted:
            time.sleep(0.001)


TASKS = (quick, long, long_in_thread)


class Alive(NamedTuple):
    """What there is of this process that a life might leave behind."""

    tasks: set[str]
    threads: set[str]
    files: int
    connections: int


@pytest.fixture(autouse=True)
def no_outboxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of resources that other modules declare at their import are not these lives' to sweep: that opens connections."""
    monkeypatch.setattr(defaults, "_outboxes", WeakSet())


@pytest.fixture(params=["memory", "redis"])
async def kv(request: pytest.FixtureRequest) -> AsyncGenerator[KV]:
    interrupted.clear()
    if request.param == "memory":
        async with MemoryKV() as memory:
            yield memory
        return
    url = request.getfixturevalue("redis_url")
    async with RedisKV(url, prefix=f"test-{uuid.uuid4().hex}") as redis:
        yield redis


@pytest.mark.timeout(300)
async def test_workers_leave_nothing_behind(
    kv: KV, report: Callable[[Tally], None], caplog: pytest.LogCaptureFixture
) -> None:
    registry = TaskRegistry(TASKS)

    @asynccontextmanager
    async def life() -> AsyncGenerator[None]:
        async with _connected(kv.twin()) as own:
            workers = await start_task_workers(own, registry, 2, on_dead_letter=print)
            try:
                yield
            finally:
                # Twice, as where a signal and an end meet.
                await asyncio.gather(*(worker.stop(0) for worker in workers for _ in range(2)))

    await _live_again_and_again("two workers", life, kv, report, caplog)


@pytest.mark.timeout(300)
async def test_lifespans_leave_nothing_behind(
    kv: KV, request: pytest.FixtureRequest, report: Callable[[Tally], None], caplog: pytest.LogCaptureFixture
) -> None:
    lifespan = task_lifespan(
        request.getfixturevalue("redis_url") if isinstance(kv, RedisKV) else kv,
        tasks=TASKS,
        workers=2,
        schedules=[Schedule(quick, interval=3600, id="quick")],
        shutdown_grace=0,
        prefix=kv.prefix,
        on_dead_letter=print,
    )
    await _live_again_and_again("a lifespan", lifespan, kv, report, caplog)


async def _live_again_and_again(
    what: str, life: Life, kv: KV, report: Callable[[Tally], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 3600.0  # that is the machine's matter
    scheduler = TaskScheduler(kv)
    gc.collect()  # what tests before this one left to it: files that close by and by would be missing afterwards
    before, enqueued = await _alive(kv), 0
    for number in range(TIMES):
        async with _connected(kv.twin()) as callers:
            enqueued += await ENDS[number % len(ENDS)](life, TaskScheduler(callers))

        async def nothing_is_left() -> bool:
            return await _alive(kv) == before

        try:
            await eventually(nothing_is_left, "no more is there than was before", timeout=20)
        except AssertionError as error:
            raise AssertionError(f"{error}: {before}, and now {await _alive(kv)}") from None
    async with life():
        await eventually(lambda: none_waits(scheduler), "all tasks have ended")
    gc.collect()  # whatever was left open says so in a warning, which is an error here
    tasks = await all_tasks(scheduler)
    report(
        Tally(
            f"{what} started and stopped, {kv.description.partition(':')[0]}",
            f"{TIMES} times over {enqueued} tasks",
            lost=enqueued - sum(task.status == "completed" and task.crashes == 0 for task in tasks),
            duplicated=len(tasks) - enqueued,
            figures={
                "interrupted": sum(task.interruptions for task in tasks),
                "left behind": "no task, thread, file or connection",
                "warnings": len(caplog.records),
            },
        )
    )
    assert [record.getMessage() for record in caplog.records] == []


@asynccontextmanager
async def _connected(kv: KV) -> AsyncGenerator[KV]:
    await kv.connect()
    try:
        yield kv
    finally:
        await kv.close()


async def _alive(kv: KV) -> Alive:
    connections = 0
    if isinstance(kv, RedisKV):
        async with Redis.from_url(kv.description) as client:
            connections = len(await client.client_list())
    return Alive(
        {task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()},
        # The loop's own executor keeps its threads.
        {thread.name for thread in threading.enumerate() if not thread.name.startswith("asyncio_")},
        _open_files(),
        connections,
    )


def _open_files() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


# How a life ends; each says how many tasks it has enqueued.


async def _ended_at_once(life: Life, scheduler: TaskScheduler) -> int:
    async with life():
        return 0


async def _ended_after_work(life: Life, scheduler: TaskScheduler) -> int:
    async with life():
        await scheduler.wait(await scheduler.enqueue(quick), timeout=60)
    return 1


async def _ended_at_work(life: Life, scheduler: TaskScheduler) -> int:
    async with life():
        ids = {await scheduler.enqueue(task) for task in (long, long_in_thread)}
        await eventually(lambda: ids <= interrupted, "they run")
    return len(ids)


async def _called_off(life: Life, scheduler: TaskScheduler) -> int:
    async def live() -> None:
        async with life():
            await asyncio.Event().wait()

    living = asyncio.create_task(live())
    await asyncio.sleep(random.choice((0, random.uniform(0, 0.03))))  # the random instant is the point
    living.cancel()
    with suppress(asyncio.CancelledError):
        await living
    return 0


ENDS = (_ended_at_once, _ended_after_work, _ended_at_work, _called_off)
