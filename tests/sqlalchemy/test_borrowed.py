"""Sessions in a connection, and a transaction, that is somebody else's: SQLAlchemy's recipe for suites of tests.

And in an engine that puts the tables into another schema, as apps do that have one for each tenant.
"""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.applications import Starlette

from concave import (
    HookContext,
    ResourceHooks,
    TaskScheduler,
    TaskTrigger,
    compose_hooks,
    create_task_trigger_hooks,
    define_task,
)
from concave.kv import MemoryKV
from concave.tasks import initialize_tasks
from concave_sqlalchemy import create_outbox_tables, track_session, use_resource
from concave_sqlalchemy.outbox import Outbox
from concave_sqlalchemy.tables import outbox_table
from tests.sqlalchemy.support import client_for, database


class Base(DeclarativeBase): ...


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    stars: Mapped[int] = mapped_column(default=0)


@define_task(name="borrowed")
async def borrowed(ctx: Any, event: Any) -> None: ...


TRIGGERS = create_task_trigger_hooks(
    on_create=[TaskTrigger(borrowed)], on_update=[TaskTrigger(borrowed)], on_delete=[TaskTrigger(borrowed)]
)
BEFORE = compose_hooks(TRIGGERS, ResourceHooks(on_before_create=lambda ctx, data: None))


@pytest.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    async with database(request, tmp_path, Base.metadata) as engine:
        yield engine


@pytest.fixture
async def scheduler() -> AsyncGenerator[TaskScheduler]:
    async with MemoryKV() as kv:
        yield initialize_tasks(kv)


async def rows_of(connection: Any, table: Any) -> int:
    return int((await connection.execute(select(func.count()).select_from(table))).scalar_one())


@pytest.mark.parametrize("mode", ["create_savepoint", "rollback_only"])
@pytest.mark.parametrize("hooks", [ResourceHooks(), TRIGGERS, BEFORE], ids=["bare", "triggers", "hooked"])
async def test_its_owner_ends_it(
    engine: AsyncEngine, scheduler: TaskScheduler, hooks: ResourceHooks, mode: Any
) -> None:
    async with engine.connect() as connection:
        outer = await connection.begin()
        await connection.execute(Note.__table__.insert().values(stars=7))  # type: ignore[attr-defined]
        sessions = async_sessionmaker(connection, join_transaction_mode=mode)
        async with client_for(use_resource(Note, session=sessions, hooks=hooks)) as client:
            for key in "ab":
                made = await client.post("", json={"stars": 1}, headers={"idempotency-key": key})
                assert made.status_code == 201
                row = f"/{made.json()['id']}"
                assert (await client.patch(row, json={"stars": 2})).json()["stars"] == 2
                assert (await client.delete(row)).status_code == 204
            assert [row["stars"] for row in (await client.get("")).json()["items"]] == [7]
        assert len(await scheduler.get_tasks()) == (0 if hooks == ResourceHooks() else 6)
        # Nothing is left to the background, which would meet what the connection's owner does next.
        assert await rows_of(connection, outbox_table) == 0
        await outer.rollback()
    async with engine.connect() as connection:
        assert await rows_of(connection, Note) == 0


@pytest.mark.parametrize("hooks", [TRIGGERS, BEFORE], ids=["at once", "hooks that are waited for"])
async def test_nothing_is_left_to_do_in_it_once_the_client_is_answered(
    engine: AsyncEngine, scheduler: TaskScheduler, monkeypatch: pytest.MonkeyPatch, hooks: ResourceHooks
) -> None:
    happened, drain = list[str](), Outbox.drain

    async def drained(outbox: Outbox) -> None:
        await drain(outbox)
        happened.append("drained")

    monkeypatch.setattr(Outbox, "drain", drained)
    async with engine.connect() as connection:
        sessions = async_sessionmaker(connection, join_transaction_mode="create_savepoint")
        resource = use_resource(Note, session=sessions, hooks=hooks)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            async def noted(message: Any) -> None:
                happened.append(message["type"])
                await send(message)

            await Starlette(routes=[resource.mount("/t")])(scope, receive, noted)

        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test/t") as client:
            assert (await client.post("", json={"stars": 1})).status_code == 201
        await connection.rollback()
    assert happened == ["drained", "http.response.start", "http.response.body"]


