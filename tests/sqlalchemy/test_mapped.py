"""What a mapped class says of its rows, on SQLite and PostgreSQL: the unit of work and clients write the same ones."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import FetchedValue, MetaData, String, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.orm.exc import StaleDataError

from concave import ConfigurationError, ResourceHooks
from concave_sqlalchemy import Fields, use_resource
from tests.sqlalchemy.support import client_of, database


class Base(DeclarativeBase):
    metadata = MetaData()


class Item(Base):
    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    stock: Mapped[int] = mapped_column(default=10)
    revision: Mapped[int] = mapped_column("ver")
    __mapper_args__ = {"version_id_col": revision}  # noqa: RUF012  (SQLAlchemy's way)


class Staff(Base):
    __tablename__ = "staff"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(unique=True)
    kind: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "staff"}  # noqa: RUF012


class Engineer(Staff):
    __mapper_args__ = {"polymorphic_identity": "engineer"}  # noqa: RUF012


class Shape(Base):
    __tablename__ = "shapes"
    id: Mapped[int] = mapped_column(primary_key=True)
    sides: Mapped[int | None]
    __mapper_args__ = {"polymorphic_on": "sides", "polymorphic_abstract": True}  # noqa: RUF012


@pytest.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    async with database(request, tmp_path, Base.metadata) as engine:
        yield engine


async def test_a_version_that_others_do_not_count_need_not_be_the_resources(engine: AsyncEngine) -> None:
    async with client_of(Item, engine, version=False) as client:
        made = await client.post("", json={"revision": 1})
        async with engine.begin() as connection:
            await connection.execute(update(Item).values(stock=3))
        assert (await client.get("/1")).headers["etag"] != made.headers["etag"]


async def test_the_unit_of_work_sees_what_clients_have_written(engine: AsyncEngine) -> None:
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    async with client_of(Item, engine) as client:
        made = await client.post("", json={})
        assert (made.json(), made.headers["etag"]) == ({"id": 1, "stock": 10, "revision": 1}, '"1"')
        bodies: list[Any] = [("PATCH", {"stock": 3}), ("PUT", {}), ("PATCH", {"stock": 4})]
        for number, (verb, body) in enumerate(bodies, 2):
            async with sessions() as session:
                item = await session.get_one(Item, 1)
            assert (await client.request(verb, "/1", json=body)).json()["revision"] == number
            item.stock -= 1
            with pytest.raises(StaleDataError):
                async with sessions.begin() as session:
                    session.add(item)
        async with sessions.begin() as session:
            (await session.get_one(Item, 1)).stock = 5
        assert (await client.patch("/1", json={"stock": 1}, headers={"if-match": '"4"'})).status_code == 412
        assert (await client.get("/1")).json() == {"id": 1, "stock": 5, "revision": 5}
        for verb, path in (("POST", ""), ("PATCH", "/1"), ("PUT", "/1")):
            assert (await client.request(verb, path, json={"revision": 7})).status_code == 422


async def test_the_table_of_a_class_has_no_version_by_itself(engine: AsyncEngine) -> None:
    async with client_of(Item.__table__, engine) as client:
        assert (await client.post("", json={"ver": 7})).status_code == 201
    with pytest.raises(ConfigurationError, match="made here"):
        client_of(Item, engine, fields=Fields(writable=["revision"]))


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_version_that_nobody_can_count_is_told(engine: AsyncEngine) -> None:
    class Random(Base):
        __tablename__ = "random"
        metadata = MetaData()
        id: Mapped[int] = mapped_column(primary_key=True)
        ver: Mapped[int] = mapped_column()
        count: Mapped[int]
        __mapper_args__ = {"version_id_col": ver, "version_id_generator": lambda old: (old or 0) + 7}  # noqa: RUF012

    class Text(Base):
        __tablename__ = "text"
        metadata = MetaData()
        id: Mapped[int] = mapped_column(primary_key=True)
        ver: Mapped[str] = mapped_column()
        __mapper_args__ = {"version_id_col": ver}  # noqa: RUF012

    class Manual(Base):
        __tablename__ = "manual"
        metadata = MetaData()
        id: Mapped[int] = mapped_column(primary_key=True)
        ver: Mapped[int] = mapped_column()
        __mapper_args__ = {"version_id_col": ver, "version_id_generator": False}  # noqa: RUF012

    class Nullable(Base):
        __tablename__ = "nullable"
        metadata = MetaData()
        id: Mapped[int] = mapped_column(primary_key=True)
        ver: Mapped[int | None] = mapped_column()
        __mapper_args__ = {"version_id_col": ver}  # noqa: RUF012

    for cls in (Random, Text, Manual, Nullable):
        with pytest.raises(ConfigurationError, match=f"{cls.__name__} has a version_id_col, 'ver'"):
            client_of(cls, engine)
        client_of(cls.__table__, engine)
    client_of(Random, engine, version="count")


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_a_version_that_the_database_renews_is_left_to_it(engine: AsyncEngine) -> None:
    class Stamped(Base):
        __tablename__ = "stamped"
        metadata = MetaData()
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]
        ver: Mapped[str] = mapped_column(
            String(40), server_default=FetchedValue(), server_onupdate=FetchedValue()
        )
        __mapper_args__ = {"version_id_col": ver, "version_id_generator": False}  # noqa: RUF012

    async with engine.begin() as connection:
        await connection.run_sync(Stamped.metadata.create_all)
        for statement in (
            "CREATE FUNCTION renewed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.ver := gen_random_uuid(); RETURN new; END $$",
            "CREATE TRIGGER renewed BEFORE INSERT OR UPDATE ON stamped FOR EACH ROW EXECUTE FUNCTION renewed()",
        ):
            await connection.exec_driver_sql(statement)
    async with client_of(Stamped, engine) as client:
        seen = [(await client.post("", json={"name": "a"})).json()["ver"]]
        async with async_sessionmaker(engine)() as session:
            row = await session.get_one(Stamped, 1)
            for verb in ("PATCH", "PUT"):
                seen.append((await client.request(verb, "/1", json={"name": verb})).json()["ver"])  # noqa: PERF401
            assert len(set(seen)) == 3
            row.name = "b"
            with pytest.raises(StaleDataError):
                await session.flush()
        assert (await client.patch("/1", json={"ver": "x"})).status_code == 422


async def test_clients_make_rows_of_classes_that_there_are(engine: AsyncEngine) -> None:
    async with client_of(Staff, engine) as client:
        assert (await client.post("", json={"name": "a"})).json() == {"id": 1, "name": "a", "kind": "staff"}
        assert (await client.post("", json={"name": "b", "kind": "engineer"})).status_code == 201
        bogus: dict[str, Any] = {"name": "c", "kind": "bogus"}
        answers = [
            await client.post("", json=bogus), await client.patch("/1", json=bogus), await client.put("/1", json=bogus),
            await client.patch("/batch?all=true", json={"kind": "bogus"}), await client.post("?on_conflict=name", json=bogus),
            await client.post("?on_conflict=name", json={**bogus, "name": "a"}), await client.post("", json={**bogus, "kind": None}),
        ]  # fmt: skip
        assert [each.status_code for each in answers] == [422] * len(answers)
        assert answers[0].json()["errors"] == [
            {"field": "kind", "message": "Value error, must be one of 'staff', 'engineer'"}
        ]
        many = await client.post("/batch", json={"items": [{"name": "c"}, bogus]})
        assert (many.status_code, many.json()["errors"][0]["field"]) == (422, "items.1.kind")
        assert (await client.post("?on_conflict=name", json={"name": "d"})).json()["kind"] == "staff"
        assert (await client.patch("/1", json={"kind": "engineer"})).json()["kind"] == "engineer"
        assert (await client.put("/2", json={"name": "e"})).json()["kind"] == "staff"
        assert (await client.get("/count?filter=kind==bogus")).json() == {"count": 0}
    async with async_sessionmaker(engine)() as session:
        found = (await session.scalars(select(Staff).order_by(Staff.id))).all()
        assert [(row.name, type(row)) for row in found] == [("a", Engineer), ("e", Staff), ("d", Staff)]


async def test_a_hook_makes_rows_of_classes_that_there_are(engine: AsyncEngine) -> None:
    hooks = ResourceHooks(on_before_create=lambda ctx, data: {**data, "kind": data["name"]})
    async with client_of(Staff, engine, hooks=hooks, fields=Fields(writable=["name"])) as client:
        assert (await client.post("", json={"name": "engineer"})).json()["kind"] == "engineer"
        assert (await client.post("", json={"name": "bogus"})).status_code == 422
    async with client_of(Staff, engine, fields=Fields(writable=["name"])) as client:
        assert (await client.post("", json={"name": "x"})).json()["kind"] == "staff"
    async with client_of(Staff.__table__, engine) as client:
        assert (await client.post("", json={"name": "y", "kind": "bogus"})).status_code == 201


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
async def test_a_class_that_is_defined_after_the_resource(engine: AsyncEngine) -> None:
    resource = use_resource(Shape, session=async_sessionmaker(engine))

    class Triangle(Shape):
        __mapper_args__ = {"polymorphic_identity": 3}  # noqa: RUF012

    async with client_of(Shape, engine) as client:
        assert (await client.post("", json={"sides": 3})).status_code == 201
        for body in ({"sides": 4}, {"sides": None}, {}):
            assert (await client.post("", json=body)).status_code == 422, body
    async with async_sessionmaker(engine)() as session:
        assert [type(row) for row in (await session.scalars(select(Shape))).all()] == [Triangle]
    create = resource.openapi("/shapes")["components"]["schemas"]["shapes.Create"]
    assert create["properties"]["sides"]["enum"] == [3]
    staff = use_resource(Staff, session=async_sessionmaker(engine)).openapi()["components"]["schemas"]
    assert staff["staff.Create"]["properties"]["kind"]["enum"] == ["staff", "engineer"]
    assert "kind" not in staff["staff.Create"].get("required", [])
