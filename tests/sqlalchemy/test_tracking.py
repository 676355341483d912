"""Writes through the ORM's unit of work fire hooks and triggers in their own transaction, with no request, on both databases."""

import asyncio
import uuid
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
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
    event,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
from starlette.applications import Starlette

from concave import (
    ConfigurationError,
    HookContext,
    ResourceHooks,
    TaskTrigger,
    TriggerEvent,
    compose_hooks,
    create_task_trigger_hooks,
    define_task,
    initialize_tasks,
)
from concave.kv import MemoryKV
from concave.tasks.scheduler import TaskScheduler
from concave_sqlalchemy import create_outbox_tables, track_session, use_resource
from concave_sqlalchemy.outbox import Outbox
from concave_sqlalchemy.tables import outbox_table
from tests.servers import temporary_database

Sessions = async_sessionmaker[AsyncSession]
Row = dict[str, Any]


class Base(DeclarativeBase):
    pass


class Person(Base):
    __tablename__ = "people"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(String(50), unique=True)
    full_name: Mapped[str | None] = mapped_column("fullname", String(50))
    visits: Mapped[int] = mapped_column(server_default="0")
    letters: Mapped[list["Letter"]] = relationship(cascade="all, delete-orphan", back_populates="sender")
    cars: Mapped[list["Car"]] = relationship()


class Letter(Base):
    __tablename__ = "letters"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    text: Mapped[str]
    sender_id: Mapped[int] = mapped_column(ForeignKey("people.id"))
    sender: Mapped[Person] = relationship(back_populates="letters")


class Car(Base):
    __tablename__ = "cars"
    land: Mapped[str] = mapped_column(String(3), primary_key=True)
    plate: Mapped[str] = mapped_column(String(9), primary_key=True)
    owner_id: Mapped[int | None] = mapped_column(ForeignKey("people.id"))


class Employee(Base):
    """Of those who name each other, SQLAlchemy writes one row twice."""

    __tablename__ = "employees"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(9), default="plain")
    deputy_id: Mapped[int | None] = mapped_column(ForeignKey("employees.id"))
    deputy: Mapped["Employee | None"] = relationship(remote_side="Employee.id", post_update=True)
    __mapper_args__ = {"polymorphic_on": kind, "polymorphic_identity": "plain"}  # noqa: RUF012


class Manager(Employee):
    __mapper_args__ = {"polymorphic_identity": "manager"}  # noqa: RUF012


@define_task(name="note")
async def note(ctx: Any, entry: Any) -> None: ...


@pytest.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    async with AsyncExitStack() as stack:
        url = f"sqlite+aiosqlite:///{tmp_path}/test.db"
        if request.param == "postgresql":
            server = request.getfixturevalue("postgres_url")
            url = await stack.enter_async_context(temporary_database(server))
        engine = create_async_engine(url)
        stack.push_async_callback(engine.dispose)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        await create_outbox_tables(engine)
        yield engine


@pytest.fixture
def sessions(engine: AsyncEngine) -> Sessions:
    return async_sessionmaker(engine)


@pytest.fixture
async def scheduler() -> AsyncGenerator[TaskScheduler]:
    async with MemoryKV() as kv:
        yield initialize_tasks(kv)


def triggers(*each: TaskTrigger) -> ResourceHooks:
    return create_task_trigger_hooks(on_create=each, on_update=each, on_delete=each)


def told(*fields: str) -> TaskTrigger:
    """A task of what happened to a row, and these fields of it."""
    return TaskTrigger(
        note, transform=lambda row, event: [event.event, event.resource, *(row[name] for name in fields)]
    )


def recorder(*classes: type[Any]) -> tuple[list[Any], dict[type[Any], ResourceHooks]]:
    """What hooks are told, as (event, table, row, previous)."""
    seen: list[Any] = []

    def hook(kind: str) -> Any:
        return lambda ctx, row: seen.append((kind, ctx.resource, row, ctx.previous))

    hooks = ResourceHooks(
        on_after_create=hook("create"), on_after_update=hook("update"), on_after_delete=hook("delete")
    )
    return seen, dict.fromkeys(classes, hooks)


async def inputs(sessions: Any, scheduler: TaskScheduler) -> list[Any]:
    """The tasks there are, sorted: those of several transactions may arrive in any order."""
    await Outbox.of(sessions).drain()
    return sorted([task.input for task in await scheduler.get_tasks()], key=str)


async def rows_in(engine: AsyncEngine, table: Any) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(select(func.count()).select_from(table))).scalar_one())


