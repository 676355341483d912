"""SQLite: outbox rows that the commit itself writes, in one trip to the driver's thread."""

import sqlite3
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table, event, func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from concave import (
    ResourceHooks,
    TaskScheduler,
    TaskTrigger,
    compose_hooks,
    create_task_trigger_hooks,
    define_task,
)
from concave.kv import MemoryKV
from concave.tasks import initialize_tasks
from concave_sqlalchemy import create_outbox_tables, sqlite, use_resource
from concave_sqlalchemy.outbox import Outbox
from concave_sqlalchemy.tables import outbox_table
from tests.sqlalchemy.support import client_for, client_of

tables = MetaData()
people = Table(
    "people",
    tables,
    Column("id", Integer, primary_key=True),
    Column("name", String(20)),
    Column("boss_id", ForeignKey("people.id", deferrable=True, initially="DEFERRED")),
)


@define_task(name="at-commit")
async def at_commit(ctx: Any, event: Any) -> None: ...


HOOKS = create_task_trigger_hooks(on_create=[TaskTrigger(at_commit)])


class OwnConnection(sqlite3.Connection):
    """A class of connections that an engine's owner has."""


@pytest.fixture(params=[None, OwnConnection], ids=["ours", "the owner's own class"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    options = {"factory": request.param} if request.param else {}
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/test.db", connect_args=options)

    @event.listens_for(engine.sync_engine, "connect")
    def connect(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA foreign_keys=ON")

    async with engine.begin() as connection:
        await connection.run_sync(tables.create_all)
    await create_outbox_tables(engine)
    await engine.dispose()  # so that later connections are younger than the resource
    yield engine
    await engine.dispose()


@pytest.fixture
async def scheduler() -> AsyncGenerator[TaskScheduler]:
    async with MemoryKV() as kv:
        yield initialize_tasks(kv)


async def count(engine: AsyncEngine, table: Table) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(select(func.count()).select_from(table))).scalar_one())


@pytest.mark.parametrize("uses_session", [False, True])
async def test_a_commit_that_fails_takes_the_tasks_along(
    engine: AsyncEngine, scheduler: TaskScheduler, uses_session: bool
) -> None:
    others = ResourceHooks(on_after_create=lambda ctx, row: None, uses_session=uses_session)
    async with client_of(people, engine, hooks=compose_hooks(HOOKS, others)) as client:
        assert (await client.post("", json={"name": "first"})).status_code == 201
        for _ in range(2):
            assert (await client.post("", json={"name": "orphan", "boss_id": 77})).status_code == 409
        assert (await client.post("", json={"name": "last"})).status_code == 201
    tasks = await scheduler.get_tasks()
    assert sorted(task.input["data"]["name"] for task in tasks) == ["first", "last"]
    assert await count(engine, people) == 2


async def test_a_commit_that_fails_leaves_the_connection_as_it_was_without_tasks_too(
    engine: AsyncEngine,
) -> None:
    async with client_of(people, engine) as client:
        assert (await client.post("", json={"name": "orphan", "boss_id": 77})).status_code == 409
        assert (await client.post("", json={"name": "last"})).status_code == 201
    assert await count(engine, people) == 1


async def test_what_was_not_committed_is_not_written_by_the_next_commit(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    refusals = list[RuntimeError]()

    def refuse(_: object) -> None:
        if refusals:
            raise refusals.pop()

    event.listen(engine.sync_engine, "commit", refuse)
    async with client_of(people, engine, hooks=HOOKS) as client:
        assert (await client.post("", json={"name": "first"})).status_code == 201
        refusals.append(RuntimeError("no"))
        assert (await client.post("", json={"name": "second"})).status_code == 500
    async with client_of(people, engine) as client:
        assert (await client.post("", json={"name": "third"})).status_code == 201
    assert [task.input["data"]["name"] for task in await scheduler.get_tasks()] == ["first"]
    assert await count(engine, people) == 2
    await Outbox.of(async_sessionmaker(engine)).drain()
    assert await count(engine, outbox_table) == 0


async def test_a_table_that_is_gone_by_the_commit_rolls_the_row_back(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    async with client_of(people, engine, hooks=HOOKS) as client:
        assert (await client.post("", json={"name": "first"})).status_code == 201
        async with engine.begin() as connection:
            await connection.execute(text(f"ALTER TABLE {outbox_table.name} RENAME TO elsewhere"))
        assert (await client.post("", json={"name": "second"})).status_code == 500
        assert await count(engine, people) == 1
        async with engine.begin() as connection:
            await connection.execute(text(f"ALTER TABLE elsewhere RENAME TO {outbox_table.name}"))
        assert (await client.post("", json={"name": "third"})).status_code == 201
    assert len(await scheduler.get_tasks()) == 2


async def test_a_task_is_no_trip_to_the_driver_of_its_own(
    request: pytest.FixtureRequest,
    engine: AsyncEngine,
    scheduler: TaskScheduler,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trips = list[str]()
    real: Any = aiosqlite.Connection._execute

    async def execute(self: aiosqlite.Connection, function: Any, *args: Any, **options: Any) -> Any:
        trips.append(function.__name__)
        return await real(self, function, *args, **options)

    monkeypatch.setattr(aiosqlite.Connection, "_execute", execute)
    none = ResourceHooks(on_after_create=lambda ctx, row: None, uses_session=False)
    counted: dict[str, list[str]] = {}
    for name, hooks in {"bare": none, "triggered": HOOKS}.items():
        async with client_of(people, engine, hooks=hooks) as client:
            await client.post("", json={"name": "warm-up"})
            trips.clear()
            await client.post("", json={"name": name})
            counted[name] = list(trips)
    is_ours = "owner" not in request.node.callspec.id
    assert counted["triggered"].count("executemany") == (0 if is_ours else 1)
    assert len(counted["triggered"]) - counted["triggered"].count("executemany") == len(counted["bare"])
    assert len(await scheduler.get_tasks()) == 2


@pytest.mark.parametrize("mode", ["conditional_savepoint", "create_savepoint", "rollback_only"])
@pytest.mark.parametrize("uses_session", [True, False])
async def test_rows_of_sessions_in_somebody_elses_transaction_are_written_at_once(
    engine: AsyncEngine, mode: Any, uses_session: bool
) -> None:
    # SQLAlchemy's recipe for suites of tests: what such a session commits isn't the driver's transaction.
    sessions = async_sessionmaker(engine)
    hooks = compose_hooks(
        HOOKS, ResourceHooks(on_after_create=lambda ctx, row: None, uses_session=uses_session)
    )
    async with client_for(use_resource(people, session=sessions, hooks=hooks)) as client:
        assert (await client.post("", json={"name": "first"})).status_code == 201
        async with engine.connect() as connection:
            outer = await connection.begin()
            sessions.configure(bind=connection, join_transaction_mode=mode)
            for name in "abc":
                assert (await client.post("", json={"name": name})).status_code == 201
            tasks = await connection.execute(select(func.count()).select_from(outbox_table))
            rows = await connection.execute(select(func.count()).select_from(people))
            assert (rows.scalar_one(), tasks.scalar_one()) == (4, 4)
            await outer.rollback()


def test_a_connection_is_closed_twice() -> None:
    connection = sqlite3.connect(":memory:", factory=sqlite._Connection)
    cursor = connection.cursor()
    connection.close()
    connection.close()
    with pytest.raises(sqlite3.ProgrammingError):
        cursor.execute("SELECT 1")
