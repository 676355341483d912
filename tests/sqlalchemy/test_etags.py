"""Optimistic locking over HTTP, on SQLite and PostgreSQL: by a version column, and by a hash of the row."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Float, Integer, MetaData, String, Table, TypeDecorator, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from starlette.datastructures import Headers

from concave import ConfigurationError, HookContext, ResourceHooks
from concave_sqlalchemy import Fields, Problem, use_resource
from concave_sqlalchemy.etags import Conditions
from tests.sqlalchemy.support import client_for, client_of, database

metadata = MetaData()
docs = Table(
    "docs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("title", String(20), nullable=False),
    Column("secret", String(20)),
    Column("version", Integer, nullable=False),
    Column("other", Integer),
)


class Fixed(TypeDecorator[str]):
    """Numbers as text, such as `2.0`: what comes of a whole number depends on whether the database calls it a float."""

    impl = Float
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> float | None:
        return None if value is None else float(value)

    def process_result_value(self, value: float | None, dialect: Any) -> str | None:
        return None if value is None else str(value)


class Same(TypeDecorator[float]):
    impl = Float
    cache_ok = True


weights = Table(
    "weights",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("plain", Float),
    Column("same", Same),
    Column("fixed", Fixed),
)
HASHED = Fields(readable=["id", "title"], writable=["title", "version"])


@pytest.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    async with database(request, tmp_path, metadata) as engine:
        yield engine


@pytest.fixture(params=["version", "hash"])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"version": "version"} if request.param == "version" else {"fields": HASHED}


def doc(title: str, options: dict[str, Any]) -> dict[str, Any]:
    return {"title": title} if "version" in options else {"title": title, "version": 1}


async def test_each_answer_with_a_row_has_its_etag(engine: AsyncEngine, options: dict[str, Any]) -> None:
    async with client_of(docs, engine, **options) as client:
        made = await client.post("", json=doc("a", options))
        assert made.headers["location"] == "/t/1"
        tags = [made.headers["etag"]]
        for query in ("", "?select=title", "?select=id"):
            assert (await client.get(f"/1{query}")).headers["etag"] == tags[0]
        assert (await client.head("/1")).headers["etag"] == tags[0]
        tags.append((await client.patch("/1", json={"title": "b"})).headers["etag"])
        tags.append((await client.put("/1", json=doc("c", options))).headers["etag"])
        assert len(set(tags)) == 3
        assert (await client.get("/1")).headers["etag"] == tags[2]
        assert (await client.patch("/1", json={})).headers["etag"] == tags[2]
        if "version" in options:
            assert tags == ['"1"', '"2"', '"3"']


async def test_what_a_client_knows_it_is_not_told_again(engine: AsyncEngine, options: dict[str, Any]) -> None:
    async with client_of(docs, engine, **options) as client:
        tag = (await client.post("", json=doc("a", options))).headers["etag"]
        for known in (tag, f'"x", {tag}', f"W/{tag}", "*"):
            answer = await client.get("/1", headers={"if-none-match": known})
            assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag), known
        assert (await client.get("/1", headers={"if-none-match": '"x"'})).status_code == 200
        assert (await client.get("/1", headers={"if-match": '"x"'})).status_code == 412
        assert (await client.get("/2", headers={"if-none-match": "*"})).status_code == 404


@pytest.mark.parametrize("verb", ["PATCH", "PUT", "DELETE"])
async def test_a_row_that_has_changed_is_412_and_stays(
    engine: AsyncEngine, options: dict[str, Any], verb: str
) -> None:
    ran: list[str] = []
    hooks = ResourceHooks(
        on_before_update=lambda *_: ran.append("update"), on_before_delete=lambda *_: ran.append("delete")
    )
    async with client_of(docs, engine, hooks=hooks, **options) as client:
        old = (await client.post("", json=doc("a", options))).headers["etag"]
        tag = (await client.patch("/1", json={"title": "b"})).headers["etag"]
        ran.clear()
        body = None if verb == "DELETE" else doc("c", options) if verb == "PUT" else {"title": "c"}
        for headers in (
            {"if-match": old},
            {"if-match": f"W/{tag}"},
            {"if-none-match": "*"},
            {"if-none-match": tag},
        ):
            answer = await client.request(verb, "/1", json=body, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (412, "PRECONDITION_FAILED"), headers
            assert [each["field"] for each in answer.json()["errors"]] == list(headers)
        assert ran == []
        assert (await client.get("/1")).headers["etag"] == tag
        assert (await client.request(verb, "/9", json=body, headers={"if-match": "*"})).status_code == 404
        for wrong in ("x", '"x" "y"', '"x', "W/x", ","):
            answer = await client.request(verb, "/1", json=body, headers={"if-match": wrong})
            assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "if-match"), wrong
        answer = await client.request(verb, "/1", json=body, headers={"if-match": f'"x", {tag}'})
        assert answer.status_code == (204 if verb == "DELETE" else 200)


async def test_who_must_say_which_state_is_meant(engine: AsyncEngine, options: dict[str, Any]) -> None:
    async with client_of(docs, engine, require_if_match=True, **options) as client:
        tag = (await client.post("", json=doc("a", options))).headers["etag"]
        for answer in (
            await client.patch("/1", json={"title": "b"}),
            await client.put("/1", json=doc("b", options)),
            await client.delete("/1"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (428, "PRECONDITION_REQUIRED")
        assert (await client.patch("/1", json={"title": "b"}, headers={"if-match": tag})).status_code == 200
        assert (await client.delete("/1", headers={"if-match": "*"})).status_code == 204


async def waits_for_the_lock(engine: AsyncEngine, gate: asyncio.Lock | None) -> None:
    """Until a second writer waits behind the first: at the gate of SQLite's writers, or in PostgreSQL for the row."""
    while True:
        if gate is not None:
            if gate._waiters:
                return
            await asyncio.sleep(0)
            continue
        async with engine.connect() as connection:
            query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            if (await connection.execute(text(query))).scalar_one():
                return


