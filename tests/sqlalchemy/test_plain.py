"""When a request needs a connection alone, and when it is the application's own session that must do what it does."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Engine, Integer, MetaData, String, Table, event, insert, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from concave import (
    HookContext,
    ResourceHooks,
    TaskTrigger,
    compose_hooks,
    create_task_trigger_hooks,
    define_task,
)
from concave.tasks.submission import submission
from concave_sqlalchemy import use_resource
from concave_sqlalchemy.outbox import Outbox
from concave_sqlalchemy.plain import PlainSession, listeners_of_all, plain_engine
from concave_sqlalchemy.relay import Submission
from concave_sqlalchemy.transactions import AnySession
from tests.sqlalchemy.support import client_for, database

tables = MetaData()
things = Table("things", tables, Column("id", Integer, primary_key=True), Column("name", String(20)))


class OwnSession(AsyncSession):
    """One of the application's own."""


@define_task
async def note(input: Any) -> None: ...


@pytest.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    async with database(request, tmp_path, tables) as engine:
        yield engine


def chosen(sessions: Any) -> Engine | None:
    return plain_engine(sessions, listeners_of_all())


async def test_a_factory_that_only_binds_needs_no_session(engine: AsyncEngine) -> None:
    assert chosen(async_sessionmaker(engine)) is engine.sync_engine
    assert chosen(async_sessionmaker(engine, expire_on_commit=False)) is engine.sync_engine


async def test_whatever_else_a_factory_does_is_done_by_its_sessions(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        others: list[Any] = [
            async_sessionmaker(engine, class_=OwnSession),
            async_sessionmaker(engine, sync_session_class=type("Own", (Session,), {})),
            async_sessionmaker(engine, info={"tenant": 1}),
            async_sessionmaker(connection),
            async_sessionmaker(),
            sessionmaker(engine.sync_engine),
        ]
        assert [chosen(each) for each in others] == [None] * len(others)
        configured = async_sessionmaker(engine)
        configured.configure(twophase=True)
        assert chosen(configured) is None


async def test_a_listener_to_all_sessions_hears_of_a_resources_too(engine: AsyncEngine) -> None:
    begun: list[Session] = []

    def after_begin(session: Session, *_: object) -> None:
        begun.append(session)

    resource = use_resource(things, session=async_sessionmaker(engine))
    async with client_for(resource) as client:
        assert (await client.post("", json={"name": "a"})).status_code == 201
        event.listen(Session, "after_begin", after_begin)
        try:
            assert (await client.post("", json={"name": "b"})).status_code == 201
            assert (await client.get("/1")).status_code == 200
        finally:
            event.remove(Session, "after_begin", after_begin)
        assert len(begun) == 2
        assert (await client.get("/count")).json() == {"count": 2}
    assert len(begun) == 2


async def test_hooks_that_use_no_session_get_none(engine: AsyncEngine) -> None:
    seen: list[Any] = []

    def after(ctx: HookContext, row: dict[str, Any]) -> None:
        seen.append(ctx.session)

    for uses in (True, False):
        hooks = ResourceHooks(on_after_create=after, uses_session=uses)
        async with client_for(
            use_resource(things, session=async_sessionmaker(engine), hooks=hooks)
        ) as client:
            assert (await client.post("", json={"name": "a"})).status_code == 201
    assert isinstance(seen[0], AsyncSession)
    assert seen[1] is None


def test_triggers_use_no_session_and_one_hook_that_does_is_enough() -> None:
    triggers, hook = create_task_trigger_hooks(on_create=[TaskTrigger(note)]), ResourceHooks()
    assert not triggers.uses_session
    assert not compose_hooks(triggers, triggers).uses_session
    assert compose_hooks(triggers, hook).uses_session


async def test_what_is_raised_rolls_row_and_tasks_back(engine: AsyncEngine) -> None:
    async def after(ctx: HookContext, row: dict[str, Any]) -> None:
        await ctx.enqueue(note, 1)
        raise RuntimeError("no")

    hooks = ResourceHooks(on_after_create=after, uses_session=False)
    resource = use_resource(things, session=async_sessionmaker(engine), hooks=hooks)
    async with client_for(resource) as client:
        assert (await client.post("", json={"name": "a"})).status_code == 500
        assert (await client.get("/count")).json() == {"count": 0}
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM concave_outbox"))).scalar_one() == 0


async def test_a_savepoint_takes_back_what_was_raised_in_it_alone(engine: AsyncEngine) -> None:
    transactions = Outbox(async_sessionmaker(engine)).transactions

    async def write(session: AnySession) -> None:
        assert isinstance(session.sync_session, PlainSession)
        async with session.begin_nested():
            await session.execute(insert(things), {"id": 1})
        with suppress(IntegrityError):
            async with session.begin_nested():
                await session.execute(insert(things), {"id": 2})
                await session.execute(insert(things), {"id": 1})

    await transactions.write(write)
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT id FROM things"))).scalars().all() == [1]


async def test_what_waits_for_something_else_than_the_database_is_rolled_back_and_told(
    engine: AsyncEngine,
) -> None:
    transactions = Outbox(async_sessionmaker(engine)).transactions

    async def write(session: AnySession) -> None:
        await session.execute(insert(things), {"id": 1})
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="belongs outside"):
        await transactions.write(write)
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT id FROM things"))).scalars().all() == []


async def test_many_rows_of_the_outbox_are_deleted_by_one_statement_that_is_the_same_for_any_number(
    engine: AsyncEngine,
) -> None:
    sent: list[str] = []

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def before(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("DELETE"):
            sent.append(statement)

    outbox = Outbox(async_sessionmaker(engine))
    names = [f'it\'s "{number}", {{}}' for number in range(30)]
    rows = [Submission(submission(note, 1, task_id=each)) for each in names]
    await outbox.transactions.write(lambda session: session.run_sync(outbox.write_in, rows))
    for chosen_ids in (names[:1], names[1:29]):
        await outbox._delete(chosen_ids)
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT id FROM concave_outbox"))).scalars().all() == names[29:]
    assert len(sent) == 2
    assert len(set(sent)) == 1


async def test_an_outbox_row_that_is_refused_is_a_database_error(engine: AsyncEngine) -> None:
    outbox = Outbox(async_sessionmaker(engine))
    twice = [Submission(submission(note, 1, task_id="same"))] * 2
    with pytest.raises(IntegrityError):
        await outbox.transactions.write(lambda session: session.run_sync(outbox.write_in, twice))


async def test_a_connection_that_is_lost_before_the_outbox_row_is_not_used_again(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("has no connection to lose")
    end_it = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE state = 'idle in transaction' AND datname = current_database()"
    )
    losing = [True, False]

    async def after(ctx: HookContext, row: dict[str, Any]) -> None:
        await ctx.enqueue(note, 1)
        if losing.pop(0):
            other = create_async_engine(engine.url, isolation_level="AUTOCOMMIT")
            async with other.connect() as connection:
                await connection.execute(end_it)
            await other.dispose()

    hooks = ResourceHooks(on_after_create=after, uses_session=False)
    resource = use_resource(things, session=async_sessionmaker(engine), hooks=hooks)
    async with client_for(resource) as client:
        assert (await client.post("", json={"name": "a"})).status_code == 503
        assert (await client.post("", json={"name": "b"})).status_code == 201
        assert (await client.get("/count")).json() == {"count": 1}
