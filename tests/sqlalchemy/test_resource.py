"""A resource over HTTP, on SQLite and PostgreSQL: rows, pages, problems, hooks and the tasks that commit with rows."""

import datetime as dt
import uuid
from collections.abc import AsyncGenerator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import JSON, Column, ForeignKey, Integer, MetaData, Numeric, String, Table, Uuid, func, select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request

from concave import (
    ConfigurationError,
    HookContext,
    ResourceHooks,
    TaskTrigger,
    compose_hooks,
    create_task_trigger_hooks,
    define_task,
    initialize_tasks,
)
from concave.kv import MemoryKV
from concave.tasks.scheduler import TaskScheduler
from concave_sqlalchemy import Problem, Resource, create_outbox_tables, use_resource
from concave_sqlalchemy.outbox import Outbox
from concave_sqlalchemy.tables import outbox_table


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(String(50), unique=True)
    full_name: Mapped[str | None] = mapped_column("fullname", String(20))
    role: Mapped[str] = mapped_column(String(20), default="user")
    score: Mapped[Decimal] = mapped_column(Numeric(6, 2), server_default="1.5")
    data: Mapped[Any] = mapped_column(JSON, nullable=True)
    born: Mapped[dt.date | None]
    boss_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))


items = Table(
    "items",
    Base.metadata,
    Column("id", Uuid, primary_key=True, default=uuid.uuid4),
    Column("size", Integer, nullable=False),
)


@define_task(name="note")
async def note(ctx: Any, entry: Any) -> None: ...


@pytest.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    url = f"sqlite+aiosqlite:///{tmp_path}/test.db"
    if request.param == "postgresql":
        from tests.servers import temporary_database

        async with temporary_database(request.getfixturevalue("postgres_url")) as url:
            async for made in _engine(url):
                yield made
        return
    async for made in _engine(url):
        yield made


async def _engine(url: str) -> AsyncGenerator[AsyncEngine]:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await create_outbox_tables(engine)
    await create_outbox_tables(engine)
    yield engine
    await engine.dispose()


@pytest.fixture
async def scheduler() -> AsyncGenerator[TaskScheduler]:
    async with MemoryKV() as kv:
        yield initialize_tasks(kv)


Client = httpx.AsyncClient


def client_of(resource: Resource, *, framework: Any = Starlette) -> Client:
    app = framework()
    app.router.routes.append(resource.mount("/api/things"))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test/api/things")


def sessions_of(engine: AsyncEngine) -> async_sessionmaker[Any]:
    return async_sessionmaker(engine)


async def rows_in(engine: AsyncEngine, table: Any) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(select(func.count()).select_from(table))).scalar_one())


@pytest.mark.parametrize("framework", [Starlette, FastAPI])
async def test_a_row_is_created_read_changed_replaced_and_deleted(
    engine: AsyncEngine, framework: Any
) -> None:
    client = client_of(use_resource(User, session=sessions_of(engine)), framework=framework)
    created = await client.post(
        "", json={"email": "a@b.c", "full_name": "Ada", "data": {"x": []}, "born": "1815-12-10"}
    )
    assert created.status_code == 201
    row = created.json()
    assert row == {
        "id": row["id"], "email": "a@b.c", "full_name": "Ada", "role": "user", "score": "1.50", "data": {"x": []},
        "born": "1815-12-10", "boss_id": None,
    }  # fmt: skip
    path = f"/{row['id']}"
    assert (await client.get(path)).json() == row
    patched = await client.patch(path, json={"role": "admin", "full_name": None, "id": row["id"]})
    assert patched.json() == {**row, "role": "admin", "full_name": None}
    assert (await client.patch(path, json={})).json() == patched.json()
    replaced = await client.put(path, json={"email": "b@b.c"})
    assert replaced.json() == {
        **row, "email": "b@b.c", "full_name": None, "role": "user", "data": None, "born": None,
    }  # fmt: skip
    deleted = await client.delete(path)
    assert (deleted.status_code, deleted.content) == (204, b"")
    for answer in (await client.get(path), await client.patch(path, json={}), await client.delete(path)):
        assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")


