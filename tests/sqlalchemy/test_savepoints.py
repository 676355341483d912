"""What a hook does within a savepoint of its own goes with it, tasks and callbacks included: in resources and tracked sessions, async or not."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from starlette.applications import Starlette

from concave import (
    HookContext,
    ResourceHooks,
    TaskTrigger,
    compose_hooks,
    create_task_trigger_hooks,
    define_task,
    initialize_tasks,
)
from concave.kv import MemoryKV
from concave.tasks.scheduler import TaskScheduler
from concave_sqlalchemy import create_outbox_tables, track_session, use_resource
from concave_sqlalchemy.outbox import Outbox
from concave_sqlalchemy.savepoints import Savepoints
from tests.servers import temporary_database

Sessions = Any


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)


class Line(Base):
    __tablename__ = "lines"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(unique=True)


@define_task(name="ship")
async def ship(ctx: Any, entry: str) -> None: ...


@pytest.fixture(params=["aiosqlite", "asyncpg", "pysqlite", "psycopg"])
async def sessions(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Sessions]:
    driver = request.param
    async with AsyncExitStack() as stack:
        url = f"sqlite+{driver}:///{tmp_path}/test.db"
        if driver in {"asyncpg", "psycopg"}:
            server = request.getfixturevalue("postgres_url")
            made = make_url(await stack.enter_async_context(temporary_database(server)))
            url = made.set(drivername=f"postgresql+{driver}").render_as_string(hide_password=False)
        if driver in {"aiosqlite", "asyncpg"}:
            engine = create_async_engine(url)
            async with engine.begin() as connection:
                await connection.run_sync(Base.metadata.create_all)
            await create_outbox_tables(engine)
            yield async_sessionmaker(engine)
            await engine.dispose()
        else:
            plain = create_engine(url)
            Base.metadata.create_all(plain)
            create_outbox_tables(plain)
            yield sessionmaker(plain)
            plain.dispose()


@pytest.fixture
async def scheduler() -> AsyncGenerator[TaskScheduler]:
    async with MemoryKV() as kv:
        yield initialize_tasks(kv)


@asynccontextmanager
async def savepoint(session: AsyncSession | Session) -> AsyncGenerator[None]:
    if isinstance(session, AsyncSession):
        async with session.begin_nested():
            yield
    else:
        with session.begin_nested():
            yield


async def flush(session: AsyncSession | Session) -> None:
    if isinstance(session, AsyncSession):
        await session.flush()
    else:
        session.flush()


class Told:
    """A hook's doings, and the callbacks of `on_commit` that were called."""

    def __init__(self) -> None:
        self.called: list[str] = []

    async def say(self, ctx: HookContext, name: str) -> None:
        await ctx.enqueue(ship, name)
        ctx.on_commit(lambda: self.called.append(name))

    async def inside(self, ctx: HookContext, name: str, *, fails: bool = True) -> None:
        """Within a savepoint, which is rolled back if it `fails`."""
        try:
            async with savepoint(ctx.session):
                ctx.session.add(Line(text=name))
                await flush(ctx.session)
                await self.say(ctx, name)
                if fails:
                    raise LookupError
        except LookupError:
            pass


async def carried_out(
    way: str, sessions: Sessions, scheduler: TaskScheduler, hooks: ResourceHooks
) -> list[Any]:
    """The inputs of the tasks that come of one new order."""
    if way == "resource":
        app = Starlette(routes=[use_resource(Order, session=sessions, hooks=hooks).mount("/t")])
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://test"
        ) as client:
            assert (await client.post("/t", json={})).status_code == 201
    else:
        track_session(sessions, {Order: hooks})
        if isinstance(sessions, async_sessionmaker):
            async with sessions.begin() as session:
                session.add(Order())
        else:
            with sessions.begin() as session:
                session.add(Order())
    outbox = Outbox.of(sessions)
    await outbox.drain()
    await outbox.sweep(scheduler.submit)
    return sorted(task.input for task in await scheduler.get_tasks())


both = pytest.mark.parametrize("way", ["resource", "tracked"])