async def test_what_commits_fires_and_what_rolls_back_does_not(
    sessions: Sessions, scheduler: TaskScheduler
) -> None:
    track_session(sessions, {Person: triggers(told("email"))})
    async with sessions() as session:
        person = Person(email="a")
        session.add(person)
        await session.flush()
        assert await inputs(sessions, scheduler) == []
        await session.commit()
        assert await inputs(sessions, scheduler) == [["create", "people", "a"]]
        session.add(Person(email="never"))
        await session.flush()
        await session.rollback()
        await session.refresh(person)
        person.email = "b"
        await session.commit()
        await session.delete(person)
        await session.commit()
        session.add(Person(email="left behind"))
        await session.flush()
    assert await inputs(sessions, scheduler) == [
        ["create", "people", "a"], ["delete", "people", "b"], ["update", "people", "b"],
    ]  # fmt: skip
    assert await Outbox(sessions).sweep(scheduler.submit) == 0


async def test_an_event_tells_what_a_resource_would_tell(
    sessions: Sessions, scheduler: TaskScheduler
) -> None:
    by_orm: list[TriggerEvent] = []
    by_http: list[TriggerEvent] = []

    def recording(seen: list[TriggerEvent]) -> ResourceHooks:
        return triggers(TaskTrigger(note, when=lambda _row, event: seen.append(event)))

    track_session(sessions, {Person: recording(by_orm)}, user=lambda session: session.info["user"])
    async with sessions(info={"user": {"id": 9}}) as session:
        person = Person(email="a")
        session.add(person)
        await session.commit()
        person.full_name = "b"
        await session.commit()
        person.visits = Person.visits + 1
        await session.commit()
        await session.delete(person)
        await session.commit()
    resource = use_resource(
        Person, session=sessions, hooks=recording(by_http), user=lambda request: {"id": 9}
    )
    async with client_of(resource) as client:
        await client.post("", json={"email": "a"})
        found = (await client.get("")).json()["items"][0]["id"]
        await client.patch(f"/{found}", json={"full_name": "b"})
        await client.patch(f"/{found}", json={"visits": 1})
        await client.delete(f"/{found}")
    assert [each.event for each in by_orm] == ["create", "update", "update", "delete"]
    assert [each.changed for each in by_orm] == [each.changed for each in by_http]
    without_id = [{**(each.previous or {}), "id": None} for each in by_orm]
    assert without_id == [{**(each.previous or {}), "id": None} for each in by_http]
    assert [each.user for each in by_orm] == [each.user for each in by_http] == [{"id": 9}] * 4


def client_of(resource: Any) -> httpx.AsyncClient:
    app = Starlette(routes=[resource.mount("/t")])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test/t")


async def test_a_resource_on_the_same_sessions_does_not_fire_twice(
    sessions: Sessions, scheduler: TaskScheduler
) -> None:
    hooks = triggers(told("email"))
    track_session(sessions, {Person: hooks})
    async with client_of(use_resource(Person, session=sessions, hooks=hooks)) as client:
        row = (await client.post("", json={"email": "a"})).json()
        await client.patch(f"/{row['id']}", json={"email": "b"})
        await client.delete(f"/{row['id']}")
    assert [each[0] for each in await inputs(sessions, scheduler)] == ["create", "delete", "update"]


async def test_what_a_resources_hook_writes_through_the_orm_fires(
    sessions: Sessions, scheduler: TaskScheduler
) -> None:
    async def after(ctx: HookContext, row: Row) -> None:
        ctx.session.add(Letter(text="welcome", sender_id=row["id"]))

    track_session(sessions, {Letter: triggers(told("text"))})
    hooks = ResourceHooks(on_after_create=after)
    async with client_of(use_resource(Person, session=sessions, hooks=hooks)) as client:
        assert (await client.post("", json={"email": "a"})).status_code == 201
    assert await inputs(sessions, scheduler) == [["create", "letters", "welcome"]]


async def test_savepoints_take_their_tasks_with_them(sessions: Sessions, scheduler: TaskScheduler) -> None:
    done: list[str] = []

    async def after(ctx: HookContext, row: Row) -> None:
        ctx.on_commit(lambda: done.append(row["email"]))
        await ctx.enqueue(note, row["email"])

    track_session(sessions, {Person: ResourceHooks(on_after_create=after)})
    async with sessions() as session, session.begin():
        session.add(Person(email="before"))
        savepoint = await session.begin_nested()
        session.add(Person(email="taken"))
        await session.flush()
        async with session.begin_nested():
            session.add(Person(email="taken within"))
        await savepoint.rollback()
        async with session.begin_nested():
            session.add(Person(email="kept"))
        session.add(Person(email="after"))
        assert done == []
    assert done == ["before", "kept", "after"]
    assert await inputs(sessions, scheduler) == sorted(done)


