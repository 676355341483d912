"""Every generic type of SQLAlchemy's as a column: written, read, filtered, ordered and paged alike on both databases."""

import datetime as dt
import enum
import json
import re
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy import make_url, types as t
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker
from starlette.applications import Starlette

from concave import ConfigurationError
from concave_sqlalchemy import use_resource
from tests.servers import temporary_database
from tests.servers.process import ROOT


class Size(enum.Enum):
    """Named and valued apart, and in no alphabetical order."""

    SMALL = "s"
    MEDIUM = "m"
    LARGE = "l"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 10


class Shouting(t.TypeDecorator[str]):
    impl = t.String(20)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return value and value.upper()


class Instant(t.TypeDecorator[Any]):
    impl = t.DateTime(timezone=True)
    cache_ok = True


class Local(Instant):
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return value and value.astimezone(dt.timezone(dt.timedelta(hours=9)))


class ZonedAnywhere(t.TypeDecorator[Any]):
    """SQLAlchemy's recipe for UTC in a column without time zones."""

    impl = t.DateTime
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        if value is not None:
            if not value.tzinfo or value.tzinfo.utcoffset(value) is None:
                raise TypeError("tzinfo is required")
            value = value.astimezone(dt.UTC).replace(tzinfo=None)
        return value

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return value and value.replace(tzinfo=dt.UTC)


class Choosy(t.TypeDecorator[str]):
    """A type that has its own idea of a text."""

    impl = t.String(20)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        if value == "odd":
            raise TypeError("no odd ones")
        return value


class Blob(t.TypeDecorator[Any]):
    impl = t.LargeBinary
    cache_ok = True


class Document(t.TypeDecorator[Any]):
    impl = t.JSON
    cache_ok = True


@dataclass(frozen=True)
class Case:
    """A type, and values in its order, as JSON writes them."""

    type: Any
    values: list[Any]
    shown: list[Any] | None = None
    """How they come back, where that is another writing."""
    ordered: bool = True
    compared: bool = True
    only: str | None = None
    refused: list[Any] = field(default_factory=list)


UUIDS = ["00000000-0000-4000-8000-00000000000a", "7fffffff-0000-4000-8000-000000000000", "ffffffff-ffff-4fff-bfff-ffffffffffff"]  # fmt: skip
MOMENTS = ["0999-12-31T23:59:59", "2024-02-29T13:00:00.000001", "9999-12-31T23:59:59.999999"]
ZONED = ["1969-12-31T23:59:59Z", "2024-02-29T13:00:00.5+05:30", "2024-02-29T08:00:00-05:00"]
IN_UTC = ["1969-12-31T23:59:59Z", "2024-02-29T07:30:00.500000Z", "2024-02-29T13:00:00Z"]
TEXTS = ["", "A; '\"--", "a,(b)", "é\u2028😀"]
BINARIES = ["", "AA==", "AP8=", "+/8="]
DECIMALS = ["-99999999.9999", "-0.5000", "0.0000", "12345678.9012"]
FLOATS = [-1.5e300, -0.5, 0.0, 0.1, 1e300]
REALS = [-1.5, 0.0, 0.25, 65536.0]
DURATIONS = ["-P1DT12H", "PT0S", "PT0.000001S", "P400D", "P400DT1H1M0.5S"]
JSONS: list[Any] = [{"a": [1, None, 1.5, "é"]}, [], "text", 7, False, {}]
OPAQUE: dict[str, Any] = {"ordered": False, "compared": False}

