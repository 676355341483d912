"""An idle worker is handed what comes along, and neither loses it nor runs it twice, whatever becomes of the message."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest
from redis.asyncio import Redis

from concave import TaskContext, TaskDefinition, define_task
from concave.errors import StoreUnavailableError
from concave.kv import RedisKV
from concave.store.records import Claim, Lease
from concave.tasks import TaskScheduler, TaskWorker
from tests.stores.leaks import drop_namespace
from tests.tasks.support import ScriptedKV, WatchedClock, ended, found, time_passing, until, working


@pytest.fixture
async def timed_kv(
    redis_url: str, clock: WatchedClock, request: pytest.FixtureRequest
) -> AsyncGenerator[RedisKV]:
    """On Redis alone: in memory there is no trip to save, and no claim is answered later."""
    async with RedisKV(redis_url, prefix=f"standing-{id(request.node)}", clock=clock) as kv:
        yield kv


def counting(ran: list[str]) -> TaskDefinition[None, None]:
    @define_task(name="job")
    async def job(ctx: TaskContext) -> None:
        ran.append(ctx.task_id)

    return job


class HeldAnswer:
    """What is handed to a worker, which hears of it when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.there = asyncio.Event()
        self._on_answer = TaskWorker._on_answer
        self._given: tuple[TaskWorker, str, Sequence[Lease]] | None = None

        def keep(worker: TaskWorker, nonce: str, leases: Sequence[Lease]) -> None:
            self._given = worker, nonce, leases
            self.there.set()

        monkeypatch.setattr(TaskWorker, "_on_answer", keep)

    def hear(self) -> None:
        assert self._given is not None
        self._on_answer(*self._given)


def claims_of(spied: ScriptedKV) -> list[Claim]:
    """What was claimed, be it alone or together with a settlement."""
    return [wanted for verb, wanted in spied.script.arguments if verb == "claim"]


async def test_an_idle_worker_runs_what_comes_without_asking(timed_kv: RedisKV) -> None:
    ran: list[str] = []
    job, scheduler, spied = counting(ran), TaskScheduler(timed_kv), ScriptedKV(timed_kv)
    async with working(spied, job):
        await spied.script.called("claim", 1)
        for number in range(1, 4):
            task_id = await scheduler.enqueue(job)
            assert (await found(timed_kv, task_id)).status in {"running", "completed"}
            task = await ended(timed_kv, task_id)
            assert (task.status, task.attempt, task.crashes, len(ran)) == ("completed", 1, 0, number)
            await spied.script.called("settle", number)
        assert spied.script.calls["claim"] == 1


async def test_of_two_idle_workers_one_is_handed_it(timed_kv: RedisKV) -> None:
    ran: list[str] = []
    job, scheduler = counting(ran), TaskScheduler(timed_kv)
    spied = [ScriptedKV(timed_kv.twin()) for _ in range(2)]
    async with spied[0], spied[1], working(spied[0], job) as one, working(spied[1], job) as other:
        for each in spied:
            await each.script.called("claim", 1)
        await ended(timed_kv, await scheduler.enqueue(job))
        assert sum(each.script.calls["settle"] for each in spied) <= 1
        assert one.get_stats().processed_count + other.get_stats().processed_count == 1
        assert [each.script.calls["claim"] for each in spied] == [1, 1]


async def test_of_the_workers_of_a_loop_one_is_handed_what_comes(timed_kv: RedisKV) -> None:
    # Its handler may block the loop: what another one was handed then had to wait for that, with others idle elsewhere.
    gate, ran = asyncio.Event(), list[str]()

    @define_task(name="slow")
    async def slow() -> None:
        await gate.wait()

    job, scheduler = counting(ran), TaskScheduler(timed_kv)
    spied = [ScriptedKV(timed_kv.twin()) for _ in range(2)]
    async with spied[0], spied[1], working(spied[0], slow) as first:
        await spied[0].script.called("claim", 1)
        async with working(spied[1], job) as second:
            await spied[1].script.called("claim", 1)
            await scheduler.enqueue(slow)
            await until(lambda: first.get_stats().active_tasks == 1)
            await ended(timed_kv, await scheduler.enqueue(job))
            await spied[1].script.called("settle", 1)
            assert [wanted.stands > 0 for wanted in claims_of(spied[1])] == [False, False]
            gate.set()
            await spied[0].script.called("settle", 1)
            await first.stop()
            second._on_work(None)
            await spied[1].script.called("claim", 3)
            assert claims_of(spied[1])[-1].stands > 0
    assert len(ran) == 1