@pytest.mark.parametrize("verb", ["PATCH", "DELETE"])
async def test_of_two_who_saw_the_same_row_one_writes(
    engine: AsyncEngine, options: dict[str, Any], verb: str
) -> None:
    entered, released = asyncio.Event(), asyncio.Event()

    async def hold(ctx: HookContext, *_: Any) -> None:
        if not entered.is_set():
            entered.set()
            await released.wait()

    hooks = ResourceHooks(on_before_update=hold, on_before_delete=hold)
    resource = use_resource(docs, session=async_sessionmaker(engine), hooks=hooks, **options)
    async with client_for(resource) as client:
        headers = {"if-match": (await client.post("", json=doc("a", options))).headers["etag"]}
        first = asyncio.create_task(client.patch("/1", json={"title": "first"}, headers=headers))
        await entered.wait()
        body = {"title": "second"} if verb == "PATCH" else None
        second = asyncio.create_task(client.request(verb, "/1", json=body, headers=headers))
        gates = resource._outbox.transactions._gates
        gate = gates[asyncio.get_running_loop()] if engine.dialect.name == "sqlite" else None
        await waits_for_the_lock(engine, gate)
        released.set()
        assert [(await first).status_code, (await second).status_code] == [200, 412]
        assert (await client.get("/1")).json()["title"] == "first"


async def test_of_many_who_count_with_if_match_no_count_is_lost(engine: AsyncEngine) -> None:
    async with client_of(docs, engine, version="version") as client:
        await client.post("", json={"title": "a", "other": 0})

        async def count_up() -> int:
            tries = 0
            while True:
                tries += 1
                read = await client.get("/1")
                body = {"other": read.json()["other"] + 1}
                answer = await client.patch("/1", json=body, headers={"if-match": read.headers["etag"]})
                if answer.status_code == 200:
                    return tries
                assert answer.status_code == 412

        tries = sum(await asyncio.gather(*(count_up() for _ in range(8))))
        assert tries > 8  # else nothing was raced
        assert (await client.get("/1")).json() == {
            "id": 1, "title": "a", "secret": None, "version": 9, "other": 8,
        }  # fmt: skip