CASES = {
    "small": Case(t.SmallInteger, [-(2**15), 0, 2**15 - 1], refused=[2**15, "1", 1.5, True]),
    "integer": Case(t.Integer, [-(2**31), 0, 2**31 - 1], refused=[2**31]),
    "big": Case(t.BigInteger, [-(2**63), 2**53 + 1, 2**63 - 1], refused=[2**63, 1e300]),
    "boolean": Case(t.Boolean, [False, True], refused=[1, "true"]),
    "numeric": Case(t.Numeric(12, 4), DECIMALS, refused=["1e9", "0.00001", "NaN", "Infinity", True, "", "1_0", " 1 ", "1\n", "\u0661", "0x1"]),
    "decimal": Case(t.DECIMAL(12, 4), DECIMALS),
    "money": Case(t.Numeric(12, 4), [-1.5, 0, 2.25], ["-1.5000", "0.0000", "2.2500"]),
    "small_numeric": Case(t.Numeric(18, 8), ["-0.00000002", "0.00000000", "0.00000001", "1.00000000"]),
    "whole_numeric": Case(t.Numeric(20, 0), ["-5", "0", "100000", "1000000000000000"]),
    "numeric_float": Case(t.Numeric(12, 4, asdecimal=False), [-1.5, 0.0, 2.25]),
    "float": Case(t.Float, FLOATS, refused=["1", True]),
    "double": Case(t.Double, FLOATS),
    "float_decimal": Case(
        t.Float(53, asdecimal=True, decimal_return_scale=4),
        ["-1.5", "0.25"],
        ["-1.5000", "0.2500"],
        refused=["1_0", " 1 ", True, []],
    ),
    "real": Case(t.REAL, REALS),
    "string": Case(t.String(20), TEXTS, refused=["x" * 21, "a\0", 1]),
    "collated": Case(t.String(20).with_variant(t.String(20, collation="C"), "postgresql"), TEXTS),
    "text": Case(t.Text, TEXTS),
    "unicode": Case(t.Unicode(20), TEXTS),
    "unicode_text": Case(t.UnicodeText, TEXTS),
    "varchar": Case(t.VARCHAR(20), TEXTS),
    "char": Case(t.CHAR(3), ["abc", "abd"]),
    "enum": Case(sa.Enum(Size), ["s", "m", "l"], ordered=False, refused=["SMALL", "x"]),
    "int_enum": Case(sa.Enum(Level), [1, 10], ordered=False, refused=["LOW", 2]),
    "enum_by_value": Case(
        sa.Enum(Size, name="by_value", values_callable=lambda kind: [each.value for each in kind]),
        ["s", "m", "l"],
        ordered=False,
    ),
    "enum_of_texts": Case(sa.Enum("b", "a", "it's", name="texts"), ["b", "a", "it's"], ordered=False, refused=["c"]),
    "enum_as_text": Case(sa.Enum(Size, native_enum=False, length=10), ["s", "m", "l"], ordered=False),
    "date": Case(t.Date, ["0999-12-31", "2024-02-29", "9999-12-31"], refused=["2023-02-29", 5, "2024-02-29T13:00:00"]),
    "datetime": Case(t.DateTime, MOMENTS, refused=["2024-02-29T13:00:00Z"]),
    "timestamp": Case(t.TIMESTAMP, MOMENTS),
    "zoned": Case(t.DateTime(timezone=True), ZONED, IN_UTC, refused=["2024-02-29T13:00:00"]),
    "zoned_timestamp": Case(t.TIMESTAMP(timezone=True), ZONED, IN_UTC),
    "zoned_decorated": Case(Instant, ZONED, IN_UTC),
    "zoned_anywhere": Case(ZonedAnywhere, ZONED, IN_UTC, refused=["2024-02-29T13:00:00"]),
    "time": Case(t.Time, ["00:00:00", "13:00:00.000001", "23:59:59.999999"], refused=["24:00:01"]),
    "interval": Case(t.Interval, DURATIONS, refused=["soon", "P700001D", "-P2000Y"]),
    "binary": Case(t.LargeBinary, BINARIES, refused=["*"]),
    "binary_decorated": Case(Blob, BINARIES),
    "uuid": Case(t.Uuid, UUIDS, refused=["x"]),
    "uuid_text": Case(t.Uuid(as_uuid=False), UUIDS, refused=["x", "7fffffff"]),
    "uuid_native": Case(t.UUID, UUIDS),
    "json": Case(t.JSON, JSONS, **OPAQUE),
    "json_decorated": Case(Document, JSONS, **OPAQUE),
    "jsonb": Case(t.JSON().with_variant(postgresql.JSONB(), "postgresql"), JSONS, **OPAQUE),
    "decorated": Case(Shouting, ["a", "B", "c"], ["A", "B", "C"]),
    "array": Case(t.ARRAY(t.Integer), [[], [1, None, -1]], only="postgresql", refused=[1, ["x"]], **OPAQUE),
    "array_of_texts": Case(t.ARRAY(t.String(3)), [["a,b"], ["é"]], only="postgresql", refused=[["long"]], **OPAQUE),
    "array_of_arrays": Case(
        t.ARRAY(t.Integer, dimensions=2), [[[1, 2], [3, 4]]], only="postgresql", refused=[[1]], **OPAQUE
    ),
    "array_of_enums": Case(postgresql.ARRAY(sa.Enum(Size, name="listed")), [["s", "l"]], only="postgresql", **OPAQUE),
    "array_of_moments": Case(
        t.ARRAY(t.DateTime(timezone=True)), [[ZONED[1]]], [[IN_UTC[1]]], only="postgresql", **OPAQUE
    ),
    "array_of_binaries": Case(t.ARRAY(t.LargeBinary), [["AP8="]], only="postgresql", **OPAQUE),
}  # fmt: skip


