"""Engines as their owners configure them: every write is one transaction that begins as a writer."""

import asyncio
import sqlite3
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, event, insert, select
from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.util import await_only
from starlette.applications import Starlette

from concave import HookContext, ResourceHooks
from concave_sqlalchemy import transactions, use_resource
from concave_sqlalchemy.resource import Resource

tables = MetaData()
things = Table("things", tables, Column("id", Integer, primary_key=True), Column("name", String(20)))


@pytest.fixture(params=["driver", "recipe", "none"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    """SQLite engines that begin as the driver does, by SQLAlchemy's recipe for real transactions, or not at all."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/test.db")
    if request.param != "driver":

        @event.listens_for(engine.sync_engine, "connect")
        def connect(connection: Any, _: Any) -> None:
            connection.isolation_level = None

    if request.param == "recipe":

        @event.listens_for(engine.sync_engine, "begin")
        def begin(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN")

    async with engine.begin() as connection:
        await connection.run_sync(tables.create_all)
    yield engine
    await engine.dispose()


def client_of(resource: Resource) -> httpx.AsyncClient:
    app = Starlette(routes=[resource.mount("/things")])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test/things")


async def test_a_hook_that_reads_first_has_the_write_lock_already(engine: AsyncEngine) -> None:
    refused: list[str] = []

    async def before(ctx: HookContext, data: dict[str, Any]) -> None:
        await ctx.session.execute(select(things))
        other = sqlite3.connect(str(engine.url.database), timeout=0)
        try:
            other.execute("INSERT INTO things (name) VALUES ('x')")
        except sqlite3.OperationalError as error:
            refused.append(str(error))
        finally:
            other.close()

    resource = use_resource(
        things, session=async_sessionmaker(engine), hooks=ResourceHooks(on_before_create=before)
    )
    async with client_of(resource) as client:
        assert (await client.post("", json={"name": "a"})).status_code == 201
    assert refused == ["database is locked"]


async def test_what_a_hook_raises_rolls_back(engine: AsyncEngine) -> None:
    async def after(ctx: HookContext, row: dict[str, Any]) -> None:
        await ctx.session.execute(insert(things).values(name="by the hook"))
        raise RuntimeError("no")

    resource = use_resource(
        things, session=async_sessionmaker(engine), hooks=ResourceHooks(on_after_create=after)
    )
    async with client_of(resource) as client:
        assert (await client.post("", json={"name": "a"})).status_code == 500
        assert (await client.get("/count")).json() == {"count": 0}


async def test_hooks_are_called_in_no_greenlet(engine: AsyncEngine) -> None:
    called: list[bool] = []

    def hook(*_: Any) -> None:
        try:
            await_only(asyncio.get_running_loop().create_future())
        except MissingGreenlet:
            called.append(True)

    hooks = ResourceHooks(hook, hook, hook, hook, hook, hook)
    resource = use_resource(things, session=async_sessionmaker(engine), hooks=hooks)
    async with client_of(resource) as client, asyncio.timeout(5):
        assert (await client.post("", json={"name": "a"})).status_code == 201
        assert (await client.patch("/1", json={"name": "b"})).status_code == 200
        assert (await client.delete("/1")).status_code == 204
    assert called == [True] * 6


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks are eager from Python 3.12 on")
async def test_a_hook_may_use_the_database_in_eager_tasks(engine: AsyncEngine) -> None:
    sessions = async_sessionmaker(engine)
    asyncio.get_running_loop().set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009  of 3.12

    async def count() -> int:
        async with sessions() as session:
            return len((await session.execute(select(things))).all())

    async def before(_: HookContext, data: dict[str, Any]) -> dict[str, Any]:
        return {"name": str(await asyncio.gather(count(), count()))}

    resource = use_resource(things, session=sessions, hooks=ResourceHooks(on_before_create=before))
    async with client_of(resource) as client, asyncio.timeout(5):
        assert (await client.post("", json={"name": "a"})).json()["name"] == "[0, 0]"


async def test_a_write_that_waits_for_itself_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "GATE_PATIENCE", 0.01)
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/test.db")
    async with engine.begin() as connection:
        await connection.run_sync(tables.create_all)
    inner: list[int] = []

    async def after(ctx: HookContext, row: dict[str, Any]) -> None:
        if not inner:
            inner.append(0)
            inner[0] = (await client.post("", json={"name": "b"})).status_code

    resource = use_resource(
        things, session=async_sessionmaker(engine), hooks=ResourceHooks(on_after_create=after)
    )
    async with client_of(resource) as client:
        assert (await client.post("", json={"name": "a"})).status_code == 201
        assert inner == [503]
        assert (await client.post("", json={"name": "c"})).status_code == 201
    await engine.dispose()


async def test_all_share_one_connection_in_memory() -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        await connection.run_sync(tables.create_all)

    async def after(ctx: HookContext, row: dict[str, Any]) -> None:
        if row["name"] == "bad":
            raise RuntimeError("no")

    resource = use_resource(
        things, session=async_sessionmaker(engine), hooks=ResourceHooks(on_after_create=after)
    )
    async with client_of(resource) as client:
        names = ["good", "bad"] * 10
        answers = await asyncio.gather(
            *(client.post("", json={"name": name}) for name in names), *(client.get("") for _ in range(10))
        )
        assert [answer.status_code for answer in answers] == [201, 500] * 10 + [200] * 10
        assert (await client.get("/count")).json() == {"count": 10}
    await engine.dispose()


async def test_a_database_that_another_process_has_locked_is_503(engine: AsyncEngine) -> None:
    impatient = create_async_engine(engine.url, connect_args={"timeout": 0})
    other = sqlite3.connect(str(engine.url.database))
    other.execute("BEGIN IMMEDIATE")
    async with client_of(use_resource(things, session=async_sessionmaker(impatient))) as client:
        busy = await client.post("", json={"name": "a"})
        assert (busy.status_code, busy.headers["retry-after"]) == (503, "1")
        other.rollback()
        assert (await client.post("", json={"name": "a"})).status_code == 201
    other.close()
    await impatient.dispose()


async def test_what_a_hook_left_running_can_not_commit_a_write_that_is_refused(engine: AsyncEngine) -> None:
    told: list[str] = []
    left: list[asyncio.Task[None]] = []

    async def after(ctx: HookContext, row: dict[str, Any]) -> None:
        async def commit() -> None:
            await asyncio.sleep(0)
            try:
                await ctx.session.commit()
            except RuntimeError as error:
                told.append(str(error))

        left.append(asyncio.create_task(commit()))
        await asyncio.sleep(0)
        raise ValueError("refused")

    hooks = ResourceHooks(on_after_create=after)
    async with client_of(use_resource(things, session=async_sessionmaker(engine), hooks=hooks)) as client:
        assert (await client.post("", json={"name": "a"})).status_code == 500
        await left[0]
        assert (await client.get("")).json()["items"] == []
    assert told == ["a hook must not commit: the resource does, with the row and its tasks together"]
