"""Who may read and write which rows, over HTTP on SQLite and PostgreSQL; and which fields."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Column, Computed, ForeignKey, Integer, String, Table, func, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.requests import Request

from concave import ConfigurationError, HookContext, ResourceHooks
from concave_sqlalchemy import ALLOW, DENY, Fields, Scopes
from tests.sqlalchemy.support import client_of, database


class Base(DeclarativeBase):
    pass


class Team(Base):
    __tablename__ = "teams"
    id: Mapped[int] = mapped_column(primary_key=True)
    member: Mapped[str]


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(String(20))
    title: Mapped[str] = mapped_column(String(20), default="untitled")
    public: Mapped[bool] = mapped_column(default=False)
    team: Mapped[int | None] = mapped_column(ForeignKey("teams.id"))


parts = Table(
    "parts",
    Base.metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(20), nullable=False),
    Column("owner", String(20), nullable=False),
    Column("stock", Integer, nullable=False, default=3),
    Column("double", Integer, Computed("stock * 2", persisted=True)),
)

ROWS = [
    {"id": 1, "owner": "ada", "title": "a", "public": False, "team": None},
    {"id": 2, "owner": "bob", "title": "b", "public": False, "team": None},
    {"id": 3, "owner": "bob", "title": "c", "public": True, "team": None},
    {"id": 4, "owner": "bob", "title": "d", "public": False, "team": 1},
]


@pytest.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    async with database(request, tmp_path, Base.metadata) as engine:
        async with engine.begin() as connection:
            await connection.execute(insert(Team), [{"id": 1, "member": "ada"}])
            await connection.execute(insert(Note), ROWS)
            if engine.dialect.name == "postgresql":
                await connection.exec_driver_sql("SELECT setval('notes_id_seq', 100)")
        yield engine


@dataclass
class User:
    name: str


async def who(request: Request) -> User:
    return User(request.headers.get("x-user", "ada"))


def own(user: User) -> Any:
    return Note.owner == user.name


async def visible(user: User) -> Any:
    if user.name == "root":
        return ALLOW
    mine = select(Team.id).where(Team.id == Note.team, Team.member == user.name).exists()
    return (Note.owner == user.name) | Note.public | mine


OWN = Scopes(read=visible, create=own, update=own, delete=own)


def scoped(engine: AsyncEngine, scopes: Scopes = OWN, **options: Any) -> httpx.AsyncClient:
    return client_of(Note, engine, user=who, scopes=scopes, **options)


async def owners(engine: AsyncEngine) -> dict[int, str]:
    async with engine.connect() as connection:
        return {row.id: row.owner for row in await connection.execute(select(Note.id, Note.owner))}


async def test_what_is_outside_the_read_scope_is_not_there(engine: AsyncEngine) -> None:
    async with scoped(engine) as client:
        assert [item["id"] for item in (await client.get("")).json()["items"]] == [1, 3, 4]
        assert (await client.get("", headers={"x-user": "root"})).json()["items"] == ROWS
        assert (await client.get("?totalCount=true&limit=1")).json()["totalCount"] == 3
        assert (await client.get("/count")).json() == {"count": 3}
        # However the filter is written, it only takes away.
        for wide in ("id==2", 'id==2,owner=="bob"', "(id>0),(id<9)", "id>0,id>0", 'title=="x"),(id>0'):
            page = await client.get("", params={"filter": wide})
            assert page.status_code == (400 if wide.startswith("title") else 200)
            assert 2 not in [item["id"] for item in page.json().get("items", [])], wide
        groups = (await client.get("/aggregate?groupBy=owner&count=true&max=id")).json()["groups"]
        assert groups == [
            {"key": {"owner": "ada"}, "count": 1, "max": {"id": 1}},
            {"key": {"owner": "bob"}, "count": 2, "max": {"id": 4}},
        ]
        assert (await client.get("/2")).status_code == 404
        assert (await client.get("/4?select=id")).json() == {"id": 4}


async def test_a_cursor_of_another_user_shows_no_more(engine: AsyncEngine) -> None:
    async with scoped(engine, secret="x") as client:
        first = (await client.get("?limit=1", headers={"x-user": "root"})).json()
        page = (await client.get(f"?limit=5&cursor={first['nextCursor']}")).json()
        assert [item["id"] for item in page["items"]] == [3, 4]


async def test_a_row_outside_the_scope_of_a_write_is_404_and_untouched(engine: AsyncEngine) -> None:
    ran: list[Any] = []
    hooks = ResourceHooks(
        on_before_update=lambda ctx, key, data: ran.append(key), on_before_delete=lambda ctx, key: ran.append(key)
    )  # fmt: skip
    async with scoped(engine, hooks=hooks) as client:
        for path in ("/2", "/3", "/4", "/99"):
            for answer in (
                await client.patch(path, json={"title": "x"}),
                await client.put(path, json={"owner": "ada"}),
                await client.delete(path),
            ):
                assert (answer.status_code, answer.json()["detail"]) == (404, "there is no such row")
        assert (await client.patch("/1", json={"title": "x"})).json()["title"] == "x"
        assert (await client.delete("/1")).status_code == 204
        # Its own rows a user may update or delete only where it also sees them.
        blind = Scopes(read=DENY, update=ALLOW, delete=ALLOW)
    async with scoped(engine, blind, hooks=hooks) as client:
        assert (await client.patch("/2", json={"title": "x"})).status_code == 404
        assert (await client.delete("/2")).status_code == 404
    assert ran == [1, 1]
    assert await owners(engine) == {2: "bob", 3: "bob", 4: "bob"}


async def test_a_row_cannot_leave_its_scope_nor_be_made_outside_of_it(engine: AsyncEngine) -> None:
    tasks: list[Any] = []
    hooks = ResourceHooks(
        on_after_create=lambda ctx, row: tasks.append(row), on_after_update=lambda ctx, row: tasks.append(row)
    )
    async with scoped(engine, hooks=hooks) as client:
        for answer in (
            await client.post("", json={"owner": "bob"}),
            await client.patch("/1", json={"owner": "bob"}),
            await client.put("/1", json={"owner": "bob", "public": True}),
        ):
            assert (answer.status_code, answer.json()["code"]) == (403, "FORBIDDEN")
        assert tasks == []
        assert (await client.get("/count")).json() == {"count": 3}
        assert (await client.post("", json={"owner": "ada"})).status_code == 201
    # Out of sight is out of scope too.
    async with scoped(engine, Scopes(read=own, update=ALLOW)) as client:
        assert (await client.patch("/1", json={"owner": "bob"})).status_code == 403
    assert (await owners(engine))[1] == "ada"


async def test_what_a_hook_makes_of_a_row_is_within_the_scope_too(engine: AsyncEngine) -> None:
    def claim(ctx: HookContext, data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "owner": ctx.user.name}

    async with scoped(engine, hooks=ResourceHooks(on_before_create=claim)) as client:
        assert (await client.post("", json={"owner": "bob"})).json()["owner"] == "ada"
    taken = ResourceHooks(on_before_update=lambda ctx, key, data: {**data, "owner": "bob"})
    async with scoped(engine, hooks=taken) as client:
        assert (await client.patch("/1", json={"title": "x"})).status_code == 403


async def test_a_scope_that_is_left_out_denies(engine: AsyncEngine) -> None:
    async with scoped(engine, Scopes()) as client:
        assert (await client.get("")).json() == {"items": [], "nextCursor": None, "hasMore": False}
        assert (await client.get("/count")).json() == {"count": 0}
        assert (await client.get("/aggregate?count=true")).json() == {"groups": [{"key": None, "count": 0}]}
        assert (await client.get("/1")).status_code == 404
        assert (await client.post("", json={"owner": "ada"})).status_code == 403
        assert (await client.patch("/1", json={"title": "x"})).status_code == 404
        assert (await client.delete("/1")).status_code == 404
    # A letter box: who drops a letter doesn't read the others, nor what was made of it.
    async with scoped(engine, Scopes(create=ALLOW)) as client:
        dropped = await client.post("", json={"owner": "eve"})
        assert (dropped.status_code, list(dropped.json())) == (201, ["id"])
        assert (await client.get("")).json()["items"] == []
    assert len(await owners(engine)) == 5


@pytest.mark.parametrize("rule", [None, True, False, "owner == 'ada'", lambda user: user.name == "ada"])
async def test_a_scope_that_says_nothing_a_database_understands_shows_nothing(
    engine: AsyncEngine, rule: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with scoped(engine, Scopes(read=rule, create=rule)) as client:
        for answer in (
            await client.get(""),
            await client.get("/1"),
            await client.post("", json={"owner": "ada"}),
        ):
            assert answer.status_code == 500
            assert "owner" not in answer.text
    assert "gives a SQLAlchemy expression, ALLOW or DENY" in caplog.text
    assert len(await owners(engine)) == 4


async def test_only_writable_fields_are_set(engine: AsyncEngine) -> None:
    def supply(ctx: HookContext, *given: Any) -> dict[str, Any]:
        return {**given[-1], "owner": "hook"}

    fields = Fields(writable=["name"])
    hooks = ResourceHooks(on_before_create=supply, on_before_update=supply)
    async with client_of(parts, engine, fields=fields, hooks=hooks) as client:
        made = (await client.post("", json={"name": "a"})).json()
        assert made == {"id": 1, "name": "a", "owner": "hook", "stock": 3, "double": 6}
        for field, value in (("stock", 5), ("owner", "me"), ("double", 5), ("id", 7)):
            for answer in (
                await client.post("", json={"name": "a", field: value}),
                await client.patch("/1", json={field: value}),
                await client.put("/1", json={"name": "a", field: value}),
            ):
                assert answer.status_code == 422
                assert [each["field"] for each in answer.json()["errors"]] == [field]
        async with engine.begin() as connection:
            await connection.execute(parts.update().values(stock=9))
        # PUT puts in place what its client could have given.
        assert (await client.put("/1", json={"name": "b"})).json()["stock"] == 9
    async with client_of(parts, engine, fields=fields) as client:
        missing = await client.post("", json={"name": "a"})
        assert (missing.status_code, missing.json()["errors"][0]["field"]) == (422, "owner")
        assert (await client.get("/count")).json() == {"count": 1}


async def test_a_key_that_is_named_writable_is_the_clients(engine: AsyncEngine) -> None:
    async with client_of(parts, engine, fields=Fields(writable=["id", "name", "owner"])) as client:
        row = (await client.post("", json={"id": 70, "name": "a", "owner": "me"})).json()
        assert row["id"] == 70
        assert (await client.patch("/70", json={"id": 71})).status_code == 422
    for wrong in (["double"], ["nope"], "name"):
        with pytest.raises(ConfigurationError):
            client_of(parts, engine, fields=Fields(writable=wrong))
    async with engine.connect() as connection:
        assert (await connection.execute(select(func.count()).select_from(parts))).scalar_one() == 1