class Database:
    """Where tables are made, with or without an event loop of the driver's own."""

    def __init__(self, url: str) -> None:
        is_async = make_url(url).get_dialect().is_async
        if is_async:
            self.engine: Any = create_async_engine(url)
            self.sessions: Any = async_sessionmaker(self.engine)
        else:
            self.engine = sa.create_engine(url)
            self.sessions = sessionmaker(self.engine)
        self.dialect = self.engine.dialect.name
        self.numbers = count()
        self._is_async = is_async

    async def create(self, table: sa.Table) -> None:
        if not self._is_async:
            table.metadata.create_all(self.engine)
            return
        async with self.engine.begin() as connection:
            await connection.run_sync(table.metadata.create_all)

    async def close(self) -> None:
        closed = self.engine.dispose()
        if closed is not None:
            await closed


@pytest.fixture(params=["sqlite+aiosqlite", "sqlite+pysqlite", "postgresql+asyncpg", "postgresql+psycopg"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Database]:
    async with AsyncExitStack() as stack:
        url = make_url(f"sqlite:///{tmp_path}/test.db")
        if request.param.startswith("postgresql"):
            server = request.getfixturevalue("postgres_url")
            url = make_url(await stack.enter_async_context(temporary_database(server)))
        database = Database(url.set(drivername=request.param).render_as_string(hide_password=False))
        stack.push_async_callback(database.close)
        yield database


async def client_of(database: Database, column: sa.Column[Any], **options: Any) -> httpx.AsyncClient:
    # Each a table of its own: drivers remember plans by the text of a statement.
    table = sa.Table(
        f"t{next(database.numbers)}", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), column
    )
    resource = use_resource(table, session=database.sessions, **options)
    await database.create(table)
    app = Starlette(routes=[resource.mount("/t")])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test/t")


def quoted(value: Any) -> str:
    """A value as a filter writes it."""
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value).lower() if isinstance(value, bool) else repr(value)


def canonical(value: Any) -> str:
    """JSON, in which 1 and 1.0 are one number, and true is another value."""
    if isinstance(value, list):
        return f"[{','.join(map(canonical, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{name!r}:{canonical(each)}' for name, each in sorted(value.items()))}}}"
    is_whole = isinstance(value, float) and value.is_integer()
    return repr(int(value) if is_whole else value)


