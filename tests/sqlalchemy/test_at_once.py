"""A new row whose triggers ask for nothing is written, with its tasks, in one call: with the same outcome as where hooks are waited for."""

import json
import math
from collections.abc import AsyncGenerator, Callable
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import AsyncMock, MagicMock
from uuid import uuid4

import pytest
from pydantic import AfterValidator
from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Date,
    DateTime,
    Float,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    Uuid,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker
from sqlalchemy.util import await_only

from concave import (
    DebounceConfig,
    HookContext,
    ResourceHooks,
    Task,
    TaskScheduler,
    TaskTrigger,
    compose_hooks,
    create_task_trigger_hooks,
    define_task,
    initialize_tasks,
)
from concave.hooks import PlainTriggers
from concave.kv import MemoryKV
from concave.testing import FakeClock
from concave_sqlalchemy import Fields, outbox_sql, use_resource
from concave_sqlalchemy.outbox import Outbox
from concave_sqlalchemy.postgresql import executed_directly
from concave_sqlalchemy.tables import outbox_table
from tests.sqlalchemy.notes import NOTE, client_of, count, notes, tables
from tests.sqlalchemy.support import database


@define_task(name="told")
async def told(ctx: Any, entry: Any) -> None: ...


@define_task(name="numbered")
async def numbered(ctx: Any, number: int) -> None: ...


@define_task(name="once", idempotency_key=lambda entry: str(entry["data"]["title"]))
async def once(ctx: Any, entry: dict[str, Any]) -> None: ...


@define_task(name="calm", debounce=DebounceConfig(window=5, key=lambda entry: str(entry["resource"])))
async def calm(ctx: Any, entry: dict[str, Any]) -> None: ...


ENDING: ContextVar[Callable[[], None] | None] = ContextVar("ending", default=None)


def _end(entry: Any) -> Any:
    if (end := ENDING.get()) is not None:
        end()
    return entry


@define_task(name="ends")
async def ends(ctx: Any, entry: Annotated[Any, AfterValidator(_end)]) -> None: ...


def ignore(*_: Any) -> None: ...


WITH_ID = Fields(writable=[each.key for each in notes.columns])
PLAIN = create_task_trigger_hooks(on_create=[TaskTrigger(told)])
AWAY: Any = create_task_trigger_hooks(
    on_create=[TaskTrigger(told, delay=5), TaskTrigger(told)],
    scheduler=TaskScheduler(MemoryKV()),  # which isn't connected: rows stay
).on_after_create
OF_OTHERS = ResourceHooks(on_after_update=ignore, on_after_delete=ignore, on_before_delete=ignore)


@pytest.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    async with database(request, tmp_path, tables) as engine:
        yield engine


@pytest.fixture
async def scheduler() -> AsyncGenerator[TaskScheduler]:
    async with MemoryKV() as kv:
        yield initialize_tasks(kv)


@pytest.mark.parametrize(
    "hooks, at_once",
    [
        (ResourceHooks(), True),
        (PLAIN, True),
        (create_task_trigger_hooks(on_create=[TaskTrigger(told, delay=5), TaskTrigger(once)]), True),
        (create_task_trigger_hooks(on_update=[TaskTrigger(told, fields=["title"])]), True),
        (compose_hooks(PLAIN), True),
        (compose_hooks(PLAIN, OF_OTHERS), True),
        (compose_hooks(OF_OTHERS, PLAIN), True),
        (compose_hooks(PLAIN, ResourceHooks(on_before_create=ignore)), False),
        (compose_hooks(PLAIN, ResourceHooks(on_after_create=ignore)), False),
        (create_task_trigger_hooks(on_create=[TaskTrigger(told), TaskTrigger(told, when=bool)]), False),
        (create_task_trigger_hooks(on_create=[TaskTrigger(told, transform=len)]), False),
        (create_task_trigger_hooks(on_create=[TaskTrigger(told, fields=["title"])]), False),
        (create_task_trigger_hooks(on_create=[TaskTrigger(told, key=str)]), False),
    ],
)
async def test_only_what_could_wait_is_waited_for(hooks: ResourceHooks, at_once: bool) -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    resource = use_resource(notes, session=async_sessionmaker(engine), hooks=hooks)
    assert resource._writing.verbs.creates_at_once is at_once
    await engine.dispose()


def never(*_: Any) -> Any:
    raise AssertionError("the tasks were made anew")


async def payloads(engine: AsyncEngine, table: Table, triggers: PlainTriggers, **options: Any) -> Any:
    """Two rows' answers and outbox rows but for the ids; nothing of them stays. The first task of a process goes a way of its own."""
    sessions = async_sessionmaker(engine)
    hooks = ResourceHooks(on_after_create=triggers, uses_session=False)
    bodies = options.pop("bodies")
    resource = use_resource(table, session=sessions, hooks=hooks, user=lambda _: {"id": 7}, **options)
    async with client_of(resource) as client:
        answers = [await client.post("", json=body) for body in bodies]
    async with engine.begin() as connection:
        found = await connection.execute(select(outbox_table).order_by(outbox_table.c.sequence))
        told = [row.payload.replace(row.id, "id") for row in found]
        await connection.execute(outbox_table.delete())
        await connection.execute(table.delete())
    return [(answer.status_code, answer.text) for answer in answers], told


