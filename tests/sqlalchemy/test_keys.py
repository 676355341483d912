"""Keys of one column and of several, as parts of paths: what is read is what was written, and nothing else."""

import datetime as dt
import enum
import uuid
from collections.abc import AsyncGenerator
from decimal import Decimal
from typing import Any
from urllib.parse import quote, unquote

import httpx
import hypothesis
import pytest
from hypothesis import strategies as st
from sqlalchemy import (
    Boolean,
    Column,
    Date,
    DateTime,
    Enum,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Numeric,
    String,
    Table,
    TypeDecorator,
    Uuid,
)
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from starlette.applications import Starlette

from concave import ConfigurationError, ResourceHooks
from concave_sqlalchemy import Problem, use_resource
from concave_sqlalchemy.fields import fields_of
from concave_sqlalchemy.keys import Key, key_of, path_id
from tests.servers import temporary_database

metadata = MetaData()
shelves = Table(
    "shelves",
    metadata,
    Column("region", String(20), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("label", String(20)),
)
names = Table("names", metadata, Column("name", String(20), primary_key=True))


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Upper(TypeDecorator[str]):
    impl = String(5)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return value and value.upper()


@pytest.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest) -> AsyncGenerator[AsyncEngine]:
    if request.param == "sqlite":
        engine = create_async_engine("sqlite+aiosqlite://")
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        yield engine
        await engine.dispose()
        return
    async with temporary_database(request.getfixturevalue("postgres_url")) as url:
        engine = create_async_engine(url)
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        yield engine
        await engine.dispose()


def client_of(table: Table, engine: AsyncEngine, **options: Any) -> httpx.AsyncClient:
    resource = use_resource(table, session=async_sessionmaker(engine), **options)
    app = Starlette(routes=[resource.mount("/t")])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test/t")


async def test_rows_by_a_composite_key(engine: AsyncEngine) -> None:
    seen: list[Any] = []
    hooks = ResourceHooks(on_before_delete=lambda ctx, key: seen.append(key))
    async with client_of(shelves, engine, hooks=hooks) as client:
        for region, number in (("a,b", 1), ("a", 2), ("a/%2C", 1), ("", 1)):
            body = {"region": region, "number": number}
            assert (await client.post("", json=body)).status_code == 201
            path = f"/{quote(region, safe='')},{number}"
            assert (await client.get(path)).json() == {**body, "label": None}
            changed = await client.patch(path, json={**body, "label": "x"})
            assert changed.json() == {**body, "label": "x"}
        assert (await client.patch("/a,2", json={"number": 3})).status_code == 422
        for wrong in ("/a", "/a,b,1", "/a,x", "/a,2,", "/a%2C2", "/a,02", "/b,2"):
            assert (await client.get(wrong)).status_code == 404, wrong
        assert (await client.delete("/a%2Cb,1")).status_code == 204
        assert seen == [("a,b", 1)]
        assert (await client.get("/count")).json() == {"count": 3}


async def test_a_row_that_is_sent_back_has_its_own_key(engine: AsyncEngine) -> None:
    kinds: dict[str, tuple[Any, Any, Any]] = {
        "enum": (Enum(Color), "red", "blue"),
        "aware": (DateTime(timezone=True), "2024-02-29T13:00:00+02:00", "2024-02-29T13:00:00Z"),
        "naive": (DateTime, "2024-02-29T13:00:00", "2024-02-29T13:00:01"),
        "interval": (Interval, "PT36H", "PT37H"),
        "binary": (LargeBinary, "-_8=", "AP8="),
        "number": (Numeric(10, 2), 1.5, "1.51"),
        "flag": (Boolean, True, False),
        "upper": (Upper, "a", "b"),
        "uuid": (Uuid, "7FFFFFFF-0000-4000-8000-00000000000A", str(uuid.UUID(int=1))),
    }
    table = Table(
        "every",
        MetaData(),
        *(Column(name, kind, primary_key=True) for name, (kind, _, _) in kinds.items()),
        Column("text", String(5)),
    )
    async with engine.begin() as connection:
        await connection.run_sync(table.metadata.create_all)
    async with client_of(table, engine) as client:
        sent = {name: value for name, (_, value, _) in kinds.items()}
        made = await client.post("", json=sent)
        path = "http://test" + made.headers["location"]
        for body in ((await client.get(path)).json(), {**sent, "upper": "A"}):
            for verb in ("PUT", "PATCH"):
                answer = await client.request(verb, path, json={**body, "text": verb})
                assert answer.json() == {**made.json(), "text": verb}, answer.text
        for name, (_, _, other) in kinds.items():
            answer = await client.patch(path, json={name: other})
            assert [each["field"] for each in answer.json()["errors"]] == [name]