class Column:
    """A column of a case, and what doesn't hold of it."""

    def __init__(self, client: httpx.AsyncClient, name: str, case: Case) -> None:
        self.holes: list[str] = []
        self.client = client
        self.name = name
        self.case = case
        self.shown = case.shown or case.values

    def expect(self, what: str, found: Any, wanted: Any) -> None:
        if canonical(found) != canonical(wanted):
            self.holes.append(f"{self.name}: {what}: {found!r} is not {wanted!r}")

    async def found(self, **query: Any) -> Any:
        answer = await self.client.get("", params=query)
        if answer.status_code != 200:
            return f"{answer.status_code} {answer.json().get('detail')}"
        return [row["v"] for row in answer.json()["items"]]

    async def is_written_and_read(self) -> None:
        # Not in their order.
        for value, wanted in [*zip(self.case.values, self.shown, strict=True)][::-1]:
            created = await self.client.post("", json={"v": value})
            self.expect(f"POST {value!r}", created.json().get("v", created.text), wanted)
            path = f"/{created.json().get('id')}"
            self.expect(f"GET {value!r}", (await self.client.get(path)).json().get("v"), wanted)
            for verb, sent in (("PATCH", wanted), ("PUT", value)):
                answer = await self.client.request(verb, path, json={"v": sent})
                self.expect(f"{verb} {sent!r}", answer.json().get("v"), wanted)
        self.expect("null", (await self.client.post("", json={})).json().get("v", "?"), None)
        for value in self.case.refused:
            answer = await self.client.post("", json={"v": value})
            self.expect(f"refused {value!r}", answer.status_code, 422)
        self.expect("is null", await self.found(filter="v==null"), [None])
        self.expect("is not null", len(await self.found(filter="v!=null")), len(self.shown))

    async def is_filtered(self) -> None:
        for at, value in enumerate(self.shown):
            text = quoted(value)
            others = [each for each in self.shown if each != value]
            self.expect(f"== {value!r}", await self.found(filter=f"v=={text}"), [value])
            self.expect(f"in {value!r}", await self.found(filter=f"v=in=({text})"), [value])
            found = await self.found(filter=f"v!={text}")
            self.expect(f"!= {value!r}", sorted(map(canonical, found)), sorted(map(canonical, others)))
            if self.case.ordered:
                above = await self.found(filter=f"v>{text}", orderBy="v")
                self.expect(f"> {value!r}", above, self.shown[at + 1 :])
                up_to = await self.found(filter=f"v<={text}", orderBy="v")
                self.expect(f"<= {value!r}", up_to, self.shown[: at + 1])

    async def is_ordered_and_paged(self) -> None:
        for direction, wanted in (("asc", [*self.shown, None]), ("desc", [None, *self.shown[::-1]])):
            every = await self.found(orderBy=f"v:{direction}")
            if self.case.ordered:
                self.expect(f"order {direction}", every, wanted)
            paged: list[Any] = []
            cursor: dict[str, str] | None = {}
            while cursor is not None:
                query: dict[str, Any] = {"orderBy": f"v:{direction}", "limit": 1, **cursor}
                page = (await self.client.get("", params=query)).json()
                paged += [row["v"] for row in page.get("items", [{"v": page}])]
                cursor = {"cursor": page["nextCursor"]} if page.get("hasMore") else None
            self.expect(f"pages {direction}", paged, every)
        groups = await self.client.get("/aggregate", params={"groupBy": "v", "count": "true"})
        keys = [each["key"]["v"] for each in groups.json().get("groups", [])]
        self.expect("groups", sorted(map(canonical, keys)), sorted(map(canonical, [*self.shown, None])))

    async def is_opaque(self) -> None:
        self.expect("order", (await self.client.get("?orderBy=v")).status_code, 400)
        self.expect("compare", (await self.client.get("?filter=v==x")).status_code, 400)


async def test_every_type_is_written_read_filtered_ordered_and_paged(database: Database) -> None:
    holes: list[str] = []
    for name, case in CASES.items():
        if case.only in {None, database.dialect}:
            async with await client_of(database, sa.Column("v", case.type)) as client:
                column = Column(client, name, case)
                await column.is_written_and_read()
                if case.compared:
                    await column.is_filtered()
                    await column.is_ordered_and_paged()
                else:
                    await column.is_opaque()
                holes += column.holes
    assert not holes, "\n" + "\n".join(holes)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg", "psycopg_async"])
async def test_moments_are_shown_in_utc_whatever_the_session_s_time_zone(
    postgres_database: str, driver: str
) -> None:
    url = make_url(postgres_database).set(drivername=f"postgresql+{driver}")
    database = Database(url.render_as_string(hide_password=False))
    admin = create_async_engine(make_url(postgres_database).set(drivername="postgresql+asyncpg"))
    async with admin.begin() as connection:
        await connection.execute(sa.text(f"ALTER DATABASE {url.database} SET timezone = 'Europe/Paris'"))
    await admin.dispose()
    table = sa.Table(
        "t",
        sa.MetaData(),
        sa.Column("at", t.DateTime(timezone=True), primary_key=True),
        sa.Column("decorated", Local),
        sa.Column("several", t.ARRAY(t.DateTime(timezone=True))),
    )
    sent = "2024-07-01T10:00:00Z"
    row = {"at": sent, "decorated": sent, "several": [sent, None]}
    await database.create(table)
    app = Starlette(routes=[use_resource(table, session=database.sessions).mount("/t")])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test/t") as client:
        made = await client.post("", json=row)
        assert (made.json(), made.headers["location"]) == (row, "/t/2024-07-01T10%3A00%3A00Z")
        read = await client.get(f"/{quote(sent)}")
        assert (read.json(), read.headers["etag"]) == (row, made.headers["etag"])
        assert (await client.get("")).json()["items"] == [row]
        (group,) = (await client.get("/aggregate?groupBy=at&max=decorated")).json()["groups"]
        assert (group["key"], group["max"]) == ({"at": sent}, {"decorated": sent})
        changed = await client.patch(
            f"/{quote(sent)}", json={"several": None}, headers={"if-match": read.headers["etag"]}
        )
        assert changed.json() == {**row, "several": None}
    await database.close()


