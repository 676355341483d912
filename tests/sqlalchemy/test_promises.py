"""What a resource promises at its edges: broken outbox rows, hooks that misbehave, values that databases differ on."""

import asyncio
import datetime as dt
import json
import logging
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from sqlalchemy import (
    JSON,
    Column,
    DateTime,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Uuid,
    event,
    func,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.util import await_only
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from concave import (
    HookContext,
    ResourceHooks,
    TaskTrigger,
    create_task_trigger_hooks,
    define_task,
    initialize_tasks,
)
from concave.errors import ConfigurationError, StoreUnavailableError, TasksNotInitializedError
from concave.kv import MemoryKV
from concave.store.records import Debounce, NewTask, Retention
from concave.tasks.defaults import _stack
from concave.tasks.scheduler import TaskScheduler
from concave_sqlalchemy import Resource, create_outbox_tables, use_resource
from concave_sqlalchemy.outbox import Outbox
from concave_sqlalchemy.payload import decode, encode
from concave_sqlalchemy.tables import outbox_table
from tests.servers import temporary_database
from tests.sqlalchemy.support import failing

tables = MetaData()

notes = Table(
    "notes",
    tables,
    Column("id", Integer, primary_key=True),
    Column("title", String(20), nullable=False),
    Column("owner", String(20), nullable=False),
    Column("at", DateTime(timezone=True)),
    Column("blob", LargeBinary),
    Column("ratio", Float),
    Column("data", JSON().with_variant(JSONB(), "postgresql")),
    Column("made_at", DateTime, server_default=func.now()),
)

tokens = Table(
    "tokens",
    tables,
    Column("id", Uuid, primary_key=True, default=uuid.uuid4),
    Column("label", String(20), nullable=False),
)


def _shouted(context: Any) -> str:
    return str(context.get_current_parameters()["label"]).upper()


derived = Table(
    "derived",
    tables,
    Column("id", Integer, primary_key=True),
    Column("label", String(20), nullable=False),
    Column("shouted", String(20), default=_shouted),
)


@define_task(name="promise")
async def promise(ctx: Any, entry: Any) -> None: ...


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
        yield engine


@pytest.fixture
async def outbox_made(engine: AsyncEngine) -> None:
    await create_outbox_tables(engine)


@pytest.fixture
async def scheduler() -> AsyncGenerator[TaskScheduler]:
    async with MemoryKV() as kv:
        yield initialize_tasks(kv)
    _stack.clear()


def client_of(resource: Resource, framework: Any = Starlette) -> httpx.AsyncClient:
    app = framework()
    app.router.routes.append(resource.mount("/api/notes"))
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test/api/notes")


async def count(engine: AsyncEngine, table: Any) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(select(func.count()).select_from(table))).scalar_one())


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

NOTE = {"title": "a", "owner": "me"}


# The outbox --------------------------------------------------------------------------------------------------


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


# Hooks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_a_hook_cannot_end_the_transaction(
    engine: AsyncEngine, scheduler: TaskScheduler, outbox_made: None, ending: str
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


# Values ------------------------------------------------------------------------------------------------------


async def test_a_moment_keeps_its_place_in_time(engine: AsyncEngine) -> None:
    async with client_of(use_resource(notes, session=async_sessionmaker(engine))) as client:
        for made in (
            await client.post("/", json={**NOTE, "at": "2024-01-01T10:00:00+02:00"}),
            await client.get("/1"),
        ):
            at = dt.datetime.fromisoformat(made.json()["at"])
            assert at == dt.datetime(2024, 1, 1, 8, tzinfo=dt.UTC)


@pytest.mark.parametrize("text", ["+/8=", "-_8="])
async def test_binary_values_are_base64_of_either_alphabet(engine: AsyncEngine, text: str) -> None:
    async with client_of(use_resource(notes, session=async_sessionmaker(engine))) as client:
        made = await client.post("/", json={**NOTE, "blob": text})
        assert made.status_code == 201, made.text
        assert made.json()["blob"] == "+/8="
    async with engine.connect() as connection:
        assert (await connection.execute(select(notes.c.blob))).scalar_one() == b"\xfb\xff"


