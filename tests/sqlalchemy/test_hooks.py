"""Hooks that misbehave, supply what clients leave out, or read what clients sent."""

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, update
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from starlette.requests import Request

from concave import HookContext, ResourceHooks, initialize_tasks
from concave.kv import MemoryKV
from concave.tasks.defaults import _stack
from concave.tasks.scheduler import TaskScheduler
from concave_sqlalchemy import use_resource
from tests.sqlalchemy.notes import NOTE, client_of, count, derived, notes, tables
from tests.sqlalchemy.support import database


@pytest.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    async with database(request, tmp_path, tables) as engine:
        yield engine


@pytest.fixture
async def scheduler() -> AsyncGenerator[TaskScheduler]:
    async with MemoryKV() as kv:
        yield initialize_tasks(kv)
    _stack.clear()


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_a_hook_cannot_end_the_transaction(
    engine: AsyncEngine, scheduler: TaskScheduler, ending: str
) -> None:
    async def after(ctx: HookContext, row: dict[str, Any]) -> None:
        await getattr(ctx.session, ending)()

    hooks = ResourceHooks(on_after_create=after)
    async with client_of(use_resource(notes, session=async_sessionmaker(engine), hooks=hooks)) as client:
        assert (await client.post("/", json=NOTE)).status_code == 500
    assert await count(engine, notes) == 0


async def test_a_hook_may_use_savepoints(engine: AsyncEngine) -> None:
    async def after(ctx: HookContext, row: dict[str, Any]) -> None:
        async with ctx.session.begin_nested():
            await ctx.session.execute(update(notes).values(title="b"))
        await ctx.session.flush()

    hooks = ResourceHooks(on_after_create=after)
    async with client_of(use_resource(notes, session=async_sessionmaker(engine), hooks=hooks)) as client:
        assert (await client.post("/", json=NOTE)).status_code == 201
        assert (await client.get("/1")).json()["title"] == "b"


async def test_a_before_hook_may_supply_what_the_client_may_leave_to_it(engine: AsyncEngine) -> None:
    def before(ctx: HookContext, data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "owner": "hook"}

    hooks = ResourceHooks(on_before_create=before)
    async with client_of(use_resource(notes, session=async_sessionmaker(engine), hooks=hooks)) as client:
        made = await client.post("/", json={"title": "a"})
        assert made.status_code == 201
        assert made.json()["owner"] == "hook"


def _shout(ctx: HookContext, data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "title": data["title"].upper()}


@pytest.mark.parametrize("before", [_shout, lambda ctx, data: data])
async def test_what_neither_client_nor_hook_gave_is_422(engine: AsyncEngine, before: Any) -> None:
    hooks = ResourceHooks(on_before_create=before)
    async with client_of(use_resource(notes, session=async_sessionmaker(engine), hooks=hooks)) as client:
        for body, missing in (({"owner": "me"}, "title"), ({"title": "a"}, "owner")):
            refused = await client.post("/", json=body)
            assert refused.status_code == 422, refused.text
            assert [each["field"] for each in refused.json()["errors"]] == [missing]
    assert await count(engine, notes) == 0


async def test_data_that_a_hook_changes_in_place_is_checked_too(engine: AsyncEngine) -> None:
    def before(ctx: HookContext, id: Any, data: dict[str, Any]) -> None:
        data["title"] = "x" * 500

    hooks = ResourceHooks(on_before_update=before)
    async with client_of(use_resource(notes, session=async_sessionmaker(engine), hooks=hooks)) as client:
        await client.post("/", json=NOTE)
        assert (await client.patch("/1", json={"title": "b"})).status_code == 422
        assert (await client.get("/1")).json()["title"] == "a"


async def test_a_hook_cannot_give_a_row_another_key(engine: AsyncEngine) -> None:
    def before(ctx: HookContext, id: Any, data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "id": 77}

    hooks = ResourceHooks(on_before_update=before)
    async with client_of(use_resource(notes, session=async_sessionmaker(engine), hooks=hooks)) as client:
        await client.post("/", json=NOTE)
        assert (await client.patch("/1", json={"title": "b"})).status_code == 422
        assert (await client.get("/1")).status_code == 200


async def test_put_with_sql_defaults_and_a_hook(engine: AsyncEngine) -> None:
    given: list[dict[str, Any]] = []

    def before(ctx: HookContext, id: Any, data: dict[str, Any]) -> dict[str, Any]:
        given.append(data)
        return {**data, "owner": "hook"}

    hooks = ResourceHooks(on_before_update=before)
    async with client_of(use_resource(notes, session=async_sessionmaker(engine), hooks=hooks)) as client:
        await client.post("/", json={**NOTE, "made_at": "2001-01-01T00:00:00", "ratio": 1.5})
        put = await client.put("/1", json=NOTE)
        assert put.status_code == 200, put.text
        assert put.json()["owner"] == "hook"
        assert put.json()["ratio"] is None
        assert not put.json()["made_at"].startswith("2001")
    assert given == [NOTE]  # plain values: what the client gave, no SQL


