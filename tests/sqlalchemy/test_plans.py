"""What the databases do for a page: they begin at its place in an index and read no more rows than it has, at whatever depth."""

import json
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import Column, Index, Integer, MetaData, String, Table, event, insert, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from starlette.applications import Starlette

from concave_sqlalchemy import use_resource
from tests.servers import temporary_database

ROWS = 4000
LIMIT = 20

metadata = MetaData()
things = Table(
    "things",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String(5), nullable=False),
    Column("rank", Integer, nullable=False),
    Column("size", Integer),
    Column("name", String(20), nullable=False),
)
Index("by_kind", things.c.kind, things.c.id)
Index("by_size", things.c.size, things.c.id)
Index("by_kind_and_rank_down", things.c.kind, things.c.rank.desc(), things.c.id.desc())
Index("by_kind_and_size", things.c.kind, things.c.size, things.c.id)

ORDERS = [
    "id:asc",
    "id:desc",
    "kind:asc",
    "kind:desc",
    "size:asc",
    "size:desc",
    "kind:asc,rank:desc",
    "kind:asc,size:asc",
]


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
    rows = [
        {
            "id": n, "kind": f"k{n % 7}", "rank": n * 7919 % 1000, "size": None if n % 10 == 0 else n * 31 % 500,
            "name": f"name {n}",
        }
        for n in range(1, ROWS + 1)
    ]  # fmt: skip
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        await connection.execute(insert(things), rows)
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("VACUUM ANALYZE" if engine.dialect.name == "postgresql" else "ANALYZE"))


async def _statement_of(engine: AsyncEngine, order: str, depth: int) -> tuple[str, Any]:
    """What is sent for the page after so many rows."""
    sent: list[tuple[str, Any]] = []

    def record(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        sent.append((statement, parameters))

    app = Starlette(routes=[use_resource(things, session=async_sessionmaker(engine)).mount("/t")])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        params: dict[str, Any] = {"orderBy": order, "limit": 100}
        for _ in range(depth // 100):
            params["cursor"] = (await client.get("/t", params=params)).json()["nextCursor"]
        event.listen(engine.sync_engine, "before_cursor_execute", record)
        page = await client.get("/t", params={**params, "limit": LIMIT})
        event.remove(engine.sync_engine, "before_cursor_execute", record)
    assert len(page.json()["items"]) == LIMIT
    [(statement, parameters)] = [(each, given) for each, given in sent if "FROM things" in each]
    return statement, parameters


async def _explained(engine: AsyncEngine, explain: str, statement: str, parameters: Any) -> list[Any]:
    async with engine.connect() as connection:
        return list((await connection.exec_driver_sql(f"{explain} {statement}", parameters)).all())


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)


@pytest.mark.parametrize("depth", [0, ROWS // 2])
async def test_a_page_reads_its_own_rows_from_an_index(engine: AsyncEngine, depth: int) -> None:
    for order in ORDERS:
        statement, parameters = await _statement_of(engine, order, depth)
        if engine.dialect.name == "sqlite":
            found = await _explained(engine, "EXPLAIN QUERY PLAN", statement, parameters)
            _check_sqlite([row.detail for row in found], order, at_start=depth == 0)
        else:
            [(found,)] = await _explained(engine, "EXPLAIN (ANALYZE, FORMAT JSON)", statement, parameters)
            _check_postgresql((json.loads(found) if isinstance(found, str) else found)[0]["Plan"], order)


def _check_sqlite(steps: list[str], order: str, *, at_start: bool) -> None:
    reading = [step for step in steps if " things" in step]
    assert reading, (order, steps)
    for step in reading:
        # By an index or by rowid: from its start on page one, and from a place in it later.
        assert step.startswith("SCAN" if at_start else "SEARCH"), (order, steps)
        assert " USING " in step or order.startswith("id"), (order, steps)
    # What is sorted later are the rows of a page, as they come from each stretch of an index. SQLite's index serves NULLS LAST in
    # an order's first field; in a later one it sorts the rows that have the same first field.
    assert not at_start or order == "kind:asc,size:asc" or not any("TEMP B-TREE" in step for step in steps), (
        steps
    )


def _check_postgresql(plan: dict[str, Any], order: str) -> None:
    scans = [node for node in _nodes(plan) if "Scan" in node["Node Type"] and "Relation Name" in node]
    assert scans
    for node in scans:
        # Of a few rows, a bitmap of them all is as good as a walk along the index.
        assert node["Node Type"] in {"Index Scan", "Index Only Scan", "Bitmap Heap Scan"}, (order, node)
        read = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        assert read <= (ROWS // 40 if "Bitmap" in node["Node Type"] else LIMIT + 2), (order, node)
