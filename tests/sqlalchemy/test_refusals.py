"""What clients are told where the database refuses: whose mistake it is, and nothing internal."""

import socket
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import (
    CheckConstraint,
    Column,
    Connection,
    Integer,
    MetaData,
    String,
    Table,
    TypeDecorator,
    create_engine,
    event,
    insert,
    make_url,
    text,
)
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker
from starlette.applications import Starlette

from concave import HookContext, ResourceHooks
from concave_sqlalchemy import Fields, Scopes, use_resource
from tests.servers.ports import free_port
from tests.sqlalchemy.support import client_for, client_of, database

metadata = MetaData()
in_database = Table(
    "people",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(10), nullable=False),
    Column("age", Integer),
    CheckConstraint("age >= 0", name="age_ok"),
    CheckConstraint("age < 200"),
)
# As an app has it that lags behind its database.
people = Table(
    "people",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("name", String(10), key="title"),
    Column("age", Integer),
    CheckConstraint("age >= 0", name="age_ok"),
)
Table(
    "others",
    metadata,
    Column("name", String(10), nullable=False),
    CheckConstraint("name <> ''", name="secret"),
)

DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}
POSTGRES = pytest.mark.parametrize("engine", ["postgresql"], indirect=True)


@pytest.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    async with database(request, tmp_path, metadata) as engine:
        yield engine


@pytest.fixture(params=["async", "sync"])
def sessions(request: pytest.FixtureRequest, engine: AsyncEngine) -> Generator[Any]:
    if request.param == "async":
        yield async_sessionmaker(engine)
        return
    blocking = create_engine(engine.url.set(drivername=DRIVERS[engine.dialect.name]))
    yield sessionmaker(blocking)
    blocking.dispose()


async def test_a_rule_of_the_table_that_one_row_breaks_is_422(engine: AsyncEngine, sessions: Any) -> None:
    async with client_for(use_resource(people, session=sessions)) as client:
        made = {"title": "a", "age": 1}
        assert (await client.post("", json=made)).status_code == 201
        for verb, path in (("POST", ""), ("PATCH", "/1")):
            told = await client.request(verb, path, json={**made, "age": -1})
            assert (told.status_code, told.json()["detail"]) == (422, "the row violates the check 'age_ok'")
            missing = await client.request(verb, path, json={**made, "title": None})
            assert (missing.status_code, missing.json()["errors"]) == (
                422, [{"field": "title", "message": "must not be null"}],
            )  # fmt: skip
        # Without a name of its own, PostgreSQL gives it one, and SQLite tells its SQL.
        unnamed = await client.post("", json={**made, "age": 200})
        told_of = "the row violates the check 'people_age_check'" if engine.dialect.name == "postgresql" else "the row violates a check"  # fmt: skip
        assert (unnamed.status_code, unnamed.json()["detail"]) == (422, told_of)
        many = await client.post("/batch", json={"items": [made, {"age": 1}]})
        assert (many.status_code, many.json()["errors"][0]["field"]) == (422, "items.1.title")
        taken = {"items": [{**made, "id": 9}, {**made, "id": 9}]}
    with_key = Fields(writable=["id", "title", "age"])
    async with client_for(use_resource(people, session=sessions, fields=with_key)) as client:
        assert (await client.post("/batch", json=taken)).status_code == 409


async def test_a_column_that_clients_do_not_see_is_not_named(engine: AsyncEngine) -> None:
    async with client_of(people, engine, fields=Fields(readable=["id", "age"])) as client:
        told = (await client.post("", json={"age": 1})).json()
        assert (told["status"], told["detail"], told.get("errors")) == (
            422, "a value is missing that must not be null", None,
        )  # fmt: skip

    async def after(ctx: HookContext, row: Any) -> None:
        await ctx.session.execute(text(f"INSERT INTO others (name) VALUES ({row['title']})"))

    async with client_of(people, engine, hooks=ResourceHooks(on_after_create=after)) as client:
        told = (await client.post("", json={"title": "NULL"})).json()
        assert (told["status"], told.get("errors")) == (422, None)
        told = (await client.post("", json={"title": "''"})).json()
        assert (told["status"], told["detail"]) == (422, "the row violates a check")