async def test_a_value_that_is_no_number_is_still_json(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(insert(notes).values(**NOTE, ratio=float("inf")))
    async with client_of(use_resource(notes, session=async_sessionmaker(engine))) as client:
        answer = await client.get("/1")
        assert json.loads(answer.content, parse_constant=pytest.fail)["ratio"] is None


async def test_what_only_the_database_refuses_is_422(engine: AsyncEngine) -> None:
    async with client_of(use_resource(notes, session=async_sessionmaker(engine))) as client:
        made = await client.post("/", json={**NOTE, "data": {"a": "\0"}})
        assert made.status_code == (422 if engine.dialect.name == "postgresql" else 201), made.text


@pytest.mark.parametrize("values", [{"title": 5}, {"ratio": "1.5"}, {"at": 1700000000}, {"ratio": True}])
async def test_values_of_another_json_type_are_refused(engine: AsyncEngine, values: dict[str, Any]) -> None:
    async with client_of(use_resource(notes, session=async_sessionmaker(engine))) as client:
        assert (await client.post("/", json={**NOTE, **values})).status_code == 422


async def test_a_client_cannot_choose_a_generated_key(engine: AsyncEngine) -> None:
    async with client_of(use_resource(tokens, session=async_sessionmaker(engine))) as client:
        chosen = await client.post("/", json={"id": str(uuid.uuid4()), "label": "a"})
        assert chosen.status_code == 422
        assert (await client.post("/", json={"label": "a"})).status_code == 201


@pytest.mark.parametrize(
    "query",
    [
        "limit=0000000100999999",
        "limit=%2B5",
        "limit=",
        "limit=1_0",
        "limit=٣",
        "cursor=",
        "cursor=W!zFd",
        "cursor=WyIxIl0",
        "cursor=WzEuNV0",
    ],
)
async def test_queries_that_look_right(engine: AsyncEngine, query: str) -> None:
    async with client_of(use_resource(notes, session=async_sessionmaker(engine))) as client:
        assert (await client.get(f"/?{query}")).status_code == 400


async def test_unknown_query_parameters_are_refused_everywhere(engine: AsyncEngine) -> None:
    async with client_of(use_resource(notes, session=async_sessionmaker(engine))) as client:
        await client.post("/", json=NOTE)
        assert (await client.get("/1?x=1")).status_code == 400
        assert (await client.post("/?x=1", json=NOTE)).status_code == 400
        assert (await client.delete("/1?all=true")).status_code == 400
    assert await count(engine, notes) == 1


# Where it is mounted -----------------------------------------------------------------------------------------


async def test_a_mount_below_path_parameters(engine: AsyncEngine) -> None:
    seen: list[Any] = []

    def user(request: Request) -> None:
        seen.append(request.path_params["org"])

    app = Starlette(
        routes=[use_resource(notes, session=async_sessionmaker(engine), user=user).mount("/orgs/{org}/notes")]
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        assert (await client.get("/orgs/acme/notes")).status_code == 200
        assert (await client.get("/orgs/acme/notes/")).status_code == 200
        assert (await client.get("/orgs/acme/notes/1")).status_code == 404
        assert (await client.get("/orgs/acme/notesx")).status_code == 404
    assert seen == ["acme"] * 3


async def test_in_a_router_that_fastapi_includes(engine: AsyncEngine) -> None:
    router = APIRouter()
    router.routes.append(use_resource(notes, session=async_sessionmaker(engine)).mount("/notes"))
    router.routes.append(Mount("/plain", routes=[Route("/", lambda request: Response())]))
    app = FastAPI()
    app.include_router(router, prefix="/v1")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        if (await client.get("/v1/plain/")).status_code == 404:
            pytest.skip("this FastAPI is too old: it drops every mount of an included router")
        assert (await client.get("/v1/notes")).status_code == 200
        assert (await client.get("/v1/notes/")).status_code == 200
        assert (await client.get("/openapi.json")).status_code == 200


async def test_urls_of_the_app_from_within_a_hook(engine: AsyncEngine) -> None:
    seen: list[str] = []

    def user(request: Request) -> None:
        seen.append(str(request.url_for("home")))

    async def home(request: Request) -> Any: ...

    app = Starlette()
    app.add_route("/home", home, name="home")
    app.router.routes.append(
        use_resource(notes, session=async_sessionmaker(engine), user=user).mount("/api/notes")
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        assert (await client.get("/api/notes")).status_code == 200
    assert seen == ["http://test/home"]


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


async def test_an_id_must_be_unique() -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    with pytest.raises(ConfigurationError, match="unique"):
        use_resource(notes, session=async_sessionmaker(engine), id="title")


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


async def test_the_route_by_its_name(engine: AsyncEngine) -> None:
    app = Starlette(routes=[use_resource(notes, session=async_sessionmaker(engine)).mount("/api/notes")])
    assert app.url_path_for("notes") == "/api/notes"
    assert app.url_path_for("notes", path="3") == "/api/notes/3"
