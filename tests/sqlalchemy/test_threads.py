"""A synchronous ``sessionmaker``: resources, hooks, outbox and tracking in threads, on pysqlite and psycopg."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from weakref import WeakSet

import httpx
import pytest
from sqlalchemy import Engine, StaticPool, create_engine, func, make_url, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from starlette.applications import Starlette

from concave import (
    ConfigurationError,
    HookContext,
    ResourceHooks,
    TaskInputError,
    TaskTrigger,
    compose_hooks,
    create_task_trigger_hooks,
    define_task,
    initialize_tasks,
    task_lifespan,
)
from concave.kv import MemoryKV
from concave.tasks import defaults
from concave.tasks.scheduler import TaskScheduler
from concave_sqlalchemy import create_outbox_tables, enqueue_in, track_session, use_resource
from concave_sqlalchemy.outbox import Outbox
from tests.servers import temporary_database

Row = dict[str, Any]


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "things"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)


@define_task(name="note")
async def note(ctx: Any, entry: str) -> None: ...


@pytest.fixture(params=["pysqlite", "psycopg"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[str]:
    async with AsyncExitStack() as stack:
        url = f"sqlite:///{tmp_path}/test.db"
        if request.param == "psycopg":
            server = request.getfixturevalue("postgres_url")
            made = make_url(await stack.enter_async_context(temporary_database(server)))
            url = made.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
        yield url


@pytest.fixture
async def engine(url: str) -> AsyncGenerator[Engine]:
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    create_outbox_tables(engine)
    create_outbox_tables(engine)
    yield engine
    engine.dispose()


@pytest.fixture
async def scheduler() -> AsyncGenerator[TaskScheduler]:
    async with MemoryKV() as kv:
        yield initialize_tasks(kv)


def client_of(resource: Any) -> httpx.AsyncClient:
    app = Starlette(routes=[resource.mount("/t")])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test/t")


async def inputs(sessions: Any, scheduler: TaskScheduler) -> list[Any]:
    await Outbox.of(sessions).drain()
    return sorted(task.input for task in await scheduler.get_tasks())


def count(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(Thing)).scalar_one()


async def test_every_verb_and_its_tasks(engine: Engine, scheduler: TaskScheduler) -> None:
    sessions = sessionmaker(engine)
    trigger = TaskTrigger(note, transform=lambda row, event: f"{event.event} {row['name']}")
    hooks = create_task_trigger_hooks(on_create=[trigger], on_update=[trigger], on_delete=[trigger])
    async with client_of(use_resource(Thing, session=sessions, hooks=hooks)) as client:
        for name in "abc":
            assert (await client.post("", json={"name": name})).status_code == 201
        assert (await client.post("", json={"name": "a"})).status_code == 409
        assert (await client.patch("/1", json={"name": "d"})).json() == {"id": 1, "name": "d"}
        assert (await client.put("/1", json={"name": "e"})).json() == {"id": 1, "name": "e"}
        assert (await client.get("/1")).json() == {"id": 1, "name": "e"}
        assert (await client.delete("/2")).status_code == 204
        assert (await client.get("/2")).status_code == 404
        page = (await client.get("?limit=1&orderBy=name:desc&totalCount=true")).json()
        assert (page["items"], page["totalCount"]) == ([{"id": 1, "name": "e"}], 2)
        rest = (await client.get(f"?limit=1&orderBy=name:desc&cursor={page['nextCursor']}")).json()
        assert (rest["items"], rest["hasMore"]) == ([{"id": 3, "name": "c"}], False)
        assert (await client.get("/count?filter=name=in=(c,x)")).json() == {"count": 1}
        groups = (await client.get("/aggregate?count=true&max=id")).json()["groups"]
        assert [(each["count"], each["max"]) for each in groups] == [(2, {"id": 3})]
    assert await inputs(sessions, scheduler) == [
        "create a", "create b", "create c", "delete b", "update d", "update e",
    ]  # fmt: skip


async def test_batches_conditions_upserts_and_keys(engine: Engine, scheduler: TaskScheduler) -> None:
    trigger = TaskTrigger(note, transform=lambda row, event: f"{event.event} {row['name']}")
    hooks = create_task_trigger_hooks(on_create=[trigger], on_update=[trigger], on_delete=[trigger])
    sessions = sessionmaker(engine)
    async with client_of(use_resource(Thing, session=sessions, hooks=hooks)) as client:
        made = await client.post("/batch", json={"items": [{"name": "a"}, {"name": "b"}]})
        assert made.status_code == 200, made.text
        tag = (await client.get("/1")).headers["etag"]
        for status in (200, 412):
            answer = await client.patch("/1", json={"name": "c"}, headers={"if-match": tag})
            assert answer.status_code == status
        assert (await client.post("?on_conflict=name", json={"name": "b"})).status_code == 200
        keyed = {"idempotency-key": '"once"'}
        once = [await client.post("", json={"name": "d"}, headers=keyed) for _ in range(2)]
        assert once[0].status_code == 201
        assert once[0].content == once[1].content
        gone = await client.delete("/batch?filter=name=in=(b,d)")
        assert gone.json() == {"count": 2}
    assert count(engine) == 1
    assert set(await inputs(sessions, scheduler)) >= {
        "create a", "create b", "create d", "delete b", "delete d", "update c",
    }  # fmt: skip


async def test_plain_hooks_are_in_a_thread_and_async_ones_on_the_loop(
    engine: Engine, scheduler: TaskScheduler
) -> None:
    loops_thread = threading.current_thread()
    seen: list[tuple[bool, bool]] = []

    def before(ctx: HookContext, data: Row) -> Row:
        seen.append((threading.current_thread() is loops_thread, isinstance(ctx.session, Session)))
        names = ctx.session.execute(select(Thing.name)).scalars().all()
        return {"name": f"{data['name']}{len(names)}"}

    def after(ctx: HookContext, row: Row) -> Any:
        seen.append((threading.current_thread() is loops_thread, isinstance(ctx.session, Session)))
        ctx.session.add(Thing(name=f"beside {row['name']}"))
        return ctx.enqueue(note, "returned")

    class Waits:
        async def __call__(self, ctx: HookContext, row: Row) -> None:
            seen.append((threading.current_thread() is loops_thread, isinstance(ctx.session, Session)))
            await asyncio.sleep(0)
            await ctx.enqueue(note, "awaited")

    hooks = compose_hooks(
        ResourceHooks(on_before_create=before, on_after_create=after), ResourceHooks(on_after_create=Waits())
    )
    sessions = sessionmaker(engine)
    async with client_of(use_resource(Thing, session=sessions, hooks=hooks)) as client:
        assert (await client.post("", json={"name": "a"})).json()["name"] == "a0"
    assert seen == [(False, True), (False, True), (True, True)]
    assert count(engine) == 2
    assert await inputs(sessions, scheduler) == ["awaited", "returned"]


async def test_a_hook_that_raises_stop_iteration_is_not_waited_for_for_ever(engine: Engine) -> None:
    def first_of_none(ctx: HookContext, row: Row) -> None:
        next(iter(()))

    hooks = ResourceHooks(on_after_create=first_of_none)
    async with client_of(use_resource(Thing, session=sessionmaker(engine), hooks=hooks)) as client:
        assert (await client.post("", json={"name": "a"})).status_code == 500
    assert count(engine) == 0


@pytest.mark.parametrize("verb", ["commit", "rollback", "close"])
async def test_a_hook_that_raises_or_ends_the_transaction_leaves_nothing(
    engine: Engine, scheduler: TaskScheduler, verb: str
) -> None:
    def after(ctx: HookContext, row: Row) -> None:
        ctx.session.add(Thing(name="beside"))
        getattr(ctx.session, row["name"])()

    async def task(ctx: HookContext, row: Row) -> None:
        await ctx.enqueue(note, "never")

    hooks = compose_hooks(ResourceHooks(on_after_create=task), ResourceHooks(on_after_create=after))
    sessions = sessionmaker(engine)
    async with client_of(use_resource(Thing, session=sessions, hooks=hooks)) as client:
        for name in (verb, "no such verb"):
            assert (await client.post("", json={"name": name})).status_code == 500
    assert count(engine) == 0
    assert await inputs(sessions, scheduler) == []
    assert await Outbox.of(sessions).sweep(scheduler.submit) == 0


async def test_many_requests_never_wait_for_each_others_connection(
    url: str, engine: Engine, scheduler: TaskScheduler
) -> None:
    """The pool has one, and no patience: whoever asks while it is out is refused at once."""
    narrow = create_engine(url, pool_size=1, max_overflow=0, pool_timeout=0)
    hooks = ResourceHooks(on_after_create=lambda ctx, row: ctx.session.execute(select(Thing)).all() and None)
    async with client_of(use_resource(Thing, session=sessionmaker(narrow), hooks=hooks)) as client:
        answers = await asyncio.gather(
            *(client.post("", json={"name": str(number)}) for number in range(60)),
            *(client.get("") for _ in range(60)),
        )
    assert [each.status_code for each in answers] == [201] * 60 + [200] * 60
    assert count(engine) == 60
    narrow.dispose()


async def test_whoever_is_cancelled_waits_for_the_thread_and_rolls_back(
    engine: Engine, scheduler: TaskScheduler
) -> None:
    inside, go_on = threading.Event(), threading.Event()
    finished: list[str] = []

    def after(ctx: HookContext, row: Row) -> None:
        inside.set()
        assert go_on.wait(30)
        ctx.session.execute(select(Thing)).all()
        finished.append(row["name"])

    resource = use_resource(Thing, session=sessionmaker(engine), hooks=ResourceHooks(on_after_create=after))
    async with client_of(resource) as client:
        request = asyncio.create_task(client.post("", json={"name": "a"}))
        await asyncio.to_thread(inside.wait, 30)
        request.cancel()
        await asyncio.sleep(0)
        request.cancel()
        await asyncio.sleep(0)
        assert not request.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert finished == ["a"]
        assert count(engine) == 0
        assert (await client.post("", json={"name": "a"})).status_code == 201


async def test_a_task_in_a_plain_session_is_relayed_by_the_loop_that_sweeps(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A lifespan sweeps every outbox of its process: none of another test's, whose engine is disposed of.
    monkeypatch.setattr(defaults, "_outboxes", WeakSet())
    sessions = sessionmaker(engine)

    def write(entry: str, verb: str) -> str:
        with Session(engine) as session:
            with session.begin_nested() as savepoint:
                enqueue_in(session, note, "taken")
                savepoint.rollback()
            task_id = enqueue_in(session, note, entry, priority=90, key="x" + entry)
            getattr(session, verb)()
            return task_id

    ran: list[str] = []
    first, second = asyncio.Event(), asyncio.Event()

    @define_task(name="note")
    async def running(ctx: Any, entry: str) -> None:
        ran.append(entry)
        (second if first.is_set() else first).set()

    await asyncio.to_thread(write, "before there is a loop", "commit")
    # So rarely swept that only what is relayed at once can arrive.
    async with task_lifespan("memory://", tasks=[running], sweep_interval=3600)(Starlette()):
        await asyncio.wait_for(first.wait(), 30)  # by the first sweep, with which the loop is known
        await asyncio.to_thread(write, "never", "rollback")
        await asyncio.to_thread(write, "from a thread", "commit")
        await asyncio.wait_for(second.wait(), 30)
    assert ran == ["before there is a loop", "from a thread"]
    with Session(engine) as session, pytest.raises(TaskInputError):
        enqueue_in(session, note, 1)
    await Outbox.of(sessions).drain()


async def test_tracking_a_plain_session(engine: Engine, scheduler: TaskScheduler) -> None:
    sessions = sessionmaker(engine)
    trigger = TaskTrigger(note, transform=lambda row, event: f"{event.event} {row['name']}")
    hooks = create_task_trigger_hooks(on_create=[trigger], on_update=[trigger], on_delete=[trigger])

    def beside(ctx: HookContext, row: Row) -> None:
        if row["name"] == "a":
            ctx.session.add(Thing(name="beside"))

    def write() -> None:
        with sessions.begin() as session:
            thing = Thing(name="a")
            session.add(thing)
            session.flush()
            thing.name = "b"
            with session.begin_nested() as savepoint:
                session.add(Thing(name="taken"))
                session.flush()
                savepoint.rollback()
        with sessions.begin() as session:
            session.delete(session.merge(thing))

    track_session(sessions, {Thing: compose_hooks(hooks, ResourceHooks(on_after_create=beside))})
    await asyncio.to_thread(write)
    assert await Outbox.of(sessions).sweep(scheduler.submit) == 4
    assert await inputs(sessions, scheduler) == ["create a", "create beside", "delete b", "update b"]


async def test_a_tracked_hook_of_a_plain_session_can_not_wait(engine: Engine) -> None:
    async def waits(ctx: HookContext, row: Row) -> None:
        await asyncio.sleep(0)

    sessions = sessionmaker(engine)
    track_session(sessions, {Thing: ResourceHooks(on_after_create=waits)})
    with sessions() as session:
        session.add(Thing(name="a"))
        with pytest.raises(RuntimeError, match="can't wait"):
            session.commit()
    assert count(engine) == 0


async def test_sqlite_in_memory_is_one_database_for_all_threads_or_refused(scheduler: TaskScheduler) -> None:
    shared = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    Base.metadata.create_all(shared)
    async with client_of(use_resource(Thing, session=sessionmaker(shared))) as client:
        answers = await asyncio.gather(*(client.post("", json={"name": name}) for name in "abcdef"))
        assert [each.status_code for each in answers] == [201] * 6
    shared.dispose()
    with pytest.raises(ConfigurationError, match="StaticPool"):
        use_resource(Thing, session=sessionmaker(create_engine("sqlite://")))


async def test_an_engine_in_autocommit_is_refused(url: str, engine: Engine) -> None:
    if engine.dialect.name == "sqlite":
        return
    loose = create_engine(url, isolation_level="AUTOCOMMIT")
    async with client_of(use_resource(Thing, session=sessionmaker(loose))) as client:
        assert (await client.post("", json={"name": "a"})).status_code == 500
    assert count(engine) == 0
    loose.dispose()


def test_a_session_that_is_of_no_engine_is_told() -> None:
    with Session() as session, pytest.raises(ConfigurationError, match="Engine"):
        enqueue_in(session, note, "x")
    nothing: Any = AsyncSession
    with pytest.raises(ConfigurationError, match="sessionmaker"):
        use_resource(Thing, session=nothing)
