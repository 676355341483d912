"""Tables of all sorts: what their columns are called, hold, and go back to."""

from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from sqlalchemy import (
    ARRAY,
    JSON,
    Column,
    Computed,
    DateTime,
    FetchedValue,
    ForeignKey,
    Identity,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
    func,
    make_url,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.applications import Starlette

from concave import ConfigurationError
from concave_sqlalchemy import use_resource
from tests.servers import temporary_database


class Base(DeclarativeBase):
    pass


class Upper(TypeDecorator[str]):
    impl = String(5)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return value and value.upper()


animals = Table(
    "animals",
    Base.metadata,
    Column("id", Integer, primary_key=True),
    Column("type", Upper, nullable=False),
    Column("secret", String(10)),
)


class Animal(Base):
    __table__ = animals
    __mapper_args__ = {"exclude_properties": ["secret"]}  # noqa: RUF012  (SQLAlchemy's way)
    kind = animals.c.type


class Dog(Animal):
    __tablename__ = "dogs"
    id: Mapped[int] = mapped_column(ForeignKey("animals.id"), primary_key=True)


class Bird(Animal):
    __tablename__ = "birds"
    __mapper_args__ = {"concrete": True}  # noqa: RUF012  (SQLAlchemy's way)
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]  # type: ignore[assignment]


def _greeting(context: Any) -> str:
    row = context.get_current_parameters()
    return f"{row['first name']}, {row['number']}"