ODD: dict[str, Any] = {"ratio": math.inf, "raw": b"\xfb\xff\xfe"}


@pytest.mark.parametrize("defaults", [{}, ODD], ids=["usual", "odd"])
async def test_tasks_are_told_the_json_that_is_shown_where_they_would_be_told_the_same(
    tmp_path: Path, request: pytest.FixtureRequest, defaults: dict[str, Any]
) -> None:
    """On SQLite, where a column may hold whatever was written to it."""
    kinds: dict[str, Any] = {"ratio": Float(), "raw": String(), "flag": Boolean(), "day": Date()}
    kinds |= {"at": DateTime(timezone=True), "token": Uuid(), "name": String()}
    columns = [Column(name, kind, default=defaults.get(name)) for name, kind in kinds.items()]
    own = MetaData()
    table = Table("things", own, Column("id", Integer, primary_key=True), *columns)
    name = '"\\ NaN Infinity **********\u2028\x01'
    body = {"name": name, "at": "2026-01-02T03:04:05Z", "token": str(uuid4())}
    request.param = "sqlite"
    async with database(request, tmp_path, own) as engine:
        shown = await payloads(engine, table, replace(AWAY, tasks=never), bodies=[{}, body])
        anew = await payloads(engine, table, replace(AWAY, forms=None), bodies=[{}, body])
    assert shown == anew
    (_, (_, answer)), told = shown
    assert len(told) == 4
    assert json.loads(json.loads(told[2])["input"])["data"] == json.loads(answer)
    assert json.loads(answer)["raw"] == ("-__-" if defaults else None)


@pytest.mark.parametrize(
    "kind, value, options",
    [
        (String(), "a secret", {"fields": Fields(readable=["id"], writable=["value"])}),
        (Numeric(10, 2), "12.50", {"numeric": "number"}),
        (JSON(), json.loads("[" * 199 + "]" * 199), {}),
    ],
    ids=["hidden", "number", "deep"],
)
async def test_they_are_told_another_one_where_that_is_what_they_are_told_elsewhere(
    tmp_path: Path, request: pytest.FixtureRequest, kind: Any, value: Any, options: Any
) -> None:
    own = MetaData()
    table = Table("things", own, Column("id", Integer, primary_key=True), Column("value", kind))
    request.param = "sqlite"
    async with database(request, tmp_path, own) as engine:
        usual = await payloads(engine, table, AWAY, bodies=[{}, {"value": value}], **options)
        anew = await payloads(
            engine, table, replace(AWAY, forms=None), bodies=[{}, {"value": value}], **options
        )
    assert usual == anew


@pytest.mark.parametrize("mock", [MagicMock, AsyncMock])
async def test_a_mock_is_a_hook_like_any_other(
    engine: AsyncEngine, scheduler: TaskScheduler, mock: type[MagicMock | AsyncMock]
) -> None:
    hook = mock(return_value=None)
    hooks = ResourceHooks(on_after_create=hook)
    async with client_of(use_resource(notes, session=async_sessionmaker(engine), hooks=hooks)) as client:
        assert (await client.post("", json=NOTE)).status_code == 201
    hook.assert_called_once()


@pytest.mark.parametrize(
    "options, direct",
    [
        ({}, True),
        ({"statement_cache_size": 0, "prepared_statement_name_func": lambda: f"mine_{uuid4()}"}, False),
        ({"prepared_statement_cache_size": 0}, False),
    ],
)
@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_who_has_a_say_in_how_statements_are_prepared_keeps_it(
    engine: AsyncEngine,
    scheduler: TaskScheduler,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    direct: bool,
) -> None:
    executed: list[bool] = []

    def watched(*args: Any) -> bool:
        executed.append(executed_directly(*args))
        return executed[-1]

    monkeypatch.setattr(outbox_sql, "executed_directly", watched)
    own = create_async_engine(engine.url, connect_args=options)
    sessions = async_sessionmaker(own)
    async with client_of(use_resource(notes, session=sessions, hooks=PLAIN)) as client:
        for _ in range(2):
            assert (await client.post("", json=NOTE)).status_code == 201
    await Outbox.of(sessions).drain()
    await own.dispose()
    assert executed == [direct, direct]
    assert len(await scheduler.get_tasks()) == 2