async def test_pages_are_stable_and_complete(engine: AsyncEngine) -> None:
    client = client_of(use_resource(items, session=sessions_of(engine)))
    created = [(await client.post("/", json={"size": n})).json()["id"] for n in range(25)]
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 10, "totalCount": "true"}
    while True:
        page = (await client.get("/", params=query)).json()
        assert page["totalCount"] == 25
        seen += [item["id"] for item in page["items"]]
        if not page["hasMore"]:
            assert page["nextCursor"] is None
            break
        query["cursor"] = page["nextCursor"]
    assert sorted(seen) == sorted(created)
    assert len((await client.get("")).json()["items"]) == 20
    assert (await client.get("/count")).json() == {"count": 25}


@pytest.mark.parametrize(
    "query",
    ["cursor=x", "cursor=W10", "cursor=%C3%A9", "cursor=" + "A" * 3000, "limit=0", "limit=101", "limit=x", "limit=1&limit=2",
     "totalCount=1", "nope=1", "cursor=WyJ4Il0"],
)  # fmt: skip
async def test_a_wrong_query_is_400_and_never_page_one(engine: AsyncEngine, query: str) -> None:
    client = client_of(use_resource(items, session=sessions_of(engine)))
    answer = await client.get(f"?{query}")
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    if query.startswith("cursor"):
        assert answer.json()["type"] == "/__concave/problems/cursor-invalid"


@pytest.mark.parametrize(
    "body,fields",
    [
        ({}, ["email"]),
        ({"email": "a", "nope": 1}, ["nope"]),
        ({"email": "a", "id": 5}, ["id"]),
        ({"email": None}, ["email"]),
        ({"email": "x" * 51}, ["email"]),
        ({"email": "a\0b"}, ["email"]),
        ({"email": "a", "score": "12345.6"}, ["score"]),
        ({"email": "a", "born": "yesterday"}, ["born"]),
        ({"email": "a", "boss_id": 2**31}, ["boss_id"]),
    ],
)
async def test_bodies_are_checked_by_the_columns(
    engine: AsyncEngine, body: dict[str, Any], fields: list[str]
) -> None:
    client = client_of(use_resource(User, session=sessions_of(engine)))
    answer = await client.post("", json=body)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "VALIDATION_ERROR")
    assert [error["field"] for error in problem["errors"]] == fields
    assert await rows_in(engine, User) == 0


async def test_bodies_that_are_no_json_object(engine: AsyncEngine) -> None:
    client = client_of(use_resource(User, session=sessions_of(engine), max_body=100))
    headers = {"content-type": "application/json"}

    async def endless() -> AsyncGenerator[bytes]:
        for _ in range(20):
            yield b" " * 10

    for content, status in (
        (b"{", 400),
        (b'{"a": NaN}', 400),
        (b"[]", 422),
        (b" " * 101, 413),
        (endless(), 413),
    ):
        answer = await client.post("", content=content, headers=headers)
        assert answer.status_code == status, content
        assert answer.headers["content-type"] == "application/problem+json"
    assert (await client.post("", content=b"{}", headers={"content-type": "text/plain"})).status_code == 415
    answer = await client.request("PURGE", "/1")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, PATCH, PUT, DELETE, HEAD")


@pytest.mark.parametrize("text", ["x", "1.5", "1%22%20or%201=1", "99999999999999999999", "1/2", "%00"])
async def test_a_path_that_can_be_no_key_is_404(engine: AsyncEngine, text: str) -> None:
    client = client_of(use_resource(User, session=sessions_of(engine)))
    await client.post("", json={"email": "a"})
    assert (await client.delete(f"/{text}")).status_code == 404
    assert await rows_in(engine, User) == 1


async def test_a_conflict_names_no_sql(engine: AsyncEngine) -> None:
    client = client_of(use_resource(User, session=sessions_of(engine)))
    await client.post("", json={"email": "a"})
    answer = await client.post("", json={"email": "a"})
    assert (answer.status_code, answer.json()["code"]) == (409, "CONFLICT")
    assert "users" not in answer.text.lower()


