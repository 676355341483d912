"""Inputs and results that JSON can't hold, or that are too large: clear errors, nothing stored, and no handler run again for it."""

import asyncio
import itertools
import math
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Any

import pytest

from concave import (
    RetryConfig,
    Task,
    TaskContext,
    TaskInputError,
    TaskInputTooLargeError,
    TaskRegistry,
    TaskScheduler,
    create_kv,
    define_task,
)
from concave.kv import KV
from concave.tasks import create_recurring_manager, start_task_workers
from concave.tasks.define import MAX_INPUT_BYTES
from concave.tasks.executor import MAX_RESULT_BYTES
from tests.chaos.counting import all_tasks
from tests.chaos.tally import Tally, sized
from tests.servers import RedisServer
from tests.stores.leaks import check_for_leaks

ROUNDS = sized(1, 10)
PREFIX = "chaos"


def cycle() -> Any:
    around: list[Any] = []
    around.append({"again": around})
    return around


def deep() -> Any:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    return nested


NO_JSON: dict[str, Callable[[], Any]] = {
    "NaN": lambda: math.nan,
    "an infinity": lambda: {"x": [1.0, -math.inf]},
    "an object": object,
    "a function": lambda: cycle,
    "an exception": lambda: ValueError("x"),
    "a cycle": cycle,
    "100,000 levels": deep,
    "bytes that are no text": lambda: b"\xff",
    "half a character": lambda: "\udcff",
    "half a character for a key": lambda: {"\udcff": 1},
}

runs: Counter[tuple[str, int]] = Counter()


@define_task(name="take")
async def take(ctx: TaskContext, value: Any) -> int:
    return len(value)


@define_task(name="take-little", max_input_bytes=100)
async def take_little(ctx: TaskContext, value: Any) -> int:
    return len(value)


def _result(what: str) -> Any:
    match what:
        case "too large":
            return "x" * (MAX_RESULT_BYTES - 1)
        case "as large as may be":
            return "x" * (MAX_RESULT_BYTES - 2)
        case "of another type":
            return "x"
        case _:
            return NO_JSON[what]()


@define_task(name="give", retry=RetryConfig(9, initial_delay=0.01))
async def give(ctx: TaskContext, what: tuple[str, int]) -> Any:
    runs[what] += 1
    return _result(what[0])


@define_task(name="give-from-thread", retry=RetryConfig(9, initial_delay=0.01))
def give_from_thread(ctx: TaskContext, what: tuple[str, int]) -> Any:
    runs[what] += 1
    return _result(what[0])


@define_task(name="give-number", retry=RetryConfig(9, initial_delay=0.01))
async def give_number(ctx: TaskContext, what: tuple[str, int]) -> int:
    runs[what] += 1
    result: int = _result(what[0])
    return result


TASKS = (take, take_little, give, give_from_thread, give_number)


@pytest.fixture(params=["memory", "redis"])
async def kv(request: pytest.FixtureRequest) -> AsyncGenerator[KV]:
    redis: RedisServer | None = request.getfixturevalue("redis") if request.param == "redis" else None
    async with await create_kv("memory://" if redis is None else redis.url, prefix=PREFIX) as kv:
        yield kv
    if redis is not None:
        await check_for_leaks(redis.url, PREFIX)