@both
async def test_what_was_rolled_back_has_no_task_and_no_callback(
    way: str, sessions: Sessions, scheduler: TaskScheduler
) -> None:
    told = Told()

    async def after(ctx: HookContext, row: Any) -> None:
        await told.say(ctx, "before")
        await told.inside(ctx, "rolled back")
        await told.inside(ctx, "kept", fails=False)
        await told.inside(ctx, "rolled back, too")
        await told.say(ctx, "then")

    inputs = await carried_out(way, sessions, scheduler, ResourceHooks(on_after_create=after))
    assert inputs == ["before", "kept", "then"]
    assert told.called == ["before", "kept", "then"]


@both
async def test_savepoints_within_one_that_is_rolled_back(
    way: str, sessions: Sessions, scheduler: TaskScheduler
) -> None:
    told = Told()

    async def after(ctx: HookContext, row: Any) -> None:
        try:
            async with savepoint(ctx.session):
                await told.inside(ctx, "inner", fails=False)
                await told.inside(ctx, "inner, rolled back")
                await told.say(ctx, "outer")
                raise LookupError
        except LookupError:
            await told.say(ctx, "told of")

    inputs = await carried_out(way, sessions, scheduler, ResourceHooks(on_after_create=after))
    assert inputs == told.called == ["told of"]


@both
async def test_a_savepoint_that_the_database_ended(
    way: str, sessions: Sessions, scheduler: TaskScheduler
) -> None:
    told = Told()

    async def after(ctx: HookContext, row: Any) -> None:
        await told.inside(ctx, "first", fails=False)
        try:
            async with savepoint(ctx.session):
                await told.say(ctx, "second")
                ctx.session.add(Line(text="first"))
                await flush(ctx.session)
        except IntegrityError:
            await told.say(ctx, "it is there")

    inputs = await carried_out(way, sessions, scheduler, ResourceHooks(on_after_create=after))
    assert inputs == told.called == ["first", "it is there"]


@both
async def test_one_callback_given_before_and_within(
    way: str, sessions: Sessions, scheduler: TaskScheduler
) -> None:
    called: list[int] = []

    def callback() -> None:
        called.append(1)

    async def after(ctx: HookContext, row: Any) -> None:
        ctx.on_commit(callback)
        try:
            async with savepoint(ctx.session):
                ctx.on_commit(callback)
                raise LookupError
        except LookupError:
            pass
        ctx.on_commit(lambda: called.append(2))

    assert await carried_out(way, sessions, scheduler, ResourceHooks(on_after_create=after)) == []
    assert called == [1, 2]


async def test_a_plain_function_in_a_thread(sessions: Sessions, scheduler: TaskScheduler) -> None:
    if isinstance(sessions, async_sessionmaker):
        pytest.skip("its hooks are coroutine functions")
    called: list[str] = []

    def after(ctx: HookContext, row: Any) -> None:
        ctx.on_commit(lambda: called.append("before"))
        try:
            with ctx.session.begin_nested():
                ctx.on_commit(lambda: called.append("within"))
                raise LookupError
        except LookupError:
            pass

    await carried_out("resource", sessions, scheduler, ResourceHooks(on_after_create=after))
    assert called == ["before"]


async def test_nobody_else_listens(
    sessions: Sessions, scheduler: TaskScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who begins no savepoint pays for none."""

    def refuse(*_: Any) -> None:
        raise AssertionError("listened")

    monkeypatch.setattr(Savepoints, "__init__", refuse)
    told = Told()

    async def after(ctx: HookContext, row: Any) -> None:
        await told.say(ctx, "hook")

    trigger = create_task_trigger_hooks(on_create=[TaskTrigger(ship, transform=lambda row: "trigger")])
    assert await carried_out("resource", sessions, scheduler, trigger) == ["trigger"]
    hooks = compose_hooks(trigger, ResourceHooks(on_after_create=after))
    assert await carried_out("resource", sessions, scheduler, hooks) == ["hook", "trigger", "trigger"]
    assert told.called == ["hook"]