class Picky(TypeDecorator[str]):
    """A type that fails for what isn't text of a kind, as types do."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return value if value is None or value.islower() else value + 1


async def test_a_mistake_of_the_apps_is_none_of_a_client(engine: AsyncEngine) -> None:
    """What a client sent is told apart from what a hook, a scope or a default of a column sends in its stead."""
    shaky = Table(
        "shaky",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("word", Picky),
        Column("made", String, default=lambda context: context.get_current_parameters()["word"].lower()),
    )
    async with engine.begin() as connection:
        await connection.run_sync(shaky.metadata.create_all)

    async def after(ctx: HookContext, row: Any) -> None:
        await ctx.session.execute(insert(shaky).values(word="Upper", made=""))

    hooks = ResourceHooks(on_after_create=after)
    cases: list[tuple[str, dict[str, Any], Any, int]] = [
        ("POST", {"json": {"word": "Upper"}}, {}, 422),
        ("POST", {"json": {}}, {}, 500),
        ("POST", {"json": {"word": "lower"}}, {"hooks": hooks}, 500),
        ("GET", {"params": {"filter": "word==Upper"}}, {}, 400),
        ("GET", {}, {"scopes": Scopes(read=lambda user: shaky.c.word == 5)}, 500),
    ]
    for verb, request, options, status in cases:
        app = Starlette(
            routes=[use_resource(shaky, session=async_sessionmaker(engine), **options).mount("/t")]
        )
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test/t") as client:
            assert (await client.request(verb, "", **request)).status_code == status


async def test_who_writes_elsewhere_in_a_hook_is_not_told_to_try_again(engine: AsyncEngine) -> None:
    other = create_async_engine(f"postgresql+asyncpg://nobody@127.0.0.1:{free_port()}/none")

    async def after(ctx: HookContext, row: Any) -> None:
        async with other.begin():
            pass

    async with client_of(people, engine, hooks=ResourceHooks(on_after_create=after)) as client:
        assert is_503(await client.post("", json={"title": "a"}), again=None)


def is_503(answer: Any, detail: str = "the database can't be reached", *, again: str | None = "1") -> bool:
    told = answer.status_code, answer.json()["detail"], answer.headers.get("retry-after")
    return told == (503, detail, again)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg", "sync"])
async def test_a_database_that_is_down_is_503(driver: str) -> None:
    url = make_url(f"postgresql://nobody@127.0.0.1:{free_port()}/none")
    sync_url = url.set(drivername="postgresql+psycopg")
    factory: Any = (
        sessionmaker(create_engine(sync_url))
        if driver == "sync"
        else async_sessionmaker(create_async_engine(url.set(drivername=f"postgresql+{driver}")))
    )
    nothing = ResourceHooks(on_before_create=lambda ctx, data: None)
    for hooks in (None, nothing):
        async with client_for(use_resource(people, session=factory, hooks=hooks)) as client:
            for answer in (
                await client.get(""),
                await client.get("/1"),
                await client.post("", json={"title": "a"}),
                await client.patch("/1", json={"title": "b"}),
            ):
                assert is_503(answer), answer.text


@POSTGRES
async def test_a_pool_without_a_free_connection_is_503(engine: AsyncEngine) -> None:
    small = create_async_engine(engine.url, pool_size=1, max_overflow=0, pool_timeout=0.01)
    async with client_of(people, small) as client:
        async with small.connect():
            for answer in (await client.get(""), await client.post("", json={"title": "a"})):
                assert is_503(answer, "the database is busy"), answer.text
        assert (await client.get("")).status_code == 200
    await small.dispose()


@POSTGRES
async def test_a_connection_that_breaks_is_503_and_the_next_request_has_another(
    engine: AsyncEngine, sessions: Any
) -> None:
    armed = [True]

    def before(ctx: HookContext, data: Any) -> Any:
        end = text("SELECT pg_terminate_backend(pg_backend_pid())")
        return ctx.session.execute(end) if armed and armed.pop() else None

    hooks = ResourceHooks(on_before_create=before)
    async with client_for(use_resource(people, session=sessions, hooks=hooks)) as client:
        assert is_503(await client.post("", json={"title": "a"}), again=None)
        assert (await client.post("", json={"title": "a"})).status_code == 201


@POSTGRES
@pytest.mark.parametrize("hooks", [None, ResourceHooks(on_before_create=lambda ctx, data: None)])
async def test_a_commit_without_an_answer_says_so(engine: AsyncEngine, sessions: Any, hooks: Any) -> None:
    killer = create_engine(engine.url.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    armed = [True]

    def end(connection: Connection) -> None:
        if armed and armed.pop():
            pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
            with killer.connect() as other:
                # It returns once the other has ended, or after five seconds.
                assert other.execute(
                    text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid}
                ).scalar_one()

    bound = sessions.kw["bind"]
    event.listen(getattr(bound, "sync_engine", bound), "commit", end)
    async with client_for(use_resource(people, session=sessions, hooks=hooks)) as client:
        lost = await client.post("", json={"title": "a"})
        assert (lost.status_code, lost.json()["code"]) == (503, "OUTCOME_UNKNOWN")
        assert "may have happened" in lost.json()["detail"]
        assert "retry-after" not in lost.headers
        assert (await client.post("", json={"title": "a"})).status_code == 201
        assert (await client.get("/count")).json() == {"count": 1}
    killer.dispose()


@POSTGRES
async def test_a_mistake_is_no_outage(engine: AsyncEngine, sessions: Any) -> None:
    def fails(ctx: HookContext, data: Any) -> None:
        with socket.create_connection(("127.0.0.1", free_port())):
            pass

    wrong = Table("nowhere", MetaData(), Column("id", Integer, primary_key=True))
    async with client_for(use_resource(wrong, session=sessions)) as client:
        assert (await client.get("")).status_code == 500
    async with client_for(
        use_resource(people, session=sessions, hooks=ResourceHooks(on_before_create=fails))
    ) as client:
        assert (await client.post("", json={"title": "a"})).status_code == 500
    for driver in ("asyncpg", "psycopg"):
        elsewhere = engine.url.set(database="nowhere", drivername=f"postgresql+{driver}")
        async with client_of(people, create_async_engine(elsewhere)) as client:
            assert (await client.get("")).status_code == 500
