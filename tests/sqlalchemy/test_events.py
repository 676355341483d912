"""What a resource tells its triggers of a change, and tasks that are coalesced by row, over HTTP on both databases."""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from starlette.applications import Starlette

from concave import (
    HookContext,
    ResourceHooks,
    TaskTrigger,
    TriggerEvent,
    create_task_trigger_hooks,
    define_task,
    initialize_tasks,
)
from concave.kv import MemoryKV
from concave.store.records import NewTask
from concave.tasks.scheduler import TaskScheduler
from concave_sqlalchemy import create_outbox_tables, use_resource
from concave_sqlalchemy.outbox import Outbox
from concave_sqlalchemy.tables import outbox_table
from tests.servers import temporary_database
from tests.sqlalchemy.support import failing

tables = MetaData()
people = Table(
    "people",
    tables,
    Column("id", Integer, primary_key=True),
    Column("email", String(50), nullable=False),
    Column("name", String(50)),
)


@define_task(name="index")
async def index(ctx: Any, entry: Any) -> None: ...


@pytest.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    async with AsyncExitStack() as stack:
        url = f"sqlite+aiosqlite:///{tmp_path}/test.db"
        if request.param == "postgresql":
            server = request.getfixturevalue("postgres_url")
            url = await stack.enter_async_context(temporary_database(server))
        engine = create_async_engine(url)
        stack.push_async_callback(engine.dispose)
        async with engine.begin() as connection:
            await connection.run_sync(tables.create_all)
        await create_outbox_tables(engine)
        yield engine


@pytest.fixture
async def scheduler() -> AsyncGenerator[TaskScheduler]:
    async with MemoryKV() as kv:
        yield initialize_tasks(kv)


class App:
    """A resource with these triggers on every event, and a client of it."""

    def __init__(
        self, engine: AsyncEngine, *triggers: TaskTrigger, hooks: ResourceHooks | None = None
    ) -> None:
        self.resource = use_resource(
            people,
            session=async_sessionmaker(engine),
            hooks=hooks
            or create_task_trigger_hooks(on_create=triggers, on_update=triggers, on_delete=triggers),
            user=lambda request: {"id": 9},
        )
        app = Starlette(routes=[self.resource.mount("/people")])
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test/people")
        self.outbox = self.resource._outbox


