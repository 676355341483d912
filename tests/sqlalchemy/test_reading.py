"""Lists over HTTP on SQLite and PostgreSQL: filters, orders, cursors, select, field policies, aggregates."""

import asyncio
import datetime as dt
import itertools
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from sqlalchemy import JSON, Boolean, Column, DateTime, Float, Integer, MetaData, String, Table, insert, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session
from starlette.applications import Starlette

from concave import ConfigurationError
from concave_sqlalchemy import Fields, FilterOperator, use_resource
from concave_sqlalchemy.fields import fields_of
from concave_sqlalchemy.transactions import Transactions
from tests.servers import temporary_database

metadata = MetaData()
things = Table(
    "things",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(20)),
    Column("size", Integer),
    Column("price", Float),
    Column("on", Boolean),
    Column("at", DateTime(timezone=True)),
    Column("data", JSON),
    Column("kind", String(5), nullable=False),
)
NAMES = ["Ada", "ada", "Zoë", "a%b", "a_b", "a*b", "A?[b", 'q"\\', "", None]
MOMENT = dt.datetime(2024, 1, 15, 12, tzinfo=dt.UTC)
ROWS: list[dict[str, Any]] = [
    {
        "id": n + 1, "name": NAMES[n % 10], "size": None if n % 4 == 3 else n % 3, "price": n / 2,
        "on": None if n == 5 else n % 2 == 0, "at": None if n == 7 else MOMENT + dt.timedelta(hours=n),
        "kind": "ab"[n % 2],
    }
    for n in range(20)
]  # fmt: skip


@pytest.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest) -> AsyncGenerator[AsyncEngine]:
    if request.param == "sqlite":
        engine = create_async_engine("sqlite+aiosqlite://")
        await _fill(engine)
        yield engine
        await engine.dispose()
        return
    async with temporary_database(request.getfixturevalue("postgres_url")) as url:
        engine = create_async_engine(url)
        await _fill(engine)
        yield engine
        await engine.dispose()


