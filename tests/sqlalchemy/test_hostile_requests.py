"""Whatever is asked: no 500, no row outside of what is one's own, and rows outside of it stay as they are.

CONCAVE_REQUESTS says how many requests each database gets; `make hostile` sends 50,000.
"""

import asyncio
import itertools
import json
import os
import secrets
from collections import Counter
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Date,
    DateTime,
    Enum,
    Float,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    Text,
    Uuid,
    insert,
    select,
)
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from starlette.applications import Starlette

from concave_sqlalchemy import Scopes, use_resource
from tests.servers import temporary_database
from tests.sqlalchemy.hostile import Asked, asked

REQUESTS = int(os.environ.get("CONCAVE_REQUESTS", "600"))
FIRST_SEED = secrets.randbits(32) if "CONCAVE_REQUESTS" in os.environ else 0
T = TypeVar("T")

metadata = MetaData()


def table_of(name: str, key: Column[Any]) -> Table:
    return Table(
        name,
        metadata,
        key,
        Column("owner", Text, nullable=False),
        Column("name", Text),
        Column("count", Integer),
        Column("price", Float),
        Column("amount", Numeric(12, 3)),
        Column("on", Boolean),
        Column("at", DateTime(timezone=True)),
        Column("made", DateTime),
        Column("day", Date),
        Column("span", Interval),
        Column("size", Enum("small", "large", name=f"size_of_{name}")),
        Column("token", Uuid),
        Column("blob", LargeBinary),
        Column("data", JSON),
    )


numbered = table_of("numbered", Column("id", Integer, primary_key=True))
lettered = table_of("lettered", Column("id", Text, primary_key=True))
TABLES = (numbered, lettered)


def _own(table: Table) -> Scopes:
    def mine(_user: Any) -> Any:
        return table.c.owner == "me"

    return Scopes(read=mine, create=mine, update=mine, delete=mine)


class Client:
    """Sends requests to an app and looks at what comes back; in a loop of its own, since Hypothesis' tests are plain functions."""

    def __init__(self, loop: asyncio.AbstractEventLoop, engine: AsyncEngine) -> None:
        self.answers: Counter[int] = Counter()
        self._loop = loop
        self._engine = engine
        sessions = async_sessionmaker(engine)
        self._app = Starlette(
            routes=[
                use_resource(table, session=sessions, scopes=_own(table)).mount(f"/{table.name}")
                for table in TABLES
            ]
        )

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(coroutine)

    async def fill(self) -> None:
        async with self._engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
            for table in TABLES:
                # Numbers are the database's to give: given here, PostgreSQL's sequence would meet each of them in a POST, a 409.
                rows = [
                    {
                        **({} if table is numbered else {"id": f"{'a' * n}\"';%"}),
                        "owner": "me" if n % 3 else "you",
                        "name": None if n % 5 == 0 else f"Ada {n}",
                        "count": None if n % 4 == 0 else n % 3,
                    }
                    for n in range(1, 40)
                ]
                await connection.execute(insert(table), rows)

    async def others(self, table: Table) -> list[Any]:
        async with self._engine.connect() as connection:
            found = await connection.execute(select(table).where(table.c.owner != "me").order_by(table.c.id))
            return list(found.all())

    async def send(self, table: Table, request: Asked, cursor: str) -> tuple[int, Any]:
        raw = f"/{table.name}{request.path}"
        scope = {
            "type": "http", "http_version": "1.1", "method": request.method, "scheme": "http", "path": unquote(raw),
            "raw_path": raw.encode(), "query_string": request.query_string(cursor), "root_path": "",
            "headers": [(b"host", b"test"), (b"content-type", b"application/json")],
        }  # fmt: skip
        messages: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": request.body, "more_body": False}

        async def respond(message: Any) -> None:
            messages.append(message)

        await self._app(scope, receive, respond)
        status = messages[0]["status"]
        body = b"".join(message.get("body", b"") for message in messages[1:])
        kind = dict(messages[0]["headers"]).get(b"content-type", b"").decode()
        self.answers[status] += 1
        if status >= 400 and request.method != "HEAD":
            assert kind == "application/problem+json", (request, status, body)
        return status, json.loads(body) if body and kind.endswith("json") else None


def _owners(answer: Any) -> set[Any]:
    """Whose rows an answer shows, be it a row, a page or groups."""
    if not isinstance(answer, dict):
        return set()
    found: dict[str, Any] = answer
    rows = [found, *found.get("items", ())]
    for group in found.get("groups", ()):
        rows += [each for each in group.values() if isinstance(each, dict)]
    return {row.get("owner") for row in rows}


@pytest.fixture(params=["sqlite", "postgresql"])
def client(request: pytest.FixtureRequest) -> Generator[Client]:
    loop = asyncio.new_event_loop()
    database = None
    url = "sqlite+aiosqlite://"
    if request.param == "postgresql":
        database = temporary_database(request.getfixturevalue("postgres_url"))
        url = loop.run_until_complete(database.__aenter__())
    engine = create_async_engine(url)
    made = Client(loop, engine)
    made.run(made.fill())
    yield made
    loop.run_until_complete(engine.dispose())
    if database is not None:
        loop.run_until_complete(database.__aexit__(None, None, None))
    loop.close()
    print(f"\n{sum(made.answers.values())} requests: {dict(sorted(made.answers.items()))}")


@pytest.mark.timeout(0 if "CONCAVE_REQUESTS" in os.environ else 300)
@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_whatever_is_asked(client: Client, table: Table) -> None:
    async def ask(requests: list[Asked]) -> None:
        cursor = ""
        for request in requests:
            status, answer = await client.send(table, request, cursor)
            assert status < 500, (request, cursor, answer)
            assert "you" not in _owners(answer), (request, cursor, answer)
            if status == 200 and isinstance(answer, dict) and "nextCursor" in answer:
                cursor = answer["nextCursor"] or cursor

    @settings(
        max_examples=50,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        phases=[Phase.generate, Phase.shrink],
    )
    @given(asked())
    def send(requests: list[Asked]) -> None:
        client.run(ask(requests))

    before = client.run(client.others(table))
    # The short form sends the same each time; the long form looks further, and a failure names the seed.
    for number in itertools.count(FIRST_SEED):
        seed(number)(send)()
        if sum(client.answers.values()) >= REQUESTS // len(TABLES):
            break
    assert client.run(client.others(table)) == before
    assert client.answers[200]
    assert client.answers[400]
