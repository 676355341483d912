"""What a worker takes, in which order, and when it looks: on both stores, by a clock that the test holds."""

import asyncio
from typing import Any

from concave import (
    TaskContext,
    TaskRegistry,
    TaskScheduler,
    create_task_worker,
    define_task,
    start_task_workers,
)
from concave.kv import KV
from concave.store.protocol import abort_topic
from concave.store.records import Retry, Settlement
from concave.testing import FakeClock
from tests.tasks.support import LEASE, ScriptedKV, claim, ended, found, time_passing, working


class Gate:
    """A handler's body: it tells that it has begun, and ends when it is let."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.most = 0
        self.running = 0
        self._changed = asyncio.Condition()
        self._open = 0

    async def __call__(self, value: Any = None) -> None:
        async with self._changed:
            self.begun.append(value)
            self.running += 1
            self.most = max(self.most, self.running)
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._open > 0)
            self._open -= 1
            self.running -= 1

    async def has_begun(self, times: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.begun) >= times)

    async def let_through(self, times: int = 1) -> None:
        async with self._changed:
            self._open += times
            self._changed.notify_all()


def gated(gate: Gate, name: str = "gated", **options: Any) -> Any:
    async def handler(ctx: TaskContext, value: Any) -> None:
        await gate(value)

    return define_task(name, handler, **options)


async def test_the_higher_bucket_goes_first_and_a_bucket_by_age(timed_kv: KV, clock: FakeClock) -> None:
    order: list[int] = []

    @define_task(name="note")
    async def note(ctx: TaskContext, value: int) -> None:
        order.append(value)

    scheduler = TaskScheduler(timed_kv)
    priorities = [10, 50, 0, 74, 100, 25, 75, 50]
    ids: list[str] = []
    for priority in priorities:
        ids.append(await scheduler.enqueue(note, priority, priority=priority))
        clock.advance_micros(1)
    async with working(timed_kv, note, concurrency=1):
        for task_id in ids:
            await ended(timed_kv, task_id)
    assert order == [100, 75, 50, 74, 50, 25, 10, 0]


async def test_an_idle_worker_is_woken_and_asks_for_nothing_meanwhile(timed_kv: KV) -> None:
    @define_task(name="noop")
    async def noop(ctx: TaskContext) -> None: ...

    spied, scheduler = ScriptedKV(timed_kv), TaskScheduler(timed_kv)
    async with working(spied, noop):
        await spied.script.called("claim", 1)
        for times in range(1, 4):  # the clock stands still: nothing but a wake-up can start a task
            await ended(timed_kv, await scheduler.enqueue(noop))
            await spied.script.called("settle", times)
        asked = [verb for verb, _ in spied.script.arguments if verb in {"claim", "settle"}]
    # One claim per wake-up, one settlement per task, each with the next claim in it; and no look without a reason.
    assert asked[0] == "claim"
    assert asked.count("claim") <= 4
    assert asked.count("settle") == 3


async def test_a_task_starts_at_the_time_it_is_due(timed_kv: KV, clock: FakeClock) -> None:
    @define_task(name="noop")
    async def noop(ctx: TaskContext) -> float:
        return (ctx.started_at - ctx.scheduled_at).total_seconds()

    spied, scheduler = ScriptedKV(timed_kv), TaskScheduler(timed_kv)
    async with working(spied, noop):
        await spied.script.called("claim", 1)
        task_id = await scheduler.schedule(noop, delay=7)
        await spied.script.called(
            "claim", 2
        )  # it was told of something that falls due earlier than it would look
        clock.advance(6.999)
        assert (await found(timed_kv, task_id)).status == "scheduled"
        clock.advance(0.001)
        assert (await ended(timed_kv, task_id)).result == 0


async def test_a_retry_starts_after_its_delay(timed_kv: KV, clock: FakeClock) -> None:
    @define_task(name="fails-once")
    async def fails_once(ctx: TaskContext) -> int:
        if ctx.attempt == 1:
            raise ValueError
        return ctx.attempt

    spied, scheduler = ScriptedKV(timed_kv), TaskScheduler(timed_kv)
    async with working(spied, fails_once):
        task_id = await scheduler.enqueue(fails_once)
        await spied.script.called("settle", 1)
        task = await found(timed_kv, task_id)
        assert task.status == "failed"
        clock.advance(0.5)
        assert (await found(timed_kv, task_id)).status == "failed"
        async with time_passing(clock):
            task = await ended(timed_kv, task_id)
    assert (task.result, task.attempt, len(task.errors)) == (2, 2, 1)


async def test_the_tasks_of_a_dead_worker_run_as_soon_as_their_leases_end(
    timed_kv: KV, clock: FakeClock
) -> None:
    @define_task(name="noop")
    async def noop(ctx: TaskContext) -> str:
        return ctx.worker_id

    spied, scheduler = ScriptedKV(timed_kv), TaskScheduler(timed_kv)
    task_id = await scheduler.enqueue(noop)
    await claim(timed_kv, "noop")
    async with working(spied, noop, id="alive", poll_interval=3600):
        await spied.script.called("claim", 1)
        clock.advance(29)
        async with time_passing(clock):
            task = await ended(timed_kv, task_id)
    assert (task.result, task.attempt, task.crashes) == ("alive", 1, 1)


async def test_tasks_that_crashed_a_worker_run_one_at_a_time(timed_kv: KV, clock: FakeClock) -> None:
    suspects, others = Gate(), Gate()
    suspect, other = gated(suspects, "suspect"), gated(others, "other")
    scheduler = TaskScheduler(timed_kv)
    ids = await scheduler.enqueue_many(suspect, [1, 2, 3])
    await claim(timed_kv, "suspect", limit=3)
    clock.advance(30)
    ids += await scheduler.enqueue_many(other, [4, 5])
    async with working(timed_kv, suspect, other, concurrency=5):
        await others.has_begun(2)
        await suspects.has_begun(1)
        ids.append(await scheduler.enqueue(other, 6))
        await others.has_begun(3)  # there was room, and another claim, and the other suspects were left alone
        assert len(suspects.begun) == 1
        for times in range(1, 4):
            await suspects.has_begun(times)
            await suspects.let_through()
        await others.let_through(3)
        for task_id in ids:
            assert (await ended(timed_kv, task_id)).status == "completed"
    assert (suspects.most, others.most) == (1, 3)


async def test_a_worker_is_told_when_it_may_run_what_has_crashed_before(
    timed_kv: KV, clock: FakeClock
) -> None:
    """One at a time in a process: who has to wait for another worker's doesn't wait for a look of its own as well."""
    first, second = Gate(), Gate()
    one, other = gated(first, "one"), gated(second, "other")
    scheduler = TaskScheduler(timed_kv)
    ids = [await scheduler.enqueue(one, 1), await scheduler.enqueue(other, 2)]
    assert len(await claim(timed_kv, "one", "other", limit=2)) == 2
    clock.advance(30)
    spied = ScriptedKV(timed_kv)
    async with working(timed_kv, one, poll_interval=3600):
        await first.has_begun(1)
        async with working(spied, other, poll_interval=3600):
            await spied.script.called("claim", 1)
            assert second.begun == []
            await first.let_through()
            await second.has_begun(1)  # the clock stands still
            await second.let_through()
            for task_id in ids:
                assert (await ended(timed_kv, task_id)).status == "completed"


async def test_a_worker_runs_as_many_as_it_may_and_more_when_there_is_room(timed_kv: KV) -> None:
    gate = Gate()
    task, scheduler = gated(gate), TaskScheduler(timed_kv)
    ids = await scheduler.enqueue_many(task, range(5))
    async with working(timed_kv, task, concurrency=2) as worker:
        await gate.has_begun(2)
        assert worker.get_stats().active_tasks == 2
        await gate.let_through(5)
        for task_id in ids:
            await ended(timed_kv, task_id)
    assert (gate.most, gate.begun) == (2, [0, 1, 2, 3, 4])


async def test_a_full_task_holds_fleet_wide_and_blocks_no_other(timed_kv: KV) -> None:
    gate, free = Gate(), Gate()
    capped, other = gated(gate, "capped", max_concurrency=2), gated(free, "other")
    scheduler = TaskScheduler(timed_kv)
    ids = await scheduler.enqueue_many(capped, range(6), priority=100)
    ids += await scheduler.enqueue_many(other, range(2), priority=0)
    async with working(timed_kv, capped, other), working(timed_kv, capped, other):
        await gate.has_begun(2)
        await free.has_begun(2)
        await free.let_through(2)
        await gate.let_through(6)
        for task_id in ids:
            await ended(timed_kv, task_id)
    assert gate.most == 2


async def test_a_name_that_is_registered_later_is_claimed_from_then_on(timed_kv: KV) -> None:
    @define_task(name="late")
    async def late(ctx: TaskContext) -> str:
        return "ran"

    spied, registry, scheduler = ScriptedKV(timed_kv), TaskRegistry(), TaskScheduler(timed_kv)
    worker = create_task_worker(spied, registry, poll_interval=30)
    await worker.start()
    early = await scheduler.enqueue(late)
    assert spied.script.calls["claim"] == 0  # with no name there is nothing to ask for
    registry.register(late)
    await scheduler.cancel(early)
    assert (await ended(timed_kv, await scheduler.enqueue(late))).result == "ran"
    await worker.stop()


async def test_what_was_claimed_before_a_pause_is_handed_back(timed_kv: KV) -> None:
    gate = Gate()
    task, spied, scheduler = gated(gate), ScriptedKV(timed_kv), TaskScheduler(timed_kv)
    task_id = await scheduler.enqueue(task)
    there, let_through = spied.script.hold_answer("claim")
    async with working(spied, task) as worker:
        await there.wait()
        worker.pause()
        let_through.set()
        await spied.script.called("settle", 1)
        waiting = await found(timed_kv, task_id)
        assert (waiting.status, waiting.attempt, waiting.interruptions) == ("pending", 0, 1)
        assert gate.begun == []
        worker.resume()
        await gate.has_begun(1)
        await gate.let_through()
        await ended(timed_kv, task_id)


async def test_an_abort_that_comes_before_its_task_is_kept(timed_kv: KV) -> None:
    gate = Gate()
    task, spied, scheduler = gated(gate), ScriptedKV(timed_kv), TaskScheduler(timed_kv)
    task_id = await scheduler.enqueue(task)
    there, let_through = spied.script.hold_answer("claim")
    heard = asyncio.Event()
    async with working(spied, task, id="w"):
        await there.wait()
        listener = await timed_kv.store.listen(abort_topic("w"), lambda _: heard.set())
        assert await scheduler.cancel(task_id, running=True)
        await heard.wait()
        let_through.set()
        assert (await ended(timed_kv, task_id)).status == "cancelled"
        await listener.close()
    assert gate.begun == []  # its handler was not even called


async def test_a_task_that_ended_between_two_looks_is_cancelled_all_the_same(timed_kv: KV) -> None:
    """It runs at the first look, has failed at the second, and waits for its retry by the third."""
    task, spied = gated(Gate()), ScriptedKV(timed_kv)
    scheduler = TaskScheduler(spied)
    task_id = await scheduler.enqueue(task, 1)
    (lease,) = await claim(timed_kv, "gated")
    there, let_through = spied.script.hold_answer("cancel")
    cancelling = asyncio.create_task(scheduler.cancel(task_id, running=True))
    await there.wait()
    await timed_kv.store.settle([Settlement(lease, Retry(LEASE, None))])
    let_through.set()
    assert await cancelling
    assert (await found(timed_kv, task_id)).status == "cancelled"


async def test_workers_of_one_call_have_names_of_their_own(timed_kv: KV) -> None:
    task = gated(Gate())
    workers = await start_task_workers(timed_kv, TaskRegistry([task]), 3, id="w")
    assert [worker.id for worker in workers] == ["w-1", "w-2", "w-3"]
    for worker in workers:
        await worker.stop()
    unnamed = await start_task_workers(timed_kv, TaskRegistry([task]), 2)
    assert unnamed[0].id != unnamed[1].id
    for worker in unnamed:
        await worker.stop()
