"""Idempotency-Key over HTTP, on SQLite and PostgreSQL: carried out once, answered again."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import (
    Column,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from starlette.authentication import SimpleUser
from starlette.requests import Request

from concave import (
    ConfigurationError,
    HookContext,
    ResourceHooks,
    TaskTrigger,
    create_task_trigger_hooks,
    define_task,
    initialize_tasks,
)
from concave.kv import MemoryKV
from concave.tasks.scheduler import TaskScheduler
from concave.testing import fail_at
from concave_sqlalchemy import use_resource
from concave_sqlalchemy.idempotency import _identity
from concave_sqlalchemy.outbox import Outbox
from concave_sqlalchemy.tables import database_time, idempotency_table
from tests.sqlalchemy.support import client_for, client_of, database

metadata = MetaData()
orders = Table(
    "orders",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("item", String(20), nullable=False),
    Column("version", Integer, nullable=False),
)


@define_task(name="note")
async def note(ctx: Any, entry: Any) -> None: ...


@pytest.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    async with database(request, tmp_path, metadata) as engine:
        yield engine


@pytest.fixture
async def scheduler() -> AsyncGenerator[TaskScheduler]:
    async with MemoryKV() as kv:
        yield initialize_tasks(kv)


def who(request: Request) -> Any:
    return {"id": request.headers["x-user"]} if "x-user" in request.headers else None


async def count(engine: AsyncEngine, table: Table) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(select(func.count()).select_from(table))).scalar_one())


def same(one: httpx.Response, other: httpx.Response) -> bool:
    return (one.status_code, one.content, one.headers) == (other.status_code, other.content, other.headers)


KEY = {"idempotency-key": "k1"}
APPLE = {"item": "apple"}
RECORD: dict[str, Any] = {"fingerprint": "", "status": 200, "headers": "{}", "body": b"", "expires_at": 1.0}


async def test_what_is_sent_again_is_answered_again_and_done_once(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    triggers = [TaskTrigger(note)]
    hooks = create_task_trigger_hooks(on_create=triggers, on_update=triggers, on_delete=triggers)
    requests: list[tuple[str, str, Any]] = [
        ("POST", "", APPLE),
        ("PATCH", "/1", {"item": "pear"}),
        ("PUT", "/1", {"item": "plum"}),
        ("POST", "/batch", {"items": [APPLE, APPLE]}),
        ("PATCH", "/batch?filter=id>1", {"item": "fig"}),
        ("DELETE", "/batch?filter=id>2", None),
        ("DELETE", "/1", None),
    ]
    async with client_of(orders, engine, hooks=hooks, version="version") as client:
        for number, (method, path, body) in enumerate(requests):
            headers = {"idempotency-key": f"key {number}"}
            first = await client.request(method, path, json=body, headers=headers)
            assert first.is_success, first.text
            done = len(await scheduler.get_tasks(limit=100))
            again = await client.request(method, path, json=body, headers=headers)
            assert same(first, again), (method, path)
            assert len(await scheduler.get_tasks(limit=100)) == done
        assert [row["item"] for row in (await client.get("")).json()["items"]] == ["fig"]
    assert await count(engine, idempotency_table) == len(requests)


async def test_a_key_is_good_for_one_request(engine: AsyncEngine) -> None:
    async with client_of(orders, engine, version="version") as client:
        await client.post("", json=APPLE, headers=KEY)
        for answer in (
            await client.post("", json={"item": "pear"}, headers=KEY),
            await client.put("/1", json=APPLE, headers=KEY),
            await client.patch("/1", json=APPLE, headers=KEY),
            await client.delete("/batch?all=true", headers=KEY),
        ):
            assert (answer.status_code, answer.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
        for wrong in ("", " ", "x" * 256, "é", "a\tb"):
            answer = await client.post("", json=APPLE, headers=[(b"idempotency-key", wrong.encode())])
            assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "idempotency-key"), (
                wrong
            )
        twice = await client.post(
            "", json=APPLE, headers=[("idempotency-key", "a"), ("idempotency-key", "b")]
        )
        assert twice.status_code == 400
        assert (await client.post("", json=APPLE, headers={"idempotency-key": '"k1"'})).json()["id"] == 1
        assert (await client.get("", headers=KEY)).status_code == 200
        assert (await client.get("/count")).json() == {"count": 1}


async def test_nobody_is_answered_what_was_another_users(engine: AsyncEngine) -> None:
    async with client_of(orders, engine, version="version", user=who) as client:
        users: list[dict[str, str]] = [
            {"x-user": "ada"}, {"x-user": "bob"}, {}, {"authorization": "Bearer a"}, {"authorization": "Bearer b"},
        ]  # fmt: skip
        ids = [(await client.post("", json=APPLE, headers={**KEY, **user})).json()["id"] for user in users]
        assert ids == [1, 2, 3, 4, 5]
        # A user that is known by an id may have got a new token in between.
        renewed = {**KEY, "x-user": "ada", "authorization": "Bearer new"}
        assert (await client.post("", json=APPLE, headers=renewed)).json()["id"] == 1


class Account:
    """A user as an ORM or a framework has it: by attributes, and nothing that JSON knows."""

    def __init__(self, **names: Any) -> None:
        vars(self).update(names)


@dataclass
class Member:
    name: str
    roles: frozenset[str]


@pytest.mark.parametrize(
    "users",
    [
        [{"id": 1, "email": "same"}, {"id": 2, "email": "same"}],
        [{"sub": "ada"}, {"sub": "bob"}],
        [{"tenant": 1, "roles": {"a", "b"}}, {"tenant": 2, "roles": {"a", "b"}}],
        [{"tenant": 1, "username": "admin"}, {"tenant": 2, "username": "admin"}],
        [Member("ada", frozenset({"a", "b", "c"})), Member("bob", frozenset({"a", "b", "c"}))],
        [SimpleUser("ada"), SimpleUser("bob")],
        [Account(email="ada@example.com"), Account(email="bob@example.com")],
        ["ada", "bob"],
        [1, 2],
    ],
)
async def test_users_are_told_apart_by_whatever_names_them(engine: AsyncEngine, users: list[Any]) -> None:
    current: list[Any] = []
    async with client_of(orders, engine, version="version", user=lambda request: current[-1]) as client:
        for expected, user in [(1, users[0]), (2, users[1]), (1, users[0])]:
            current.append(user)
            # A session's cookie may be another one for each request: who has a name is not known by it.
            shown = {**KEY, "cookie": f"session={len(current)}"}
            assert (await client.post("", json=APPLE, headers=shown)).json()["id"] == expected


def test_users_are_the_same_in_each_process() -> None:
    """Sets have another order in each."""
    found = {
        subprocess.run(
            [sys.executable, "-c", "from tests.sqlalchemy import test_idempotency as t; t.show_identity()"],
            env={**os.environ, "PYTHONHASHSEED": str(seed)}, check=True, capture_output=True, text=True,
        ).stdout
        for seed in range(3)
    }  # fmt: skip
    assert len(found) == 1


def show_identity() -> None:
    roles = frozenset("abcdefgh")
    print(_identity(Member("ada", roles), {}), _identity({"roles": set(roles)}, {}))


class Base(DeclarativeBase): ...


class Person(Base):
    __tablename__ = "persons"
    number: Mapped[int] = mapped_column(primary_key=True)
    boss_number: Mapped[int | None] = mapped_column(ForeignKey("persons.number"))
    boss: Mapped["Person | None"] = relationship(remote_side="Person.number")


async def test_a_mapped_user_is_known_by_its_key_and_nothing_is_loaded_for_that(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with async_sessionmaker(engine, expire_on_commit=False)() as session:
        session.add_all([Person(number=1), Person(number=2, boss_number=1)])
        await session.commit()
        users = [await session.get_one(Person, 1), await session.get_one(Person, 2)]
        current: list[Person] = []
        async with client_of(orders, engine, version="version", user=lambda request: current[-1]) as client:
            for expected, user in [(1, users[0]), (2, users[1]), (1, users[0])]:
                current.append(user)
                shown = {**KEY, "cookie": f"session={len(current)}"}
                assert (await client.post("", json=APPLE, headers=shown)).json()["id"] == expected


async def test_users_without_a_name_are_told_apart_by_their_cookies(engine: AsyncEngine) -> None:
    async with client_of(orders, engine, version="version", user=lambda request: Account()) as client:
        for expected, cookie in [(1, "session=a"), (2, "session=b"), (1, "session=a")]:
            made = await client.post("", json=APPLE, headers={**KEY, "cookie": cookie})
            assert made.json()["id"] == expected


async def test_what_was_rolled_back_is_tried_anew(engine: AsyncEngine) -> None:
    tries: list[int] = []

    def after(ctx: HookContext, row: Any) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("no")

    hooks = ResourceHooks(on_after_create=after)
    async with client_of(orders, engine, version="version", hooks=hooks) as client:
        assert [(await client.post("", json=APPLE, headers=KEY)).status_code for _ in range(3)] == [
            500,
            201,
            201,
        ]
        with fail_at("write.flushed", RuntimeError("the process dies before the commit")):
            assert (await client.post("", json=APPLE, headers={"idempotency-key": "k2"})).status_code == 500
        assert await count(engine, orders) == await count(engine, idempotency_table) == 1


async def test_an_answer_that_was_lost_is_given_again(engine: AsyncEngine) -> None:
    async with client_of(orders, engine, version="version") as client:
        with fail_at("write.committed", RuntimeError("the process dies after the commit")):
            assert (await client.post("", json=APPLE, headers=KEY)).status_code == 500
        again = await client.post("", json=APPLE, headers=KEY)
        assert (again.status_code, again.json()["item"], again.headers["etag"]) == (201, "apple", '"1"')
        assert (await client.get("/count")).json() == {"count": 1}


async def test_while_the_first_is_under_way_another_is_409(engine: AsyncEngine) -> None:
    entered, released = asyncio.Event(), asyncio.Event()

    async def hold(ctx: HookContext, data: Any) -> None:
        entered.set()
        await released.wait()

    hooks = ResourceHooks(on_before_create=hold)
    sessions = async_sessionmaker(engine)
    async with client_for(use_resource(orders, session=sessions, hooks=hooks, version="version")) as client:
        first = asyncio.create_task(client.post("", json=APPLE, headers=KEY))
        await entered.wait()
        second = await client.post("", json=APPLE, headers=KEY)
        assert (second.status_code, second.json()["code"]) == (409, "IDEMPOTENCY_IN_FLIGHT")
        assert second.headers["retry-after"] == "1"
        # Another process knows of it by the database alone: SQLite's has to wait for its turn.
        async with client_for(use_resource(orders, session=sessions, version="version")) as elsewhere:
            third = asyncio.create_task(elsewhere.post("", json=APPLE, headers=KEY))
            if engine.dialect.name == "postgresql":
                assert (await third).status_code == 409
            released.set()
            if engine.dialect.name == "sqlite":
                assert same(await third, await first)
        assert (await first).status_code == 201
        assert same(await client.post("", json=APPLE, headers=KEY), await first)
        assert (await client.get("/count")).json() == {"count": 1}


async def test_of_many_with_one_key_one_is_carried_out(engine: AsyncEngine) -> None:
    sessions = async_sessionmaker(engine)
    resources = [use_resource(orders, session=sessions, version="version") for _ in range(4)]
    clients = [client_for(resource) for resource in resources]
    answers = await asyncio.gather(*(client.post("", json=APPLE, headers=KEY) for client in clients * 5))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.content for answer in answers if answer.status_code == 201}) == 1
    assert await count(engine, orders) == 1
    for client in clients:
        await client.aclose()


async def test_records_expire_and_are_swept(engine: AsyncEngine, scheduler: TaskScheduler) -> None:
    resource = use_resource(orders, session=async_sessionmaker(engine), version="version", idempotency_ttl=60)
    async with client_for(resource) as client:
        for key in ("old", "older", "young"):
            await client.post("", json=APPLE, headers={"idempotency-key": key})
        async with engine.begin() as connection:
            left = select(idempotency_table.c.expires_at - database_time())
            assert all(0 < each <= 60 for each in (await connection.execute(left)).scalars())
            await connection.execute(update(idempotency_table).values(expires_at=0.0))
        # It doesn't matter whether it was swept already.
        assert (await client.post("", json=APPLE, headers={"idempotency-key": "young"})).json()["id"] == 4
        await resource._outbox.sweep(scheduler.submit)
        assert await count(engine, idempotency_table) == 1
        assert (await client.post("", json=APPLE, headers={"idempotency-key": "young"})).json()["id"] == 4
    for wrong in (0, -1, float("nan"), "day"):
        with pytest.raises(ConfigurationError):
            client_of(orders, engine, idempotency_ttl=wrong)


async def test_expired_records_go_with_later_writes(engine: AsyncEngine) -> None:
    records = [dict(RECORD, id=f"old {number}") for number in range(150)] + [
        dict(RECORD, id="young", expires_at=1e12)
    ]
    async with client_of(orders, engine, version="version") as client:
        async with engine.begin() as connection:
            await connection.execute(insert(idempotency_table), records)
        left = [await count(engine, idempotency_table)]
        for number in range(64):
            made = await client.post("", json=APPLE, headers={"idempotency-key": f"{number}"})
            assert made.status_code == 201
            left.append(await count(engine, idempotency_table))
        # Each write adds one; now and then some go, and never more than a hundred at once.
        gone = [before + 1 - after for before, after in pairwise(left) if after <= before]
        assert gone == [100, 50]
        async with engine.connect() as connection:
            ids = set((await connection.execute(select(idempotency_table.c.id))).scalars())
        assert "young" in ids
        assert len(ids) == 65


async def test_an_expired_record_that_is_locked_is_left_to_who_has_it(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("has one writer at a time")
    resource = use_resource(orders, session=async_sessionmaker(engine), version="version")
    async with engine.begin() as connection:
        await connection.execute(
            insert(idempotency_table), [dict(RECORD, id="held"), dict(RECORD, id="free")]
        )
    held = idempotency_table.c.id == "held"
    async with client_for(resource) as client, engine.begin() as other:
        await other.execute(update(idempotency_table).where(held).values(status=201))
        for number in range(64):
            await client.post("", json=APPLE, headers={"idempotency-key": f"{number}"})
        assert await count(engine, idempotency_table) == 65
        await resource._outbox.sweep(scheduler.submit)
        assert await count(engine, idempotency_table) == 65
    await resource._outbox.sweep(scheduler.submit)
    assert await count(engine, idempotency_table) == 64


async def test_a_write_does_not_fail_for_an_expired_record_that_went_since_its_snapshot(
    engine: AsyncEngine,
) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("has one writer at a time")

    async def after(ctx: HookContext, row: dict[str, Any]) -> None:
        async with engine.begin() as other:
            await other.execute(delete(idempotency_table).where(idempotency_table.c.id == "old"))

    repeatable = engine.execution_options(isolation_level="REPEATABLE READ")
    resource = use_resource(
        orders,
        session=async_sessionmaker(repeatable),
        version="version",
        hooks=ResourceHooks(on_after_create=after),
    )
    async with client_for(resource) as client:
        for number in range(64):  # one in sixteen takes what has expired along
            async with engine.begin() as connection:
                await connection.execute(insert(idempotency_table), dict(RECORD, id="old"))
            made = await client.post("", json=APPLE, headers={"idempotency-key": f"{number}"})
            assert made.status_code == 201, made.text
    assert await count(engine, idempotency_table) == 64


async def test_without_its_table_it_is_explained(
    engine: AsyncEngine, scheduler: TaskScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(idempotency_table.drop)
    async with client_of(orders, engine, version="version") as client:
        assert (await client.post("", json=APPLE, headers=KEY)).status_code == 500
        assert "create_outbox_tables(engine)" in caplog.text
        assert (await client.post("", json=APPLE)).status_code == 201
    assert await Outbox(async_sessionmaker(engine)).sweep(scheduler.submit) == 0
