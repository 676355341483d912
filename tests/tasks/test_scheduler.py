"""What an application calls: now, later, once, again, and looking after it. On both stores."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from concave import (
    ConfigurationError,
    DebounceConfig,
    RetryConfig,
    StoreUnavailableError,
    TaskContext,
    TaskInputError,
    TaskScheduler,
    define_task,
)
from concave.kv import KV, MemoryKV
from concave.store.records import Complete, Die, Failure, NewTask, Release, Retry, Settlement, TaskStatus
from concave.tasks import Task
from tests.tasks.support import ScriptedKV, WatchedClock, claim, ended, found, working


class Order(BaseModel):
    number: int


@define_task(name="order", priority=60, retry=RetryConfig(5))
async def order(ctx: TaskContext, order: Order) -> int:
    return order.number


@define_task(name="other")
async def other(ctx: TaskContext) -> None: ...


async def ids_of(scheduler: TaskScheduler, **filters: Any) -> list[str]:
    return [task.id for task in await scheduler.get_tasks(**filters)]


async def test_a_task_is_shown_as_it_was_enqueued(timed_kv: KV, clock: WatchedClock) -> None:
    scheduler = TaskScheduler(timed_kv)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    task = await found(timed_kv, await scheduler.enqueue(order, {"number": "7"}, idempotency_key="k"))
    assert task == Task(
        id=task.id,
        name="order",
        input={"number": 7},
        status="pending",
        priority=60,
        created_at=now,
        scheduled_for=now,
        started_at=None,
        completed_at=None,
        worker_id=None,
        attempt=0,
        max_attempts=5,
        last_error=None,
        result=None,
        idempotency_key="k",
    )
    assert await scheduler.get_task("unknown") is None


@pytest.mark.parametrize(
    "options,seconds",
    [
        ({}, 0),
        ({"delay": 90}, 90),
        ({"delay": timedelta(minutes=1)}, 60),
        ({"at": datetime(2026, 1, 1, 0, 5, tzinfo=UTC)}, 300),
        ({"at": datetime(2025, 1, 1, tzinfo=UTC)}, 0),
        ({"delay": 0}, 0),
    ],
)
async def test_later_by_delay_or_at_a_time(timed_kv: KV, options: dict[str, Any], seconds: float) -> None:
    scheduler = TaskScheduler(timed_kv)
    task = await found(timed_kv, await scheduler.schedule(order, Order(number=1), priority=90, **options))
    assert (task.status, task.priority) == ("scheduled" if seconds else "pending", 90)
    if seconds:
        assert task.scheduled_for == datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    assert await scheduler.get_queue_depth() == 1


async def test_enqueueing_many_keeps_the_order_and_checks_all_before_the_first(timed_kv: KV) -> None:
    spied = ScriptedKV(timed_kv)
    scheduler = TaskScheduler(spied)
    ids = await scheduler.enqueue_many(order, (Order(number=number) for number in range(1200)), priority=10)
    assert spied.script.calls["add"] == 3
    for number in (0, 600, 1199):
        task = await found(timed_kv, ids[number])
        assert (task.input, task.priority) == ({"number": number}, 10)
    with pytest.raises(TaskInputError):
        await scheduler.enqueue_many(order, [{"number": 1}, {"number": "x"}])
    assert await scheduler.get_queue_depth() == 1200
    assert await scheduler.enqueue_many(order, []) == []


async def test_a_submission_sent_twice_is_added_once(timed_kv: KV) -> None:
    scheduler = TaskScheduler(timed_kv)
    new = NewTask("mine", "order", b'{"number":1}')
    assert await scheduler.submit([new, new]) == ["mine", "mine"]
    assert await scheduler.submit_one(new) == "mine"
    assert await scheduler.get_queue_depth() == 1


async def test_one_key_is_one_task_and_another_name_another_key(timed_kv: KV) -> None:
    keyed: Any = define_task("keyed", order.handler, idempotency_key=lambda order: f"order-{order.number}")
    scheduler = TaskScheduler(timed_kv)
    ids = await asyncio.gather(*(scheduler.enqueue(keyed, {"number": 1}) for _ in range(50)))
    assert len(set(ids)) == 1
    assert await scheduler.enqueue(order, {"number": 1}, idempotency_key="order-1") != ids[0]
    assert await scheduler.cancel(ids[0])
    assert await scheduler.enqueue(keyed, {"number": 1}) != ids[0]


async def test_debounced_calls_are_one_task_with_the_last_input(timed_kv: KV, clock: WatchedClock) -> None:
    debounced: Any = define_task(
        "debounced", order.handler, debounce=DebounceConfig(5, key=lambda order: "all", max_wait=12)
    )
    scheduler = TaskScheduler(timed_kv)
    ids: list[str] = []
    for number in range(4):
        ids.append(await scheduler.enqueue(debounced, {"number": number}))
        clock.advance(4)
    assert len(set(ids)) == 1
    task = await found(timed_kv, ids[0])
    assert (task.input, task.status) == ({"number": 3}, "pending")


async def test_cancelling_by_status(timed_kv: KV) -> None:
    scheduler = TaskScheduler(timed_kv)
    waiting = await scheduler.enqueue(other)
    later = await scheduler.schedule(other, delay=60)
    assert await scheduler.cancel(waiting)
    assert not await scheduler.cancel(waiting)
    assert await scheduler.cancel(later)
    running = await scheduler.enqueue(other)
    (lease,) = await claim(timed_kv, "other")
    assert not await scheduler.cancel(running)
    assert await scheduler.cancel(running, running=True)
    await timed_kv.store.settle([Settlement(lease, Complete(b"1"))])
    for ended_ in (running, waiting, "unknown"):
        assert not await scheduler.cancel(ended_)
        assert not await scheduler.cancel(ended_, running=True)
    assert (await found(timed_kv, later)).status == "cancelled"


async def one_of_each(kv: KV, clock: WatchedClock) -> dict[TaskStatus, str]:
    scheduler, ids = TaskScheduler(kv), dict[TaskStatus, str]()
    decisions: list[tuple[TaskStatus, Any]] = [
        ("completed", Complete(b"1")),
        ("failed", Retry(60_000_000, Failure("boom"))),
        ("dead", Die("boom", Failure("boom"))),
    ]
    for number, (status, decision) in enumerate(decisions):
        ids[status] = await scheduler.enqueue(order, {"number": number})
        (lease,) = await claim(kv, "order", nonce=f"{number:016}")
        await kv.store.settle([Settlement(lease, decision)])
        clock.advance(1)
    ids["running"] = await scheduler.enqueue(order, {"number": 3})
    await claim(kv, "order", nonce="r" * 16)
    clock.advance(1)
    ids["cancelled"] = await scheduler.enqueue(other)
    await scheduler.cancel(ids["cancelled"])
    clock.advance(1)
    ids["scheduled"] = await scheduler.schedule(other, delay=60)
    clock.advance(1)
    ids["pending"] = await scheduler.enqueue(other)
    return ids


async def test_looking_by_status_name_and_time(timed_kv: KV, clock: WatchedClock) -> None:
    ids, scheduler = await one_of_each(timed_kv, clock), TaskScheduler(timed_kv)
    newest_first = [
        ids[status]
        for status in ("pending", "scheduled", "cancelled", "running", "dead", "failed", "completed")
    ]  # fmt: skip
    assert await ids_of(scheduler) == newest_first
    for status, task_id in ids.items():
        assert await ids_of(scheduler, status=status) == [task_id]
    assert await ids_of(scheduler, status=["dead", "pending"]) == [ids["pending"], ids["dead"]]
    assert await ids_of(scheduler, name="other") == newest_first[:3]
    assert await ids_of(scheduler, name=("other", "order"), status="running") == [ids["running"]]
    assert await ids_of(scheduler, name="other", status="dead") == []
    assert await ids_of(scheduler, name="nobody") == []
    assert await ids_of(scheduler, name=[]) == []
    assert await ids_of(scheduler, status=[], name="order") == []
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert await ids_of(scheduler, created_after=start + timedelta(seconds=4.5)) == newest_first[:2]
    assert await ids_of(scheduler, created_before=start + timedelta(seconds=0.5)) == newest_first[6:]
    assert await ids_of(scheduler, created_before=datetime.max.replace(tzinfo=UTC)) == newest_first
    assert await ids_of(scheduler, limit=2, offset=1) == newest_first[1:3]
    assert await ids_of(scheduler, limit=1000, offset=6) == newest_first[6:]
    assert await scheduler.get_queue_depth() == 3


@pytest.mark.parametrize(
    "named,filters",
    [
        ("no status 'odd'; there are pending, ", {"status": "odd"}),
        ("no status 'odd'", {"status": ["dead", "odd"]}),
        ("limit", {"limit": 0}),
        ("limit", {"limit": 1001}),
        ("offset", {"offset": -1}),
        ("created_after", {"created_after": datetime(2026, 1, 1)}),  # noqa: DTZ001
        ("created_before", {"created_before": datetime(2026, 1, 1)}),  # noqa: DTZ001
    ],
)
async def test_filters_that_cannot_be(named: str, filters: dict[str, Any]) -> None:
    async with MemoryKV() as kv:
        with pytest.raises(ConfigurationError, match=named):
            await TaskScheduler(kv).get_tasks(**filters)


async def test_a_record_that_somebody_else_wrote_breaks_no_listing(timed_kv: KV) -> None:
    scheduler = TaskScheduler(timed_kv)
    await scheduler.submit([NewTask("odd", "order", b"not \xff json"), NewTask("fine", "order", b"{}")])
    leases = await claim(timed_kv, "order", limit=2)
    by_id = {lease.task.id: lease for lease in leases}
    await timed_kv.store.report(by_id["fine"], b'{"progress": "odd"}')
    assert (await found(timed_kv, "fine")).progress is None
    await timed_kv.store.settle([Settlement(by_id["odd"], Complete(b"[object Object]"))])
    assert {task.id: task.input for task in await scheduler.get_tasks()} == {
        "odd": "not \ufffd json",
        "fine": {},
    }
    assert (await found(timed_kv, "odd")).result == "[object Object]"


# Waiting ----------------------------------------------------------------------------------------------------------


async def test_waiting_is_woken_and_does_not_poll(timed_kv: KV) -> None:
    spied, begun, release = ScriptedKV(timed_kv), asyncio.Event(), asyncio.Event()

    @define_task(name="slow")
    async def slow(ctx: TaskContext) -> str:
        begun.set()
        await release.wait()
        return "done"

    scheduler = TaskScheduler(spied)
    async with working(timed_kv, slow):
        task_id = await scheduler.enqueue(slow)
        await begun.wait()
        waiting = [asyncio.create_task(scheduler.wait(task_id)) for _ in range(3)]
        await spied.script.called("get", 3)
        release.set()
        tasks = await asyncio.gather(*waiting)
    assert [task and task.result for task in tasks] == ["done"] * 3
    assert spied.script.calls["get"] <= 9  # a look before, and one whenever it is told that there may be news


async def test_waiting_for_what_has_ended_or_never_was_takes_one_look(timed_kv: KV) -> None:
    spied = ScriptedKV(timed_kv)
    scheduler = TaskScheduler(spied)
    task_id = await scheduler.enqueue(other)
    await scheduler.cancel(task_id)
    task = await scheduler.wait(task_id, timeout=0)
    assert task is not None
    assert task.status == "cancelled"
    assert await scheduler.wait("unknown") is None
    assert spied.script.calls["get"] == 2


async def test_an_id_or_a_name_that_nothing_can_have_is_unknown(timed_kv: KV) -> None:
    scheduler = TaskScheduler(timed_kv)
    await scheduler.enqueue(other)
    assert await scheduler.wait("\ud800") is None
    assert await scheduler.get_task("\ud800") is None
    assert await scheduler.get_tasks(name="\ud800") == []
    assert not await scheduler.cancel("\ud800", running=True)
    assert await scheduler.dead_letters.get("\ud800") is None
    assert await scheduler.dead_letters.retry("\ud800") is None


async def test_waiting_has_its_limit(timed_kv: KV, clock: WatchedClock) -> None:
    scheduler = TaskScheduler(timed_kv)
    task_id = await scheduler.enqueue(other)
    waiting = asyncio.create_task(scheduler.wait(task_id, timeout=timedelta(seconds=5)))
    await clock.timer_set(5)
    clock.advance(5)
    with pytest.raises(TimeoutError, match=f"task {task_id} is still pending after 5 s"):
        await waiting
    with pytest.raises(ConfigurationError, match="timeout"):
        await scheduler.wait(task_id, timeout=-1)


async def test_waiting_looks_again_after_a_lost_connection(timed_kv: KV) -> None:
    """None: it may have ended."""
    notified: list[Any] = []

    class Deaf(ScriptedKV):
        @property
        def store(self) -> Any:
            store = super().store

            async def ended(_: str, tell: Any) -> Any:
                notified.append(tell)
                return await timed_kv.store.listen("nothing", tell)

            store.ended = ended
            return store

    deaf = Deaf(timed_kv)
    scheduler = TaskScheduler(deaf)
    task_id = await scheduler.enqueue(other)
    waiting = asyncio.create_task(scheduler.wait(task_id))
    await deaf.script.called("get", 1)
    (lease,) = await claim(timed_kv, "other")
    await timed_kv.store.settle([Settlement(lease, Release())])
    notified[0](None)
    await deaf.script.called("get", 2)  # not ended: it waits on
    await scheduler.cancel(task_id)
    notified[0](None)
    task = await waiting
    assert task is not None
    assert task.status == "cancelled"


# From a thread ----------------------------------------------------------------------------------------------------


async def test_a_thread_enqueues_with_one_call(timed_kv: KV, clock: WatchedClock) -> None:
    scheduler = TaskScheduler(timed_kv)

    @define_task(name="parent")
    def parent(ctx: TaskContext) -> list[str]:
        return [
            scheduler.enqueue_from_thread(order, {"number": 1}, priority=99, idempotency_key="k"),
            scheduler.enqueue_from_thread(order, Order(number=2), delay=60),
            scheduler.enqueue_from_thread(order, Order(number=3), at=datetime(2026, 6, 1, tzinfo=UTC)),
        ]

    async with working(timed_kv, parent):
        first, second, third = (await ended(timed_kv, await scheduler.enqueue(parent))).result
    assert (await found(timed_kv, first)).priority == 99
    assert (await found(timed_kv, first)).idempotency_key == "k"
    assert (await found(timed_kv, second)).status == "scheduled"
    assert (await found(timed_kv, third)).scheduled_for == datetime(2026, 6, 1, tzinfo=UTC)


async def test_what_a_thread_is_told_when_it_goes_wrong(timed_kv: KV) -> None:
    spied = ScriptedKV(timed_kv)
    scheduler = TaskScheduler(spied)
    bad: Any = {"number": "x"}
    with pytest.raises(TaskInputError):
        await asyncio.to_thread(scheduler.enqueue_from_thread, order, bad)
    spied.script.fail("add", StoreUnavailableError("away"))
    with pytest.raises(StoreUnavailableError, match="away"):
        await asyncio.to_thread(scheduler.enqueue_from_thread, order, {"number": 1})
    with pytest.raises(ConfigurationError, match=r"await scheduler\.enqueue"):
        scheduler.enqueue_from_thread(order, {"number": 1})
    assert await scheduler.get_queue_depth() == 0


def test_a_thread_is_told_where_there_is_no_loop_any_more() -> None:
    kv = MemoryKV()
    scheduler = TaskScheduler(kv)
    with pytest.raises(ConfigurationError, match="isn't connected"):
        scheduler.enqueue_from_thread(other)
    asyncio.run(kv.connect())
    with pytest.raises(ConfigurationError, match="has ended"):
        scheduler.enqueue_from_thread(other)


async def test_a_thread_with_a_loop_of_its_own_is_told_to_await() -> None:
    async with MemoryKV() as kv:
        scheduler, errors = TaskScheduler(kv), list[Exception]()

        async def on_another_loop() -> None:
            try:
                scheduler.enqueue_from_thread(other)
            except ConfigurationError as error:
                errors.append(error)

        thread = threading.Thread(target=lambda: asyncio.run(on_another_loop()))
        thread.start()
        await asyncio.to_thread(thread.join)
        assert "runs an event loop" in str(errors[0])