async def test_hooks_run_in_the_transaction_in_order(engine: AsyncEngine) -> None:
    story: list[Any] = []

    async def before_create(ctx: HookContext, data: dict[str, Any]) -> dict[str, Any]:
        assert (ctx.user, ctx.request.method) == ("me", "POST")
        ctx.on_commit(lambda: story.append("committed"))
        return {**data, "role": "made by a hook"}

    async def after_create(ctx: HookContext, row: dict[str, Any]) -> None:
        seen = await ctx.session.execute(select(User.role).where(User.id == row["id"]))
        story.append(seen.scalar_one())

        async def broken() -> None:
            raise ValueError("after the commit")

        ctx.on_commit(broken)

    hooks = compose_hooks(
        ResourceHooks(
            on_before_create=before_create,
            on_after_create=after_create,
            on_before_update=lambda ctx, key, data: {**data, "role": f"changed {key}"},
            on_before_delete=lambda ctx, key: story.append(key),
            on_after_delete=lambda ctx, row: story.append(row["role"]),
        ),
        ResourceHooks(on_after_update=lambda ctx, row: story.append(row["role"])),
    )
    client = client_of(
        use_resource(User, session=sessions_of(engine), hooks=hooks, user=lambda request: "me")
    )
    row = (await client.post("", json={"email": "a"})).json()
    assert story == ["made by a hook", "committed"]
    await client.patch(f"/{row['id']}", json={"full_name": "x"})
    await client.delete(f"/{row['id']}")
    assert story[2:] == [f"changed {row['id']}", row["id"], f"changed {row['id']}"]


@pytest.mark.parametrize(
    "raised,status,code",
    [
        (Problem(403, "not yours", code="NOT_YOURS"), 403, "NOT_YOURS"),
        (HTTPException(418, "tea"), 418, "HTTP_418"),
        (RuntimeError("secret"), 500, "INTERNAL_ERROR"),
    ],
)
async def test_whatever_a_hook_raises_rolls_back_row_and_task(
    engine: AsyncEngine, scheduler: TaskScheduler, raised: Exception, status: int, code: str
) -> None:
    def refuse(ctx: HookContext, row: Any) -> None:
        raise raised

    hooks = compose_hooks(
        create_task_trigger_hooks(on_create=[TaskTrigger(note)]), ResourceHooks(on_after_create=refuse)
    )
    client = client_of(use_resource(User, session=sessions_of(engine), hooks=hooks))
    answer = await client.post("", json={"email": "a"})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert "secret" not in answer.text
    assert (await rows_in(engine, User), await rows_in(engine, outbox_table)) == (0, 0)
    assert await scheduler.get_tasks() == []


async def test_what_a_hook_returns_is_checked_again(engine: AsyncEngine) -> None:
    hooks = ResourceHooks(
        on_before_create=lambda ctx, data: {**data, "role": 5}, on_before_update=lambda *_: {"x": 1}
    )
    client = client_of(use_resource(User, session=sessions_of(engine), hooks=hooks))
    assert (await client.post("", json={"email": "a"})).status_code == 422
    plain = client_of(use_resource(User, session=sessions_of(engine)))
    row = (await plain.post("", json={"email": "a"})).json()
    assert (await client.patch(f"/{row['id']}", json={"role": "x"})).status_code == 422


async def test_the_user_callable_may_refuse(engine: AsyncEngine) -> None:
    async def nobody(request: Request) -> None:
        raise HTTPException(401, headers={"www-authenticate": "Bearer"})

    client = client_of(use_resource(User, session=sessions_of(engine), user=nobody))
    answer = await client.get("")
    assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHORIZED")
    assert answer.headers["www-authenticate"] == "Bearer"


# Triggers, the outbox and its relay


def audited(engine: AsyncEngine, **options: Any) -> Resource:
    triggers = [TaskTrigger(note, **options)]
    hooks = create_task_trigger_hooks(on_create=triggers, on_update=triggers, on_delete=triggers)
    return use_resource(User, session=sessions_of(engine), hooks=hooks, user=lambda request: {"id": 7})


async def test_row_and_task_commit_together(engine: AsyncEngine, scheduler: TaskScheduler) -> None:
    resource = audited(engine)
    client = client_of(resource)
    row = (await client.post("", json={"email": "a"})).json()
    await client.put(f"/{row['id']}", json={"email": "b"})
    await client.delete(f"/{row['id']}")
    tasks = list(reversed(await scheduler.get_tasks()))
    assert [(task.input["event"], task.input["data"]["email"]) for task in tasks] == [
        ("create", "a"), ("update", "b"), ("delete", "b"),
    ]  # fmt: skip
    assert tasks[0].input == {"event": "create", "resource": "users", "data": row, "userId": 7}
    await resource._outbox.drain()
    assert await rows_in(engine, outbox_table) == 0


