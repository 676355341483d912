"""The outbox at its edges: rows that are broken, refused or left by an outage, and tasks that come too late for it."""

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, insert, inspect, select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import registry
from sqlalchemy.util import await_only

from concave import (
    HookContext,
    ResourceHooks,
    TaskTrigger,
    compose_hooks,
    create_task_trigger_hooks,
    initialize_tasks,
)
from concave.errors import ConfigurationError, StoreUnavailableError, TasksNotInitializedError
from concave.kv import MemoryKV, RedisKV
from concave.store.records import Debounce, NewTask, Retention
from concave.tasks.defaults import _stack
from concave.tasks.scheduler import TaskScheduler
from concave_sqlalchemy import create_outbox_tables, track_session, use_resource
from concave_sqlalchemy.outbox import Outbox
from concave_sqlalchemy.payload import decode, encode
from concave_sqlalchemy.tables import outbox_table
from tests.sqlalchemy.notes import NOTE, client_of, count, notes, promise, tables
from tests.sqlalchemy.support import database, failing


@pytest.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    async with database(request, tmp_path, tables, outbox=False) as engine:
        yield engine


@pytest.fixture
async def outbox_made(engine: AsyncEngine) -> None:
    await create_outbox_tables(engine)


@pytest.fixture
async def scheduler() -> AsyncGenerator[TaskScheduler]:
    async with MemoryKV() as kv:
        yield initialize_tasks(kv)
    _stack.clear()


async def raw_row(engine: AsyncEngine, **values: Any) -> None:
    async with engine.begin() as connection:
        await connection.execute(insert(outbox_table).values(created_at=0.0, **values))


def payload(**changes: Any) -> str:
    fields = json.loads(PAYLOAD)
    return json.dumps({**fields, **changes})


PAYLOAD = json.dumps(
    {
        "id": "good",
        "name": "promise",
        "input": "1",
        "priority": 50,
        "delay": 0,
        "at": None,
        "max_attempts": 3,
        "max_crashes": 3,
        "idempotency_key": None,
        "debounce": None,
        "retention": [1000, 1000, 1000, 1000],
    }
)


@pytest.mark.parametrize(
    "broken",
    [
        "null",
        "[]",
        "{",
        payload(id="bad", input=None),
        payload(id="bad", input=5),
        payload(id="bad", input="not json"),
        payload(id="bad", priority="high"),
        payload(id="bad", priority=1000),
        payload(id="bad", delay="soon"),
        payload(id="bad", retention=7),
        payload(id="bad", debounce=[1]),
        payload(id="bad", name=None),
        payload(id="bad", surprise=1),
        payload(id="another"),
    ],
)
async def test_a_malformed_row_never_blocks_the_others(
    engine: AsyncEngine, scheduler: TaskScheduler, outbox_made: None, broken: str
) -> None:
    outbox = Outbox(async_sessionmaker(engine))
    await raw_row(engine, id="bad", payload=broken)
    await raw_row(engine, id="good", payload=PAYLOAD)
    assert await outbox.sweep(scheduler.submit) == 1
    assert await scheduler.get_task("good") is not None
    async with engine.connect() as connection:
        left = (await connection.execute(select(outbox_table.c.id, outbox_table.c.broken))).all()
    assert [row.id for row in left] == ["bad"]
    assert left[0].broken
    assert await outbox.sweep(scheduler.submit) == 0


async def test_one_task_that_the_store_refuses_does_not_hold_up_the_rest(
    engine: AsyncEngine, scheduler: TaskScheduler, outbox_made: None
) -> None:
    outbox = Outbox(async_sessionmaker(engine))
    await raw_row(engine, id="odd", payload=payload(id="odd"))
    await raw_row(engine, id="good", payload=PAYLOAD)

    async def picky(tasks: Sequence[NewTask]) -> list[str]:
        if any(task.id == "odd" for task in tasks):
            raise RuntimeError("I don't like this one")
        return await scheduler.submit(tasks)

    await outbox.sweep(picky)
    await outbox.sweep(picky)
    assert await scheduler.get_task("good") is not None
    # It is not given up: nothing says that the row is at fault.
    await outbox.sweep(scheduler.submit)
    await outbox.sweep(scheduler.submit)
    assert await scheduler.get_task("odd") is not None


