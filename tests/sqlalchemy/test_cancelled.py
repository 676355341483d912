"""Requests that are cancelled in the midst of a statement: a client that has gone, a timeout. Nobody after them may have to wait."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, event, insert, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from starlette.applications import Starlette

from concave import HookContext, ResourceHooks
from concave_sqlalchemy import use_resource

tables = MetaData()
things = Table("things", tables, Column("id", Integer, primary_key=True), Column("name", String(20)))
HELD = "CREATE TRIGGER held AFTER INSERT ON things WHEN NEW.name = 'held' BEGIN SELECT hold(); END"


class Statement:
    """One that its database is busy with until the test has it go on."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.may_end = threading.Event()

    def hold(self) -> None:
        """Called by the database."""
        self.begun.set()
        self.may_end.wait()


@pytest.fixture
def statement() -> Statement:
    return Statement()


@pytest.fixture
async def engine(tmp_path: Path, statement: Statement) -> AsyncGenerator[AsyncEngine]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/test.db")

    @event.listens_for(engine.sync_engine, "connect")
    def connect(connection: Any, _: Any) -> None:
        connection.create_function("hold", 0, statement.hold)

    async with engine.begin() as connection:
        await connection.run_sync(tables.create_all)
        await connection.execute(text(HELD))
    yield engine
    await engine.dispose()


async def in_a_hook(ctx: HookContext, row: dict[str, Any]) -> None:
    if row["name"] == "hooked":
        await ctx.session.execute(insert(things).values(name="held").returning(things))


@pytest.mark.parametrize("times", [1, 2, 5])
@pytest.mark.parametrize(
    "hooks, name",
    [
        (ResourceHooks(), "held"),
        (ResourceHooks(on_after_create=in_a_hook), "held"),
        (ResourceHooks(on_after_create=in_a_hook), "hooked"),
    ],
    ids=["no hook", "before its hook", "in its hook"],
)
async def test_a_write_that_is_cancelled_leaves_the_file_to_others(
    engine: AsyncEngine, statement: Statement, hooks: ResourceHooks, name: str, times: int
) -> None:
    resource = use_resource(things, session=async_sessionmaker(engine), hooks=hooks)
    app = Starlette(routes=[resource.mount("/things")])
    transport = httpx.ASGITransport(app=app)
    await engine.dispose()  # its first connections are older than the resource
    async with httpx.AsyncClient(transport=transport, base_url="http://test/things") as client:
        request = asyncio.create_task(client.post("", json={"name": name}))
        await asyncio.to_thread(statement.begun.wait)
        for _ in range(times):
            request.cancel()
            await asyncio.sleep(0)
        statement.may_end.set()
        # What it raised is kept, as by those who report errors, and with it all that is on its stack.
        (ended,) = await asyncio.gather(request, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError)
        assert (await client.post("", json={"name": "next"})).status_code == 201
        assert [row["name"] for row in (await client.get("")).json()["items"]] == ["next"]
