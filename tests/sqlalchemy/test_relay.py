"""From the outbox to the store: writes that are under way together share a round trip, and nobody waits for long."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from starlette.applications import Starlette

from concave import (
    HookContext,
    ResourceHooks,
    StoreDeniedError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
    TaskScheduler,
    TaskTrigger,
    compose_hooks,
    create_task_trigger_hooks,
    define_task,
)
from concave.kv import MemoryKV
from concave.store.records import NewTask
from concave.tasks import initialize_tasks
from concave.tasks.submission import submission
from concave_sqlalchemy import enqueue_in, relay, use_resource
from concave_sqlalchemy.outbox import Outbox
from concave_sqlalchemy.relay import Submission
from concave_sqlalchemy.transactions import AnySession
from tests.sqlalchemy.support import client_of, database

tables = MetaData()
things = Table("things", tables, Column("id", Integer, primary_key=True), Column("name", String(20)))
FOREVER = 1e9


@define_task(name="relayed")
async def relayed(ctx: Any, event: Any) -> None: ...


@pytest.fixture(params=["postgresql"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    async with database(request, tmp_path, tables) as engine:
        yield engine


@pytest.fixture
async def scheduler() -> AsyncGenerator[TaskScheduler]:
    async with MemoryKV() as kv:
        yield initialize_tasks(kv)


class Held:
    """Writes whose hooks wait until the test has them go on, by the name of their row."""

    def __init__(self) -> None:
        self._begun: dict[str, asyncio.Event] = {}
        self._go_on: dict[str, asyncio.Event] = {}

    def begun(self, name: str) -> asyncio.Event:
        return self._begun.setdefault(name, asyncio.Event())

    def go_on(self, name: str) -> asyncio.Event:
        return self._go_on.setdefault(name, asyncio.Event())

    async def __call__(self, ctx: HookContext, row: dict[str, Any]) -> None:
        self.begun(row["name"]).set()
        await self.go_on(row["name"]).wait()


def count_sent(scheduler: TaskScheduler) -> list[int]:
    """How many tasks each call of the store took."""
    sent, real = list[int](), scheduler.submit

    async def submit(tasks: Sequence[NewTask]) -> list[str]:
        sent.append(len(tasks))
        return await real(tasks)

    scheduler.submit = submit  # type: ignore[method-assign]
    return sent


HOOKS = create_task_trigger_hooks(on_create=[TaskTrigger(relayed)])


async def test_writes_that_are_under_way_together_share_a_round_trip(
    engine: AsyncEngine, scheduler: TaskScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "MOMENT", FOREVER)
    held, sent = Held(), count_sent(scheduler)
    hooks = compose_hooks(HOOKS, ResourceHooks(on_after_create=held, uses_session=False))
    async with client_of(things, engine, hooks=hooks) as client:
        writes = [asyncio.create_task(client.post("", json={"name": name})) for name in "abcd"]
        for name in "abcd":
            await held.begun(name).wait()
        for name in "abcd":
            held.go_on(name).set()
        assert {(await each).status_code for each in writes} == {201}
    assert sent == [4]
    assert len(await scheduler.get_tasks()) == 4


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "hooks that are waited for"])
async def test_no_client_waits_for_the_store(
    engine: AsyncEngine, scheduler: TaskScheduler, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    monkeypatch.setattr(relay, "PATIENCE", FOREVER)
    answered, asked, answers = asyncio.Event(), asyncio.Event(), asyncio.Event()
    real, bodies = scheduler.submit, [{"type": "http.request", "body": b'{"name": "a"}'}]

    async def submit(tasks: Sequence[NewTask]) -> list[str]:
        asked.set()
        await answers.wait()
        return await real(tasks)

    async def receive() -> Any:
        return bodies.pop()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            answered.set()

    scheduler.submit = submit  # type: ignore[method-assign]
    others = ResourceHooks(on_after_create=lambda ctx, row: None, uses_session=False)
    hooks = compose_hooks(HOOKS, others) if waits else HOOKS
    app = Starlette(
        routes=[use_resource(things, session=async_sessionmaker(engine), hooks=hooks).mount("/t")]
    )
    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/t", "query_string": b"", "headers": headers}
    call = asyncio.ensure_future(app(scope, receive, send))
    await answered.wait()
    await asked.wait()
    assert not call.done()
    assert await scheduler.get_tasks() == []
    answers.set()
    await call
    assert len(await scheduler.get_tasks()) == 1


async def test_a_store_that_hangs_tries_one_patience_alone(
    engine: AsyncEngine, scheduler: TaskScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "PATIENCE", 0)
    outbox, go_on, real = Outbox(async_sessionmaker(engine)), asyncio.Event(), scheduler.submit

    async def submit(tasks: Sequence[NewTask]) -> list[str]:
        await go_on.wait()
        return await real(tasks)

    scheduler.submit = submit  # type: ignore[method-assign]
    await outbox.relay([Submission(submission(relayed, 1))])
    monkeypatch.setattr(relay, "PATIENCE", FOREVER)
    await outbox.relay([Submission(submission(relayed, 2))])
    assert await scheduler.get_tasks() == []
    go_on.set()
    await outbox.drain()
    # It has answered: the next one is waited for again.
    await outbox.relay([Submission(submission(relayed, 3))])
    assert len(await scheduler.get_tasks()) == 3
    await outbox.drain()


async def test_enough_of_them_wait_for_no_more(
    engine: AsyncEngine, scheduler: TaskScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "MOMENT", FOREVER)
    monkeypatch.setattr(relay, "PATIENCE", FOREVER)
    monkeypatch.setattr(relay, "ENOUGH", 2)
    held, sent = Held(), count_sent(scheduler)
    hooks = compose_hooks(HOOKS, ResourceHooks(on_after_create=held, uses_session=False))
    async with client_of(things, engine, hooks=hooks) as client:
        writes = [asyncio.create_task(client.post("", json={"name": name})) for name in "abcd"]
        for name in "abcd":
            await held.begun(name).wait()
        for name in "ab":
            held.go_on(name).set()
        assert {(await each).status_code for each in writes[:2]} == {201}
        assert sent == [2]
        for name in "cd":
            held.go_on(name).set()
        assert {(await each).status_code for each in writes} == {201}
    assert sent == [2, 2]


async def test_one_that_is_alone_is_sent_at_once(
    engine: AsyncEngine, scheduler: TaskScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "MOMENT", FOREVER)
    monkeypatch.setattr(relay, "PATIENCE", FOREVER)
    sent = count_sent(scheduler)
    async with client_of(things, engine, hooks=HOOKS) as client:
        for _ in range(3):
            assert (await client.post("", json={"name": "a"})).status_code == 201
    assert sent == [1, 1, 1]


async def test_nobody_waits_for_a_slow_write_longer_than_a_moment(
    engine: AsyncEngine, scheduler: TaskScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "PATIENCE", FOREVER)
    held, sent = Held(), count_sent(scheduler)
    hooks = compose_hooks(HOOKS, ResourceHooks(on_after_create=held, uses_session=False))
    async with client_of(things, engine, hooks=hooks) as client:
        slow = [asyncio.create_task(client.post("", json={"name": name})) for name in ("slow", "slower")]
        await held.begun("slow").wait()
        await held.begun("slower").wait()
        held.go_on("quick").set()
        assert (await client.post("", json={"name": "quick"})).status_code == 201
        assert sent == [1]
        held.go_on("slow").set()
        held.go_on("slower").set()
        assert {(await each).status_code for each in slow} == {201}
    assert sum(sent) == 3


async def test_a_slow_write_is_waited_for_once(
    engine: AsyncEngine, scheduler: TaskScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "PATIENCE", FOREVER)
    held, sent = Held(), count_sent(scheduler)
    hooks = compose_hooks(HOOKS, ResourceHooks(on_after_create=held, uses_session=False))
    async with client_of(things, engine, hooks=hooks) as client:
        slow = asyncio.create_task(client.post("", json={"name": "slow"}))
        await held.begun("slow").wait()
        held.go_on("quick").set()
        assert (await client.post("", json={"name": "quick"})).status_code == 201
        monkeypatch.setattr(relay, "MOMENT", FOREVER)
        for _ in range(2):
            assert (await client.post("", json={"name": "quick"})).status_code == 201
        assert sent == [1, 1, 1]
        held.go_on("slow").set()
        assert (await slow).status_code == 201
        # Those that began since are counted as before: two of them share a trip.
        both = [asyncio.create_task(client.post("", json={"name": name})) for name in ("c", "d")]
        for name in ("c", "d"):
            await held.begun(name).wait()
        for name in ("c", "d"):
            held.go_on(name).set()
        assert {(await each).status_code for each in both} == {201}
    assert sent == [1, 1, 1, 1, 2]


async def test_nobody_waits_for_what_a_hook_with_the_session_waits_for(
    engine: AsyncEngine, scheduler: TaskScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "MOMENT", FOREVER)
    monkeypatch.setattr(relay, "PATIENCE", FOREVER)
    held, sent = Held(), count_sent(scheduler)
    hooks = compose_hooks(HOOKS, ResourceHooks(on_after_create=held))
    async with client_of(things, engine, hooks=hooks) as client:
        slow = asyncio.create_task(client.post("", json={"name": "slow"}))
        await held.begun("slow").wait()
        held.go_on("quick").set()
        assert (await client.post("", json={"name": "quick"})).status_code == 201
        assert sent == [1]
        held.go_on("slow").set()
        assert (await slow).status_code == 201
    assert sent == [1, 1]


async def test_what_a_session_has_written_waits_for_no_write_longer_than_a_moment(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    sent, real = asyncio.Event(), scheduler.submit

    async def submit(tasks: Sequence[NewTask]) -> list[str]:
        sent.set()
        return await real(tasks)

    scheduler.submit = submit  # type: ignore[method-assign]
    sessions = async_sessionmaker(engine)
    with Outbox.of(sessions).coming:
        async with sessions.begin() as session:
            await enqueue_in(session, relayed, "mine")
        await sent.wait()
    await Outbox.of(sessions).drain()
    assert len(await scheduler.get_tasks()) == 1


async def test_a_write_that_fails_keeps_nobody_waiting(
    engine: AsyncEngine, scheduler: TaskScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "MOMENT", FOREVER)
    monkeypatch.setattr(relay, "PATIENCE", FOREVER)
    held, sent = Held(), count_sent(scheduler)

    def refuse(ctx: HookContext, row: dict[str, Any]) -> None:
        if row["name"] != "good":
            raise ValueError("no")

    hooks = compose_hooks(HOOKS, ResourceHooks(on_after_create=held), ResourceHooks(on_after_create=refuse))
    async with client_of(things, engine, hooks=hooks) as client:
        bad = [asyncio.create_task(client.post("", json={"name": name})) for name in ("bad", "worse")]
        await held.begun("bad").wait()
        await held.begun("worse").wait()
        held.go_on("good").set()
        good = asyncio.create_task(client.post("", json={"name": "good"}))
        await held.begun("good").wait()
        held.go_on("bad").set()
        held.go_on("worse").set()
        assert {(await each).status_code for each in bad} == {500}
        assert (await good).status_code == 201
    assert sent == [1]


async def test_a_response_that_is_cancelled_takes_nobody_along(
    engine: AsyncEngine, scheduler: TaskScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "PATIENCE", FOREVER)
    asked, answers = asyncio.Event(), asyncio.Event()
    real = scheduler.submit

    async def submit(tasks: Sequence[NewTask]) -> list[str]:
        asked.set()
        await answers.wait()
        return await real(tasks)

    scheduler.submit = submit  # type: ignore[method-assign]
    async with client_of(things, engine, hooks=HOOKS) as client:
        one = asyncio.create_task(client.post("", json={"name": "one"}))
        await asked.wait()
        one.cancel()
        with pytest.raises(asyncio.CancelledError):
            await one
        answers.set()
        assert (await client.post("", json={"name": "two"})).status_code == 201
    assert len(await scheduler.get_tasks()) == 2


async def test_each_event_loop_sends_its_own(
    engine: AsyncEngine, scheduler: TaskScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "MOMENT", FOREVER)
    monkeypatch.setattr(relay, "PATIENCE", FOREVER)
    sent = count_sent(scheduler)
    outbox = Outbox(async_sessionmaker(engine))

    async def send() -> None:
        await outbox.relay([Submission(submission(relayed, "elsewhere"))])

    with outbox.coming, outbox.coming:
        waiting = asyncio.ensure_future(outbox.relay([Submission(submission(relayed, "here"))]))
        await asyncio.to_thread(asyncio.run, send())
        assert sent == [1]
        assert not waiting.done()
    await waiting
    assert sent == [1, 1]
    await outbox.drain()


async def test_a_scheduler_that_hangs_keeps_no_other_waiting(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    async with MemoryKV() as kv:
        hanging, go_on = TaskScheduler(kv), asyncio.Event()

        async def submit(tasks: Sequence[NewTask]) -> list[str]:
            await go_on.wait()
            return [task.id for task in tasks]

        hanging.submit = submit  # type: ignore[method-assign]
        outbox = Outbox(async_sessionmaker(engine))
        first, second = submission(relayed, 1), submission(relayed, 2)
        await outbox.relay([Submission(first, hanging), Submission(second)])
        assert [task.id for task in await scheduler.get_tasks()] == [second.id]
        go_on.set()
        await outbox.drain()


async def test_a_task_that_its_store_refuses_takes_no_other_along(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    refused, taken = submission(relayed, 1), submission(relayed, 2)
    real = scheduler.submit

    async def submit(tasks: Sequence[NewTask]) -> list[str]:
        if refused in tasks:
            raise StoreError("WRONGTYPE: its key is damaged")
        return await real(tasks)

    scheduler.submit = submit  # type: ignore[method-assign]
    outbox = Outbox(async_sessionmaker(engine))
    await outbox.relay([Submission(refused), Submission(taken)])
    assert [task.id for task in await scheduler.get_tasks()] == [taken.id]
    await outbox.drain()


@pytest.mark.parametrize(
    "error", [StoreDeniedError("no"), StoreFullError("full"), StoreUnavailableError("away")]
)
async def test_a_store_that_takes_nothing_is_asked_once_and_then_one_sweep_is_enough(
    engine: AsyncEngine, scheduler: TaskScheduler, error: StoreError
) -> None:
    """Rows of a process that lives are left to it for a sweep, but not those that it has given up on."""
    asked: list[int] = []
    real = scheduler.submit

    async def submit(tasks: Sequence[NewTask]) -> list[str]:
        asked.append(len(tasks))
        raise error

    outbox = Outbox(async_sessionmaker(engine))
    assert await outbox.sweep(real) == 0
    tasks = await write_three(outbox)
    scheduler.submit = submit  # type: ignore[method-assign]
    await outbox.relay([Submission(task) for task in tasks])
    for _ in range(2):
        with pytest.raises(type(error)):
            await outbox.sweep(submit)
    assert asked == [3, 3, 3]
    await outbox.relay([Submission(task) for task in await write_three(outbox)])
    await outbox.drain()
    assert await outbox.sweep(real) == 6
    assert len(await scheduler.get_tasks()) == 6


async def test_tasks_that_a_store_refuses_are_one_message(
    engine: AsyncEngine, scheduler: TaskScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    real = scheduler.submit
    outbox = Outbox(async_sessionmaker(engine))
    first, second, taken = await write_three(outbox)

    async def submit(tasks: Sequence[NewTask]) -> list[str]:
        if first in tasks or second in tasks:
            raise StoreError("WRONGTYPE: its key is damaged")
        return await real(tasks)

    assert await outbox.sweep(submit) == 1
    assert [task.id for task in await scheduler.get_tasks()] == [taken.id]
    (record,) = [each for each in caplog.records if each.name == "concave.outbox"]
    assert "2 of 3 tasks" in record.message
    assert first.id in record.message


async def test_a_store_that_is_away_keeps_no_tasks_for_another_in_the_outbox(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    async def submit(tasks: Sequence[NewTask]) -> list[str]:
        raise StoreUnavailableError("away")

    async with MemoryKV(prefix="other") as kv:
        outbox, other = Outbox(async_sessionmaker(engine)), TaskScheduler(kv)
        await write_three(outbox)
        tasks = await write_three(outbox, other)
        with pytest.raises(StoreUnavailableError):
            await outbox.sweep(submit)
        assert {task.id for task in await other.get_tasks()} == {task.id for task in tasks}


async def write_three(outbox: Outbox, scheduler: TaskScheduler | None = None) -> list[NewTask]:
    """Tasks in the outbox, as a process has left them that ended right after its commit."""
    tasks = [submission(relayed, number) for number in range(3)]

    async def write(session: AnySession) -> None:
        await session.run_sync(outbox.write_in, [Submission(task, scheduler) for task in tasks])

    await outbox.transactions.write(write, begins_with_write=True)
    return tasks