async def test_one_sweep_relays_all_that_an_outage_left(
    engine: AsyncEngine, scheduler: TaskScheduler, outbox_made: None
) -> None:
    async with engine.begin() as connection:
        rows = [{"id": f"t{n}", "payload": payload(id=f"t{n}"), "created_at": 0.0} for n in range(1234)]
        await connection.execute(insert(outbox_table), rows)
    assert await Outbox(async_sessionmaker(engine)).sweep(scheduler.submit) == 1234
    assert await count(engine, outbox_table) == 0


async def test_sequence_numbers_are_never_used_again(engine: AsyncEngine, outbox_made: None) -> None:
    seen: list[int] = []
    for name in ("a", "b"):
        await raw_row(engine, id=name, payload="{}")
        async with engine.begin() as connection:
            seen.append((await connection.execute(select(outbox_table.c.sequence))).scalar_one())
            await connection.execute(outbox_table.delete())
    assert seen[1] > seen[0]


async def test_a_resource_without_triggers_needs_no_outbox_table(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    sessions = async_sessionmaker(engine)
    resource = use_resource(notes, session=sessions)
    async with client_of(resource) as client:
        assert (await client.post("/", json=NOTE)).status_code == 201
    outbox = Outbox.of(sessions)
    assert await outbox.sweep(scheduler.submit) == 0
    await create_outbox_tables(engine)
    await raw_row(engine, id="good", payload=PAYLOAD)
    assert await outbox.sweep(scheduler.submit) == 1


async def test_processes_that_start_together_may_all_create_the_table(engine: AsyncEngine) -> None:
    engines = [create_async_engine(engine.url) for _ in range(6)]
    await asyncio.gather(*(create_outbox_tables(each) for each in engines))
    for each in engines:
        await each.dispose()
    async with engine.connect() as connection:
        assert "concave_outbox" in await connection.run_sync(lambda c: inspect(c).get_table_names())


async def test_what_is_enqueued_after_the_commit_is_not_lost(
    engine: AsyncEngine, scheduler: TaskScheduler, outbox_made: None
) -> None:
    released = asyncio.Event()
    later: list[asyncio.Task[str]] = []

    async def enqueue_later(ctx: HookContext) -> str:
        await released.wait()
        return await ctx.enqueue(promise, {"late": True})

    def after(ctx: HookContext, row: dict[str, Any]) -> None:
        later.append(asyncio.create_task(enqueue_later(ctx)))

    resource = use_resource(
        notes, session=async_sessionmaker(engine), hooks=ResourceHooks(on_after_create=after)
    )
    async with client_of(resource) as client:
        assert (await client.post("/", json=NOTE)).status_code == 201
    released.set()
    assert await scheduler.get_task(await later[0]) is not None


async def test_an_enqueue_in_a_commit_callback_raises_where_nobody_took_it(
    engine: AsyncEngine, outbox_made: None
) -> None:
    failed: list[Exception] = []

    def after(ctx: HookContext, row: dict[str, Any]) -> None:
        async def callback() -> None:
            try:
                await ctx.enqueue(promise, 1)
            except TasksNotInitializedError as error:
                failed.append(error)

        ctx.on_commit(callback)

    _stack.clear()
    resource = use_resource(
        notes, session=async_sessionmaker(engine), hooks=ResourceHooks(on_after_create=after)
    )
    async with client_of(resource) as client:
        assert (await client.post("/", json=NOTE)).status_code == 201
    # There is no outbox row for it any more: the id must not be a promise that nobody keeps.
    assert len(failed) == 1


async def test_a_task_for_another_store_never_goes_to_the_sweepers(
    engine: AsyncEngine, scheduler: TaskScheduler, outbox_made: None
) -> None:
    async with MemoryKV(prefix="other") as kv:
        other = TaskScheduler(kv)
        real = other.submit
        other.submit = failing(StoreUnavailableError("down"))  # type: ignore[method-assign, assignment]
        hooks = create_task_trigger_hooks(on_create=[TaskTrigger(promise)], scheduler=other)
        resource = use_resource(notes, session=async_sessionmaker(engine), hooks=hooks)
        async with client_of(resource) as client:
            assert (await client.post("/", json=NOTE)).status_code == 201
        outbox = resource._outbox
        other.submit = real  # type: ignore[method-assign]
        await outbox.sweep(scheduler.submit)
        await outbox.sweep(scheduler.submit)
        assert await scheduler.get_tasks() == []
        assert len(await other.get_tasks()) == 1


@pytest.mark.parametrize("way", ["resource", "tracked"])
async def test_a_process_sweeps_for_the_schedulers_that_it_declares(
    engine: AsyncEngine, scheduler: TaskScheduler, outbox_made: None, way: str, redis_url: str
) -> None:
    """Whatever a process before it has left: none of its triggers need fire first."""
    kv = RedisKV(redis_url, prefix=f"test-{uuid.uuid4().hex}")
    other = TaskScheduler(kv)
    await raw_row(engine, id="good", payload=PAYLOAD, destination=other.destination)
    sessions = async_sessionmaker(engine)
    outbox = Outbox.of(sessions)
    assert await outbox.sweep(scheduler.submit) == 0
    declare(way, sessions, other)
    assert (
        await outbox.sweep(scheduler.submit) == 0
    )  # not connected here, as in a process that only knows of it
    async with kv:
        assert await outbox.sweep(scheduler.submit) == 1
        assert await other.cancel("good")
    assert await scheduler.get_tasks() == []


async def test_a_default_store_that_is_not_connected_is_said(engine: AsyncEngine, outbox_made: None) -> None:
    """Unlike one that a trigger names: nobody else may be there for these rows."""
    await raw_row(engine, id="good", payload=PAYLOAD)
    with pytest.raises(ConfigurationError, match="isn't connected"):
        await Outbox(async_sessionmaker(engine)).sweep(TaskScheduler(RedisKV("redis://localhost")).submit)


async def test_each_store_that_keeps_its_tasks_waiting_is_named(
    engine: AsyncEngine, scheduler: TaskScheduler, outbox_made: None, caplog: pytest.LogCaptureFixture
) -> None:
    async with MemoryKV(prefix="other") as kv:
        other = TaskScheduler(kv)
        other.submit = failing(StoreUnavailableError("the other is away"))  # type: ignore[method-assign, assignment]
        outbox = Outbox(async_sessionmaker(engine))
        outbox.destination_of(other)
        await raw_row(engine, id="good", payload=PAYLOAD)
        await raw_row(engine, id="odd", payload=payload(id="odd"), destination=other.destination)
        with pytest.raises(StoreUnavailableError, match="the one is away"):
            await outbox.sweep(failing(StoreUnavailableError("the one is away")))
        assert "the other is away" in caplog.text


async def test_no_process_sweeps_for_what_is_in_the_memory_of_another(
    engine: AsyncEngine, scheduler: TaskScheduler, outbox_made: None
) -> None:
    async with MemoryKV(prefix="other") as kv:
        other = TaskScheduler(kv)
        await raw_row(engine, id="good", payload=PAYLOAD, destination=other.destination)
        sessions = async_sessionmaker(engine)
        outbox = Outbox.of(sessions)
        declare("resource", sessions, other)
        assert await outbox.sweep(scheduler.submit) == 0
        assert await other.get_tasks() == []


def declare(way: str, sessions: Any, scheduler: TaskScheduler) -> None:
    triggers = create_task_trigger_hooks(on_create=[TaskTrigger(promise)], scheduler=scheduler)
    hooks = compose_hooks(ResourceHooks(), triggers)
    if way == "resource":
        use_resource(notes, session=sessions, hooks=hooks)
    else:
        track_session(sessions, {Noted: hooks})


class Noted:
    """Of a table that is here anyway."""


registry(metadata=tables).map_imperatively(Noted, notes)


async def test_a_relay_that_fails_oddly_is_logged_and_swept(
    engine: AsyncEngine, scheduler: TaskScheduler, outbox_made: None, caplog: pytest.LogCaptureFixture
) -> None:
    hooks = create_task_trigger_hooks(on_create=[TaskTrigger(promise)])
    resource = use_resource(notes, session=async_sessionmaker(engine), hooks=hooks)

    scheduler.submit = failing(RuntimeError("a driver's own error"))  # type: ignore[method-assign, assignment]
    with caplog.at_level(logging.WARNING):
        async with client_of(resource) as client:
            assert (await client.post("/", json=NOTE)).status_code == 201
    await resource._outbox.drain()
    assert "a driver's own error" in caplog.text
    assert await count(engine, outbox_table) == 1


async def test_in_an_outage_only_the_first_response_waits_and_one_line_is_logged(
    engine: AsyncEngine,
    scheduler: TaskScheduler,
    outbox_made: None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hooks = create_task_trigger_hooks(on_create=[TaskTrigger(promise)])
    resource = use_resource(notes, session=async_sessionmaker(engine), hooks=hooks)
    real, back = scheduler.submit, asyncio.Event()

    async def silent(tasks: Sequence[NewTask]) -> list[str]:
        await back.wait()
        return await real(tasks)

    async with client_of(resource) as client:
        scheduler.submit = failing(StoreUnavailableError("no answer"))  # type: ignore[method-assign, assignment]
        for _ in range(3):
            assert (await client.post("/", json=NOTE)).status_code == 201
        await resource._outbox.drain()
        assert len([each for each in caplog.records if "no answer" in each.message]) == 1
        scheduler.submit = silent  # type: ignore[method-assign]
        monkeypatch.setattr(
            "concave_sqlalchemy.relay.PATIENCE", float("inf")
        )  # a response that waited would hang
        assert (await client.post("/", json=NOTE)).status_code == 201
        back.set()
        await resource._outbox.drain()
    assert len(await scheduler.get_tasks()) == 1
    assert await resource._outbox.sweep(scheduler.submit) == 3
    assert len(await scheduler.get_tasks()) == 4


async def test_a_row_of_newer_code_waits_for_newer_code(
    engine: AsyncEngine, scheduler: TaskScheduler, outbox_made: None
) -> None:
    outbox = Outbox(async_sessionmaker(engine))
    await raw_row(engine, id="new", payload=payload(v=2, id="new", surprise=1))
    assert await outbox.sweep(scheduler.submit) == 0
    async with engine.connect() as connection:
        assert (await connection.execute(select(outbox_table.c.broken))).scalar_one() is None


async def test_an_outage_in_the_middle_of_a_sweep_keeps_the_rest(
    engine: AsyncEngine, scheduler: TaskScheduler, outbox_made: None
) -> None:
    outbox = Outbox(async_sessionmaker(engine))
    await raw_row(engine, id="good", payload=PAYLOAD)

    async def down(tasks: Sequence[NewTask]) -> list[str]:
        raise StoreUnavailableError("no answer")

    with pytest.raises(StoreUnavailableError):
        await outbox.sweep(down)
    assert await count(engine, outbox_table) == 1
    assert await outbox.sweep(scheduler.submit) == 1


async def test_a_submission_survives_the_outbox_unchanged() -> None:
    whole = NewTask(
        id="a",
        name="n",
        input=b'{"big":123456789012345678901234567890,"f":1.0,"e":[],"u":"\\u0000\xc3\xa9"}',
        priority=100,
        delay=5,
        at=7,
        max_attempts=2,
        max_crashes=1,
        idempotency_key="k",
        debounce=Debounce("d", 1, None),
        retention=Retention(1, 2, 3, 4),
    )
    assert decode("a", encode(whole), 5) == whole


async def test_a_task_that_is_enqueued_while_the_transaction_commits_is_refused(
    engine: AsyncEngine, scheduler: TaskScheduler, outbox_made: None
) -> None:
    contexts: list[HookContext] = []
    refused: list[RuntimeError] = []
    resource = use_resource(
        notes,
        session=async_sessionmaker(engine),
        hooks=ResourceHooks(on_after_create=lambda ctx, row: contexts.append(ctx)),
    )

    def committing(_: object) -> None:
        try:
            await_only(contexts[0].enqueue(promise, 1))
        except RuntimeError as error:
            refused.append(error)

    async with client_of(resource) as client:
        event.listen(engine.sync_engine, "commit", committing)
        try:
            assert (await client.post("/", json=NOTE)).status_code == 201
        finally:
            event.remove(engine.sync_engine, "commit", committing)
    assert len(refused) == 1
    assert await scheduler.get_tasks() == []