@pytest.mark.parametrize("delay", [None, 60])
@pytest.mark.parametrize("task", [told, once, calm])
async def test_the_tasks_are_those_of_hooks_that_are_waited_for(
    engine: AsyncEngine, task: Any, delay: float | None
) -> None:
    rows: list[Any] = []

    async def look(ctx: HookContext, row: Any) -> None:
        rows.append(row)

    triggers = create_task_trigger_hooks(on_create=[TaskTrigger(task, delay=delay)])
    waited_for = compose_hooks(triggers, ResourceHooks(on_after_create=look, uses_session=False))
    given = {**NOTE, "id": 1, "blob": "AP8=", "ratio": 0.5, "made_at": "2026-01-01T00:00:00"}
    made: list[Task] = []
    for hooks in (triggers, waited_for):
        async with MemoryKV(clock=FakeClock()) as kv:
            scheduler = initialize_tasks(kv)
            resource = use_resource(
                notes,
                session=async_sessionmaker(engine),
                hooks=hooks,
                user=lambda request: {"id": 9},
                fields=WITH_ID,
            )
            async with client_of(resource) as client:
                answer = await client.post("", json=given)
                assert answer.status_code == 201, answer.text
                made += await scheduler.get_tasks()
                assert (await client.delete("/1")).status_code == 204
    assert len(rows) == 1
    one, other = made
    assert one.input == {
        "event": "create",
        "resource": "notes",
        "data": {**given, "at": None, "data": None},
        "userId": 9,
    }
    assert one == replace(other, id=one.id)


async def test_a_row_whose_task_is_refused_is_not_written(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    hooks = create_task_trigger_hooks(on_create=[TaskTrigger(told), TaskTrigger(numbered)])
    async with client_of(use_resource(notes, session=async_sessionmaker(engine), hooks=hooks)) as client:
        assert (await client.post("", json=NOTE)).status_code == 500
    assert await scheduler.get_tasks() == []
    assert (await count(engine, notes), await count(engine, outbox_table)) == (0, 0)


async def test_a_row_that_is_refused_has_no_task(engine: AsyncEngine, scheduler: TaskScheduler) -> None:
    sessions = async_sessionmaker(engine)
    async with client_of(use_resource(notes, session=sessions, hooks=PLAIN, fields=WITH_ID)) as client:
        assert (await client.post("", json={**NOTE, "id": 1})).status_code == 201
        assert (await client.post("", json={**NOTE, "id": 1})).status_code == 409
    await Outbox.of(sessions).drain()
    assert len(await scheduler.get_tasks()) == 1
    assert (await count(engine, notes), await count(engine, outbox_table)) == (1, 0)


async def test_a_row_whose_task_cannot_be_written_is_not_written(
    engine: AsyncEngine, scheduler: TaskScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    async with client_of(use_resource(notes, session=async_sessionmaker(engine), hooks=PLAIN)) as client:
        assert (await client.post("", json=NOTE)).status_code == 201
        await Outbox.of(async_sessionmaker(engine)).drain()
        async with engine.begin() as connection:
            await connection.run_sync(outbox_table.drop)
        assert (await client.post("", json=NOTE)).status_code == 500
    assert await count(engine, notes) == 1
    assert len(await scheduler.get_tasks()) == 1
    assert "concave_outbox" in caplog.text


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_a_connection_that_ends_between_row_and_task_takes_both(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    hooks = create_task_trigger_hooks(on_create=[TaskTrigger(ends)])
    terminator = create_async_engine(engine.url)

    async def end_all() -> None:
        async with terminator.begin() as connection:
            await connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                    " AND datname = current_database()"
                )
            )

    ENDING.set(lambda: await_only(end_all()))
    async with client_of(use_resource(notes, session=async_sessionmaker(engine), hooks=hooks)) as client:
        answer = await client.post("", json=NOTE)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        ENDING.set(None)
        assert (await client.post("", json=NOTE)).status_code == 201
    await terminator.dispose()
    assert await count(engine, notes) == 1
    assert len(await scheduler.get_tasks()) == 1


async def test_tasks_of_a_store_that_is_away_wait_in_the_outbox(engine: AsyncEngine) -> None:
    sessions = async_sessionmaker(engine)
    away = TaskScheduler(MemoryKV())  # which isn't connected
    hooks = create_task_trigger_hooks(on_create=[TaskTrigger(told)], scheduler=away)
    async with client_of(use_resource(notes, session=sessions, hooks=hooks)) as client:
        assert (await client.post("", json=NOTE)).status_code == 201
    assert (await count(engine, notes), await count(engine, outbox_table)) == (1, 1)


async def test_a_synchronous_session_writes_row_and_task(tmp_path: Path, scheduler: TaskScheduler) -> None:
    from sqlalchemy import create_engine

    engine = create_engine(f"sqlite:///{tmp_path}/test.db")
    tables.create_all(engine)
    outbox_table.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    async with client_of(use_resource(notes, session=sessions, hooks=PLAIN)) as client:
        assert (await client.post("", json=NOTE)).status_code == 201
    await Outbox.of(sessions).drain()
    (task,) = await scheduler.get_tasks()
    assert task.input["data"]["title"] == NOTE["title"]
    engine.dispose()