async def test_requests_and_sweeps_take_turns(engine: AsyncEngine, scheduler: TaskScheduler) -> None:
    async with engine.connect() as connection, connection.begin() as outer:
        sessions = async_sessionmaker(connection, join_transaction_mode="create_savepoint")
        async with client_for(use_resource(Note, session=sessions, hooks=TRIGGERS)) as client:
            outbox = Outbox.of(sessions)
            sweeps = [asyncio.ensure_future(outbox.sweep(scheduler.submit)) for _ in range(2)]
            answers = await asyncio.gather(
                *(client.post("", json={}) for _ in range(5)), *(client.get("") for _ in range(3))
            )
            await asyncio.gather(*sweeps)
        assert [each.status_code for each in answers] == [201] * 5 + [200] * 3
        assert len(await scheduler.get_tasks()) == 5
        await outer.rollback()


async def test_a_hook_may_ask_its_own_app(engine: AsyncEngine, scheduler: TaskScheduler) -> None:
    """Whoever waited for the connection there would wait for himself."""
    seen: list[int] = []
    async with engine.connect() as connection, connection.begin() as outer:
        sessions = async_sessionmaker(connection, join_transaction_mode="create_savepoint")

        async def after(ctx: HookContext, row: Any) -> None:
            seen.append((await client.get("/count")).json()["count"])

        hooks = ResourceHooks(on_after_create=after)
        async with client_for(use_resource(Note, session=sessions, hooks=hooks)) as client:
            assert (await client.post("", json={})).status_code == 201
        await outer.rollback()
    assert seen == [1]


async def test_tracked_sessions_leave_their_tasks_to_a_sweep(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    async with engine.connect() as connection, connection.begin() as outer:
        sessions = async_sessionmaker(connection, join_transaction_mode="create_savepoint")
        track_session(sessions, {Note: TRIGGERS})
        for count in range(1, 4):
            async with sessions.begin() as session:
                session.add(Note())
            await asyncio.sleep(0)  # what is left to the background would begin now
            async with sessions() as session:
                assert await session.scalar(select(func.count()).select_from(Note)) == count
        assert await Outbox.of(sessions).sweep(scheduler.submit) == 3
        await outer.rollback()


@pytest.fixture
async def tenant(postgres_database: str) -> AsyncGenerator[AsyncEngine]:
    engine = create_async_engine(
        postgres_database, execution_options={"schema_translate_map": {None: "tenant"}}
    )
    async with engine.begin() as connection:
        await connection.execute(text("CREATE SCHEMA tenant"))
        await connection.run_sync(Base.metadata.create_all)
    await create_outbox_tables(engine)
    yield engine
    await engine.dispose()


async def test_an_outbox_is_in_the_schema_of_its_engine(
    tenant: AsyncEngine, scheduler: TaskScheduler
) -> None:
    sessions = async_sessionmaker(tenant)
    async with client_for(use_resource(Note, session=sessions, hooks=TRIGGERS)) as client:
        for number in range(2):
            made = await client.post("", json={}, headers={"idempotency-key": str(number)})
            assert made.status_code == 201
    outbox = Outbox.of(sessions)
    await outbox.drain()
    assert len(await scheduler.get_tasks()) == 2
    left = {"id": "left", "payload": "{}", "created_at": 0.0}
    async with tenant.begin() as connection:
        assert await rows_of(connection, outbox_table) == 0
        await connection.execute(outbox_table.insert(), left)
    await outbox.sweep(scheduler.submit)
    async with tenant.connect() as connection:
        # It was found there: it is put aside, since it can't be read.
        assert (await connection.execute(select(outbox_table.c.broken))).scalar_one() is not None