@pytest.mark.parametrize("verb", ["PATCH", "DELETE"])
async def test_the_version_is_tested_by_the_statement_that_writes(engine: AsyncEngine, verb: str) -> None:
    async def bump(ctx: HookContext, *_: Any) -> None:
        await ctx.session.execute(update(docs).values(version=docs.c.version + 1))

    hooks = ResourceHooks(on_before_update=bump, on_before_delete=bump)
    async with client_of(docs, engine, version="version", hooks=hooks) as client:
        tag = (await client.post("", json={"title": "a"})).headers["etag"]
        body = {"title": "b"} if verb == "PATCH" else None
        assert (await client.request(verb, "/1", json=body, headers={"if-match": tag})).status_code == 412
        assert (await client.get("/1")).headers["etag"] == tag
        assert (await client.request(verb, "/1", json=body)).status_code in {200, 204}


async def test_the_version_is_nobodys_to_set(engine: AsyncEngine) -> None:
    hooks = ResourceHooks(on_before_update=lambda ctx, key, data: {**data, "version": 7})
    async with client_of(docs, engine, version="version", hooks=hooks) as client:
        assert (await client.post("", json={"title": "a", "version": 5})).status_code == 422
        await client.post("", json={"title": "a"})
        assert (await client.patch("/1", json={"title": "b"})).status_code == 422
    hidden = Fields(readable=["id", "title"])
    async with client_of(docs, engine, version="version", fields=hidden) as client:
        assert (await client.get("/1")).json() == {"id": 1, "title": "a"}
        assert (await client.get("/1?select=title")).headers["etag"] == '"1"'
        assert (await client.patch("/1", json={"title": "b"})).headers["etag"] == '"2"'
    wrong: dict[str, Any]
    for wrong in (
        {"version": "nope"}, {"version": "title"}, {"version": "id"}, {"version": "other"},
        {"version": "version", "fields": Fields(writable=["version"])},
    ):  # fmt: skip
        with pytest.raises(ConfigurationError):
            client_of(docs, engine, **wrong)


async def test_a_hash_tells_nothing_of_what_may_not_be_read(engine: AsyncEngine) -> None:
    async with client_of(docs, engine, fields=HASHED) as client, engine.connect() as connection:
        await connection.execute(docs.insert().values(id=1, title="a", secret="x", version=1))
        await connection.commit()
        tag = (await client.get("/1")).headers["etag"]
        await connection.execute(update(docs).values(secret="y"))
        await connection.commit()
        assert (await client.get("/1")).headers["etag"] == tag


@pytest.mark.parametrize(
    "given,wanted",
    [([], None), (["*"], ("*",)), (['"a"'], ('"a"',)), (['"a","b"', 'W/"c"'], ('"a"', '"b"', 'W/"c"')), (['"a,b"'], ('"a,b"',))],
)  # fmt: skip
def test_conditions_are_read_as_lists(given: list[str], wanted: Any) -> None:
    raw = [(b"if-match", each.encode()) for each in given]
    assert Conditions.of(Headers(raw=raw)).if_match == wanted
    with pytest.raises(Problem):
        Conditions.of(Headers(raw=[*raw, (b"if-match", b"*,x")]))


async def test_a_float_is_tagged_alike_by_those_who_write_and_those_who_read(engine: AsyncEngine) -> None:
    hooked: list[Any] = []
    hooks = ResourceHooks(on_after_update=lambda ctx, row: hooked.append(row["fixed"]))
    async with client_of(weights, engine, hooks=hooks) as client:
        values = {"plain": 2.0, "same": 2.0, "fixed": 2.0}
        shown = {**values, "id": 1, "fixed": "2.0"}
        made = await client.post("", json=values)
        put = await client.put("/1", json=values)
        for answer in (made, put, await client.get("/1")):
            assert answer.json() == shown
            assert b'"plain":2.0' in answer.content
            assert answer.headers["etag"] == made.headers["etag"]
        assert hooked == ["2.0"]
        changed = await client.patch("/1", json={"plain": 3.0}, headers={"if-match": made.headers["etag"]})
        assert changed.status_code == 200
    writable = Fields(writable=["id", "plain", "same", "fixed"])
    async with client_of(weights, engine, fields=writable) as client:
        for status in (201, 200):
            answer = await client.post("?on_conflict=id", json={"id": 2} | values)
            assert (answer.status_code, answer.json()) == (status, shown | {"id": 2})
            assert (await client.get("/2")).headers["etag"] == answer.headers["etag"]