async def test_a_path_without_its_raw_form_still_names_a_row(engine: AsyncEngine) -> None:
    resource = use_resource(shelves, session=async_sessionmaker(engine))
    app = Starlette(routes=[resource.mount("/t")])

    async def bare(scope: Any, receive: Any, send: Any) -> None:
        del scope["raw_path"]
        await app(scope, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=bare), base_url="http://test/t") as client:
        row = (await client.post("", json={"region": "é", "number": 1})).json()
        assert (await client.get("/é,1")).json() == row


@pytest.mark.parametrize("name", ["a,b", "a%2Cb", "%", "a/b", "/", "é ;'\"", "...", "?", "#", "Count"])
async def test_a_key_of_one_string_may_hold_anything(engine: AsyncEngine, name: str) -> None:
    async with client_of(names, engine) as client:
        await client.post("", json={"name": name})
        escaped = "".join(f"%{byte:02X}" for byte in name.encode())
        assert (await client.get(f"/{escaped}")).json() == {"name": name}


@pytest.mark.parametrize("name", ["", ".", "..", "count", "batch", "aggregate"])
async def test_a_key_whose_path_is_another_s_is_refused(engine: AsyncEngine, name: str) -> None:
    hooks = ResourceHooks(on_before_create=lambda ctx, data: {"name": name})
    async with client_of(names, engine) as client, client_of(names, engine, hooks=hooks) as hooked:
        for refused in (
            await client.post("", json={"name": name}),
            await client.post("?on_conflict=name", json={"name": name}),
            await hooked.post("", json={"name": "x"}),
        ):
            assert refused.status_code == 422
            assert [each["field"] for each in refused.json()["errors"]] == ["name"]
    async with client_of(shelves, engine) as client:
        made = await client.post("", json={"region": name, "number": 1})
        assert (await client.get(f"http://test{made.headers['location']}")).json() == made.json()


@hypothesis.given(st.lists(st.text(st.characters(codec="utf-8")), min_size=2, max_size=2), st.integers(0, 3))
def test_what_is_rendered_is_read_back(texts: list[str], depth: int) -> None:
    texts = [text.replace("\0", "") for text in texts]
    table = Table("t", MetaData(), *(Column(name, String, primary_key=True) for name in "ab"))
    key = Key.of(fields_of(table, None))
    prefix = "/p" * depth
    raw = f"{prefix}/{key.render(tuple(texts))}"
    scope = {"raw_path": raw.encode(), "path": unquote(raw), "root_path": prefix}
    assert key.read(path_id(scope)) == tuple(texts)


@pytest.mark.parametrize(
    "column,value,path",
    [
        (Column("k", Uuid, primary_key=True), uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Column("k", Date, primary_key=True), dt.date(2024, 2, 29), "2024-02-29"),
        (
            Column("k", DateTime(timezone=True), primary_key=True),
            dt.datetime(2024, 2, 29, 1, tzinfo=dt.UTC),
            "2024-02-29T01%3A00%3A00Z",
        ),
        (Column("k", Enum(Color), primary_key=True), Color.RED, "red"),
        (Column("k", LargeBinary, primary_key=True), b"\xff\xfe", "__4%3D"),
        (Column("k", Numeric(5, 2), primary_key=True), Decimal("1.50"), "1.50"),
        (Column("k", Numeric(12, 8), primary_key=True), Decimal("1E-8"), "0.00000001"),
        (Column("k", Numeric(20, 0), primary_key=True), Decimal("1.0E+5"), "100000"),
        (Column("k", Boolean, primary_key=True), True, "true"),
        (Column("k", Integer, primary_key=True), -7, "-7"),
    ],
)
def test_keys_of_every_type(column: Column[Any], value: Any, path: str) -> None:
    key = Key.of(fields_of(Table("t", MetaData(), column), None))
    assert key.render((value,)) == path
    assert key.read(path) == (value,)
    with pytest.raises(Problem):
        key.read("?")


def test_what_cannot_be_a_key(engine: AsyncEngine) -> None:
    table = Table(
        "t",
        MetaData(),
        Column("a", Integer),
        Column("b", Integer, unique=True),
        Column("c", Integer, nullable=False),
    )
    fields = fields_of(table, None)
    for given, why in ((None, "primary key"), ("b", "never NULL"), ("c", "unique"), ("d", "no column 'd'")):
        with pytest.raises(ConfigurationError, match=why):
            key_of(table, fields, given)
    part = fields_of(shelves, None)[1:]
    with pytest.raises(ConfigurationError, match="mapped whole"):
        key_of(shelves, part)
    assert key_of(shelves, fields_of(shelves, None)).names == ("region", "number")


def test_hooks_are_told_a_bare_key_where_it_is_one_column() -> None:
    assert Key.of(fields_of(names, None)).plain(("x",)) == "x"
    assert Key.of(fields_of(shelves, None)).plain(("x", 1)) == ("x", 1)
