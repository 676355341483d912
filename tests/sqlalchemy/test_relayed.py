"""Outbox rows whose tasks the store has: a later write deletes them along with its own, and nothing depends on whether it does."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiosqlite
import httpx
import pytest
from sqlalchemy import (
    Column,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

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
from concave.testing import fail_at
from concave_sqlalchemy import relayed, use_resource
from concave_sqlalchemy.outbox import Outbox
from concave_sqlalchemy.outbox_sql import delete_along, delete_rows
from concave_sqlalchemy.tables import outbox_table
from tests.sqlalchemy.support import client_for, client_of, database, role_of
from tests.tasks.support import until

tables = MetaData()
people = Table(
    "people",
    tables,
    Column("id", Integer, primary_key=True),
    Column("name", String(20)),
    Column("boss_id", ForeignKey("people.id", deferrable=True, initially="DEFERRED")),
)
FOREVER = 1e9


@define_task(name="relayed-once")
async def told(ctx: Any, event: Any) -> None: ...


TRIGGERS = [TaskTrigger(told)]
HOOKS = create_task_trigger_hooks(on_create=TRIGGERS, on_update=TRIGGERS)
WAITS = compose_hooks(HOOKS, ResourceHooks(on_after_create=lambda ctx, row: None, uses_session=False))


@pytest.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    async with database(request, tmp_path, tables) as engine:
        if engine.dialect.name == "sqlite":
            event.listen(engine.sync_engine, "connect", _check_references)
        yield engine


@pytest.fixture
async def scheduler(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[TaskScheduler]:
    monkeypatch.setattr(relayed, "LINGER", 0)
    monkeypatch.setattr(relayed, "SPARED", FOREVER)
    async with MemoryKV() as kv:
        yield initialize_tasks(kv)


def _check_references(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA foreign_keys=ON")


async def left(engine: AsyncEngine) -> list[str]:
    """The ids of the rows in the outbox."""
    async with engine.connect() as connection:
        found = await connection.execute(select(outbox_table.c.id).order_by(outbox_table.c.sequence))
        return list(found.scalars())


async def post(client: httpx.AsyncClient, name: str, status: int = 201, **values: Any) -> None:
    answer = await client.post("", json={"name": name, **values})
    assert answer.status_code == status, answer.text


async def until_left_to_writes(sessions: AsyncEngine | sessionmaker[Any]) -> None:
    """The rows that were relayed wait for a write from now on."""
    outbox = Outbox.of(async_sessionmaker(sessions) if isinstance(sessions, AsyncEngine) else sessions)
    await until(lambda: outbox._relay.relayed._left_to_writes)


async def deleted_once(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    """Have rows be deleted in the background: whether that can be done is known from then on."""
    await post(client, "warm-up")
    await Outbox.of(async_sessionmaker(engine)).drain()
    assert await left(engine) == []


def commits(engine: AsyncEngine) -> list[int]:
    """Grows by one with each transaction that commits."""
    seen = list[int]()
    event.listen(engine.sync_engine, "commit", lambda _: seen.append(1))
    return seen


@pytest.mark.parametrize("hooks", [HOOKS, WAITS], ids=["at once", "hooks that are waited for"])
async def test_a_write_deletes_what_was_relayed_before_it(
    engine: AsyncEngine, scheduler: TaskScheduler, hooks: ResourceHooks
) -> None:
    async with client_of(people, engine, hooks=hooks) as client:
        await deleted_once(client, engine)
        await post(client, "first")
        await until_left_to_writes(engine)
        (first,) = await left(engine)
        seen = commits(engine)
        await post(client, "second")
        assert len(seen) == 1
        (second,) = await left(engine)
        assert second != first
        await until_left_to_writes(engine)
        assert (await client.patch("/1", json={"name": "changed"})).status_code == 200
        (third,) = await left(engine)
        assert third != second
    assert len(await scheduler.get_tasks()) == 4


async def test_sessions_that_block_do_so_too(tmp_path: Path, scheduler: TaskScheduler) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/test.db")
    tables.create_all(engine)
    outbox_table.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    outbox = Outbox.of(sessions)
    async with client_for(use_resource(people, session=sessions, hooks=HOOKS)) as client:
        await post(client, "warm-up")
        await outbox.drain()
        for name in "abc":
            await post(client, name)
            await until_left_to_writes(sessions)
            with engine.connect() as connection:
                assert len(connection.execute(select(outbox_table)).all()) == 1
    await outbox.drain()
    engine.dispose()


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
async def test_it_is_no_trip_to_the_driver_of_its_own(
    engine: AsyncEngine, scheduler: TaskScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    trips = list[str]()
    real: Any = aiosqlite.Connection._execute

    async def execute(self: aiosqlite.Connection, function: Any, *args: Any, **options: Any) -> Any:
        trips.append(function.__name__)
        return await real(self, function, *args, **options)

    monkeypatch.setattr(aiosqlite.Connection, "_execute", execute)
    async with client_of(people, engine, hooks=HOOKS) as client:
        await engine.dispose()  # so that connections are younger than the resource
        await deleted_once(client, engine)
        counted = list[list[str]]()
        for name in "ab":
            trips.clear()
            await post(client, name)
            counted.append(list(trips))
            await until_left_to_writes(engine)
    assert counted[0] == counted[1]


async def test_a_write_that_fails_leaves_them_to_the_next_sweep(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    await engine.dispose()  # connections from now on check references
    outbox = Outbox.of(async_sessionmaker(engine))
    async with client_of(people, engine, hooks=HOOKS) as client:
        await deleted_once(client, engine)
        await post(client, "first")
        await until_left_to_writes(engine)
        await post(client, "orphan", 409, boss_id=77)
        assert len(await left(engine)) == 1
        await outbox.drain()
        assert len(await left(engine)) == 1  # they were the failed write's
        assert await outbox.sweep(scheduler.submit) == 1
        assert await left(engine) == []
    assert len(await scheduler.get_tasks()) == 2


async def test_none_of_them_is_a_writes_before_some_were_deleted_without_one(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    async with client_of(people, engine, hooks=HOOKS) as client:
        for name in "ab":
            await post(client, name)
            await until_left_to_writes(engine)
        assert len(await left(engine)) == 2


async def test_what_no_write_takes_is_deleted_all_the_same(
    engine: AsyncEngine, scheduler: TaskScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relayed, "SPARED", 0)
    deleted = asyncio.Event()
    async with client_of(people, engine, hooks=HOOKS) as client:
        with fail_at("outbox.deleted", deleted.set):
            await post(client, "first")
            await deleted.wait()
    assert await left(engine) == []


async def test_a_write_takes_no_more_than_it_should(
    engine: AsyncEngine, scheduler: TaskScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relayed, "ALONG", 2)
    async with client_of(people, engine, hooks=HOOKS) as client:
        await deleted_once(client, engine)
        items = [{"name": name} for name in "abcde"]
        assert (await client.post("/batch", json={"items": items})).status_code == 200
        await until_left_to_writes(engine)
        rows = [len(await left(engine))]
        for name in "xyz":
            await post(client, name)
            rows.append(len(await left(engine)))
    assert rows[:3] == [5, 4, 3]


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_no_connection_asks_what_an_array_of_ids_is(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver's question to the catalogue of types takes longer than the rows of a second."""
    asked: list[Any] = []

    async def ask(*args: Any, **_options: Any) -> Any:
        asked.append(args)
        raise AssertionError(args)

    async with engine.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        monkeypatch.setattr(type(driver), "_introspect_types", ask)
        assert await connection.run_sync(lambda given: delete_along(Session(given), ["a", "b"]))
        await connection.run_sync(lambda given: delete_rows(Session(given), ["a", "b"]))
    assert not asked


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_nobody_waits_for_who_deletes_the_same(engine: AsyncEngine, scheduler: TaskScheduler) -> None:
    """Two that each hold what the other wants: PostgreSQL would end one of them, and that may be a client's request."""
    async with client_of(people, engine, hooks=HOOKS) as client:
        await deleted_once(client, engine)
        await post(client, "first")
        await until_left_to_writes(engine)
        async with engine.begin() as other:
            await other.execute(select(outbox_table).with_for_update())
            await post(client, "second")
            assert len(await left(engine)) == 2
    await Outbox.of(async_sessionmaker(engine)).drain()
    assert len(await left(engine)) == 1
    assert await Outbox.of(async_sessionmaker(engine)).sweep(scheduler.submit) == 1
    assert await left(engine) == []


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
@pytest.mark.parametrize("isolation, along", [("READ COMMITTED", True), ("REPEATABLE READ", False)])
async def test_only_where_what_others_have_deleted_is_no_failure(
    engine: AsyncEngine, scheduler: TaskScheduler, isolation: Any, along: bool
) -> None:
    engine = engine.execution_options(isolation_level=isolation)
    outbox = Outbox.of(async_sessionmaker(engine))
    async with client_of(people, engine, hooks=HOOKS) as client:
        await deleted_once(client, engine)
        for name in "ab":
            await post(client, name)
            await until_left_to_writes(engine)
        assert len(await left(engine)) == (1 if along else 2)
    await outbox.drain()
    assert await left(engine) == []


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_a_role_that_may_not_lock_rows_deletes_them_by_themselves(
    engine: AsyncEngine, scheduler: TaskScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    grants = "SELECT, INSERT, UPDATE ON people", "SELECT, INSERT, DELETE ON concave_outbox"
    async with role_of(engine, *grants) as role:
        event.listen(engine.sync_engine, "begin", lambda given: given.execute(text(f"SET LOCAL ROLE {role}")))
        async with client_of(people, engine, hooks=HOOKS) as client:
            await deleted_once(client, engine)
            for name in "ab":
                await post(client, name)
                await until_left_to_writes(engine)
            assert len(await left(engine)) == 2
        await Outbox.of(async_sessionmaker(engine)).drain()
        assert await left(engine) == []
    assert caplog.messages == []


@pytest.mark.parametrize("hooks", [HOOKS, WAITS], ids=["at once", "hooks that are waited for"])
@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_a_request_with_a_role_of_its_own_does_not_fail_for_them(
    engine: AsyncEngine, scheduler: TaskScheduler, hooks: ResourceHooks
) -> None:
    roles = list[str]()

    def begin(connection: Any) -> None:
        if roles:
            connection.execute(text(f"SET LOCAL ROLE {roles[0]}"))

    async with role_of(engine, "SELECT, INSERT ON people, concave_outbox") as role:
        event.listen(engine.sync_engine, "begin", begin)
        async with client_of(people, engine, hooks=hooks) as client:
            await deleted_once(client, engine)
            for name in "ab":
                await post(client, name)
                await until_left_to_writes(engine)
                roles.append(role)
            assert len(await left(engine)) == 2
            roles.clear()
        await Outbox.of(async_sessionmaker(engine)).drain()
        assert await left(engine) == []
        assert len(await scheduler.get_tasks()) == 3