async def test_what_a_crash_left_is_swept_once_and_a_delay_counts_from_the_row(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    with_default = audited(engine, delay=3600)
    outbox = with_default._outbox
    assert Outbox.of(sessions_of(engine)) is outbox

    async def dead(submissions: Any) -> None: ...

    outbox.relay = dead  # type: ignore[method-assign]  # the process dies between COMMIT and the relay
    client = client_of(with_default)
    for email in ("a", "b"):
        await client.post("", json={"email": email})
    assert await scheduler.get_tasks() == []
    submitted: list[Any] = []

    async def submit(tasks: Any) -> list[str]:
        submitted.extend(tasks)
        return await scheduler.submit(tasks)

    assert await outbox.sweep(submit) == 2
    assert all(0 < task.delay <= 3600_000_000 for task in submitted)
    assert await rows_in(engine, outbox_table) == 0
    await client.post("", json={"email": "c"})
    assert await outbox.sweep(submit) == 0  # young: its process may be about to relay it
    assert await outbox.sweep(submit) == 1
    assert await outbox.sweep(submit) == 0
    assert len(await scheduler.get_tasks(status="scheduled")) == 3


async def test_a_row_that_cannot_be_read_is_put_aside(engine: AsyncEngine, scheduler: TaskScheduler) -> None:
    async with engine.begin() as connection:
        await connection.execute(outbox_table.insert().values(id="bad", payload="{", created_at=0.0))
    outbox = Outbox(sessions_of(engine))
    assert await outbox.sweep(scheduler.submit) == 0
    async with engine.connect() as connection:
        assert (await connection.execute(select(outbox_table.c.broken))).scalar_one()


async def test_without_a_scheduler_tasks_wait_in_the_outbox(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    from concave.tasks import defaults

    defaults._stack.clear()
    client = client_of(audited(engine))
    for email in ("a", "b"):
        assert (await client.post("", json={"email": email})).status_code == 201
    assert await rows_in(engine, outbox_table) == 2
    assert len([record for record in caplog.records if "wait in the outbox" in record.message]) == 1


async def test_a_missing_outbox_table_is_explained(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(outbox_table.drop)
    client = client_of(audited(engine))
    assert (await client.post("", json={"email": "a"})).status_code == 500
    assert "create_outbox_tables(engine)" in caplog.text
    assert await rows_in(engine, User) == 0


async def test_concurrent_posts_all_succeed(engine: AsyncEngine, scheduler: TaskScheduler) -> None:
    import asyncio

    client = client_of(audited(engine))
    answers = await asyncio.gather(*(client.post("", json={"email": f"{n}"}) for n in range(40)))
    assert {answer.status_code for answer in answers} == {201}
    assert len(await scheduler.get_tasks()) == 40


def test_what_cannot_be_a_resource() -> None:
    sessions: async_sessionmaker[Any] = async_sessionmaker()
    with pytest.raises(ConfigurationError, match="mapped class or a Table"):
        use_resource(object(), session=sessions)
    with pytest.raises(ConfigurationError, match="primary key"):
        use_resource(Table("t", MetaData(), Column("a", Integer)), session=sessions)
    with pytest.raises(ConfigurationError, match="no column 'b'"):
        use_resource(items, session=sessions, id="b")
    with pytest.raises(ConfigurationError, match="default_limit"):
        use_resource(items, session=sessions, default_limit=0)
    resource = use_resource(items, session=sessions)
    with pytest.raises(ConfigurationError, match="slash"):
        resource.mount("api")
    route = resource.mount("/api/things/")
    assert route.url_path_for("things") == "/api/things"


async def test_the_location_of_a_row_below_a_path_of_any_letters(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/test.db")
    letters = Table("letters", MetaData(), Column("id", String(9), primary_key=True))
    async with engine.begin() as connection:
        await connection.run_sync(letters.metadata.create_all)
    app = Starlette(routes=[use_resource(letters, session=async_sessionmaker(engine)).mount("/漢 字")])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        created = await client.post("/漢 字/", json={"id": "é/%"})
        assert created.status_code == 201, created.text
        assert created.headers["location"] == "/%E6%BC%A2%20%E5%AD%97/%C3%A9%2F%25"
        assert (await client.get(created.headers["location"])).json() == {"id": "é/%"}
    await engine.dispose()