class Greeting(Base):
    __tablename__ = "greetings"
    id: Mapped[int] = mapped_column("number", primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column("first name", String(10), default="you")
    text: Mapped[str] = mapped_column("shown", String(20), default=_greeting)


defaulted = Table(
    "defaulted",
    Base.metadata,
    Column("id", Integer, primary_key=True),
    Column("scalar", String(10), nullable=False, default="scalar"),
    Column("by_sql", String(10), nullable=False, default=func.lower("SQL")),
    Column("text", String(10), nullable=False, server_default="te'xt"),
    Column("number", Integer, nullable=False, server_default="7"),
    Column("touched", String(10), nullable=False, default="new", onupdate="updated"),
    Column("doubled", Integer, Computed("number * 2", persisted=True)),
    Column("empty", Integer),
)

slugs = Table(
    "slugs",
    Base.metadata,
    Column("id", Integer, primary_key=True),
    Column("slug", String(20), nullable=False),
    Column("text", String(20)),
    UniqueConstraint("slug"),
)


@pytest.fixture
async def sqlite() -> AsyncGenerator[AsyncEngine]:
    engine = create_async_engine("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()


@pytest.fixture
async def postgres(postgres_url: str) -> AsyncGenerator[AsyncEngine]:
    async with temporary_database(postgres_url) as url:
        engine = create_async_engine(url)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        yield engine
        await engine.dispose()


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest, sqlite: AsyncEngine, postgres: AsyncEngine) -> AsyncEngine:
    return sqlite if request.param == "sqlite" else postgres


def client_of(table: Any, engine: AsyncEngine, **options: Any) -> httpx.AsyncClient:
    resource = use_resource(table, session=async_sessionmaker(engine), **options)
    app = Starlette(routes=[resource.mount("/t")])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test/t")


async def test_a_mapped_class_shows_what_it_maps_by_its_own_names(engine: AsyncEngine) -> None:
    async with client_of(Animal, engine) as client:
        assert (await client.post("", json={"kind": "cat"})).json() == {"id": 1, "kind": "CAT"}
        for body in ({"type": "cat"}, {"kind": "cat", "secret": "x"}, {"kind": "longer"}):
            assert (await client.post("", json=body)).status_code == 422


def test_a_class_that_shares_its_parents_table_is_refused(sqlite: AsyncEngine) -> None:
    with pytest.raises(ConfigurationError, match="inherits"):
        use_resource(Dog, session=async_sessionmaker(sqlite))


def test_a_class_that_inherits_and_has_a_table_of_its_own_is_told_what_to_give(sqlite: AsyncEngine) -> None:
    with pytest.raises(ConfigurationError, match="a table of its own"):
        use_resource(Bird, session=async_sessionmaker(sqlite))
    use_resource(Bird.__table__, session=async_sessionmaker(sqlite))


async def test_put_sets_every_default(engine: AsyncEngine) -> None:
    async with client_of(defaulted, engine) as client:
        fresh = (await client.post("", json={})).json()
        assert fresh == {
            "id": 1, "scalar": "scalar", "by_sql": "sql", "text": "te'xt", "number": 7, "touched": "new",
            "doubled": 14, "empty": None,
        }  # fmt: skip
        other = {"scalar": "a", "by_sql": "b", "text": "c", "number": 1, "empty": 2}
        assert (await client.patch("/1", json=other)).json() == {
            "id": 1, **other, "touched": "updated", "doubled": 2,
        }  # fmt: skip
        assert (await client.put("/1", json={})).json() == {**fresh, "touched": "updated"}
        assert (await client.put("/1", json={"doubled": 3})).status_code == 422


async def test_a_default_that_looks_at_the_row_sees_it_by_its_columns_in_put_too(engine: AsyncEngine) -> None:
    async with client_of(Greeting, engine) as client:
        made = await client.post("", json={"id": 7, "name": "Ada"})
        assert made.json() == {"id": 7, "name": "Ada", "text": "Ada, 7"}
        for body, text in (({"name": "Bob"}, "Bob, 7"), ({}, "you, 7"), ({"text": "Hi"}, "Hi")):
            assert (await client.put("/7", json=body)).json()["text"] == text


LOWERED = {
    "sqlite": ["CREATE TRIGGER lower AFTER INSERT ON made BEGIN UPDATE made SET slug = lower(new.name) WHERE id = new.id; END"],
    "postgresql": [
        "CREATE FUNCTION lowered() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.slug := lower(new.name); RETURN new; END $$",
        "CREATE TRIGGER lower BEFORE INSERT ON made FOR EACH ROW EXECUTE FUNCTION lowered()",
    ],
}  # fmt: skip


async def test_put_leaves_what_only_the_database_knows(engine: AsyncEngine) -> None:
    made = Table(
        "made",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("name", String(10), nullable=False),
        Column("slug", String(10), server_default=FetchedValue()),
    )
    async with engine.begin() as connection:
        await connection.run_sync(made.metadata.create_all)
        for statement in LOWERED[engine.dialect.name]:
            await connection.exec_driver_sql(statement)
    async with client_of(made, engine) as client:
        await client.post("", json={"name": "A"})
        assert (await client.put("/1", json={"name": "B"})).json() == {"id": 1, "name": "B", "slug": "a"}
        assert (await client.put("/1", json={"name": "B", "slug": None})).json()["slug"] is None


async def test_a_system_column_is_the_databases_own(postgres: AsyncEngine) -> None:
    kept = Table(
        "kept",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("name", String(10)),
        Column("xmin", String, nullable=False, system=True, server_default=FetchedValue()),
    )
    async with postgres.begin() as connection:
        await connection.run_sync(kept.metadata.create_all)
    async with client_of(kept, postgres) as client:
        seen = [
            (await client.post("", json={"name": "a"})).json(),
            (await client.patch("/1", json={"name": "b"})).json(),
            (await client.put("/1", json={"name": "c"})).json(),
        ]
        assert [row["name"] for row in seen] == ["a", "b", "c"]
        assert len({row["xmin"] for row in seen}) == 3
        assert (await client.patch("/1", json={"xmin": "1"})).status_code == 422


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg_async"])
async def test_types_of_postgresql_s_own_as_keys(postgres_database: str, driver: str) -> None:
    made = make_url(postgres_database).set(drivername=f"postgresql+{driver}")
    engine = create_async_engine(made)
    values: dict[Any, list[str]] = {
        postgresql.INET: ["10.0.0.0/8", "10.0.0.1", "::1"],
        postgresql.CIDR: ["10.0.0.0/8", "::/64"],
        postgresql.MACADDR: ["08:00:2b:01:02:03", "08:00:2b:01:02:04"],
        postgresql.BIT(3): ["101", "110"],
    }
    for number, (kind, wanted) in enumerate(values.items()):
        table = Table(f"t{number}", MetaData(), Column("k", kind, primary_key=True), Column("v", kind))
        async with engine.begin() as connection:
            await connection.run_sync(table.metadata.create_all)
        async with client_of(table, engine) as client:
            for value in wanted:
                made_row = await client.post("", json={"k": value, "v": value})
                assert made_row.json() == {"k": value, "v": value}
                path = f"http://test{made_row.headers['location']}"
                assert (await client.put(path, json=made_row.json())).json() == made_row.json()
            paged: list[str] = []
            query: dict[str, Any] = {"limit": 1}
            while query.get("cursor", "") is not None:
                page = (await client.get("", params=query)).json()
                paged += [row["k"] for row in page["items"]]
                query["cursor"] = page["nextCursor"]
            assert paged == wanted
    await engine.dispose()


@pytest.mark.parametrize(
    "kind", [ARRAY(Integer), JSON, postgresql.JSONB, postgresql.HSTORE, postgresql.INT4RANGE]
)
def test_a_key_that_no_path_can_carry_is_refused(sqlite: AsyncEngine, kind: Any) -> None:
    table = Table(
        "t",
        MetaData(),
        Column("k", kind, primary_key=True),
        Column("id", Integer, nullable=False, unique=True),
    )
    with pytest.raises(ConfigurationError, match="the key 'k'"):
        use_resource(table, session=async_sessionmaker(sqlite))
    use_resource(table, session=async_sessionmaker(sqlite), id="id")


async def test_sequences_and_identities(postgres: AsyncEngine) -> None:
    counted = Table(
        "counted",
        MetaData(),
        Column("id", Integer, Identity(always=True), primary_key=True),
        Column("ticket", Integer, Sequence("tickets"), nullable=False),
    )
    async with postgres.begin() as connection:
        await connection.run_sync(counted.metadata.create_all)
    async with client_of(counted, postgres) as client:
        assert (await client.post("", json={"id": 5})).status_code == 422
        assert (await client.post("", json={})).json() == {"id": 1, "ticket": 1}
        assert (await client.put("/1", json={})).json() == {"id": 1, "ticket": 2}


async def test_rows_by_another_unique_column(engine: AsyncEngine) -> None:
    async with client_of(slugs, engine, id="slug") as client:
        for slug in ("b", "a", "c"):
            assert (await client.post("", json={"slug": slug})).status_code == 201
        first = (await client.get("?limit=2")).json()
        assert [item["slug"] for item in first["items"]] == ["a", "b"]
        rest = (await client.get(f"?limit=2&cursor={first['nextCursor']}")).json()
        assert [item["slug"] for item in rest["items"]] == ["c"]
        assert (await client.patch("/b", json={"text": "x"})).json()["text"] == "x"
        assert (await client.patch("/b", json={"slug": "d"})).status_code == 422
        assert (await client.delete("/b")).status_code == 204
        assert (await client.get("/b")).status_code == 404


async def test_a_zoned_column_that_holds_nothing_and_binary_without_value(engine: AsyncEngine) -> None:
    bare = Table(
        "bare",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("at", DateTime(timezone=True)),
        Column("blob", LargeBinary(2)),
    )
    async with engine.begin() as connection:
        await connection.run_sync(bare.metadata.create_all)
    async with client_of(bare, engine) as client:
        assert (await client.post("", json={})).json() == {"id": 1, "at": None, "blob": None}
        for body in ({"blob": "*"}, {"blob": "AAAA"}, {"blob": 1}, {"at": "2024-01-01T00:00:00"}):
            assert (await client.post("", json=body)).status_code == 422, body
