"""A worker whose store stumbles: it goes on, nothing runs twice, and no outcome holds up the others."""

import asyncio
import logging
from typing import Any

import pytest

from concave import (
    RetryConfig,
    StoreDeniedError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
    TaskContext,
    TaskScheduler,
    define_task,
)
from concave.kv import KV
from concave.store.records import Complete, Lease, NewTask, Settlement
from concave.tasks.outcomes import Outcome, Outcomes
from tests.tasks.support import ScriptedKV, WatchedClock, claim, ended, found, logged, time_passing, working

FOR_GOOD = 1_000_000
"""Seconds of a lease that a fake clock, which runs while the store takes its time, is not to end."""
AWAY = StoreUnavailableError("away")
ERRORS = [
    AWAY,
    StoreFullError("full"),
    StoreDeniedError("no"),
    StoreError("odd"),
    RuntimeError("a bug"),
    OSError("a driver's own"),
]


def counting(ran: list[str], name: str = "once", **options: Any) -> Any:
    async def once(ctx: TaskContext) -> str:
        ran.append(ctx.task_id)
        return "done"

    return define_task(name, once, **options)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_no_error_of_a_claim_ends_the_loop(timed_kv: KV, clock: WatchedClock, error: Exception) -> None:
    ran: list[str] = []
    once, scheduler, spied = counting(ran), TaskScheduler(timed_kv), ScriptedKV(timed_kv)
    spied.script.fail("claim", error, times=5)
    async with working(spied, once, lock_ttl=FOR_GOOD), time_passing(clock):
        await spied.script.called("claim", 5)
        task_id = await scheduler.enqueue(once)
        assert (await ended(timed_kv, task_id)).status == "completed"
    assert ran == [task_id]


@pytest.mark.parametrize("carried_out", [False, True])
@pytest.mark.parametrize("error", ERRORS[:3], ids=lambda error: type(error).__name__)
async def test_an_outcome_is_sent_again_and_its_handler_not_run_again(
    timed_kv: KV, clock: WatchedClock, error: Exception, carried_out: bool
) -> None:
    ran: list[str] = []
    once, scheduler, spied = counting(ran), TaskScheduler(timed_kv), ScriptedKV(timed_kv)
    spied.script.fail("settle", error, times=4, carried_out=carried_out)
    async with working(spied, once, lock_ttl=FOR_GOOD) as worker, time_passing(clock):
        task_id = await scheduler.enqueue(once)
        task = await ended(timed_kv, task_id)
        await spied.script.called("settle", 5)
        assert (await ended(timed_kv, await scheduler.enqueue(once))).status == "completed"
        if error is AWAY:
            # The first answer was lost, so that the second tells nothing: no reason for alarm.
            assert worker.get_stats().stale_count == 0
    assert (task.status, task.attempt, task.crashes) == ("completed", 1, 0)
    assert ran[0] == task_id
    assert len(ran) == 2


async def test_a_claim_without_an_answer_is_sent_again_with_its_nonce(
    timed_kv: KV, clock: WatchedClock
) -> None:
    ran: list[str] = []
    once, scheduler, spied = counting(ran), TaskScheduler(timed_kv), ScriptedKV(timed_kv)
    ids = await scheduler.enqueue_many(once, [None] * 3)
    spied.script.fail("claim", AWAY, times=3, carried_out=True)
    async with working(spied, once, lock_ttl=FOR_GOOD), time_passing(clock):
        tasks = [await ended(timed_kv, task_id) for task_id in ids]
    nonces = [wanted.nonce for verb, wanted in spied.script.arguments if verb == "claim"]
    assert len(set(nonces[:4])) == 1
    assert sorted(ran) == sorted(ids)
    assert {(task.crashes, task.interruptions) for task in tasks} == {(0, 0)}


async def test_claims_that_come_once_more_when_their_worker_has_gone_on_lease_nothing(timed_kv: KV) -> None:
    ran: list[str] = []
    once, scheduler, spied = counting(ran), TaskScheduler(timed_kv), ScriptedKV(timed_kv)
    async with working(spied, once):
        for _ in range(3):
            await ended(timed_kv, await scheduler.enqueue(once))
    await scheduler.enqueue_many(once, [None] * 3)
    claims = [wanted for verb, wanted in spied.script.arguments if verb == "claim"]
    assert len(claims) >= 3
    assert [(await timed_kv.store.claim(late)).leases for late in claims] == [[]] * len(claims)
    assert await scheduler.get_queue_depth() == 3


