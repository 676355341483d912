"""Tasks in the outbox of an application's own session, with no request, on both databases."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from concave import ConfigurationError, TaskInputError, define_task, initialize_tasks
from concave.kv import MemoryKV
from concave.tasks.defaults import announced_outboxes
from concave.tasks.scheduler import TaskScheduler
from concave_sqlalchemy import create_outbox_tables, enqueue_in
from concave_sqlalchemy.outbox import Outbox
from tests.servers import temporary_database


@define_task(name="count")
async def count(ctx: Any, number: int) -> None: ...


@pytest.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    async with AsyncExitStack() as stack:
        url = f"sqlite+aiosqlite:///{tmp_path}/test.db"
        if request.param == "postgresql":
            server = request.getfixturevalue("postgres_url")
            url = await stack.enter_async_context(temporary_database(server))
        engine = create_async_engine(url)
        stack.push_async_callback(engine.dispose)
        yield engine


@pytest.fixture
async def scheduler() -> AsyncGenerator[TaskScheduler]:
    async with MemoryKV() as kv:
        yield initialize_tasks(kv)


async def inputs(engine: AsyncEngine, scheduler: TaskScheduler) -> list[Any]:
    await Outbox.of(async_sessionmaker(engine)).drain()
    return sorted(task.input for task in await scheduler.get_tasks())


async def test_a_task_runs_if_and_only_if_its_transaction_commits(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    await create_outbox_tables(engine)
    async with AsyncSession(engine) as session:
        task_id = await enqueue_in(session, count, 1, priority=90)
        assert await inputs(engine, scheduler) == []
        await session.commit()
        assert await inputs(engine, scheduler) == [1]
        task = await scheduler.get_task(task_id)
        assert task is not None
        assert task.priority == 90
        await enqueue_in(session, count, 2)
        await session.rollback()
        await enqueue_in(session, count, 3)
        async with session.begin_nested() as savepoint:
            await enqueue_in(session, count, 4)
            await savepoint.rollback()
        async with session.begin_nested():
            await enqueue_in(session, count, 5)
        await session.commit()
        await enqueue_in(session, count, 6)
    assert await inputs(engine, scheduler) == [1, 3, 5]
    assert await Outbox(async_sessionmaker(engine)).sweep(scheduler.submit) == 0


async def test_without_a_scheduler_it_waits_for_a_sweep(engine: AsyncEngine) -> None:
    await create_outbox_tables(engine)
    async with AsyncSession(engine) as session:
        await enqueue_in(session, count, 1)
        await session.commit()
    (outbox,) = [each for each in announced_outboxes() if f"{engine.url.database}" in repr(each)]
    await outbox.drain()
    async with MemoryKV() as kv:
        scheduler = initialize_tasks(kv)
        assert await outbox.sweep(scheduler.submit) == 1
        assert await inputs(engine, scheduler) == [1]


async def test_what_cannot_be_is_told_at_once(engine: AsyncEngine, scheduler: TaskScheduler) -> None:
    async with AsyncSession(engine) as session:
        with pytest.raises(TaskInputError):
            await enqueue_in(session, count, "x")
        with pytest.raises(ConfigurationError, match="create_outbox_tables"):
            await enqueue_in(session, count, 1)
    async with AsyncSession() as unbound:
        with pytest.raises(ConfigurationError, match="AsyncEngine"):
            await enqueue_in(unbound, count, 1)