@pytest.mark.timeout(600)
async def test_inputs_that_cannot_be_are_refused_at_the_door_and_nothing_is_stored(
    kv: KV, report: Callable[[Tally], None]
) -> None:
    scheduler, recurring = TaskScheduler(kv), create_recurring_manager(kv)
    doors: list[Callable[[Any, Any], Awaitable[object]]] = [
        scheduler.enqueue,
        lambda task, value: scheduler.enqueue_many(task, ["sound", value]),
        lambda task, value: scheduler.schedule(task, value, delay=1),
        lambda task, value: scheduler.schedule_recurring(task, value, interval=1),
        lambda task, value: recurring.create(task, value, interval=1),
    ]
    too_large = [(take, "x" * (MAX_INPUT_BYTES - 1), MAX_INPUT_BYTES), (take_little, "x" * 99, 100)]
    refused = 0
    for _ in range(ROUNDS):
        for door in doors:
            for make in NO_JSON.values():
                with pytest.raises(TaskInputError, match="task 'take': JSON can't hold it: "):
                    await door(take, make())
                refused += 1
            for task, value, limit in too_large:
                told = f"task '{task.name}': an input of {limit + 1} bytes; the limit is {limit}"
                with pytest.raises(TaskInputTooLargeError, match=told):
                    await door(task, value)
                refused += 1
    stored = await all_tasks(scheduler)
    schedules = await recurring.list()
    # One byte less is fine.
    registry = TaskRegistry(TASKS)
    (worker,) = await start_task_workers(kv, registry, 1)
    fitting = [await scheduler.enqueue(task, value[:-1]) for task, value, _ in too_large]
    results = [task.result for task in await _ended(scheduler, fitting)]
    await worker.stop()
    report(
        Tally(
            f"inputs that JSON can't hold, or of a byte too many ({kv.description.partition(':')[0]})",
            f"{refused} at {len(doors)} doors",
            lost=sum(
                result != len(value) - 1 for result, (_, value, _) in zip(results, too_large, strict=True)
            ),
            overwritten=len(stored) + len(schedules),
            figures={"refused with a clear error": refused, "stored of them": len(stored) + len(schedules)},
        )
    )


@pytest.mark.timeout(600)
async def test_no_handler_is_run_again_for_the_sake_of_its_result(
    kv: KV, report: Callable[[Tally], None]
) -> None:
    runs.clear()
    scheduler, numbers = TaskScheduler(kv), itertools.count()
    (worker,) = await start_task_workers(kv, TaskRegistry(TASKS), 1, concurrency=10)
    wanted: dict[str, str] = {}
    sound: list[str] = []
    for _ in range(ROUNDS):
        for task in (give, give_from_thread):
            for what in NO_JSON:
                wanted[await scheduler.enqueue(task, (what, next(numbers)))] = "JSON can't hold it: "
        wanted[await scheduler.enqueue(give_number, ("of another type", next(numbers)))] = "valid integer"
        too_large = f"{MAX_RESULT_BYTES + 1} bytes; the limit is {MAX_RESULT_BYTES}"
        wanted[await scheduler.enqueue(give, ("too large", next(numbers)))] = too_large
        # Beside them, and settled in the same batches.
        sound += await scheduler.enqueue_many(take, ["x" * 7] * 20)
        sound.append(await scheduler.enqueue(give, ("as large as may be", next(numbers))))
        await _ended(scheduler, [*wanted, *sound])
    ended = await _ended(scheduler, wanted)
    beside = await _ended(scheduler, sound)
    await worker.stop()
    for letter in ended:
        assert "TaskOutputError: the handler's result: " in str(letter.last_error)
        assert wanted[letter.id] in str(letter.last_error)
    report(
        Tally(
            f"results that JSON can't hold, of another type or too large ({kv.description.partition(':')[0]})",
            f"{len(wanted)} results beside {len(sound)} sound ones",
            lost=sum((task.status, task.attempt) != ("dead", 1) for task in ended)
            + sum(task.status != "completed" for task in beside),
            duplicated=sum(count - 1 for count in runs.values()),
            overwritten=sum(task.result is not None for task in ended),
            figures={"dead at once": len(ended), "runs of each": max(runs.values())},
        )
    )


async def _ended(scheduler: TaskScheduler, ids: Iterable[str]) -> list[Task]:
    tasks = await asyncio.gather(*(scheduler.wait(each, timeout=60) for each in ids))
    assert None not in tasks
    return [task for task in tasks if task is not None]
