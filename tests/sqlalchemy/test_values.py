"""Values at the edges of what columns hold, over HTTP on SQLite and PostgreSQL: the same of both, and never a 500."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Date,
    DateTime,
    Float,
    Integer,
    Interval,
    MetaData,
    Numeric,
    String,
    Table,
    Time,
    insert,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.sqlalchemy.support import client_of, database

metadata = MetaData()
values = Table(
    "values",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", DateTime(timezone=True)),
    Column("naive", DateTime),
    Column("data", JSON),
    Column("must", JSON, nullable=False, default={}),
    Column("big", BigInteger),
    Column("numeric", Numeric(10, 2)),
    Column("plain", Numeric(10, 2, asdecimal=False)),
    Column("float", Float),
    Column("text", String(10)),
    Column("time", Time),
    Column("date", Date),
    Column("interval", Interval),
)


@pytest.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    async with database(request, tmp_path, metadata) as engine:
        yield engine


TAKEN = [
    ("naive", '"0001-01-01T00:00:00"'), ("data", "-0.0"), ("data", "1e308"), ("data", "[" * 190 + "1" + "]" * 190),
    ("data", "123456789012345678901234567890"), ("must", "0"), ("must", "false"), ("float", "1e308"), ("float", "2"),
    ("float", "2.0"), ("float", "-0.0"), ("float", "1e-400"), ("plain", "2"), ("numeric", "2"), ("numeric", '"-0.10"'),
    ("big", str(2**63 - 1)), ("date", '"9999-12-31"'), ("interval", '"P1DT0.000001S"'), ("interval", '"-P700000D"'),
    ("interval", '"P700000D"'), ("text", '"\\ud83d\\ude00"'), ("time", '"23:59:59.999999"'),
]  # fmt: skip
REFUSED = [
    ("at", '"0001-01-01T00:00:00+14:00"', 422), ("at", '"9999-12-31T23:59:59-14:00"', 422), ("data", "9" * 5000, 400),
    ("data", "1e400", 422), ("data", '{"a": [-1e400]}', 422), ("data", '"\\ud800"', 400), ("text", '"\\ud800"', 400),
    ("data", "[" * 900 + "]" * 900, 400), ("must", "null", 422), ("numeric", "1e400", 422), ("numeric", '"NaN"', 422),
    ("numeric", "12345678.999", 422), ("float", "1e400", 422), ("float", '"Infinity"', 422), ("big", str(2**63), 422),
    ("time", '"24:00:00"', 422), ("time", '"10:00:00+05:00"', 422), ("date", '"0000-01-01"', 422), ("interval", '"P700001D"', 422),
    ("interval", "1e20", 422), ("interval", '"soon"', 422), ("", "1", 422),
]  # fmt: skip
JSON_TYPE = {"content-type": "application/json"}


@pytest.mark.parametrize("verb", ["POST", "PATCH", "PUT"])
async def test_what_a_column_holds_is_shown_the_same_by_every_answer(engine: AsyncEngine, verb: str) -> None:
    async with client_of(values, engine) as client:
        await client.post("", json={})
        for column, value in TAKEN:
            body = f'{{"{column}": {value}}}'
            path = "" if verb == "POST" else "/1"
            written = await client.request(verb, path, content=body, headers=JSON_TYPE)
            assert written.is_success, (body[:80], written.text)
            location = f"/{written.json()['id']}"
            read = await client.get(location)
            assert (read.content, read.headers["etag"]) == (written.content, written.headers["etag"]), body
            # So that what was answered to a write can be the condition of the next.
            headers = {**JSON_TYPE, "if-match": written.headers["etag"]}
            assert (await client.patch(location, content=body, headers=headers)).status_code == 200, body
        assert (await client.get("?limit=100")).status_code == 200


@pytest.mark.parametrize("verb", ["POST", "PATCH", "PUT"])
async def test_what_a_column_cannot_hold_is_told_to_the_client(engine: AsyncEngine, verb: str) -> None:
    async with client_of(values, engine) as client:
        await client.post("", json={})
        for column, value, status in REFUSED:
            body = f'{{"{column}": {value}}}'
            path = "" if verb == "POST" else "/1"
            answer = await client.request(verb, path, content=body, headers=JSON_TYPE)
            assert answer.status_code == status, (body[:80], answer.text)
            if status == 422:
                assert [each["field"].partition(".")[0] for each in answer.json()["errors"]] == [
                    column or "body"
                ]


async def test_intervals_are_filtered_and_sorted_by(engine: AsyncEngine) -> None:
    durations = ["P1D", "-P2D", "PT1H", "P40D"]
    async with client_of(values, engine) as client:
        for duration in durations:
            await client.post("", json={"interval": duration})
        found = await client.get("", params={"filter": "interval>PT2H", "select": "interval"})
        assert [item["interval"] for item in found.json()["items"]] == ["P1D", "P40D"]
        seen: list[str] = []
        query: dict[str, Any] = {"orderBy": "interval:desc", "limit": 1}
        while True:
            page = (await client.get("", params=query)).json()
            seen += [item["interval"] for item in page["items"]]
            if not page["hasMore"]:
                break
            query["cursor"] = page["nextCursor"]
        assert seen == ["P40D", "P1D", "PT1H", "-P2D"]
        assert (await client.get("", params={"filter": "interval>soon"})).status_code == 400


async def test_a_sum_of_more_than_64_bits(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(insert(values), [{"big": 2**63 - 1, "must": {}}] * 3)
    async with client_of(values, engine) as client:
        answer = await client.get("/aggregate?sum=big")
        assert answer.json()["groups"][0]["sum"] == {"big": 3 * (2**63 - 1)}