async def test_a_claim_that_was_lost_with_a_settlement_is_answered_too(
    timed_kv: KV, clock: WatchedClock
) -> None:
    ran: list[str] = []
    once, scheduler, spied = counting(ran), TaskScheduler(timed_kv), ScriptedKV(timed_kv)
    ids = await scheduler.enqueue_many(once, [None] * 3)
    spied.script.fail("settle", AWAY, times=2, carried_out=True)
    async with working(spied, once, concurrency=1, lock_ttl=FOR_GOOD), time_passing(clock):
        tasks = [await ended(timed_kv, task_id) for task_id in ids]
    assert sorted(ran) == sorted(ids)
    assert {(task.status, task.crashes) for task in tasks} == {("completed", 0)}


async def test_an_outcome_that_cannot_be_sent_takes_no_other_with_it(
    timed_kv: KV, clock: WatchedClock, caplog: pytest.LogCaptureFixture
) -> None:
    @define_task(name="poison", max_crashes=1)
    async def poison() -> str:
        return "poison"

    class Choking(ScriptedKV):
        @property
        def store(self) -> Any:
            store = super().store
            settle = store.settle

            async def chokes(settlements: list[Settlement], *args: Any) -> Any:
                if any(lease.task.name == "poison" for lease, _ in settlements):
                    raise TypeError("can't pack it")
                return await settle(settlements, *args)

            store.settle = chokes
            return store

    ran: list[str] = []
    once, scheduler = counting(ran), TaskScheduler(timed_kv)
    bad, ids = await scheduler.enqueue(poison), await scheduler.enqueue_many(once, [None] * 3)
    with caplog.at_level(logging.ERROR):
        async with working(Choking(timed_kv), once, poison), time_passing(clock):
            for task_id in ids:
                assert (await ended(timed_kv, task_id)).status == "completed"
            assert (
                await ended(timed_kv, bad)
            ).last_error == "its worker died 1 times while it ran (max_crashes)"
    assert f"task {bad} (poison): its outcome can't be sent and is dropped" in caplog.text
    assert sorted(ran) == sorted(ids)


@pytest.mark.parametrize(
    "text", ["a file named \udcff", "x" * 100_000, ""], ids=["surrogates", "long", "empty"]
)
async def test_any_error_text_can_be_kept(timed_kv: KV, text: str) -> None:
    @define_task(name="fails", retry=RetryConfig(1))
    async def fails() -> None:
        raise ValueError(text)

    scheduler = TaskScheduler(timed_kv)
    async with working(timed_kv, fails):
        task = await ended(timed_kv, await scheduler.enqueue(fails))
    assert task.status == "dead"
    assert (task.last_error or "").startswith("ValueError")
    assert "test_worker_troubles.py" in task.errors[0].traceback or len(text) > 8000
    assert len(task.last_error or "") < 2100
    assert len(task.errors[0].traceback) <= 8000


async def test_progress_that_the_store_does_not_take_fails_nothing(timed_kv: KV) -> None:
    @define_task(name="steps")
    async def steps(ctx: TaskContext) -> str:
        await ctx.progress(1)
        with pytest.raises(ValueError, match="finite numbers"):
            await ctx.progress(float("inf"))
        return "done"

    spied, scheduler = ScriptedKV(timed_kv), TaskScheduler(timed_kv)
    spied.script.fail("report", AWAY)
    async with working(spied, steps):
        with logged("progress not kept: away") as told:
            task = await ended(timed_kv, await scheduler.enqueue(steps))
            await told.wait()
    assert (task.status, task.result) == ("completed", "done")


async def test_a_reconnected_listener_makes_the_worker_look(timed_kv: KV) -> None:
    """None on a topic: there may have been messages."""
    ran: list[str] = []
    once, spied = counting(ran), ScriptedKV(timed_kv)
    async with working(spied, once) as worker:
        await spied.script.called("claim", 1)
        worker._on_work("unknown")
        worker._on_abort(None)
        await asyncio.sleep(0)
        assert spied.script.calls["claim"] == 1
        worker._on_work(None)
        await spied.script.called("claim", 2)


