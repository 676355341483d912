"""Concurrent submissions share round trips, and nothing else: neither a cancellation nor an error."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, strategies as st

from concave import (
    StoreDeniedError,
    StoreFullError,
    StoreUnavailableError,
    TaskContext,
    TaskScheduler,
    define_task,
)
from concave.kv import KV, MemoryKV
from concave.store.records import Debounce, NewTask
from concave.tasks.batching import MAX_BYTES, MAX_TASKS, Batcher, in_batches
from concave.tasks.submission import new_task_id
from tests.tasks.support import ScriptedKV, working


def new(size: int = 1, name: str = "t") -> NewTask:
    return NewTask(new_task_id(), name, b"x" * size)


class Sender:
    """Takes batches, each when it is let; never in the turn of the loop in which it is asked to."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.errors: list[BaseException] = []
        self.bad: set[str] = set()

    async def __call__(self, tasks: Sequence[NewTask]) -> list[str]:
        self.batches.append([task.id for task in tasks])
        await asyncio.sleep(0)
        await self.open.wait()
        if self.errors:
            raise self.errors.pop(0)
        if self.bad & set(self.batches[-1]):
            raise TypeError("can't be packed")
        return [task.id for task in tasks]

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]


async def test_a_lone_submission_leaves_at_once_and_the_rest_gathers_meanwhile() -> None:
    sender = Sender()
    sender.open.clear()
    batcher = Batcher(sender)
    tasks = [new() for _ in range(1200)]
    first = asyncio.create_task(batcher.submit(tasks[0]))
    await asyncio.sleep(0)
    assert sender.sizes == [1]
    second = [asyncio.create_task(batcher.submit(task)) for task in tasks[1:100]]
    await asyncio.sleep(0)
    assert sender.sizes == [1]
    await asyncio.sleep(0)
    assert sender.sizes == [1, 99], "what comes along doesn't wait for what has left"
    rest = [asyncio.create_task(batcher.submit(task)) for task in tasks[100:]]
    for _ in range(3):
        await asyncio.sleep(0)
    assert sender.sizes == [1, 99]
    sender.open.set()
    assert await asyncio.gather(first, *second, *rest) == [task.id for task in tasks]
    assert sender.sizes == [1, 99, MAX_TASKS, MAX_TASKS, 100]


async def test_debounced_submissions_never_overtake_one_another() -> None:
    sender = Sender()
    sender.open.clear()
    batcher = Batcher(sender)
    tasks = [new()._replace(debounce=Debounce("key", 1, None)) for _ in range(3)]
    waiting = [asyncio.create_task(batcher.submit(task)) for task in tasks[:2]]
    for _ in range(3):
        await asyncio.sleep(0)
    waiting.append(asyncio.create_task(batcher.submit(tasks[2])))
    for _ in range(3):
        await asyncio.sleep(0)
    assert sender.batches == [[tasks[0].id, tasks[1].id]]
    sender.open.set()
    await asyncio.gather(*waiting)
    assert sender.batches[1:] == [[tasks[2].id]]


