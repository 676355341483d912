"""A busy worker's two lines to the store, each with an exchange under way."""

import asyncio
from collections.abc import Sequence

import pytest

from concave import define_task
from concave.errors import StoreUnavailableError
from concave.kv.protocol import KV
from concave.store.protocol import abort_topic
from concave.store.records import Claim, Settled, Settlement
from concave.tasks import TaskDefinition, TaskScheduler
from concave.tasks.claims import TWO_LINES_FROM
from tests.tasks.support import ScriptedKV, ended, until, working

BUSY = TWO_LINES_FROM
HALF = BUSY // 2


def gated(gate: asyncio.Event, ran: list[str]) -> TaskDefinition[None, None]:
    @define_task(name="gated")
    async def handler() -> None:
        ran.append("")
        await gate.wait()

    return handler


def quick() -> TaskDefinition[None, None]:
    @define_task(name="quick")
    async def handler() -> None:
        pass

    return handler


def settled(spied: ScriptedKV) -> list[int]:
    """The sizes of the batches whose answers were heard."""
    return [len(batch) for verb, batch in spied.script.arguments if verb == "settle"]


async def test_while_one_answer_is_awaited_the_other_half_is_settled(timed_kv: KV) -> None:
    task, scheduler, spied = quick(), TaskScheduler(timed_kv), ScriptedKV(timed_kv)
    there, let_through = spied.script.hold_answer("settle")
    ids = await scheduler.enqueue_many(task, [None] * (6 * HALF))
    async with working(spied, task, concurrency=BUSY):
        await there.wait()
        # The first line is stuck, with a half settled and a half claimed. All others come through the second.
        await until(lambda: settled(spied) == [HALF] * 4)
        let_through.set()
        assert {(await ended(timed_kv, task_id)).status for task_id in ids} == {"completed"}
    claims = [wanted for verb, wanted in spied.script.arguments if verb == "claim"]
    assert max(wanted.limit for wanted in claims) == HALF


async def test_claims_on_both_lines_never_ask_for_more_than_there_is_room(timed_kv: KV) -> None:
    gate, ran = asyncio.Event(), list[str]()
    slow, scheduler = gated(gate, ran), TaskScheduler(timed_kv)
    await scheduler.enqueue_many(slow, [None] * (3 * BUSY))
    async with working(timed_kv, slow, concurrency=BUSY) as worker:
        await until(lambda: len(ran) == BUSY)
        for _ in range(50):
            await asyncio.sleep(0)
        assert worker.get_stats().active_tasks == len(ran) == BUSY
        gate.set()
        await until(lambda: len(ran) == 3 * BUSY)


async def test_a_worker_of_few_tasks_has_one_line(timed_kv: KV) -> None:
    task, scheduler, spied = quick(), TaskScheduler(timed_kv), ScriptedKV(timed_kv)
    there, let_through = spied.script.hold_answer("settle")
    ids = await scheduler.enqueue_many(task, [None] * (2 * BUSY))
    async with working(spied, task, concurrency=BUSY - 1):
        await there.wait()
        for _ in range(50):
            await asyncio.sleep(0)
        assert spied.script.calls["settle"] == 0
        let_through.set()
        assert {(await ended(timed_kv, task_id)).status for task_id in ids} == {"completed"}


async def test_each_line_repeats_its_own_claim_until_it_is_answered(
    timed_kv: KV, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, scheduler, store = quick(), TaskScheduler(timed_kv), timed_kv.store
    settle, claims = store.settle, dict[int, list[str]]({0: [], 1: []})
    lost: set[int] = set()

    async def loses_an_answer_of_each_line(
        settlements: Sequence[Settlement], claim: Claim | None = None
    ) -> Settled:
        settled = await settle(settlements, claim)
        for _ in range(5):  # as long as it takes a handler to end
            await asyncio.sleep(0)
        if claim is not None:
            claims[claim.line].append(claim.nonce)
            if claim.line not in lost and settled.claimed.leases:
                lost.add(claim.line)
                worker._on_work(None)  # ends the pause before the next try
                raise StoreUnavailableError("the answer was lost")
        return settled

    monkeypatch.setattr(store, "settle", loses_an_answer_of_each_line)
    ids = await scheduler.enqueue_many(task, [None] * (20 * HALF))
    async with working(timed_kv, task, concurrency=BUSY) as worker:
        tasks = [await ended(timed_kv, task_id) for task_id in ids]
    assert lost == {0, 1}
    assert all(len(set(nonces)) < len(nonces) for nonces in claims.values())
    assert {(task.status, task.crashes, task.attempt) for task in tasks} == {("completed", 0, 1)}


async def test_a_word_to_stop_that_comes_before_its_task_is_kept_on_the_line_it_comes_by(
    timed_kv: KV,
) -> None:
    gate, ran = asyncio.Event(), list[str]()
    slow, scheduler, spied = gated(gate, ran), TaskScheduler(timed_kv), ScriptedKV(timed_kv)
    there, let_through = spied.script.hold_answer("claim")
    task_id = await scheduler.enqueue(slow)
    heard = asyncio.Event()
    async with working(spied, slow, id="w", concurrency=BUSY):
        await there.wait()
        listener = await timed_kv.store.listen(abort_topic("w"), lambda _: heard.set())
        assert await scheduler.cancel(task_id, running=True)
        await heard.wait()
        let_through.set()
        assert (await ended(timed_kv, task_id)).status == "cancelled"
        await listener.close()
    assert ran == []