@pytest.mark.parametrize(
    "numeric,shown,total", [("string", "1234567.5000", "1234567.7500"), ("number", 1234567.5, 1234567.75)]
)
async def test_numerics_as_texts_or_numbers(database: Database, numeric: Any, shown: Any, total: Any) -> None:
    column = sa.Column("v", t.Numeric(12, 4))
    async with await client_of(database, column, numeric=numeric) as client:
        for body in (1234567.5, "1234567.5"):
            assert (await client.post("", json={"v": body})).json()["v"] == shown
        assert (await client.patch("/2", json={"v": "0.25"})).json()["v"] in {"0.2500", 0.25}
        assert (await client.post("", json={"v": None})).json()["v"] is None
        assert (await client.get("?filter=v==1234567.5")).json()["items"] == [{"id": 1, "v": shown}]
        (group,) = (await client.get("/aggregate?sum=v&max=v&avg=v&filter=v!=null")).json()["groups"]
        assert group["max"] == {"v": shown}
        assert [type(group[each]["v"]) for each in ("sum", "max", "avg")] == [type(shown), type(shown), float]
        assert float(group["sum"]["v"]) == float(total)


async def test_a_description_says_how_numerics_are_shown(database: Database) -> None:
    table = sa.Table(
        "t", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("v", t.Numeric(12, 4))
    )
    for numeric, kind in (("string", "string"), ("number", "number")):
        choice: Any = numeric
        resource = use_resource(table, session=database.sessions, numeric=choice)
        schemas = resource.openapi("/t")["components"]["schemas"]
        (row,) = [
            each for each in schemas.values() if each.get("properties", {}).get("id") and "required" in each
        ]
        assert [each["type"] for each in row["properties"]["v"]["anyOf"]] == [kind, "null"]


async def test_a_value_that_its_type_refuses_is_the_client_s(database: Database) -> None:
    async with await client_of(database, sa.Column("v", Choosy)) as client:
        assert (await client.post("", json={"v": "even"})).status_code == 201
        for verb, path in (("POST", ""), ("PUT", "/1"), ("PATCH", "/1")):
            assert (await client.request(verb, path, json={"v": "odd"})).status_code == 422
        for path in ("?", "/count?", "/aggregate?count=true&"):
            assert (await client.get(f"{path}filter=v==odd")).status_code == 400


async def test_what_has_no_json_is_refused(database: Database) -> None:
    with pytest.raises(ConfigurationError, match="PickleType"):
        await client_of(database, sa.Column("v", t.PickleType))
    wrong: Any = "text"
    with pytest.raises(ConfigurationError, match="numeric"):
        await client_of(database, sa.Column("v", t.Integer), numeric=wrong)


def _lines_of_the_doc() -> list[tuple[str, str, Any, Any]]:
    """Type, what stands beside it, what is sent, and what is shown."""
    text = (ROOT / "docs" / "columns.md").read_text(encoding="utf-8")
    found: list[tuple[str, str, Any, Any]] = []
    for line in text.splitlines():
        if line.startswith("| `"):
            types, sent, shown = line.strip("| ").split(" | ")
            values = [json.loads(each.strip("`")) for each in (sent, shown)]
            found += [(each, types, *values) for each in re.findall(r"`([^`]+)`", types)]
    return found


async def test_each_line_of_the_doc(database: Database) -> None:
    lines = _lines_of_the_doc()
    assert len(lines) == 27
    for written, types, sent, shown in lines:
        if "(PostgreSQL)" in types and database.dialect != "postgresql":
            continue
        kind = eval(written, dict(vars(sa)))
        async with await client_of(database, sa.Column("v", kind)) as client:
            assert (await client.post("", json={"v": sent})).json() == {"id": 1, "v": shown}, written
            assert (await client.get("/1")).json() == {"id": 1, "v": shown}, written


async def test_what_sqlite_can_not_keep(database: Database) -> None:
    """The limits that the doc tells of, so that it goes on telling the truth."""
    is_exact = database.dialect == "postgresql"
    async with await client_of(database, sa.Column("v", t.Numeric(20, 4))) as client:
        kept = (await client.post("", json={"v": "1234567890123456.7891"})).json()["v"]
        assert (kept == "1234567890123456.7891") is is_exact
    async with await client_of(database, sa.Column("v", t.Time(timezone=True))) as client:
        kept = (await client.post("", json={"v": "13:00:00+02:00"})).json()["v"]
        assert kept == ("13:00:00+02:00" if is_exact else "13:00:00")