async def test_a_lone_one_that_fails_is_the_only_one_told() -> None:
    sender = Sender()
    sender.errors.append(StoreUnavailableError("away"))
    batcher = Batcher(sender)
    results = await asyncio.gather(*(batcher.submit(new()) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailableError, str, str]
    assert sender.sizes == [1, 2]


async def test_a_batch_is_bounded_in_bytes_and_one_that_is_larger_goes_alone() -> None:
    sender = Sender()
    batcher = Batcher(sender)
    sizes = [MAX_BYTES // 2, MAX_BYTES // 2, 1, MAX_BYTES * 2, 1]
    await asyncio.gather(*(batcher.submit(new(size)) for size in (1, *sizes)))
    assert sender.sizes == [1, 2, 1, 1, 1]


async def test_a_caller_that_is_cancelled_before_it_was_sent_is_not_sent() -> None:
    sender = Sender()
    sender.open.clear()
    batcher = Batcher(sender)
    first = asyncio.create_task(batcher.submit(new()))
    await asyncio.sleep(0)
    tasks = [new() for _ in range(4)]
    waiting = [asyncio.create_task(batcher.submit(task)) for task in tasks]
    await asyncio.sleep(0)
    waiting[1].cancel()
    for _ in range(2):
        await asyncio.sleep(0)
    waiting[2].cancel()  # this one is under way: it can't be called back, and its neighbours don't notice
    sender.open.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [str, asyncio.CancelledError, asyncio.CancelledError, str]
    assert sender.batches == [[await first], [tasks[0].id, tasks[2].id, tasks[3].id]]


async def test_who_goes_first_and_is_cancelled_keeps_nobody_waiting() -> None:
    sender = Sender()
    sender.open.clear()
    batcher = Batcher(sender)
    waiting = [asyncio.create_task(batcher.submit(new())) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    sender.open.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError, str, str]
    assert sender.sizes == [1, 2]
    assert isinstance(await batcher.submit(new()), str)
    assert sender.sizes == [1, 2, 1]


async def test_groups_that_submit_again_and_again_become_one() -> None:
    sender = Sender()
    sender.open.clear()
    batcher = Batcher(sender)

    async def submit_ten() -> None:
        for _ in range(10):
            await batcher.submit(new())

    first = [asyncio.create_task(submit_ten()) for _ in range(50)]
    for _ in range(3):
        await asyncio.sleep(0)
    assert sender.sizes == [1, 49]
    second = [asyncio.create_task(submit_ten()) for _ in range(50)]
    await asyncio.sleep(0)
    sender.open.set()
    await asyncio.gather(*first, *second)
    assert sender.sizes == [1, 49, *[100] * 9, 50]


@pytest.mark.parametrize(
    "error", [StoreUnavailableError("away"), StoreDeniedError("no"), StoreFullError("full")]
)
async def test_without_an_answer_all_of_a_batch_are_told(error: Exception) -> None:
    sender = Sender()
    sender.open.clear()
    batcher = Batcher(sender)
    waiting = [asyncio.create_task(batcher.submit(new())) for _ in range(4)]
    for _ in range(3):
        await asyncio.sleep(0)
    sender.errors += [StoreFullError("the first one's"), error]
    sender.open.set()
    await asyncio.gather(waiting.pop(0), return_exceptions=True)
    assert await asyncio.gather(*waiting, return_exceptions=True) == [error] * 3
    assert sender.sizes == [1, 3]
    assert isinstance(await batcher.submit(new()), str)


async def test_a_bad_call_fails_alone() -> None:
    sender = Sender()
    batcher = Batcher(sender)
    tasks = [new() for _ in range(4)]
    sender.bad = {tasks[1].id}
    results = await asyncio.gather(
        *(batcher.submit(task) for task in (new(), *tasks)), return_exceptions=True
    )
    assert [type(result) for result in results] == [str, str, TypeError, str, str]
    assert sender.sizes == [1, 4, 1, 1, 1, 1]
    lone = await asyncio.gather(batcher.submit(tasks[1]), return_exceptions=True)
    assert isinstance(lone[0], TypeError)


async def test_a_caller_that_left_hears_of_no_error() -> None:
    sender = Sender()
    sender.open.clear()
    sender.errors += [StoreUnavailableError("away"), StoreUnavailableError("still away")]
    batcher = Batcher(sender)
    waiting = [asyncio.create_task(batcher.submit(new())) for _ in range(3)]
    for _ in range(3):
        await asyncio.sleep(0)
    waiting[1].cancel()
    sender.open.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [
        StoreUnavailableError,
        asyncio.CancelledError,
        StoreUnavailableError,
    ]


async def test_whoever_waits_is_told_when_the_sender_is_cancelled() -> None:
    sender = Sender()
    sender.open.clear()
    batcher = Batcher(sender)
    first = asyncio.create_task(batcher.submit(new()))
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(batcher.submit(new())) for _ in range(2)]
    for _ in range(3):
        await asyncio.sleep(0)
    (sending,) = [task for task in asyncio.all_tasks() if task.get_name() == "concave-submit"]
    sending.cancel()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 2
    sender.open.set()
    assert isinstance(await first, str)
    assert isinstance(await batcher.submit(new()), str)


def test_a_loop_that_ended_with_submissions_waiting_does_not_hold_up_the_next() -> None:
    sent: list[str] = []
    never = [True]

    async def send(tasks: Sequence[NewTask]) -> list[str]:
        if never:
            await asyncio.Event().wait()
        sent.extend(task.id for task in tasks)
        return [task.id for task in tasks]

    batcher = Batcher(send)
    old = asyncio.new_event_loop()
    waiting = old.create_task(batcher.submit(new()))
    old.run_until_complete(asyncio.sleep(0))
    old.run_until_complete(asyncio.sleep(0))
    pending = asyncio.all_tasks(old)
    never.clear()
    task = new()
    assert asyncio.run(batcher.submit(task)) == task.id
    assert sent == [task.id]
    for each in pending:
        each.cancel()
    old.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
    assert waiting.cancelled()
    old.close()


@given(st.lists(st.integers(1, MAX_BYTES + 1), max_size=50))
def test_a_long_list_is_cut_in_order_and_no_piece_is_too_large(sizes: list[int]) -> None:
    tasks = [NewTask(str(index), "t", b"x" * size) for index, size in enumerate(sizes)]
    batches = in_batches(tasks)
    assert [task for batch in batches for task in batch] == tasks
    for batch in batches:
        assert len(batch) == 1 or sum(len(task.input) for task in batch) <= MAX_BYTES


def test_a_long_list_is_cut_by_number() -> None:
    assert [len(batch) for batch in in_batches([new() for _ in range(1001)])] == [500, 500, 1]
    assert in_batches([]) == []


async def test_concurrent_enqueues_share_round_trips(kv: KV) -> None:
    @define_task(name="noop")
    async def noop(ctx: TaskContext) -> None: ...

    spied = ScriptedKV(kv)
    scheduler = TaskScheduler(spied)
    ids = await asyncio.gather(*(scheduler.enqueue(noop) for _ in range(100)))
    assert len(set(ids)) == 100
    assert spied.script.calls["add"] <= 2
    assert await scheduler.get_queue_depth() == 100


async def test_a_thread_shares_them_too() -> None:
    @define_task(name="noop")
    async def noop(ctx: TaskContext) -> None: ...

    async with MemoryKV() as kv:
        scheduler = TaskScheduler(kv)
        ids = await asyncio.gather(
            *(asyncio.to_thread(scheduler.enqueue_from_thread, noop) for _ in range(5))
        )
        async with working(kv, noop):
            for task_id in ids:
                assert await scheduler.wait(task_id) is not None


async def test_whoever_enqueues_in_memory_leaves_the_loop_to_the_workers() -> None:
    begun = asyncio.Event()

    @define_task(name="noop")
    async def noop(ctx: TaskContext) -> None:
        begun.set()

    async with MemoryKV() as kv, working(kv, noop):
        scheduler = TaskScheduler(kv)
        while not begun.is_set():
            await scheduler.enqueue(noop)
