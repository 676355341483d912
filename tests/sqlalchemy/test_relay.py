"""From the outbox to the store: what is committed within a moment shares a round trip, and who looks for it there finds it."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.pool import NullPool

from concave import (
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
from concave.tasks.defaults import delivered
from concave.tasks.submission import submission
from concave_sqlalchemy import enqueue_in, relay, use_resource
from concave_sqlalchemy.outbox import Outbox
from concave_sqlalchemy.relay import Relay, Submission
from concave_sqlalchemy.transactions import AnySession
from tests.sqlalchemy.support import client_for, client_of, database
from tests.tasks.support import until

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


class Hung:
    """A scheduler whose store answers only once it is told to."""

    def __init__(self, scheduler: TaskScheduler) -> None:
        self.asked, self.answers = asyncio.Event(), asyncio.Event()
        self.real = scheduler.submit
        scheduler.submit = self._submit  # type: ignore[method-assign]

    async def _submit(self, tasks: Sequence[NewTask]) -> list[str]:
        self.asked.set()
        await self.answers.wait()
        return await self.real(tasks)


async def hand_over(outbox: Outbox, *submissions: Submission) -> None:
    """What a write does that has just committed them."""
    if (waits := outbox.relay(submissions)) is not None:
        await waits


async def later_one(engine: AsyncEngine) -> Outbox:
    """An outbox of an event loop that isn't young any more, so that none of its writes is waited for."""
    outbox = Outbox.of(async_sessionmaker(engine))
    outbox._relay._began -= 1e6
    return outbox


def count_sent(scheduler: TaskScheduler) -> list[int]:
    """How many tasks each call of the store took."""
    sent, real = list[int](), scheduler.submit

    async def submit(tasks: Sequence[NewTask]) -> list[str]:
        sent.append(len(tasks))
        return await real(tasks)

    scheduler.submit = submit  # type: ignore[method-assign]
    return sent


HOOKS = create_task_trigger_hooks(on_create=[TaskTrigger(relayed)])


async def test_what_is_committed_within_a_moment_shares_a_round_trip(
    engine: AsyncEngine, scheduler: TaskScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "MOMENT", FOREVER)
    monkeypatch.setattr(relay, "ENOUGH", 3)
    outbox, sent = await later_one(engine), count_sent(scheduler)
    async with client_of(things, engine, hooks=HOOKS) as client:
        for name in "abcdefgh":
            assert (await client.post("", json={"name": name})).status_code == 201
    # What comes after a quiet time is sent at once, and enough of them are.
    await until(lambda: sent == [1, 3, 3])
    assert len(await scheduler.get_tasks()) == 8
    assert sent == [1, 3, 3, 1]
    await outbox.drain()


async def test_one_that_is_alone_is_sent_at_once(
    engine: AsyncEngine, scheduler: TaskScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "MOMENT", 0)
    outbox, sent = await later_one(engine), count_sent(scheduler)
    async with client_of(things, engine, hooks=HOOKS) as client:
        expected: list[int] = []
        for name in "abc":
            assert (await client.post("", json={"name": name})).status_code == 201
            expected.append(1)
            await until(lambda: sent == expected)
    await outbox.drain()