async def test_a_savepoint_of_a_hook_takes_its_tasks_with_it(
    sessions: Sessions, scheduler: TaskScheduler
) -> None:
    async def after(ctx: HookContext, row: Row) -> None:
        await ctx.enqueue(note, "first")
        savepoint = await ctx.session.begin_nested()
        await ctx.enqueue(note, "taken")
        await savepoint.rollback()
        async with ctx.session.begin_nested():
            await ctx.enqueue(note, "kept")

    track_session(sessions, {Person: ResourceHooks(on_after_create=after)})
    async with sessions() as session, session.begin():
        session.add(Person(email="a"))
    assert await inputs(sessions, scheduler) == ["first", "kept"]


async def test_cascades_orphans_and_relationships_are_seen(
    sessions: Sessions, scheduler: TaskScheduler
) -> None:
    seen, hooks = recorder(Person, Letter, Car)
    track_session(sessions, hooks)
    async with sessions() as session:
        person = Person(email="a", letters=[Letter(text="1"), Letter(text="2"), Letter(text="3")])
        person.cars = [Car(land="D", plate="1"), Car(land="F", plate="1")]
        session.add(person)
        await session.commit()
        assert sorted((kind, table) for kind, table, *_ in seen) == [
            *[("create", "cars")] * 2, *[("create", "letters")] * 3, ("create", "people"),
        ]  # fmt: skip
        seen.clear()
        await session.refresh(person, ["letters", "cars"])
        orphan = person.letters.pop(0)
        await session.commit()
        assert [(kind, table, row["text"]) for kind, table, row, _ in seen] == [
            ("delete", "letters", orphan.text)
        ]
        seen.clear()
        await session.refresh(person, ["letters", "cars"])
        await session.delete(person)
        await session.commit()
    assert sorted((kind, table) for kind, table, *_ in seen) == [
        *[("delete", "letters")] * 2, ("delete", "people"), *[("update", "cars")] * 2,
    ]  # fmt: skip
    for kind, _, row, previous in seen:
        if kind == "update":
            assert (previous["owner_id"] is None, row["owner_id"]) == (False, None)


async def test_a_row_written_twice_in_a_flush_is_one_event(
    sessions: Sessions, scheduler: TaskScheduler
) -> None:
    seen, hooks = recorder(Employee)
    track_session(sessions, hooks)
    async with sessions() as session:
        one, other = Manager(), Employee()
        one.deputy, other.deputy = other, one
        session.add_all([one, other])
        await session.commit()
        assert [(kind, row["deputy_id"] is None) for kind, _, row, _ in seen] == [("create", False)] * 2
        seen.clear()
        await session.refresh(one, ["deputy"])
        one.deputy = None
        await session.commit()
    ((kind, _, row, previous),) = seen
    assert (kind, row["deputy_id"], previous["deputy_id"]) == ("update", None, 2)


async def test_what_did_not_change_is_no_update(sessions: Sessions, scheduler: TaskScheduler) -> None:
    seen, hooks = recorder(Person)
    track_session(sessions, hooks)
    async with sessions() as session:
        person = Person(email="a", letters=[])
        session.add(person)
        await session.commit()
        seen.clear()
        await session.refresh(person, ["letters", "email", "visits"])
        person.letters.append(Letter(text="x"))
        person.email = "a"
        await session.commit()
        person.visits = Person.visits + 0
        await session.commit()
    assert seen == []