async def _fill(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        await connection.execute(insert(things), ROWS)
        if engine.dialect.name == "sqlite":  # as CURRENT_TIMESTAMP writes it
            await connection.execute(text("UPDATE things SET at = substr(at, 1, 19) WHERE id % 2 = 0"))


def client_of(engine: AsyncEngine, **options: Any) -> httpx.AsyncClient:
    resource = use_resource(things, session=async_sessionmaker(engine), **options)
    app = Starlette(routes=[resource.mount("/t")])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test/t")


def named(*wanted: str | None) -> Any:
    return lambda row: row["name"] in wanted


def text_where(test: Any) -> Any:
    return lambda row: row["name"] is not None and test(row["name"])


FILTERS: list[tuple[str, Any]] = [
    ("", lambda row: True),
    ('name=="Ada"', named("Ada")),
    ("name==Ada", named("Ada")),
    ("name!='Ada'", text_where(lambda name: name != "Ada")),
    (r'name=="q\"\\"', named('q"\\')),
    ("name==null", named(None)),
    ("name!=null", text_where(lambda name: True)),
    ('name=="null"', named()),
    ("data==null", lambda row: True),
    ("name=isnull=true", named(None)),
    ("name=isempty=true", named(None, "")),
    ("name=isempty=false", text_where(lambda name: name != "")),
    ('name>"Z"', text_where(lambda name: name > "Z")),
    ('name=le="a%b"', text_where(lambda name: name <= "a%b")),
    ('name=lt="a%b"', text_where(lambda name: name < "a%b")),
    ('name=in=("Ada",null,"x")', named("Ada", None)),
    ('name=out=("Ada",null)', text_where(lambda name: name != "Ada")),
    ("name=in=()", named()),
    ('name%="a_b"', named("a%b", "a_b", "a*b")),
    (r'name%="a\\_b"', named("a_b")),
    ('name!%="a%"', text_where(lambda name: not name.startswith("a"))),
    ('name=ilike="A_A"', named("Ada", "ada")),
    ('name=nilike="a%"', text_where(lambda name: not name.lower().startswith("a"))),
    ('name=contains="%"', named("a%b")),
    ('name=contains="a"', text_where(lambda name: "a" in name)),
    ('name=icontains="?[B"', named("A?[b")),
    ('name=startswith="a*"', named("a*b")),
    ('name=istartswith="AD"', named("Ada", "ada")),
    ('name=endswith="_b"', named("a_b")),
    ('name=iendswith="B"', text_where(lambda name: name.endswith("b"))),
    ('name=ieq="ADA"', named("Ada", "ada")),
    ('name=ieq="ZOË"', named()),  # A to Z alone, on both
    ('name=ine="ADA"', text_where(lambda name: name.lower() != "ada")),
    ("name=length=3", text_where(lambda name: len(name) == 3)),
    ("name=minlength=4", text_where(lambda name: len(name) >= 4)),
    ("name=maxlength=0", named("")),
    ("size=between=[1,2]", lambda row: row["size"] in {1, 2}),
    ("size=nbetween=(1,1)", lambda row: row["size"] in {0, 2}),
    ("size=gt=0;on==true", lambda row: (row["size"] or 0) > 0 and row["on"] is True),
    ("size==0 and on==false or id==1", lambda row: (row["size"] == 0 and row["on"] is False) or row["id"] == 1),
    ("id==1||id==2&&size==9", lambda row: row["id"] == 1),
    ("(id==1,id==2);size==1", lambda row: row["id"] == 2),
    ("price<=1.5", lambda row: row["price"] <= 1.5),
    ("id<10;id=ge=8", lambda row: 8 <= row["id"] < 10),
] + [
    (f'at{operator}"2024-01-15T{hour:02}:00:00.000Z"', lambda row, hour=hour, test=test: row["at"] is not None and test(row["at"], dt.datetime(2024, 1, 15, hour, tzinfo=dt.UTC)))  # noqa: E731, RUF100
    for hour in (13, 14)
    for operator, test in (
        ("==", lambda a, b: a == b), ("!=", lambda a, b: a != b), (">", lambda a, b: a > b),
        (">=", lambda a, b: a >= b), ("<", lambda a, b: a < b), ("<=", lambda a, b: a <= b),
    )
]  # fmt: skip


async def test_filters_are_what_they_say(engine: AsyncEngine) -> None:
    async with client_of(engine) as client:
        for given, matches in FILTERS:
            answer = await client.get("", params={"filter": given, "totalCount": "true"})
            assert answer.status_code == 200, (given, answer.text)
            wanted = [row["id"] for row in ROWS if matches(row)]
            assert [item["id"] for item in answer.json()["items"]] == wanted, given
            counted = (await client.get("/count", params={"filter": given})).json()
            assert counted["count"] == answer.json()["totalCount"] == len(wanted)


@pytest.mark.parametrize(
    "filter,position",
    [
        ("id", 2), ("id==", 4), ("id==1)", 5), ("(id==1", 6), ("nope==1", 0), ("id=nope=1", 2), ("id==x", 4), ("id==1;;", 6),
        ("id=in=(1,x)", 9), ('name=="a', 6), (r'name=="a\n"', 8), ("id>null", 3), ("id==(1)", 4), ("id=between=[1]", 11),
        ("data==1", 4), ("id=contains=1", 2), (r'name%="a\\"', 6), ("id==99999999999", 4), ("on==maybe", 4), ('at=="x"', 4),
        ("name==a\0", 7), ("name=length=-1", 12), ("(" * 11, 10), ("id==1;" * 101, 600), ("a" * 4097, 4096), ("price==1e999", 7),
        ('at=="0001-01-01T00:00:00+14:00"', 4),
    ],
)  # fmt: skip
async def test_a_filter_that_cannot_be_is_400_with_the_position(
    engine: AsyncEngine, filter: str, position: int
) -> None:
    async with client_of(engine) as client:
        answer = await client.get("", params={"filter": filter})
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (400, "FILTER_PARSE_ERROR")
        assert problem["position"] == position, problem["detail"]


def place(row: dict[str, Any], terms: list[tuple[str, bool]]) -> list[Any]:
    """A naive order: NULL is the greatest."""
    keys: list[Any] = []
    for name, descending in terms:
        value = row[name]
        rank: Any = (value is None, "" if value is None and name == "name" else value or 0)
        if name == "at":
            rank = (value is None, 0 if value is None else value.timestamp())
        keys.append(Reversed(rank) if descending else rank)
    return keys


class Reversed:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __lt__(self, other: "Reversed") -> bool:
        return bool(other.value < self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reversed) and self.value == other.value

    __hash__ = None  # type: ignore[assignment]


ORDERS = [
    list(zip(fields, directions, strict=True))
    for fields in (["id"], ["size"], ["at"], ["kind"], ["size", "kind"], ["kind", "size"], ["at", "on", "kind"], ["size", "id"])
    for directions in itertools.product([False, True], repeat=len(fields))
]  # fmt: skip


@pytest.mark.parametrize("limit", [1, 7])
async def test_pages_in_any_order_are_complete_and_in_order(engine: AsyncEngine, limit: int) -> None:
    async with client_of(engine) as client:
        for terms in ORDERS:
            order = ",".join(f"{name}:{'desc' if descending else 'asc'}" for name, descending in terms)
            whole = [*terms, ("id", terms[-1][1])]
            wanted = [row["id"] for row in sorted(ROWS, key=lambda row: place(row, whole)) if row["id"] > 2]
            params: dict[str, Any] = {"orderBy": order, "limit": limit, "filter": "id>2", "select": "id"}
            seen: list[int] = []
            while True:
                answer = await client.get("", params=params)
                assert answer.status_code == 200, (order, answer.text)
                page = answer.json()
                assert all(list(item) == ["id"] for item in page["items"])
                seen += [item["id"] for item in page["items"]]
                if not page["hasMore"]:
                    break
                params["cursor"] = page["nextCursor"]
            assert seen == wanted, order


async def test_a_cursor_is_good_for_its_own_list_alone(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CONCAVE_SECRET", raising=False)
    async with client_of(engine) as client, client_of(engine, secret="x") as other:
        own: dict[str, Any] = {"orderBy": "name:asc", "filter": "id>1", "limit": 2}
        cursor = (await client.get("", params=own)).json()["nextCursor"]
        assert (await client.get("", params={**own, "limit": 3, "cursor": cursor})).status_code == 200
        assert (await other.get("", params={**own, "cursor": cursor})).status_code == 400
        assert "CONCAVE_SECRET" not in caplog.text
        for change in (
            {"orderBy": "name:desc"}, {"filter": "id>2"}, {"filter": ""}, {"cursor": ""}, {"cursor": cursor + "A"},
            {"cursor": ("B" if cursor[0] == "A" else "A") + cursor[1:]}, {"cursor": cursor[:-3]}, {"cursor": "é"},
        ):  # fmt: skip
            answer = await client.get("", params={**own, "cursor": cursor, **change})
            assert (answer.status_code, answer.json()["code"]) == (400, "CURSOR_INVALID"), change
        assert caplog.text.count("CONCAVE_SECRET") == 1
    monkeypatch.setenv("CONCAVE_SECRET", "x")
    async with client_of(engine) as one, client_of(engine, secret=b"x") as two:
        cursor = (await one.get("?limit=2")).json()["nextCursor"]
        assert (await two.get(f"?limit=2&cursor={cursor}")).json()["items"][0]["id"] == 3
    with pytest.raises(ConfigurationError, match="empty"):
        client_of(engine, secret="")


@pytest.mark.parametrize(
    "order", ["nope", "id:up", "id,id", "data", ":asc", ",", ",".join(f"x{n}" for n in range(11))]
)
async def test_an_order_that_cannot_be_is_400(engine: AsyncEngine, order: str) -> None:
    async with client_of(engine) as client:
        answer = await client.get("", params={"orderBy": order})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "orderBy")


async def test_nothing_unreadable_is_shown_filtered_or_sorted_by(engine: AsyncEngine) -> None:
    fields = Fields(readable=["id", "name", "kind"], filterable=["name"], sortable={"kind"})
    async with client_of(engine, fields=fields) as client:
        assert (await client.get("/1")).json() == {"id": 1, "name": "Ada", "kind": "a"}
        assert (await client.get("?select=kind&limit=1")).json()["items"] == [{"kind": "a"}]
        created = await client.post("", json={"id": 99, "kind": "a", "size": 1})
        assert created.status_code == 422  # the id is the database's
        for query in (
            "filter=size==1", "filter=kind==a", "orderBy=size", "orderBy=name", "select=size", "select=nope",
        ):  # fmt: skip
            assert (await client.get(f"?{query}")).status_code == 400, query
        for query in ("groupBy=size", "groupBy=kind", "sum=size", "min=at", "count=1", "", "having=1"):
            assert (await client.get(f"/aggregate?{query}")).status_code == 400, query
        hidden = (await client.get("?filter=size==1")).json()["errors"][0]["message"].replace("size", "nope")
        assert (await client.get("?filter=nope==1")).json()["errors"][0]["message"] == hidden
    for wrong in (
        Fields(readable=["name"]), Fields(readable=["id"], filterable=["name"]), Fields(sortable=["nope"]), Fields(readable="id"),
    ):  # fmt: skip
        with pytest.raises(ConfigurationError):
            client_of(engine, fields=wrong)


async def test_aggregates(engine: AsyncEngine) -> None:
    async with client_of(engine) as client:
        one = (await client.get("/aggregate?count=true&sum=size,price&avg=size&min=at&max=name,id")).json()
        sizes = [row["size"] for row in ROWS if row["size"] is not None]
        assert one == {
            "groups": [
                {
                    "key": None, "count": 20, "sum": {"size": sum(sizes), "price": 95.0}, "avg": {"size": sum(sizes) / len(sizes)},
                    "min": {"at": "2024-01-15T12:00:00Z"}, "max": {"name": one["groups"][0]["max"]["name"], "id": 20},
                }
            ]
        }  # fmt: skip
        groups = (await client.get("/aggregate?groupBy=on,kind&count=true&filter=id<10")).json()["groups"]
        assert groups == [
            {"key": {"on": False, "kind": "b"}, "count": 3},
            {"key": {"on": True, "kind": "a"}, "count": 5},
            {"key": {"on": None, "kind": "b"}, "count": 1},
        ]
        none = (await client.get("/aggregate?sum=size&filter=id==0")).json()
        assert none == {"groups": [{"key": None, "sum": {"size": None}}]}
        for query in ("groupBy=data", "sum=name", "avg=at", "min=on"):
            assert (await client.get(f"/aggregate?{query}")).status_code == 400, query


async def test_operators_of_an_applications_own(engine: AsyncEngine) -> None:
    def near(column: Any, value: int) -> Any:
        if value < 0:
            raise ValueError("not below zero")
        return column.between(value - 1, value + 1)

    operators = {
        "=near=": FilterOperator(near),
        "=mod=": FilterOperator(lambda column, values: column % values[0] == values[1], value=int, many=True),
    }
    async with client_of(engine, operators=operators) as client:

        async def ids(filter: str) -> list[int]:
            return [item["id"] for item in (await client.get("", params={"filter": filter})).json()["items"]]

        assert await ids("id=near=5") == [4, 5, 6]
        assert await ids("id=mod=(7,3)") == [3, 10, 17]
        for wrong, position in (("id=near=-1", 8), ("id=mod=(x)", 8)):
            answer = await client.get("", params={"filter": wrong})
            assert (answer.status_code, answer.json()["position"]) == (400, position)
    with pytest.raises(ConfigurationError, match="=near="):
        client_of(engine, operators={"near": FilterOperator(near)})


def test_fields_have_plain_names() -> None:
    # SQLAlchemy's own names are a subclass of `str`, which takes Pydantic ten times as long to write.
    assert {type(field.name) for field in fields_of(things, None)} == {str}


async def test_a_read_that_is_cancelled_gives_its_connection_back(postgres_database: str) -> None:
    engine = create_async_engine(postgres_database, pool_size=1, max_overflow=0, pool_timeout=5)
    reads = Transactions(async_sessionmaker(engine))
    began = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(session: Session) -> None:
        session.execute(text("SELECT 1"))
        loop.call_soon(began.set)
        session.execute(text("SELECT pg_sleep(60)"))

    reading = asyncio.create_task(reads.read(slow))
    await began.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await reads.read(lambda session: session.execute(text("SELECT 1")).scalar_one()) == 1
    await engine.dispose()
