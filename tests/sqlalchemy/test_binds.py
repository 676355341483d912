"""Session factories with `binds=`: rows and their tasks are in one database, or it is refused."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from concave import (
    ConfigurationError,
    ResourceHooks,
    TaskTrigger,
    create_task_trigger_hooks,
    define_task,
    initialize_tasks,
)
from concave.kv import MemoryKV
from concave_sqlalchemy import track_session, use_resource
from concave_sqlalchemy.outbox import Outbox
from tests.sqlalchemy.support import client_for, database


class Base(DeclarativeBase): ...


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)


class Log(Base):
    __tablename__ = "logs"
    id: Mapped[int] = mapped_column(primary_key=True)


@define_task(name="note")
async def note(ctx: Any, entry: Any) -> None: ...


@pytest.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    async with database(request, tmp_path, Base.metadata) as engine:
        yield engine


@pytest.fixture
async def elsewhere(tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/elsewhere.db")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()


async def test_what_is_in_the_outbox_s_database_is_tracked(
    engine: AsyncEngine, elsewhere: AsyncEngine
) -> None:
    sessions = async_sessionmaker(engine, binds={Log: elsewhere})
    hooks = create_task_trigger_hooks(on_create=[TaskTrigger(note, transform=lambda row: row["id"])])
    track_session(sessions, {User: hooks})
    async with MemoryKV() as kv, client_for(use_resource(User, session=sessions, hooks=hooks)) as client:
        scheduler = initialize_tasks(kv)
        async with sessions.begin() as session:
            session.add_all([User(), Log(id=7)])
        assert (await client.post("", json={})).status_code == 201
        await Outbox.of(sessions).sweep(scheduler.submit)
        assert sorted(task.input for task in await scheduler.get_tasks()) == [1, 2]
        async with elsewhere.connect() as connection:
            assert (await connection.execute(select(Log.id))).scalars().all() == [7]


async def test_what_is_in_another_database_than_the_outbox_is_refused(
    engine: AsyncEngine, elsewhere: AsyncEngine
) -> None:
    for sessions in (
        async_sessionmaker(engine, binds={Log: elsewhere}),
        async_sessionmaker(engine, binds={Base: elsewhere}),
        async_sessionmaker(binds={Log: elsewhere}),
        sessionmaker(engine.sync_engine, binds={Log: elsewhere.sync_engine}),
    ):
        for refused in (
            lambda: track_session(sessions, {Log: ResourceHooks()}),  # noqa: B023  (called here)
            lambda: use_resource(Log, session=sessions),  # noqa: B023
        ):
            with pytest.raises(ConfigurationError, match="one database alone"):
                refused()
    with pytest.raises(ConfigurationError, match="one database alone"):
        use_resource(Log.__table__, session=async_sessionmaker(engine, binds={Log: elsewhere}))
