"""Options name fields as text or as attributes: the same resource, or an error that says what isn't one."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import ForeignKey
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from concave import ConfigurationError, TaskTrigger, create_task_trigger_hooks, define_task, initialize_tasks
from concave.kv import MemoryKV
from concave_sqlalchemy import Fields, use_resource
from tests.sqlalchemy.support import client_of, database


class Base(DeclarativeBase): ...


class Team(Base):
    __tablename__ = "teams"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column("mail", unique=True)
    name: Mapped[str | None]
    version: Mapped[int] = mapped_column(default=1)
    team_id: Mapped[int | None] = mapped_column(ForeignKey("teams.id"))
    team: Mapped[Team | None] = relationship()

    @hybrid_property
    def shouted(self) -> str:
        return self.email + "!"


@define_task(name="note")
async def note(ctx: Any, entry: Any) -> None: ...


@pytest.fixture(params=["sqlite"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    async with database(request, tmp_path, Base.metadata) as engine:
        yield engine


async def test_attributes_are_as_good_as_names(engine: AsyncEngine) -> None:
    fields = Fields(
        readable=[User.id, User.email, "name", User.version],
        writable={User.email, User.name},
        filterable=(User.email,),
        sortable=[User.email, "id"],
    )
    triggers = [TaskTrigger(note, fields={User.email}, transform=lambda row: row["email"])]
    hooks = create_task_trigger_hooks(on_update=triggers)
    async with (
        MemoryKV() as kv,
        client_of(User, engine, id=User.email, version=User.version, fields=fields, hooks=hooks) as client,
    ):
        scheduler = initialize_tasks(kv)
        made = await client.post("", json={"email": "a", "name": "x"})
        assert (made.status_code, made.headers["location"], made.headers["etag"]) == (201, "/t/a", '"1"')
        assert set(made.json()) == {"id", "email", "name", "version"}
        assert (await client.get("?filter=email==a&orderBy=email")).json()["items"] == [made.json()]
        assert (await client.get("?filter=name==x")).status_code == 400
        assert (await client.patch("/a", json={"name": "y"})).headers["etag"] == '"2"'
        assert await scheduler.get_tasks() == []
    table: Any = User.__table__
    by_column = use_resource(
        table, session=async_sessionmaker(engine), id=table.c.mail, fields=Fields(readable=[table.c.mail])
    )
    assert set(by_column.openapi("/u")["components"]["schemas"]["u.Row"]["properties"]) == {"mail"}


async def test_a_change_of_an_attribute_fires(engine: AsyncEngine) -> None:
    triggers = [TaskTrigger(note, fields=[User.name], transform=lambda row: row["name"])]
    hooks = create_task_trigger_hooks(on_update=triggers)
    async with MemoryKV() as kv, client_of(User, engine, hooks=hooks) as client:
        scheduler = initialize_tasks(kv)
        await client.post("", json={"email": "a", "name": "x"})
        await client.patch("/1", json={"email": "b"})
        await client.patch("/1", json={"name": "y"})
        assert [task.input for task in await scheduler.get_tasks()] == ["y"]


@pytest.mark.parametrize("wrong", [Team.email, User.team, "mail", 5, User, User.shouted])
def test_what_is_no_field_of_the_table_is_refused(wrong: Any) -> None:
    sessions = async_sessionmaker()
    every: tuple[dict[str, Any], ...] = (
        {"id": wrong},
        {"version": wrong},
        {"fields": Fields(readable=["id", wrong])},
        {"fields": Fields(writable=[wrong])},
        {"fields": Fields(filterable=[wrong])},
        {"fields": Fields(sortable=wrong)},
    )
    for options in every:
        with pytest.raises(ConfigurationError) as told:
            use_resource(User, session=sessions, **options)
        assert (str(wrong) if not isinstance(wrong, str) else repr(wrong)) in str(told.value)


@pytest.mark.parametrize("wrong", ["email", User.email, [5], [], 5])
def test_a_trigger_takes_several_names(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="names of columns"):
        TaskTrigger(note, fields=wrong)