async def test_a_reconnected_listener_ends_the_pause_after_a_failure(
    timed_kv: KV, clock: WatchedClock
) -> None:
    """No time passes here: the pause would never end by itself."""
    spied = ScriptedKV(timed_kv)
    spied.script.fail("claim", AWAY)
    async with working(spied, counting([])) as worker:
        with logged("trying again in") as told:
            await told.wait()
        worker._on_work(None)
        await spied.script.called("claim", 2)


# Outcomes, apart from any worker -----------------------------------------------------------------------------------


async def some_leases(kv: KV, count: int) -> list[Lease]:
    await kv.store.add([NewTask(f"t{number}", "t", b"null") for number in range(count)])
    return await claim(kv, "t", limit=count)


def names(batch: list[Outcome]) -> list[str]:
    return [outcome.settlement.lease.task.id for outcome in batch]


async def test_outcomes_are_sent_together_and_forgotten_when_answered(timed_kv: KV) -> None:
    outcomes = Outcomes()
    for lease in await some_leases(timed_kv, 3):
        outcomes.add(lease, Complete(b"1"))
    batch = outcomes.take(10)
    assert names(batch) == ["t0", "t1", "t2"]
    outcomes.failed(batch, StoreFullError("full"))
    assert not outcomes.one_by_one
    first, second = outcomes.take(2), outcomes.take(2)
    assert (names(first), names(second), names(outcomes.take(2))) == (["t0", "t1"], ["t2"], [])
    outcomes.answered(second, [False])
    outcomes.answered(first, [True, True])
    assert (len(outcomes), outcomes.refused, outcomes.runs) == (0, 1, [])


async def test_a_batch_without_an_answer_is_the_next_to_be_sent(timed_kv: KV) -> None:
    outcomes = Outcomes()
    for lease in await some_leases(timed_kv, 3):
        outcomes.add(lease, Complete(b"1"))
    batch = outcomes.take(2)
    outcomes.failed(batch, AWAY)
    batch = outcomes.take(10)
    assert names(batch) == ["t0", "t1", "t2"]
    outcomes.answered(batch, [False, True, False])
    assert outcomes.refused == 1  # of the first the store may have taken what it was sent before


async def test_after_an_odd_error_they_are_sent_one_by_one_until_all_are_through(timed_kv: KV) -> None:
    outcomes = Outcomes()
    for lease in await some_leases(timed_kv, 3):
        outcomes.add(lease, Complete(b"1"))
    outcomes.failed(outcomes.take(10), StoreError("odd"))
    batch = outcomes.take(10)
    assert names(batch) == ["t0"]
    outcomes.failed(batch, StoreError("odd"))  # it may be the store's fault: the others have their turn
    batch = outcomes.take(10)
    assert names(batch) == ["t1"]
    outcomes.failed(batch, TypeError("ours"))  # never to be sent
    batch = outcomes.take(10)
    assert names(batch) == ["t2"]
    outcomes.answered(batch, [True])
    batch = outcomes.take(10)
    assert names(batch) == ["t0"]
    outcomes.failed(outcomes.take(10), RuntimeError("a claim without outcomes"))
    outcomes.answered(batch, [True])
    assert (len(outcomes), outcomes.one_by_one) == (0, False)


async def test_a_larger_batch_that_fails_meanwhile_is_sent_one_by_one_too(timed_kv: KV) -> None:
    outcomes = Outcomes()
    for lease in await some_leases(timed_kv, 4):
        outcomes.add(lease, Complete(b"1"))
    first, second = outcomes.take(2), outcomes.take(2)
    outcomes.failed(first, TypeError("ours"))
    outcomes.failed(second, TypeError("ours"))
    assert len(outcomes) == 4
    assert names(outcomes.take(10)) == ["t2"]


async def test_a_dropped_outcome_leaves_its_task_to_the_end_of_its_lease(timed_kv: KV) -> None:
    (lease,) = await some_leases(timed_kv, 1)
    outcomes = Outcomes()
    outcomes.add(lease, Complete(b"1"))
    outcomes.failed(outcomes.take(1), TypeError("ours"))
    outcomes.failed(outcomes.take(1), TypeError("ours"))
    assert len(outcomes) == 0
    assert (await found(timed_kv, "t0")).status == "running"