async def test_previous_is_what_the_database_had_and_not_what_the_session_remembers(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    seen, hooks = recorder(Person)
    track_session(sessions, hooks)
    async with sessions() as session:
        person = Person(email="a")
        session.add(person)
        await session.commit()
        async with engine.begin() as connection:
            await connection.execute(update(Person).values(email="changed elsewhere"))
        person.full_name = "b"
        await session.commit()
    _, _, row, previous = seen[-1]
    assert (previous["email"], row["email"], row["full_name"]) == ("changed elsewhere",) * 2 + ("b",)


async def test_nobody_changes_a_row_between_what_it_was_and_what_it_is(
    engine: AsyncEngine, sessions: Sessions, scheduler: TaskScheduler
) -> None:
    """Each of many adds one to the same row, having read another value long ago: every event tells of a step of one."""
    steps: list[tuple[int, int]] = []

    def after(ctx: HookContext, row: Row) -> None:
        assert ctx.previous is not None
        steps.append((ctx.previous["visits"], row["visits"]))

    track_session(sessions, {Person: ResourceHooks(on_after_update=after)})
    async with sessions() as session:
        session.add(Person(email="a"))
        await session.commit()
    loaded = asyncio.Barrier(4)

    async def visit() -> None:
        async with sessions() as session:
            person = (await session.execute(select(Person))).scalar_one()
            await session.rollback()
            await loaded.wait()
            person.visits = Person.visits + 1
            await session.commit()

    await asyncio.gather(*(visit() for _ in range(4)))
    assert sorted(steps) == [(0, 1), (1, 2), (2, 3), (3, 4)]


async def test_hooks_may_wait_read_write_and_flush(sessions: Sessions, scheduler: TaskScheduler) -> None:
    counts: list[int] = []

    async def after_person(ctx: HookContext, row: Row) -> None:
        await asyncio.sleep(0)
        letter = Letter(text="welcome", sender_id=row["id"])
        ctx.session.add(letter)
        await ctx.session.flush()
        counts.append((await ctx.session.execute(select(func.count()).select_from(Letter))).scalar_one())

    track_session(
        sessions,
        {
            Person: compose_hooks(ResourceHooks(on_after_create=after_person), triggers(told("email"))),
            Letter: triggers(told("text")),
        },
    )
    async with sessions() as session, session.begin():
        session.add_all([Person(email="a"), Person(email="b")])
    assert counts == [1, 2]
    made = await inputs(sessions, scheduler)
    assert sorted(made) == sorted(
        [*[["create", "letters", "welcome"]] * 2, ["create", "people", "a"], ["create", "people", "b"]]
    )


async def test_by_key_the_latest_committed_row_wins_and_fields_choose(
    sessions: Sessions, scheduler: TaskScheduler
) -> None:
    track_session(
        sessions,
        {
            Person: triggers(
                TaskTrigger(
                    note,
                    key=lambda row: row["id"],
                    fields={"email"},
                    when=lambda row: row["email"] != "no",
                    transform=lambda row: row["email"],
                )
            )
        },
    )
    async with sessions() as session:
        person = Person(email="a")
        session.add(person)
        await session.flush()
        person.email = "b"
        await session.commit()
        person.full_name = "x"
        await session.commit()
        person.email = "no"
        await session.commit()
    assert await inputs(sessions, scheduler) == ["b"]


async def test_whatever_a_hook_raises_leaves_nothing_but_a_rollback(
    engine: AsyncEngine, sessions: Sessions, scheduler: TaskScheduler
) -> None:
    async def after(ctx: HookContext, row: Row) -> None:
        await ctx.enqueue(note, row["email"])
        if row["email"] == "bad":
            raise LookupError("no")

    track_session(sessions, {Person: ResourceHooks(on_after_create=after)})
    async with sessions() as session:
        session.add(Person(email="good"))
        await session.flush()
        session.add(Person(email="bad"))
        with pytest.raises(LookupError):
            await session.flush()
        with pytest.raises(RuntimeError, match="only be rolled back"):
            await session.commit()
        await session.rollback()
        # In a savepoint, it is the savepoint that can't be kept.
        session.add(Person(email="kept"))
        with pytest.raises(LookupError):
            async with session.begin_nested():
                session.add(Person(email="bad"))
        await session.commit()
    assert await inputs(sessions, scheduler) == ["kept"]
    assert await rows_in(engine, Person) == 1


async def test_a_hook_can_not_end_the_transaction(
    engine: AsyncEngine, sessions: Sessions, scheduler: TaskScheduler
) -> None:
    async def after(ctx: HookContext, row: Row) -> None:
        await getattr(ctx.session, row["email"])()

    track_session(sessions, {Person: ResourceHooks(on_after_create=after)})
    for verb, message in (("commit", "must not commit"), ("rollback", "no transaction")):
        async with sessions() as session:
            session.add(Person(email=verb))
            with pytest.raises(RuntimeError, match=message):
                await session.flush()
    assert await rows_in(engine, Person) == 0


async def test_hooks_without_end_are_stopped(sessions: Sessions, scheduler: TaskScheduler) -> None:
    async def after(ctx: HookContext, row: Row) -> None:
        ctx.session.add(Person(email=row["email"] + "x"))
        await ctx.session.flush()

    track_session(sessions, {Person: ResourceHooks(on_after_create=after)})
    async with sessions() as session:
        session.add(Person(email="x"))
        with pytest.raises(RuntimeError, match="16 deep"):
            await session.commit()


async def test_after_the_commit_tasks_go_straight_to_the_scheduler(
    engine: AsyncEngine, sessions: Sessions, scheduler: TaskScheduler
) -> None:
    order: list[Any] = []

    async def later(ctx: HookContext) -> None:
        order.append(await rows_in(engine, Person))
        await ctx.enqueue(note, "after")

    def fails() -> None:
        raise LookupError("nobody hears of it")

    def after(ctx: HookContext, row: Row) -> None:
        ctx.on_commit(fails)
        ctx.on_commit(lambda: later(ctx))

    track_session(sessions, {Person: ResourceHooks(on_after_create=after)})
    async with sessions() as session:
        session.add(Person(email="a"))
        await session.commit()
        assert order == [1]
        session.add(Person(email="b"))
        await session.flush()
        await session.rollback()
    assert order == [1]
    assert await inputs(sessions, scheduler) == ["after"]


async def test_a_triggers_own_scheduler_gets_its_tasks(sessions: Sessions, scheduler: TaskScheduler) -> None:
    async with MemoryKV() as kv:
        own = TaskScheduler(kv)
        hooks = create_task_trigger_hooks(on_create=[told("email")], scheduler=own)
        track_session(sessions, {Person: hooks})
        async with sessions() as session, session.begin():
            session.add(Person(email="a"))
        assert await inputs(sessions, own) == [["create", "people", "a"]]
        assert await inputs(sessions, scheduler) == []


async def test_many_rows_cost_few_statements(
    engine: AsyncEngine, sessions: Sessions, scheduler: TaskScheduler
) -> None:
    track_session(sessions, {Person: triggers(told("email"))})
    async with sessions() as session, session.begin():
        session.add_all(Person(email=str(number)) for number in range(600))
    # What is asked once, when rows are deleted for the first time, isn't counted.
    await Outbox.of(sessions).drain()
    statements: list[str] = []

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    async with sessions() as session, session.begin():
        people = (await session.execute(select(Person).order_by(Person.id))).scalars().all()
        for person in people:
            person.email += "x"
        statements.clear()
    kinds = [statement.split()[0] for statement in statements if "outbox" not in statement]
    # Two of 500 before, two after; SQLAlchemy's own way of updating many is its affair.
    assert kinds.count("SELECT") == 4
    assert len(await inputs(sessions, scheduler)) == 100  # as many as a listing shows
    assert await rows_in(engine, outbox_table) == 0


async def test_statements_that_bypass_the_unit_of_work_are_not_seen(
    sessions: Sessions, scheduler: TaskScheduler
) -> None:
    seen, hooks = recorder(Person)
    track_session(sessions, hooks)
    async with sessions() as session, session.begin():
        await session.execute(insert(Person), [{"email": "a"}])
        await session.execute(update(Person).values(email="b"))
        await session.execute(delete(Person))
    assert seen == []


async def test_other_factories_and_sessions_of_before_are_left_alone(
    engine: AsyncEngine, sessions: Sessions, scheduler: TaskScheduler
) -> None:
    before = sessions()
    track_session(sessions, {Person: triggers(told("email"))})
    for session in (before, AsyncSession(engine), async_sessionmaker(engine)()):
        async with session, session.begin():
            session.add(Person(email=str(id(session))))
    assert await inputs(sessions, scheduler) == []


async def test_each_class_is_tracked_once(sessions: Sessions, engine: AsyncEngine) -> None:
    track_session(sessions, {Person: ResourceHooks()})
    track_session(sessions, {Letter: ResourceHooks()})
    track_session(async_sessionmaker(engine), {Person: ResourceHooks()})
    with pytest.raises(ConfigurationError, match="Person is tracked already"):
        track_session(sessions, {Car: ResourceHooks(), Person: ResourceHooks()})
    track_session(sessions, {Car: ResourceHooks()})
    plain: Any = Table("plain", MetaData(), Column("id", Integer, primary_key=True))
    for wrong in (plain, Manager, object):
        with pytest.raises(ConfigurationError):
            track_session(sessions, {wrong: ResourceHooks()})
    unbound: Any = Session
    with pytest.raises(ConfigurationError, match="sessionmaker"):
        track_session(unbound, {Person: ResourceHooks()})


async def test_without_an_outbox_table_it_is_told(engine: AsyncEngine, sessions: Sessions) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(outbox_table.drop)
    track_session(sessions, {Person: triggers(told("email"))})
    async with sessions() as session:
        session.add(Person(email="a"))
        with pytest.raises(ConfigurationError, match="create_outbox_tables"):
            await session.commit()
    assert await rows_in(engine, Person) == 0
