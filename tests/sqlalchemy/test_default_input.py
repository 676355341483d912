"""The default input of a trigger, whatever a row holds: told as GET shows it where JSON has nothing for it, on both databases."""

import datetime as dt
import decimal
import enum
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    ARRAY,
    JSON,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    String,
    TypeDecorator,
    insert,
)
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from concave import (
    HookContext,
    ResourceHooks,
    TaskTrigger,
    compose_hooks,
    create_task_trigger_hooks,
    define_task,
    initialize_tasks,
)
from concave.kv import MemoryKV
from concave.tasks.scheduler import TaskScheduler
from concave_sqlalchemy import Fields, track_session
from concave_sqlalchemy.outbox import Outbox
from tests.sqlalchemy.support import client_of, database

INFINITE = float("inf")


class Money:
    def __init__(self, amount: int) -> None:
        self.amount = amount

    def __str__(self) -> str:
        return f"{self.amount} EUR"


class MoneyType(TypeDecorator[Any]):
    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return value.amount if isinstance(value, Money) else value

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return None if value is None else Money(value)


class Digest(TypeDecorator[Any]):
    """Bytes that are text in the database."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return value.decode() if isinstance(value, bytes) else value

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return None if value is None else value.encode()


class Color(enum.Enum):
    RED = "r"


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "things"
    id: Mapped[int] = mapped_column(primary_key=True)
    blob: Mapped[bytes | None]
    secret: Mapped[bytes | None]
    ratio: Mapped[float | None] = mapped_column(Float)
    price: Mapped[Any] = mapped_column(MoneyType, nullable=True)
    digest: Mapped[Any] = mapped_column(Digest, nullable=True)
    at: Mapped[dt.datetime | None]
    exact: Mapped[decimal.Decimal | None] = mapped_column(Numeric(12, 2))
    token: Mapped[uuid.UUID | None]
    color: Mapped[Color | None]
    span: Mapped[dt.timedelta | None]
    doc: Mapped[Any] = mapped_column(JSON, nullable=True)


class ArrayBase(DeclarativeBase):
    pass


class Bag(ArrayBase):
    __tablename__ = "bags"
    id: Mapped[int] = mapped_column(primary_key=True)
    blobs: Mapped[Any] = mapped_column(ARRAY(LargeBinary))


@define_task(name="told")
async def told(ctx: Any, entry: Any) -> None: ...


@define_task(name="told-dict")
async def told_dict(ctx: Any, entry: dict[str, Any]) -> None: ...


TASKS = (TaskTrigger(told), TaskTrigger(told_dict), TaskTrigger(told, key=lambda row: row["id"]))
EVERY = create_task_trigger_hooks(on_create=TASKS, on_update=TASKS, on_delete=TASKS)
ODD = {
    "blob": b"\xff\xfe",
    "secret": b"abc",
    "ratio": INFINITE,
    "price": 3,
    "digest": "abc",
}
PLAIN = {
    "at": "2026-01-02T03:04:05",
    "exact": "1.50",
    "token": str(uuid.UUID(int=1)),
    "color": "r",
    "span": "P1DT2H",
    "doc": {"a": [1, None]},
}


@pytest.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    tables = MetaData()
    every = [Base.metadata, ArrayBase.metadata] if request.param == "postgresql" else [Base.metadata]
    for metadata in every:
        for table in metadata.tables.values():
            table.to_metadata(tables)
    async with database(request, tmp_path, tables) as engine:
        yield engine


@pytest.fixture
async def scheduler() -> AsyncGenerator[TaskScheduler]:
    async with MemoryKV() as kv:
        yield initialize_tasks(kv)


async def inputs(scheduler: TaskScheduler, engine: AsyncEngine) -> list[Any]:
    await Outbox.of(async_sessionmaker(engine)).sweep(scheduler.submit)
    return [task.input for task in await scheduler.get_tasks()]


async def test_any_row_may_be_written_and_is_told_of_as_it_is_shown(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    async with engine.begin() as connection:
        await connection.execute(insert(Thing).values(id=1, **ODD))
    async with client_of(Thing, engine, hooks=EVERY, fields=Fields(readable={"id", "blob"})) as client:
        patched = await client.patch("/1", json={"exact": "2.00"})
        assert patched.json() == {"id": 1, "blob": "//4="}
        assert (await client.delete("/1")).status_code == 204
    seen = await inputs(scheduler, engine)
    assert sorted(entry["event"] for entry in seen) == ["delete"] * 3 + ["update"] * 2
    for entry in seen:
        data = entry["data"]
        assert (data["blob"], data["secret"], data["ratio"]) == ("//4=", "YWJj", None)
        assert (data["price"], data["digest"]) == ("3 EUR", "YWJj")


async def test_what_is_told_of_is_what_get_shows(engine: AsyncEngine, scheduler: TaskScheduler) -> None:
    async with client_of(Thing, engine, hooks=EVERY) as client:
        made = await client.post(
            "", json={**PLAIN, "blob": "AP8=", "secret": "YWJj", "digest": "~~~", "price": 5}
        )
        assert made.status_code == 201, made.text
        shown = (await client.get("/1")).json()
    for entry in await inputs(scheduler, engine):
        assert entry == {"event": "create", "resource": "things", "data": shown, "userId": None}


async def test_what_json_holds_stays_as_it_was(engine: AsyncEngine, scheduler: TaskScheduler) -> None:
    async with client_of(Thing, engine, hooks=EVERY, numeric="number") as client:
        made = await client.post("", json={**PLAIN, "blob": "AP8="})
        assert made.json()["exact"] == 1.5
    for entry in await inputs(scheduler, engine):
        assert {name: entry["data"][name] for name in PLAIN} == PLAIN


async def test_functions_get_the_values_themselves(engine: AsyncEngine, scheduler: TaskScheduler) -> None:
    seen: list[Any] = []

    def when(row: dict[str, Any]) -> bool:
        seen.append(row["blob"])
        return True

    hooks = create_task_trigger_hooks(
        on_create=[TaskTrigger(told, when=when, key=lambda row: row["blob"][:1])]
    )
    async with client_of(Thing, engine, hooks=hooks) as client:
        await client.post("", json={"blob": "AP8="})
    assert seen == [b"\x00\xff"]
    (entry,) = await inputs(scheduler, engine)
    assert entry["data"]["blob"] == "AP8="


async def test_among_hooks_of_ones_own(engine: AsyncEngine, scheduler: TaskScheduler) -> None:
    def add(ctx: HookContext, row: dict[str, Any]) -> None:
        row["by hook"] = Money(7)

    hooks = compose_hooks(ResourceHooks(on_after_create=add), EVERY)
    async with client_of(Thing, engine, hooks=hooks) as client:
        assert (await client.post("", json={"blob": "AP8="})).status_code == 201
    for entry in await inputs(scheduler, engine):
        assert (entry["data"]["blob"], entry["data"]["by hook"]) == ("AP8=", "7 EUR")


async def test_what_a_tracked_session_writes(engine: AsyncEngine, scheduler: TaskScheduler) -> None:
    sessions = async_sessionmaker(engine)
    track_session(sessions, {Thing: EVERY})
    async with sessions.begin() as session:
        thing = Thing(blob=b"\x00\xff", ratio=INFINITE, price=Money(3))
        session.add(thing)
    for entry in await inputs(scheduler, engine):
        data = entry["data"]
        assert (data["blob"], data["ratio"], data["price"]) == ("AP8=", None, "3 EUR")


async def test_numbers_that_are_not_finite_within_json(engine: AsyncEngine, scheduler: TaskScheduler) -> None:
    if engine.dialect.name == "postgresql":
        pytest.skip("its JSON has no such numbers")
    async with engine.begin() as connection:
        await connection.execute(insert(Thing).values(id=1, doc={"a": [INFINITE, 1]}))
    async with client_of(Thing, engine, hooks=EVERY) as client:
        assert (await client.delete("/1")).status_code == 204
    for entry in await inputs(scheduler, engine):
        assert entry["data"]["doc"] == {"a": [None, 1]}


async def test_bytes_in_arrays(engine: AsyncEngine, scheduler: TaskScheduler) -> None:
    if engine.dialect.name != "postgresql":
        pytest.skip("it has no arrays")
    async with engine.begin() as connection:
        await connection.execute(insert(Bag).values(id=1, blobs=[None, b"abc"]))
    async with client_of(Bag, engine, hooks=EVERY) as client:
        shown = (await client.get("/1")).json()
        assert (await client.delete("/1")).status_code == 204
    for entry in await inputs(scheduler, engine):
        assert entry["data"] == shown == {"id": 1, "blobs": [None, "YWJj"]}


async def test_with_no_resource() -> None:
    async with MemoryKV() as kv:
        scheduler = initialize_tasks(kv)
        hook = create_task_trigger_hooks(on_create=[TaskTrigger(told)]).on_after_create
        assert hook is not None
        row = {
            "id": 1,
            "blob": b"\xff\xfe",
            "ratio": INFINITE,
            "price": Money(3),
            "exact": decimal.Decimal("1.50"),
        }
        await hook(HookContext(), row)
        (task,) = await scheduler.get_tasks()
        assert task.input["data"] == {
            "id": 1,
            "blob": "//4=",
            "ratio": None,
            "price": "3 EUR",
            "exact": "1.50",
        }


@define_task(name="told-little", max_input_bytes=400)
async def told_little(ctx: Any, entry: Any) -> None: ...


async def test_a_row_that_is_too_large_for_its_task_is_refused_and_leaves_nothing(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    async with engine.begin() as connection:
        await connection.execute(insert(Thing).values(id=1000, doc="x" * 400))
    little = TaskTrigger(told_little)
    few = create_task_trigger_hooks(
        on_create=[TaskTrigger(told, transform=lambda row: row["id"]), little],
        on_update=[little],
        on_delete=[little],
    )
    fields = Fields(writable={"id", "doc", "ratio"})
    large = {"doc": "x" * 400}
    for hooks in (few, compose_hooks(few, ResourceHooks())):
        async with client_of(Thing, engine, hooks=hooks, fields=fields) as client:
            answers = [
                await client.post("", json=large),
                await client.post("/batch", json={"items": [{}, large]}),
                await client.post("?on_conflict=id", json={"id": 1000, **large}),
                await client.patch("/1000", json={"ratio": 1}),
                await client.delete("/1000"),
            ]
            for answer in answers:
                problem = answer.json()
                assert (answer.status_code, problem["code"]) == (413, "PAYLOAD_TOO_LARGE")
                assert problem["detail"].endswith("too large for a task that it triggers (max_input_bytes)")
            assert answers[1].json()["errors"][0]["field"] == "items.1"
            assert [item["id"] for item in (await client.get("")).json()["items"]] == [1000]
    assert await inputs(scheduler, engine) == []


async def test_a_body_within_its_limit_may_be_too_large_for_a_task(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    async with client_of(Thing, engine, hooks=EVERY) as client:
        refused = await client.post("", json={"doc": "x" * (1024 * 1024 - 20)})
        assert (refused.status_code, "max_input_bytes" in refused.json()["detail"]) == (413, True)