async def test_an_answer_that_got_lost_is_heard_with_the_next_claim(
    timed_kv: RedisKV, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, lost = list[str](), asyncio.Event()
    monkeypatch.setattr(TaskWorker, "_on_answer", lambda *_: lost.set())
    job, scheduler, spied = counting(ran), TaskScheduler(timed_kv), ScriptedKV(timed_kv)
    async with working(spied, job) as worker:
        await spied.script.called("claim", 1)
        task_id = await scheduler.enqueue(job)
        await lost.wait()
        worker._on_work(None)  # as when the connection that listens is back
        assert (await ended(timed_kv, task_id)).crashes == 0
    assert ran == [task_id]
    assert len({wanted.nonce for wanted in claims_of(spied)[:2]}) == 1


async def test_a_word_to_stop_counts_for_a_task_whose_answer_got_lost(
    timed_kv: RedisKV, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, lost, told = list[str](), asyncio.Event(), asyncio.Event()
    on_abort = TaskWorker._on_abort

    def hear(self: TaskWorker, task_id: str | None) -> None:
        on_abort(self, task_id)
        told.set()

    monkeypatch.setattr(TaskWorker, "_on_answer", lambda *_: lost.set())
    monkeypatch.setattr(TaskWorker, "_on_abort", hear)
    job, scheduler, spied = counting(ran), TaskScheduler(timed_kv), ScriptedKV(timed_kv)
    async with working(spied, job) as worker:
        await spied.script.called("claim", 1)
        task_id = await scheduler.enqueue(job)
        await lost.wait()
        assert await timed_kv.store.abort(task_id)
        await told.wait()
        worker._on_work(None)
        assert (await ended(timed_kv, task_id)).status == "cancelled"
    assert ran == []


@pytest.mark.parametrize("fails", [False, True])
async def test_an_answer_that_comes_while_its_claim_is_made_again_counts_once(
    timed_kv: RedisKV, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, heard = list[str](), asyncio.Event()
    on_answer = TaskWorker._on_answer

    def hear(self: TaskWorker, nonce: str, leases: Sequence[Lease]) -> None:
        on_answer(self, nonce, leases)
        heard.set()

    monkeypatch.setattr(TaskWorker, "_on_answer", hear)
    job, scheduler, spied = counting(ran), TaskScheduler(timed_kv), ScriptedKV(timed_kv)
    async with working(spied, job) as worker:
        await spied.script.called("claim", 1)
        # The claim is made again and finds nothing; before that is known, a task comes along and is handed over.
        there, let_through = spied.script.hold_answer("claim")
        worker._on_work(None)
        await there.wait()
        task_id = await scheduler.enqueue(job)
        await heard.wait()
        assert ran == []
        if fails:
            spied.script.fail("claim", StoreUnavailableError("away"))
        let_through.set()
        await ended(timed_kv, task_id)
    assert ran == [task_id]


async def test_what_was_handed_over_unheard_is_in_the_answer_as_well(
    timed_kv: RedisKV, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The message comes first, and is still about to be heard when the claim that is made again has its answer.
    ran, answer = list[str](), HeldAnswer(monkeypatch)
    job, scheduler, spied = counting(ran), TaskScheduler(timed_kv), ScriptedKV(timed_kv)
    async with working(spied, job) as worker:
        await spied.script.called("claim", 1)
        task_id = await scheduler.enqueue(job)
        await answer.there.wait()
        there, let_through = spied.script.hold_answer("claim")
        worker._on_work(None)
        await there.wait()
        answer.hear()
        let_through.set()
        await ended(timed_kv, task_id)
        answer.hear()  # once more, much later
    assert ran == [task_id]


@pytest.mark.parametrize("way", ["pause", "stop"])
async def test_a_worker_that_begins_nothing_is_handed_nothing(timed_kv: RedisKV, way: str) -> None:
    ran: list[str] = []
    job, scheduler, spied = counting(ran), TaskScheduler(timed_kv), ScriptedKV(timed_kv)
    async with working(spied, job) as worker:
        await spied.script.called("claim", 1)
        if way == "pause":
            worker.pause()
            await spied.script.called("claim", 2)
        else:
            await worker.stop()
        task_id = await scheduler.enqueue(job)
        task = await found(timed_kv, task_id)
        assert (task.status, task.interruptions) == ("pending", 0)
        if way == "pause":
            worker.resume()
        else:
            await worker.start()
        assert (await ended(timed_kv, task_id)).interruptions == 0
    assert ran == [task_id]


async def test_what_is_handed_over_just_before_a_stop_goes_back_at_once(
    timed_kv: RedisKV, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, lost = list[str](), asyncio.Event()
    job, scheduler, spied = counting(ran), TaskScheduler(timed_kv), ScriptedKV(timed_kv)
    with monkeypatch.context() as patch:
        patch.setattr(TaskWorker, "_on_answer", lambda *_: lost.set())
        async with working(spied, job) as worker:
            await spied.script.called("claim", 1)
            task_id = await scheduler.enqueue(job)
            await lost.wait()
            await worker.stop()
    task = await found(timed_kv, task_id)
    assert (task.status, task.attempt, task.crashes, task.interruptions) == ("pending", 0, 0, 1)
    async with working(timed_kv, job):
        await ended(timed_kv, task_id)
    assert ran == [task_id]


async def test_a_worker_that_runs_something_is_not_handed_more(timed_kv: RedisKV) -> None:
    # Its handler may block the loop: what would be handed over then had to wait for that.
    gate = asyncio.Event()

    @define_task(name="slow")
    async def slow() -> None:
        await gate.wait()

    ran: list[str] = []
    job, scheduler, spied = counting(ran), TaskScheduler(timed_kv), ScriptedKV(timed_kv)
    async with working(spied, job, slow) as worker:
        await spied.script.called("claim", 1)
        await scheduler.enqueue(slow)
        await until(lambda: worker.get_stats().active_tasks == 1)
        await ended(timed_kv, await scheduler.enqueue(job))
        assert spied.script.calls["claim"] == 2
        assert [wanted.stands > 0 for wanted in claims_of(spied)] == [True, False]
        gate.set()


async def test_a_claim_that_leased_what_nobody_can_read_does_not_stand(
    timed_kv: RedisKV, redis_url: str
) -> None:
    ran: list[str] = []
    job, scheduler, spied = counting(ran), TaskScheduler(timed_kv), ScriptedKV(timed_kv)
    damaged = await scheduler.enqueue(job)
    async with Redis.from_url(redis_url) as redis:
        await redis.set(f"{{{timed_kv.prefix}}}:t:{damaged}", "damaged")
    async with working(spied, job):
        await spied.script.called("claim", 1)
        task_id = await scheduler.enqueue(job)
        await ended(timed_kv, task_id)
        # Made again under its nonce, it would have what it leased, and nothing else, for as long as that is leased.
        first, second, *_ = claims_of(spied)
        assert first.nonce != second.nonce
    assert ran == [task_id]
    await drop_namespace(redis_url, timed_kv.prefix)


async def test_what_is_heard_after_its_lease_is_not_begun(
    timed_kv: RedisKV, clock: WatchedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, answer = list[str](), HeldAnswer(monkeypatch)
    job, scheduler, spied = counting(ran), TaskScheduler(timed_kv), ScriptedKV(timed_kv)
    async with working(spied, job):
        await spied.script.called("claim", 1)
        task_id = await scheduler.enqueue(job)
        await answer.there.wait()
        clock.advance(30.1)  # its process was frozen; and the message is what it sees first
        answer.hear()
        async with time_passing(clock, at_most=5):
            task = await ended(timed_kv, task_id)
        assert (task.status, task.crashes) == ("completed", 1)
    assert ran == [task_id]


async def test_what_is_heard_late_is_run_if_it_is_still_held(
    timed_kv: RedisKV, clock: WatchedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, answer = list[str](), HeldAnswer(monkeypatch)
    job, scheduler, spied = counting(ran), TaskScheduler(timed_kv), ScriptedKV(timed_kv)
    async with working(spied, job):
        await spied.script.called("claim", 1)
        task_id = await scheduler.enqueue(job)
        await answer.there.wait()
        clock.advance(20)
        answer.hear()
        assert (await ended(timed_kv, task_id)).crashes == 0
        assert len({wanted.nonce for wanted in claims_of(spied)[:2]}) == 1
    assert ran == [task_id]


async def test_who_waits_for_a_task_is_told_how_it_ended_and_looks_once(timed_kv: RedisKV) -> None:
    job, spied = counting([]), ScriptedKV(timed_kv)
    scheduler = TaskScheduler(spied)
    async with working(timed_kv, job):
        for number in range(1, 4):
            task = await scheduler.wait(await scheduler.enqueue(job))
            assert task is not None
            assert task == await found(timed_kv, task.id)
            assert (task.status, spied.script.calls["get"]) == ("completed", number)