async def test_put_with_a_default_that_reads_the_other_columns(engine: AsyncEngine) -> None:
    async with client_of(use_resource(derived, session=async_sessionmaker(engine))) as client:
        assert (await client.post("/", json={"label": "a"})).json()["shouted"] == "A"
        put = await client.put("/1", json={"label": "b"})
        assert put.status_code == 200, put.text
        assert put.json()["shouted"] == "B"


async def test_hooks_and_the_user_callable_may_read_the_body(engine: AsyncEngine) -> None:
    seen: list[bytes] = []

    async def user(request: Request) -> None:
        seen.append(await request.body())

    async def after(ctx: HookContext, row: dict[str, Any]) -> None:
        seen.append(await ctx.request.body())

    hooks = ResourceHooks(on_after_create=after)
    for who in (user, None):
        resource = use_resource(notes, session=async_sessionmaker(engine), hooks=hooks, user=who)
        async with client_of(resource) as client:
            assert (await client.post("/", json=NOTE)).status_code == 201
    assert [json.loads(each) for each in seen] == [NOTE] * 3


async def test_a_body_that_the_user_callable_read_a_part_of_is_whole_for_the_resource(
    engine: AsyncEngine,
) -> None:
    whole = json.dumps(NOTE).encode()
    seen: list[bytes] = []

    async def user(request: Request) -> None:
        stream = request.stream()
        seen.append(await anext(stream))
        await stream.aclose()

    async def after(ctx: HookContext, row: dict[str, Any]) -> None:
        seen.append(await ctx.request.body())

    async def in_parts() -> AsyncGenerator[bytes]:
        yield whole[:7]
        yield whole[7:]

    resource = use_resource(
        notes, session=async_sessionmaker(engine), hooks=ResourceHooks(on_after_create=after), user=user
    )
    async with client_of(resource) as client:
        headers = {"content-type": "application/json"}
        made = await client.post("/", content=in_parts(), headers=headers)
    assert made.status_code == 201, made.text
    assert b"".join(seen) == whole


async def test_the_user_callable_cannot_be_made_to_read_a_huge_body(engine: AsyncEngine) -> None:
    async def user(request: Request) -> None:
        await request.body()

    resource = use_resource(notes, session=async_sessionmaker(engine), user=user, max_body=100)

    async def endless() -> AsyncGenerator[bytes]:
        for _ in range(100):
            yield b" " * 50

    async with client_of(resource) as client:
        refused = await client.post("/", content=endless(), headers={"content-type": "application/json"})
    assert refused.status_code == 413


async def test_what_a_hook_does_to_its_row_does_not_change_the_answer(engine: AsyncEngine) -> None:
    def after(ctx: HookContext, row: dict[str, Any]) -> None:
        row.clear()

    hooks = ResourceHooks(on_after_create=after)
    async with client_of(use_resource(notes, session=async_sessionmaker(engine), hooks=hooks)) as client:
        assert (await client.post("/", json=NOTE)).json()["title"] == "a"


async def test_a_before_hook_that_trips_over_something_else_is_500(engine: AsyncEngine) -> None:
    def before(ctx: HookContext, data: dict[str, Any]) -> None:
        raise KeyError("typo")

    hooks = ResourceHooks(
        on_before_create=before, on_before_update=lambda ctx, key, data: {**data, "owner": "hook"}
    )
    async with client_of(use_resource(notes, session=async_sessionmaker(engine), hooks=hooks)) as client:
        assert (await client.post("/", json=NOTE)).status_code == 500
        assert (await client.post("/", json={"title": "a"})).status_code == 500
        assert (await client.post("/", json={"title": 5})).status_code == 422
    async with engine.begin() as connection:
        await connection.execute(insert(notes).values(**NOTE))
    async with client_of(use_resource(notes, session=async_sessionmaker(engine), hooks=hooks)) as client:
        assert (await client.put("/1", json={"title": "b"})).json()["owner"] == "hook"
        missing = await client.put("/1", json={})
        assert [each["field"] for each in missing.json()["errors"]] == ["title", "owner"]


async def test_an_engine_without_transactions_is_refused(postgres_database: str) -> None:
    engine = create_async_engine(postgres_database, isolation_level="AUTOCOMMIT")
    async with engine.begin() as connection:
        await connection.run_sync(tables.create_all)

    def after(ctx: HookContext, row: Any) -> None:
        raise RuntimeError("roll back")

    hooks = ResourceHooks(on_after_create=after)
    async with client_of(use_resource(notes, session=async_sessionmaker(engine), hooks=hooks)) as client:
        assert (await client.post("/", json=NOTE)).status_code == 500
    assert await count(engine, notes) == 0
    await engine.dispose()