async def test_nothing_waits_longer_than_a_moment(engine: AsyncEngine, scheduler: TaskScheduler) -> None:
    outbox, sent = await later_one(engine), count_sent(scheduler)
    async with client_of(things, engine, hooks=HOOKS) as client:
        for _ in range(5):
            assert (await client.post("", json={"name": "a"})).status_code == 201
    await until(lambda: sum(sent) == 5)
    await outbox.drain()


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "hooks that are waited for"])
async def test_no_client_waits_for_the_store_and_who_looks_there_does(
    engine: AsyncEngine, scheduler: TaskScheduler, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    monkeypatch.setattr(relay, "PATIENCE", FOREVER)
    others = ResourceHooks(on_after_create=lambda ctx, row: None, uses_session=False)
    hooks = compose_hooks(HOOKS, others) if waits else HOOKS
    outbox, hung = await later_one(engine), Hung(scheduler)
    async with client_of(things, engine, hooks=hooks) as client:
        assert (await client.post("", json={"name": "a"})).status_code == 201
        await hung.asked.wait()
        looks: list[Callable[[], Coroutine[Any, Any, Any]]] = [scheduler.get_tasks, scheduler.get_queue_depth]
        looking = [asyncio.create_task(look()) for look in looks]
        await asyncio.sleep(0)
        assert not any(each.done() for each in looking)
        hung.answers.set()
        listed, depth = await asyncio.gather(*looking)
    assert (len(listed), depth) == (1, 1)
    await outbox.drain()


async def test_who_looks_for_a_task_that_is_on_its_way_finds_it(
    engine: AsyncEngine, scheduler: TaskScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "MOMENT", FOREVER)
    outbox = await later_one(engine)
    looked_for, cancelled = submission(relayed, 1), submission(relayed, 2)
    await hand_over(outbox, Submission(submission(relayed, 0)))
    # Others have a moment to come, and these wait for them.
    await hand_over(outbox, Submission(looked_for))
    assert await scheduler.get_task(looked_for.id) is not None
    await hand_over(outbox, Submission(cancelled))
    assert await scheduler.cancel(cancelled.id)
    assert await scheduler.get_task("unknown") is None
    await outbox.drain()


async def test_what_a_session_has_committed_is_found_too(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    await later_one(engine)
    async with async_sessionmaker(engine).begin() as session:
        task_id = await enqueue_in(session, relayed, "mine")
    assert [task.id for task in await scheduler.get_tasks()] == [task_id]
    await Outbox.of(async_sessionmaker(engine)).drain()


async def test_who_looks_from_another_event_loop_waits_for_it_too(
    engine: AsyncEngine, scheduler: TaskScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test that has its app in a thread, say."""
    monkeypatch.setattr(relay, "PATIENCE", FOREVER)
    outbox, hung = await later_one(engine), Hung(scheduler)
    await hand_over(outbox, Submission(submission(relayed, 1)))
    here = asyncio.get_running_loop()

    async def look() -> tuple[bool, bool]:
        looking = asyncio.create_task(delivered(scheduler.destination))
        for _ in range(100):  # by then one that waits for nobody has ended
            await asyncio.sleep(0)
        waits = not looking.done()
        here.call_soon_threadsafe(hung.answers.set)
        return waits, await looking

    assert await asyncio.to_thread(asyncio.run, look()) == (True, True)
    assert len(await scheduler.get_tasks()) == 1
    assert await asyncio.to_thread(asyncio.run, delivered(scheduler.destination)) is False
    await outbox.drain()


async def test_nobody_waits_for_a_loop_that_has_ended(
    engine: AsyncEngine, scheduler: TaskScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = await later_one(engine)

    async def begin() -> Relay:
        outbox._relay._sent_at += FOREVER  # so that it waits for others
        await hand_over(outbox, Submission(submission(relayed, 1)))
        return outbox._relay

    def run() -> Relay:
        loop = asyncio.new_event_loop()
        ended = loop.run_until_complete(begin())
        loop.close()
        return ended

    monkeypatch.setattr(relay, "YOUNG", 0)
    ended = await asyncio.to_thread(run)
    assert not ended.is_idle
    assert await delivered(scheduler.destination) is False
    await ended.delivered_elsewhere(scheduler.destination)  # it may end between the two


async def test_a_store_that_hangs_keeps_nobody_longer_than_his_patience(
    engine: AsyncEngine, scheduler: TaskScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "PATIENCE", 0)
    monkeypatch.setattr(relay, "YOUNG", FOREVER)
    hung = Hung(scheduler)
    async with client_of(things, engine, hooks=HOOKS) as client:
        for _ in range(2):
            assert (await client.post("", json={"name": "a"})).status_code == 201
        assert await scheduler.get_tasks() == []
        hung.answers.set()
        await Outbox.of(async_sessionmaker(engine)).drain()
    assert len(await scheduler.get_tasks()) == 2


async def test_a_store_that_hangs_keeps_nobody_who_looks_into_another(
    engine: AsyncEngine, scheduler: TaskScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "PATIENCE", FOREVER)
    async with MemoryKV(prefix="other") as kv:
        outbox, other = await later_one(engine), TaskScheduler(kv)
        hung = Hung(other)
        await hand_over(outbox, Submission(submission(relayed, 1), other))
        await hand_over(outbox, Submission(submission(relayed, 2)))
        assert len(await scheduler.get_tasks()) == 1
        hung.answers.set()
        assert len(await other.get_tasks()) == 1
        await outbox.drain()


async def test_what_is_committed_goes_to_the_scheduler_of_that_moment(
    engine: AsyncEngine, scheduler: TaskScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "MOMENT", FOREVER)
    outbox = await later_one(engine)
    for number in range(2):
        await hand_over(outbox, Submission(submission(relayed, number)))
    async with MemoryKV() as kv:
        later = initialize_tasks(kv)
        await outbox.drain()
        assert (len(await scheduler.get_tasks()), await later.get_tasks()) == (2, [])


async def test_one_that_is_cancelled_on_its_way_is_swept_up(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    outbox = await later_one(engine)
    real = scheduler.submit
    assert await outbox.sweep(real) == 0
    await hand_over(outbox, *map(Submission, await write_three(outbox)))
    for sending in list(outbox._relay._sending):
        sending.cancel()
    await outbox.drain()
    assert outbox._relay.is_idle
    assert await outbox.sweep(real) == 3


async def test_what_is_written_in_a_young_event_loop_is_waited_for(
    engine: AsyncEngine, scheduler: TaskScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test client may have an event loop for each request, which ends with it."""
    monkeypatch.setattr(relay, "PATIENCE", FOREVER)
    real = scheduler.submit

    async def submit(tasks: Sequence[NewTask]) -> list[str]:
        for _ in range(100):
            await asyncio.sleep(0)
        return await real(tasks)

    scheduler.submit = submit  # type: ignore[method-assign]
    resource = use_resource(
        things, session=async_sessionmaker(create_async_engine(engine.url, poolclass=NullPool)), hooks=HOOKS
    )

    async def post_twice() -> list[int]:
        async with client_for(resource) as client:
            return [(await client.post("", json={"name": name})).status_code for name in "ab"]

    monkeypatch.setattr(relay, "YOUNG", FOREVER)
    for count in (2, 4):
        assert await asyncio.to_thread(asyncio.run, post_twice()) == [201, 201]
        assert len(await scheduler.get_tasks()) == count


async def test_a_store_that_hangs_fills_no_memory(
    engine: AsyncEngine, scheduler: TaskScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "MOST", 3)
    outbox, hung = await later_one(engine), Hung(scheduler)
    assert await outbox.sweep(hung.real) == 0
    sent, left = [await write_three(outbox) for _ in range(2)]
    async with MemoryKV(prefix="other") as kv:
        other = TaskScheduler(kv)
        for tasks in (sent, left):
            await hand_over(outbox, *map(Submission, tasks))
        # It keeps none from another store.
        await hand_over(outbox, Submission(submission(relayed, "other"), other))
        assert len(await other.get_tasks()) == 1
    hung.answers.set()
    await outbox.drain()
    assert {task.id for task in await scheduler.get_tasks()} == {task.id for task in sent}
    # One sweep is enough for them, young as they are; and what comes now is sent again.
    assert await outbox.sweep(hung.real) == 3
    await hand_over(outbox, *map(Submission, await write_three(outbox)))
    await outbox.drain()
    assert len(await scheduler.get_tasks()) == 9


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
    outbox = await later_one(engine)

    async def send() -> None:
        await hand_over(outbox, Submission(submission(relayed, "elsewhere")))

    await hand_over(outbox, Submission(submission(relayed, "here")))
    await until(lambda: sent == [1])
    await hand_over(outbox, Submission(submission(relayed, "here")))
    await asyncio.to_thread(asyncio.run, send())
    assert sent == [1, 1]
    await outbox.drain()
    assert sent == [1, 1, 1]


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
        await hand_over(outbox, Submission(first, hanging), Submission(second))
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
    await hand_over(outbox, Submission(refused), Submission(taken))
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
    await hand_over(outbox, *map(Submission, tasks))
    for _ in range(2):
        with pytest.raises(type(error)):
            await outbox.sweep(submit)
    assert asked == [3, 3, 3]
    await hand_over(outbox, *map(Submission, await write_three(outbox)))
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
