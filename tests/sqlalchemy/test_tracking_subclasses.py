"""Tracked classes with subclasses, and objects that take each other's place, on both databases."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import ForeignKey, String
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from concave import ResourceHooks
from concave_sqlalchemy import track_session
from tests.sqlalchemy.support import database

Row = dict[str, Any]


class Base(DeclarativeBase):
    pass


class Worker(Base):
    __tablename__ = "workers"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(9), default="plain")
    name: Mapped[str] = mapped_column(String(9), default="n")
    __mapper_args__ = {"polymorphic_on": kind, "polymorphic_identity": "plain"}  # noqa: RUF012


class Boss(Worker):
    """In the same table."""

    bonus: Mapped[int | None]
    __mapper_args__ = {"polymorphic_identity": "boss"}  # noqa: RUF012


class Engineer(Worker):
    """In a table that is joined."""

    __tablename__ = "engineers"
    id: Mapped[int] = mapped_column(ForeignKey("workers.id"), primary_key=True)
    skill: Mapped[str] = mapped_column(String(9))
    __mapper_args__ = {"polymorphic_identity": "engineer"}  # noqa: RUF012


class Driver(Worker):
    """In a table that is joined, by a key of another name."""

    __tablename__ = "drivers"
    driver_id: Mapped[int] = mapped_column(ForeignKey("workers.id"), primary_key=True)
    licence: Mapped[str] = mapped_column(String(9))
    __mapper_args__ = {"polymorphic_identity": "driver"}  # noqa: RUF012


class Robot(Worker):
    """In a table of its own."""

    __tablename__ = "robots"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(9), default="robot")
    name: Mapped[str] = mapped_column(String(9), default="r")
    model: Mapped[str] = mapped_column(String(9))
    __mapper_args__ = {"concrete": True, "polymorphic_identity": "robot"}  # noqa: RUF012


class Shelf(Base):
    __tablename__ = "shelves"
    id: Mapped[int] = mapped_column(primary_key=True)
    books: Mapped[list["Book"]] = relationship(cascade="all, delete-orphan")


class Book(Base):
    __tablename__ = "books"
    isbn: Mapped[str] = mapped_column(String(9), primary_key=True)
    title: Mapped[str] = mapped_column(String(9))
    shelf_id: Mapped[int | None] = mapped_column(ForeignKey("shelves.id"))


@pytest.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    async with database(request, tmp_path, Base.metadata) as engine:
        yield engine


def tracked(engine: AsyncEngine, *classes: type[Any], deletes: bool = True) -> tuple[Any, list[Any]]:
    """Sessions, and what hooks are told, as (event, table, row, previous)."""
    seen: list[Any] = []

    def tell(event: str) -> Any:
        return lambda ctx, row: seen.append((event, ctx.resource, row, ctx.previous))

    hooks = ResourceHooks(
        on_after_create=tell("create"),
        on_after_update=tell("update"),
        on_after_delete=tell("delete") if deletes else None,
    )
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    track_session(sessions, dict.fromkeys(classes, hooks))
    return sessions, seen


@pytest.mark.parametrize(
    "new,column,table",
    [
        (lambda: Boss(bonus=1), "bonus", "workers"),
        (lambda: Engineer(skill="1"), "skill", "workers"),
        (lambda: Driver(licence="1"), "licence", "workers"),
        (lambda: Robot(model="1"), "model", "robots"),
    ],
)
async def test_columns_that_only_a_subclass_maps(
    engine: AsyncEngine, new: Any, column: str, table: str
) -> None:
    sessions, seen = tracked(engine, Worker)
    one = new()
    before = getattr(one, column)
    after = type(before)(2)
    async with sessions.begin() as session:
        session.add_all([Worker(name="other"), one])
    seen.clear()
    async with sessions.begin() as session:
        found = await session.get(type(one), one.id)
        setattr(found, column, after)
    async with sessions.begin() as session:
        await session.delete(await session.get(type(one), one.id))
    (updated, table_of_update, row, previous), (deleted, *_, gone, _) = seen
    assert (updated, table_of_update, deleted) == ("update", table, "delete")
    assert list(row)[:3] == ["id", "kind", "name"]
    assert (previous[column], row[column], gone[column]) == (before, after, after)
    assert {**previous, column: after} == row == gone


async def test_a_row_of_the_base_has_the_bases_columns(engine: AsyncEngine) -> None:
    sessions, seen = tracked(engine, Worker)
    async with sessions.begin() as session:
        session.add(Worker())
        session.add(Boss(bonus=None))
        session.add(Engineer(skill="c"))
    assert sorted((row["kind"], *sorted(row)) for _, _, row, _ in seen) == [
        ("boss", "bonus", "id", "kind", "name"),
        ("engineer", "id", "kind", "name", "skill"),
        ("plain", "id", "kind", "name"),
    ]


async def test_a_subclass_that_is_declared_later(engine: AsyncEngine) -> None:
    sessions, seen = tracked(engine, Worker)

    # Each class has a name and an identity of its own: those of the other database's test are still there.
    name = f"on_{engine.dialect.name[:6]}"
    late: Any = type(name, (Worker,), {"__mapper_args__": {"polymorphic_identity": name}})
    async with sessions.begin() as session:
        session.add(late(name="late"))
    assert [(event, row["kind"], row["name"]) for event, _, row, _ in seen] == [("create", name, "late")]


@pytest.mark.parametrize("deletes", [True, False])
async def test_an_object_in_place_of_a_deleted_one_is_an_update_of_its_row(
    engine: AsyncEngine, deletes: bool
) -> None:
    sessions, seen = tracked(engine, Book, deletes=deletes)
    async with sessions.begin() as session:
        session.add(Book(isbn="1", title="old"))
    seen.clear()
    async with sessions.begin() as session:
        await session.delete(await session.get(Book, "1"))
        session.add(Book(isbn="1", title="new"))
    ((event, _, row, previous),) = seen
    assert (event, previous["title"], row["title"]) == ("update", "old", "new")
    async with sessions.begin() as session:
        await session.delete(await session.get(Book, "1"))
        session.add(Book(isbn="1", title="new"))
    assert len(seen) == 1  # nothing has changed


async def test_an_object_in_place_of_an_orphan(engine: AsyncEngine) -> None:
    sessions, seen = tracked(engine, Book)
    async with sessions.begin() as session:
        session.add(Shelf(id=1, books=[Book(isbn="1", title="old")]))
    seen.clear()
    async with sessions.begin() as session:
        shelf = await session.get(Shelf, 1)
        await session.refresh(shelf, ["books"])
        shelf.books = [Book(isbn="1", title="new")]
    ((event, _, row, previous),) = seen
    assert (event, previous["title"], row["title"]) == ("update", "old", "new")