async def test_an_event_tells_what_the_row_was_and_what_changed_by_whom(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    seen: list[TriggerEvent] = []

    async def when(row: dict[str, Any], event: TriggerEvent) -> bool:
        seen.append(event)
        return False

    client = App(engine, TaskTrigger(index, when=when)).client
    await client.post("", json={"email": "a"}, headers={"x-request-id": "one"})
    await client.patch("/1", json={"name": "b", "email": "a"})
    await client.put("/1", json={"email": "c"})
    await client.delete("/1")
    row: dict[str, Any] = {"id": 1, "email": "a", "name": None}
    every = frozenset(row)
    assert seen == [
        TriggerEvent("create", "people", None, every, {"id": 9}, "one"),
        TriggerEvent("update", "people", row, frozenset({"name"}), {"id": 9}, None),
        TriggerEvent("update", "people", {**row, "name": "b"}, frozenset({"name", "email"}), {"id": 9}, None),
        TriggerEvent("delete", "people", {**row, "email": "c"}, every, {"id": 9}, None),
    ]


async def test_a_trigger_of_some_fields_fires_where_one_of_them_changed(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    trigger = TaskTrigger(index, fields={"email"}, transform=lambda row, event: [event.event, row["email"]])
    client = App(engine, trigger).client
    await client.post("", json={"email": "a"})
    await client.patch("/1", json={"name": "b"})
    await client.patch("/1", json={"email": "a"})
    await client.patch("/1", json={"email": "c"})
    await client.delete("/1")
    tasks = [task.input for task in (await scheduler.get_tasks())[::-1]]
    assert tasks == [["create", "a"], ["update", "c"], ["delete", "c"]]


async def test_a_field_that_is_none_rolls_back_and_tells_nothing(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    client = App(engine, TaskTrigger(index, fields={"emial"})).client
    refused = await client.post("", json={"email": "a"})
    assert (refused.status_code, "emial" in refused.text) == (500, False)
    assert (await client.get("/count")).json() == {"count": 0}


async def test_changes_of_one_row_that_wait_are_one_task_with_the_latest(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    trigger = TaskTrigger(index, key=lambda row: row["id"], transform=lambda row: [row["id"], row["email"]])
    client = App(engine, trigger).client
    for email in ("a", "b"):
        await client.post("", json={"email": email})
    for email in ("c", "d"):
        await client.patch("/1", json={"email": email})
    assert [task.input for task in (await scheduler.get_tasks())[::-1]] == [[1, "d"], [2, "b"]]


async def _left_behind(engine: AsyncEngine) -> list[dict[str, Any]]:
    async with engine.connect() as connection:
        found = await connection.execute(select(outbox_table).order_by(outbox_table.c.sequence))
        return [dict(row) for row in found.mappings()]


async def test_an_older_row_that_is_relayed_late_replaces_nothing_and_runs_nothing(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    trigger = TaskTrigger(index, key=lambda row, event: row["id"], transform=lambda row: row["email"])
    app = App(engine, trigger)
    real = scheduler.submit
    dies = ConnectionError("a web process dies before it can relay")
    scheduler.submit = failing(dies)  # type: ignore[method-assign, assignment]
    await app.client.post("", json={"email": "old"})
    await app.outbox.drain()
    (late,) = await _left_behind(engine)
    scheduler.submit = real  # type: ignore[method-assign]
    await app.client.patch("/1", json={"email": "new"})
    await app.outbox.drain()
    assert await app.outbox.sweep(scheduler.submit) == 1
    (task,) = await scheduler.get_tasks()
    assert task.input == "new"
    # Nor once the newer one is gone from the queue: another sweeper may have read the row long ago.
    assert await scheduler.cancel(task.id)
    again = {**late, "id": "again", "payload": late["payload"].replace(late["id"], "again")}
    async with engine.begin() as connection:
        await connection.execute(insert(outbox_table), [again])
    assert await Outbox(async_sessionmaker(engine)).sweep(scheduler.submit) == 1
    assert await scheduler.get_queue_depth() == 0


async def test_the_number_is_the_rows_own_also_where_it_is_swept(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    app = App(engine, TaskTrigger(index, key=lambda row: row["id"], delay=60))
    sent: list[NewTask] = []

    async def down(tasks: Sequence[NewTask]) -> list[str]:
        sent.extend(tasks)
        raise ConnectionError("down")

    async def take(tasks: Sequence[NewTask]) -> list[str]:
        sent.extend(tasks)
        return [task.id for task in tasks]

    scheduler.submit = down  # type: ignore[method-assign]
    await app.client.post("", json={"email": "a"})
    await app.outbox.drain()
    (row,) = await _left_behind(engine)
    assert json.loads(row["payload"])["debounce"] == ["people:1", 60_000_000, 60_000_000, 0]
    await app.outbox.sweep(take)
    for task in sent:
        assert task.debounce is not None
        assert task.debounce.sequence == row["sequence"]
        assert task.debounce.window <= 60_000_000
    assert len(sent) == 2


async def test_what_a_hook_enqueues_by_a_key_gets_numbers_in_its_order(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    async def after(ctx: HookContext, row: dict[str, Any]) -> None:
        for number in range(20):
            await ctx.enqueue(index, number, key="k")
        await ctx.enqueue(index, "alone")

    app = App(engine, hooks=ResourceHooks(on_after_create=after))
    await app.client.post("", json={"email": "a"})
    assert {str(task.input) for task in await scheduler.get_tasks()} == {"19", "alone"}
