"""Redis forgets: its data (flushed, or restarted with none), or its scripts. What it held is lost, and nothing else is."""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, closing
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from concave import TaskContext, TaskRegistry, TaskScheduler, define_task
from concave.kv import RedisKV
from concave.tasks import create_recurring_manager, start_task_workers
from tests.chaos.app import PREFIX, count, runs_in
from tests.chaos.callers import Callers, ended
from tests.chaos.tally import Tally, sized
from tests.chaos.test_redis_killed import worker
from tests.servers import RedisServer, UvicornServer
from tests.stores.leaks import check_for_leaks

TIMES = sized(2, 40)
TASKS = sized(100, 500)
FLUSHES = sized(15, 200)
POSTS = 20


@pytest.mark.timeout(900)
async def test_an_emptied_redis_loses_what_it_held_and_nothing_wedges(
    tmp_path: Path, report: Callable[[Tally], None]
) -> None:
    runs = tmp_path / "runs"
    exposed: set[int] = set()
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        workers = [stack.enter_context(worker(redis.url, runs)) for _ in range(2)]
        for each in workers:
            each.wait_for_log("tasks on redis")
        kv = await stack.enter_async_context(RedisKV(redis.url, prefix=PREFIX))
        callers = Callers([TaskScheduler(kv)], count)
        async with callers.calling():
            for number in range(TIMES):
                await callers.more(TASKS)
                if number % 2:
                    redis.kill()
                    await asyncio.to_thread(redis.start)
                else:
                    async with Redis.from_url(redis.url) as client:
                        await client.flushall()
                # Whatever was promised, or on its way, by now.
                exposed |= set(range(1, callers.last + 1))
                await _schedule_is_there(kv)
        tasks = await ended(TaskScheduler(kv), callers.promised)
        for each in workers:
            each.stop()
        await check_for_leaks(redis.url, PREFIX)
    missing = {number for number, task in tasks.items() if task is None}
    ran = Counter(runs_in(runs))
    report(
        Tally(
            "Redis emptied: flushed, or restarted with no data",
            f"{TIMES} times over {len(tasks)} tasks",
            lost=len(missing - exposed) + len((tasks.keys() - exposed) - ran.keys()),
            duplicated=sum(times > 1 for number, times in ran.items() if number not in exposed),
            overwritten=sum(task.result != number for number, task in tasks.items() if task),
            figures={
                "records that went with what it held": len(missing),
                "of them never run": len(missing - ran.keys()),
                "schedule back": f"{TIMES} of {TIMES}",
                "errors to callers": dict(callers.refusals),
            },
        )
    )


async def _schedule_is_there(kv: RedisKV) -> None:
    recurring = create_recurring_manager(kv)
    while [each.id for each in await recurring.list()] != ["tick"]:  # noqa: ASYNC110  another process declares it
        await asyncio.sleep(0.02)


@pytest.mark.timeout(300)
async def test_rows_written_while_redis_was_away_become_tasks_of_an_empty_one(
    tmp_path: Path, report: Callable[[Tally], None]
) -> None:
    database = tmp_path / "shop.db"
    with RedisServer() as redis:
        env = {
            "CONCAVE_KV_URL": redis.url,
            "SHOP_PREFIX": PREFIX,
            "SHOP_DATABASE_URL": f"sqlite+aiosqlite:///{database}",
        }
        with UvicornServer("examples.shop:app", env=env) as shop:
            redis.kill()
            async with httpx.AsyncClient(base_url=shop.url, timeout=30) as client:
                for number in range(POSTS):
                    body = {"email": f"{number}@example.com", "name": "x"}
                    assert (await client.post("/api/users", json=body)).status_code == 201
            held = _outbox(database)
            redis.start()
            async with RedisKV(redis.url, prefix=PREFIX) as kv:
                while _outbox(database):  # noqa: ASYNC110  the shop's sweeper empties it
                    await asyncio.sleep(0.02)
                tasks = await TaskScheduler(kv).get_tasks(name="send-welcome-email", limit=1000)
                schedules = await create_recurring_manager(kv).list()
    emails = Counter(task.input["email"] for task in tasks)
    assert [each.task_name for each in schedules] == ["daily-report"]
    report(
        Tally(
            "rows written while Redis was away, which came back empty",
            f"{POSTS} rows, {held} in the outbox",
            lost=POSTS - len(emails),
            duplicated=sum(emails.values()) - len(emails),
        )
    )


def _outbox(database: Path) -> int:
    with closing(sqlite3.connect(database, timeout=30)) as connection:
        return int(connection.execute("select count(*) from concave_outbox").fetchone()[0])


runs: Counter[int] = Counter()


@define_task(name="add")
async def add(ctx: TaskContext, number: int) -> int:
    runs[number] += 1
    return number


@pytest.mark.timeout(300)
async def test_a_redis_that_forgets_its_scripts_is_no_error(
    report: Callable[[Tally], None], caplog: pytest.LogCaptureFixture
) -> None:
    runs.clear()
    with RedisServer() as redis:
        async with RedisKV(redis.url, prefix=PREFIX) as kv, Redis.from_url(redis.url) as client:
            (worker,) = await start_task_workers(kv, TaskRegistry([add]), 1)
            callers = Callers([TaskScheduler(kv)], add)
            async with callers.calling():
                for _ in range(FLUSHES):
                    await client.script_flush()
                    await asyncio.sleep(0.05)
            tasks = await ended(TaskScheduler(kv), callers.promised)
            await worker.stop()
        await check_for_leaks(redis.url, PREFIX)
    report(
        Tally(
            "SCRIPT FLUSH every 50 ms",
            f"{FLUSHES} times over {len(tasks)} tasks",
            lost=sum(task is None for task in tasks.values()),
            duplicated=sum(times > 1 for times in runs.values()),
            overwritten=sum(task.result != number for number, task in tasks.items() if task),
            figures={"errors": sum(callers.refusals.values()) + len(caplog.records)},
        )
    )
    assert not callers.refusals
    assert [record.getMessage() for record in caplog.records if record.levelname != "INFO"] == []
