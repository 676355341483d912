"""Batches over HTTP, on SQLite and PostgreSQL: one transaction, one trigger per row, and never all rows by mistake."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    JSON,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    String,
    Table,
    event,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from concave import ConfigurationError, HookContext, ResourceHooks, TaskTrigger, define_task, initialize_tasks
from concave.kv import MemoryKV
from concave.tasks.scheduler import TaskScheduler
from concave.triggers import create_task_trigger_hooks
from concave_sqlalchemy import DENY, Scopes, use_resource
from tests.sqlalchemy.support import client_for, client_of, database

metadata = MetaData()
things = Table(
    "things",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(20), nullable=False, unique=True),
    Column("kind", String(5), nullable=False, default="a"),
    Column("data", JSON),
)
# Rows that refer to others of their table: gone with them, and in their way.
nodes = Table(
    "nodes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("parent", ForeignKey("nodes.id", ondelete="CASCADE")),
)
links = Table(
    "links",
    metadata,
    Column("list", Integer, primary_key=True),
    Column("id", Integer, primary_key=True),
    Column("parent", Integer),
    ForeignKeyConstraint(["list", "parent"], ["links.list", "links.id"]),
)


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


async def fill(engine: AsyncEngine, count: int) -> None:
    async with engine.begin() as connection:
        rows = [{"id": n, "name": f"n{n}", "kind": "ab"[n % 2]} for n in range(1, count + 1)]
        await connection.execute(insert(things), rows)
        if engine.dialect.name == "postgresql":
            await connection.exec_driver_sql("SELECT setval('things_id_seq', 1000)")


async def stored(engine: AsyncEngine) -> list[Any]:
    async with engine.connect() as connection:
        query = select(things.c.id, things.c.name, things.c.kind).order_by(things.c.id)
        return [tuple(row) for row in await connection.execute(query)]


async def test_many_rows_one_transaction_one_trigger_each(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    triggers = [TaskTrigger(note, transform=lambda row, event: [event.event, row["id"], event.previous and event.previous["kind"], row["kind"]])]  # fmt: skip
    hooks = create_task_trigger_hooks(on_create=triggers, on_update=triggers, on_delete=triggers)

    async def fired() -> list[Any]:
        found = [task.input for task in reversed(await scheduler.get_tasks(limit=1000))]
        return found[-3:]

    async with client_of(things, engine, hooks=hooks) as client:
        made = await client.post("/batch", json={"items": [{"name": f"n{n}"} for n in range(3)]})
        assert (made.status_code, [row["name"] for row in made.json()["items"]]) == (200, ["n0", "n1", "n2"])
        ids = [row["id"] for row in made.json()["items"]]
        assert sorted(await fired()) == [["create", each, None, "a"] for each in ids]
        await client.post("", json={"name": "other", "kind": "z"})
        changed = await client.patch("/batch?filter=kind==a", json={"kind": "b"})
        assert (changed.status_code, changed.json()) == (200, {"count": 3})
        assert sorted(await fired()) == [["update", each, "a", "b"] for each in ids]
        gone = await client.delete("/batch?filter=kind==b")
        assert (gone.status_code, gone.json()) == (200, {"count": 3})
        assert sorted(await fired()) == [["delete", each, "b", "b"] for each in ids]
        assert (await client.delete("/batch?filter=kind==b")).json() == {"count": 0}
        assert [name for _, name, _ in await stored(engine)] == ["other"]
        assert len(await scheduler.get_tasks(limit=1000)) == 10


async def test_all_rows_are_meant_only_by_who_says_so(engine: AsyncEngine) -> None:
    await fill(engine, 4)
    async with client_of(things, engine) as client:
        for query in (
            "",
            "?filter=",
            "?filter=%20",
            "?all=false",
            "?all=1",
            "?all=",
            "?all=true&all=true",
            "?where=id>0",
        ):
            for verb, body in (("PATCH", {"kind": "z"}), ("DELETE", None)):
                assert (await client.request(verb, f"/batch{query}", json=body)).status_code == 400, query
        assert (await client.patch("/batch?filter=nope==1", json={"kind": "z"})).status_code == 400
        assert "z" not in {kind for _, _, kind in await stored(engine)}
        assert (await client.patch("/batch?all=true", json={"kind": "z"})).json() == {"count": 4}
        # A filter is never widened.
        assert (await client.delete("/batch?all=true&filter=id==1")).json() == {"count": 1}
        assert (await client.delete("/batch?all=true")).json() == {"count": 3}
        assert (await client.request("PUT", "/batch", json={})).status_code == 405


async def test_more_rows_than_the_limit_are_not_touched(engine: AsyncEngine) -> None:
    await fill(engine, 101)
    async with client_of(things, engine) as client:
        for answer in (
            await client.post("/batch", json={"items": [{"name": f"x{n}"} for n in range(101)]}),
            await client.patch("/batch?all=true", json={"kind": "z"}),
            await client.delete("/batch?filter=id>0"),
        ):
            problem = answer.json()
            assert (answer.status_code, problem["code"]) == (400, "BATCH_LIMIT_EXCEEDED")
            assert problem["type"] == "/__concave/problems/batch-limit-exceeded"
        assert (await client.patch("/batch?filter=id>1", json={"kind": "y"})).json() == {"count": 100}
        assert {kind for _, _, kind in await stored(engine)} == {"b", "y"}
    async with client_of(things, engine, max_batch=2) as client:
        assert (await client.delete("/batch?filter=id<4")).status_code == 400
        assert (await client.delete("/batch?filter=id<3")).json() == {"count": 2}
    with pytest.raises(ConfigurationError):
        client_of(things, engine, max_batch=0)


async def test_what_is_wrong_with_which_item_is_told_and_nothing_is_written(engine: AsyncEngine) -> None:
    async with client_of(things, engine) as client:
        wrong = await client.post("/batch", json={"items": [{"name": "a"}, {}, {"name": 5, "x": 1}]})
        assert wrong.status_code == 422
        assert [each["field"] for each in wrong.json()["errors"]] == [
            "items.1.name",
            "items.2.name",
            "items.2.x",
        ]
        twice = await client.post("/batch", json={"items": [{"name": "a"}, {"name": "b"}, {"name": "a"}]})
        assert (twice.status_code, twice.json()["errors"][0]["field"]) == (409, "items.2")
        body: Any
        for body in ({}, {"items": {}}, {"items": [1]}, {"items": [], "x": 1}, {"items": None}):
            assert (await client.post("/batch", json=body)).status_code == 422, body
        assert (await client.post("/batch", json={"items": []})).json() == {"items": []}
        assert (await client.patch("/batch?all=true", json={"nope": 1})).status_code == 422
        assert await stored(engine) == []


async def test_each_row_has_its_own_hooks_and_its_own_data(engine: AsyncEngine) -> None:
    await fill(engine, 3)
    seen: list[Any] = []

    def before(ctx: HookContext, key: Any, data: dict[str, Any]) -> dict[str, Any]:
        seen.append((key, data["data"]["n"], data["kind"]))
        data["data"]["n"] = key
        return {**data, "kind": f"k{key}"}

    def after(ctx: HookContext, row: dict[str, Any]) -> None:
        if row["id"] == 3 and row["name"] == "n3" and len(seen) > 3:
            raise RuntimeError("no")

    hooks = ResourceHooks(on_before_update=before, on_after_update=after)
    async with client_of(things, engine, hooks=hooks) as client:
        body = {"kind": "x", "data": {"n": 0}}
        assert (await client.patch("/batch?filter=id>0", json=body)).json() == {"count": 3}
        assert seen == [(1, 0, "x"), (2, 0, "x"), (3, 0, "x")]
        assert [kind for _, _, kind in await stored(engine)] == ["k1", "k2", "k3"]
        # The last row's hook raises: the first rows are as they were.
        assert (
            await client.patch("/batch?filter=id>0", json={"kind": "y", "data": {"n": 0}})
        ).status_code == 500
        assert [kind for _, _, kind in await stored(engine)] == ["k1", "k2", "k3"]


async def chain(engine: AsyncEngine, table: Table) -> None:
    """Three rows, each the parent of the next."""
    if engine.dialect.name == "sqlite":
        await engine.dispose()
        event.listen(engine.sync_engine, "connect", lambda raw, _: raw.execute("PRAGMA foreign_keys=ON"))
    more = {"list": 1} if table is links else {}
    async with engine.begin() as connection:
        await connection.execute(
            insert(table), [{"id": n, "parent": n - 1 or None, **more} for n in (1, 2, 3)]
        )


@pytest.mark.parametrize("table", [nodes, links], ids=str)
@pytest.mark.parametrize("has_session", [True, False])
async def test_rows_that_refer_to_each_other_go_together(
    engine: AsyncEngine, table: Table, has_session: bool
) -> None:
    await chain(engine, table)
    seen: list[Any] = []

    def after(ctx: HookContext, row: dict[str, Any]) -> None:
        seen.append((row["id"], row["parent"]))

    hooks = ResourceHooks(on_after_delete=after, uses_session=has_session)
    async with client_of(table, engine, hooks=hooks) as client:
        # The first row's child isn't in the batch: it is in the way, or goes along unseen.
        one = await client.delete("/batch?filter=id=in=(1,3)")
        assert (one.status_code, one.json().get("count")) == ((200, 2) if table is nodes else (409, None))
        if table is nodes:
            assert (await client.get("/count")).json() == {"count": 0}
            await chain(engine, table)
        seen.clear()
        everything = await client.delete("/batch?all=true")
        assert (everything.status_code, everything.json()) == (200, {"count": 3})
        assert (await client.get("/count")).json() == {"count": 0}
    assert seen == [(1, None), (2, 1), (3, 2)]


async def test_a_before_hook_sees_the_rows_go_one_by_one(engine: AsyncEngine) -> None:
    await chain(engine, nodes)
    seen: list[Any] = []

    async def before(ctx: HookContext, key: Any) -> None:
        left = (await ctx.session.execute(select(func.count()).select_from(nodes))).scalar_one()
        seen.append(("before", key, left))

    def after(ctx: HookContext, row: dict[str, Any]) -> None:
        seen.append(("after", row["id"], row["parent"]))

    hooks = ResourceHooks(on_before_delete=before, on_after_delete=after)
    async with client_of(nodes, engine, hooks=hooks) as client:
        assert (await client.delete("/batch?all=true")).json() == {"count": 3}
    # The others go with the first, and have their hooks the same.
    assert seen == [
        ("before", 1, 3), ("after", 1, None), ("before", 2, 0), ("after", 2, 1), ("before", 3, 0), ("after", 3, 2),
    ]  # fmt: skip


KEPT = {
    "sqlite": ["CREATE TRIGGER kept BEFORE DELETE ON things WHEN old.id = 2 BEGIN SELECT RAISE(IGNORE); END"],
    "postgresql": [
        "CREATE FUNCTION kept() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
        "CREATE TRIGGER kept BEFORE DELETE ON things FOR EACH ROW WHEN (old.id = 2) EXECUTE FUNCTION kept()",
    ],
}


async def test_a_row_that_the_database_keeps_is_not_said_to_be_gone(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("concave_sqlalchemy.writing.rows.MAX_PARAMETERS", 2)
    await fill(engine, 5)
    async with engine.begin() as connection:
        for statement in KEPT[engine.dialect.name]:
            await connection.exec_driver_sql(statement)
    async with client_of(things, engine) as client:
        assert (await client.delete("/batch?all=true")).status_code == 404
        assert len(await stored(engine)) == 5
        assert (await client.delete("/batch?filter=id!=2")).json() == {"count": 4}
        assert [key for key, _, _ in await stored(engine)] == [2]


async def test_a_batch_stays_within_the_scopes(engine: AsyncEngine) -> None:
    await fill(engine, 4)  # kinds b, a, b, a
    scopes = Scopes(
        read=things.c.id < 4,
        create=things.c.kind == "a",
        update=things.c.kind == "a",
        delete=things.c.kind == "b",
    )
    async with client_of(things, engine, scopes=scopes) as client:
        assert (await client.patch("/batch?all=true", json={"data": 1})).json() == {"count": 1}
        out = await client.patch("/batch?filter=id>0,id<9", json={"kind": "b"})
        assert out.status_code == 403
        assert (await client.delete("/batch?all=true")).json() == {"count": 2}
        mixed = {"items": [{"name": "x"}, {"name": "y", "kind": "b"}]}
        answer = await client.post("/batch", json=mixed)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (403, "items.1")
        assert await stored(engine) == [(2, "n2", "a"), (4, "n4", "a")]
    async with client_of(things, engine, scopes=Scopes(read=DENY)) as client:
        assert (await client.delete("/batch?all=true")).json() == {"count": 0}
        assert (await client.post("/batch", json={"items": [{"name": "q"}]})).status_code == 403


async def test_a_batch_is_never_about_one_state_of_a_row(engine: AsyncEngine) -> None:
    await fill(engine, 2)
    async with client_of(things, engine, require_if_match=True) as client:
        body = {"kind": "z"}
        assert (await client.patch("/batch?all=true", json=body)).status_code == 428
        tagged = await client.patch("/batch?all=true", json=body, headers={"if-match": '"x"'})
        assert tagged.status_code == 400
        assert (await client.delete("/batch?all=true", headers={"if-match": "*"})).json() == {"count": 2}


async def test_batches_of_the_same_rows_take_turns(engine: AsyncEngine) -> None:
    await fill(engine, 20)
    async with client_of(things, engine) as client:
        queries = ["filter=id>0", "filter=id>5", "filter=id<15", "all=true"] * 3
        answers = await asyncio.gather(
            *(client.patch(f"/batch?{query}", json={"kind": str(n)}) for n, query in enumerate(queries))
        )
        assert {answer.status_code for answer in answers} == {200}


async def test_of_two_that_wait_for_each_other_one_is_told_to_try_again(
    postgres_url: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    request.param = "postgresql"
    async with database(request, tmp_path, metadata) as engine:
        await fill(engine, 2)
        both_in = asyncio.Barrier(2)

        async def after(ctx: HookContext, row: dict[str, Any]) -> None:
            await both_in.wait()
            other = 3 - row["id"]
            await ctx.session.execute(update(things).where(things.c.id == other).values(kind="x"))

        hooks = ResourceHooks(on_after_update=after)
        async with client_for(
            use_resource(things, session=async_sessionmaker(engine), hooks=hooks)
        ) as client:
            answers = await asyncio.gather(*(client.patch(f"/{key}", json={"kind": "y"}) for key in (1, 2)))
            assert sorted(answer.status_code for answer in answers) == [200, 503]
