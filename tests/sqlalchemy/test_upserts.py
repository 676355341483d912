"""Upserts over HTTP, on SQLite and PostgreSQL: one row, whoever comes first."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    func,
    insert,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from concave import (
    HookContext,
    ResourceHooks,
    TaskTrigger,
    create_task_trigger_hooks,
    define_task,
    initialize_tasks,
)
from concave.kv import MemoryKV
from concave.tasks.scheduler import TaskScheduler
from concave_sqlalchemy import ALLOW, Fields, Scopes
from tests.sqlalchemy.support import client_of, database

metadata = MetaData()
people = Table(
    "people",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("email", String(20), nullable=False, unique=True),
    Column("name", String(20), nullable=False, default="nobody"),
    Column("first", String(5)),
    Column("second", String(5)),
    Column("partial", String(5)),
    Column("version", Integer, nullable=False, default=1),
    UniqueConstraint("first", "second"),
    Index("lower_name", func.lower(text("name")), unique=True, sqlite_where=text("name <> 'nobody'"), postgresql_where=text("name <> 'nobody'")),
    Index("some", "partial", unique=True, sqlite_where=text("id > 5"), postgresql_where=text("id > 5")),
)  # fmt: skip
UPSERT = "?on_conflict=email"


@define_task(name="note")
async def note(ctx: Any, entry: Any) -> None: ...


@pytest.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    async with database(request, tmp_path, metadata) as engine:
        yield engine


@pytest.fixture
async def scheduler() -> AsyncGenerator[TaskScheduler]:
    async with MemoryKV() as kv:
        yield initialize_tasks(kv)


async def emails(engine: AsyncEngine) -> list[str]:
    async with engine.connect() as connection:
        return list((await connection.execute(select(people.c.email).order_by(people.c.id))).scalars())


async def test_the_row_is_made_once_and_changed_after_that(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    triggers = [TaskTrigger(note, transform=lambda row, event: [event.event, row["name"]])]
    hooks = create_task_trigger_hooks(on_create=triggers, on_update=triggers)
    async with client_of(people, engine, hooks=hooks, version="version") as client:
        made = await client.post(UPSERT, json={"email": "a", "first": "x"})
        assert (made.status_code, made.headers["etag"], made.headers["location"]) == (201, '"1"', "/t/1")
        changed = await client.post(UPSERT, json={"email": "a", "name": "Ada"})
        assert (changed.status_code, changed.headers["etag"]) == (200, '"2"')
        assert changed.json() == {**made.json(), "name": "Ada", "version": 2}
        same = await client.post(UPSERT, json={"email": "a"})
        assert (same.status_code, same.json()) == (200, changed.json())
        assert [task.input for task in reversed(await scheduler.get_tasks())] == [
            ["create", "nobody"],
            ["update", "Ada"],
        ]


async def test_of_many_at_once_one_makes_the_row(engine: AsyncEngine) -> None:
    async with client_of(people, engine, version="version") as client:
        answers = await asyncio.gather(
            *(client.post(UPSERT, json={"email": "a", "first": f"{n}"}) for n in range(20))
        )
        assert sorted(answer.status_code for answer in answers) == [200] * 19 + [201]
        assert (await client.get("/1")).json()["version"] == 20
    assert await emails(engine) == ["a"]


async def test_a_row_that_comes_between_the_look_and_the_insert_is_changed(
    request: pytest.FixtureRequest, tmp_path: Path, scheduler: TaskScheduler, postgres_url: str
) -> None:
    request.param = "postgresql"  # SQLite has one writer at a time: nobody can come between
    async with database(request, tmp_path, metadata) as engine:
        told: list[str] = []

        async def before(ctx: HookContext, data: dict[str, Any]) -> None:
            ctx.on_commit(lambda: told.append("made"))
            await ctx.enqueue(note, "made")
            async with engine.begin() as another:
                await another.execute(insert(people).values(email=data["email"]))

        async def update(ctx: HookContext, key: Any, data: dict[str, Any]) -> None:
            ctx.on_commit(lambda: told.append("changed"))
            await ctx.enqueue(note, "changed")

        hooks = ResourceHooks(on_before_create=before, on_before_update=update)
        async with client_of(people, engine, hooks=hooks) as client:
            answer = await client.post(UPSERT, json={"email": "a", "name": "Ada"})
            assert (answer.status_code, answer.json()["name"]) == (200, "Ada")
            assert told == ["changed"]
            assert [task.input for task in await scheduler.get_tasks()] == ["changed"]


async def test_what_the_row_is_told_apart_by(engine: AsyncEngine) -> None:
    async with client_of(
        people, engine, fields=Fields(writable=["id", "email", "name", "first", "second", "partial"])
    ) as client:
        both = "?on_conflict=second,first"
        assert (await client.post(both, json={"email": "a", "first": "1", "second": "2"})).status_code == 201
        assert (await client.post(both, json={"email": "b", "first": "1", "second": "2"})).json()[
            "email"
        ] == "b"
        # NULL is like no other value.
        for email in ("c", "d"):
            nulls = {"email": email, "first": "1", "second": None}
            assert (await client.post(both, json=nulls)).status_code == 201
        assert (await client.post("?on_conflict=id", json={"id": 70, "email": "e"})).status_code == 201
        assert (await client.post("?on_conflict=id", json={"id": 70, "email": "f"})).json()["email"] == "f"
        moved = await client.post(UPSERT, json={"id": 71, "email": "f"})
        assert (moved.status_code, moved.json()["code"]) == (409, "CONFLICT")
        assert (await client.post(UPSERT, json={"id": 70, "email": "f", "name": "x"})).json()["name"] == "x"
        # Another constraint is violated.
        assert (await client.post("?on_conflict=id", json={"id": 70, "email": "c"})).status_code == 409
        for wrong in ("name", "first", "partial", "nope", "", "id,email", "email;DROP"):
            answer = await client.post("", params={"on_conflict": wrong}, json={"email": "z"})
            assert answer.status_code == 400, wrong
        missing = await client.post(both, json={"email": "z", "first": "1"})
        assert (missing.status_code, missing.json()["errors"][0]["field"]) == (422, "second")
        assert await emails(engine) == ["b", "c", "d", "f"]


async def test_a_constraint_that_is_tested_at_the_commit_is_none_to_go_by(engine: AsyncEngine) -> None:
    late = Table(
        "late",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("code", Integer),
        UniqueConstraint("code", deferrable=True, initially="DEFERRED"),
    )
    async with client_of(late, engine) as client:
        assert (await client.post("?on_conflict=code", json={"code": 1})).status_code == 400


async def test_an_upsert_stays_within_the_scopes(engine: AsyncEngine) -> None:
    own = people.c.name == "ada"
    async with engine.begin() as connection:
        await connection.execute(insert(people).values(id=50, email="bob", name="bob"))
    async with client_of(people, engine, scopes=Scopes(read=ALLOW, create=own, update=own)) as client:
        # The same as without on_conflict: it isn't the client's row, and it is in the way.
        assert (await client.post(UPSERT, json={"email": "bob", "name": "ada"})).status_code == 409
        assert (await client.post(UPSERT, json={"email": "a", "name": "bob2"})).status_code == 403
        assert (await client.post(UPSERT, json={"email": "a", "name": "ada"})).status_code == 201
        assert (await client.post(UPSERT, json={"email": "a", "name": "bob2"})).status_code == 403
    async with client_of(people, engine, scopes=Scopes(read=ALLOW, update=own)) as client:
        assert (await client.post(UPSERT, json={"email": "a", "first": "x"})).status_code == 200
        assert (await client.post(UPSERT, json={"email": "b"})).status_code == 403
    async with client_of(people, engine, scopes=Scopes(read=ALLOW, create=ALLOW)) as client:
        assert (await client.post(UPSERT, json={"email": "a", "first": "y"})).status_code == 409
    assert sorted(await emails(engine)) == ["a", "bob"]


async def test_a_batch_of_upserts(engine: AsyncEngine) -> None:
    async with client_of(people, engine) as client:
        await client.post("", json={"email": "b", "first": "old"})
        items = [{"email": "a"}, {"email": "b", "first": "new"}, {"email": "a", "first": "again"}]
        answer = await client.post(f"/batch{UPSERT}", json={"items": items})
        assert (answer.status_code, [row["first"] for row in answer.json()["items"]]) == (
            200,
            [None, "new", "again"],
        )
        assert sorted(await emails(engine)) == ["a", "b"]
        wrong = await client.post(f"/batch{UPSERT}", json={"items": [{"email": "c"}, {"first": "1"}]})
        assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "items.1.email")
    async with client_of(people, engine, require_if_match=True) as client:
        assert (await client.post(UPSERT, json={"email": "a"})).status_code == 428
        assert (
            await client.post(UPSERT, json={"email": "a"}, headers={"if-match": '"1"'})
        ).status_code == 400
        assert (await client.post(UPSERT, json={"email": "a"}, headers={"if-match": "*"})).status_code == 200
