"""Workers that are frozen and come back, and workers that a deploy ends: the late are refused, the stopped spend nothing."""

import asyncio
import itertools
import random
import signal
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from concave import TaskScheduler
from concave.kv import RedisKV
from tests.chaos import programs
from tests.chaos.counting import all_tasks, by_number, last_runs, none_waits
from tests.chaos.fleet import Fleet, Member
from tests.chaos.ledger import Ledger
from tests.chaos.napping import nap
from tests.chaos.tally import LONG, Tally, sized
from tests.chaos.waiting import eventually
from tests.servers import RedisServer
from tests.stores.leaks import check_for_leaks

FREEZES = sized(4, 100)
DEPLOYS = sized(6, 50)
NAP, GRACE, BETWEEN = sized((1.0, 0.5, 0.1), (10.0, 5.0, 0.7))
PROCESSES = sized(4, 10)
IN_FLIGHT = PROCESSES * 6
"""Tasks at a time, of the ten that each process has room for."""


def _options(redis: RedisServer, ledger: Ledger, **options: Any) -> dict[str, Any]:
    return {"url": redis.url, "ledger": str(ledger.path), **options}


@pytest.mark.timeout(900)
async def test_the_result_of_the_second_run_stands_when_a_frozen_worker_comes_back(
    tmp_path: Path, redis: RedisServer, fleet: Fleet, report: Callable[[Tally], None]
) -> None:
    ledger = Ledger(tmp_path / "ledger")
    lease = 0.5
    options = _options(redis, ledger, lock_ttl=lease, heartbeat=lease / 2)
    refused_by: list[Member] = []
    async with RedisKV(redis.url, prefix=programs.PREFIX) as kv:
        scheduler = TaskScheduler(kv)
        frozen = fleet.start(programs.napper, **options, concurrency=1)
        for number in range(FREEZES):
            await scheduler.enqueue(nap(), (number, 0.2))
            begun = _has(ledger, "began", number, 1)
            await eventually(begun, "it runs")
            frozen.send(signal.SIGSTOP)
            # It took the only task there was, so that the other one can only take it over.
            other = fleet.start(programs.napper, **options, concurrency=1)
            await asyncio.sleep(3 * lease)  # the fault is that long
            await eventually(_has(ledger, "ended", number, 1), "it has run elsewhere")
            await eventually(lambda: none_waits(scheduler), "its result is kept")
            frozen.send(signal.SIGCONT)
            assert await asyncio.to_thread(frozen.stop) == 0
            refused_by.append(frozen)
            frozen = other
        tasks = await all_tasks(scheduler)
    await check_for_leaks(redis.url, programs.PREFIX)
    second = {number: runs[1].pid for number, runs in by_number(ledger.entries("began")).items()}
    standing = sum(task.result == second[task.input[0]] for task in tasks)
    refused = [entry for entry in ledger.entries("refused") if entry.more == "1"]
    noticed = [
        entry for entry in ledger.entries("interrupted") if entry.pid in {each.pid for each in refused_by}
    ]
    report(
        Tally(
            "SIGSTOP for three leases, then SIGCONT",
            f"{FREEZES} times",
            lost=FREEZES - len(tasks),
            duplicated=sum(len(runs) > 2 for runs in by_number(ledger.entries("began")).values()),
            overwritten=FREEZES - standing,
            figures={
                "late completions refused": len(refused),
                "runs that had noticed before": len(noticed),
            },
        )
    )


@asynccontextmanager
async def _supply(scheduler: TaskScheduler, ledger: Ledger) -> AsyncGenerator[None]:
    """As long as this is open a new task comes for each that ends; they begin spread over the time that one takes."""
    numbers, stop, start = itertools.count(), asyncio.Event(), time.monotonic()

    async def supply() -> None:
        sent = 0
        while not stop.is_set():
            ended = len({entry.number for entry in ledger.entries("ended")})
            in_flight = round(IN_FLIGHT * min(1.0, (time.monotonic() - start) / NAP))
            missing = in_flight - (sent - ended)
            await scheduler.enqueue_many(nap(), [(next(numbers), NAP) for _ in range(missing)])
            sent += max(0, missing)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), NAP / 100)

    async with asyncio.TaskGroup() as group:
        group.create_task(supply())
        await asyncio.sleep(NAP)
        yield
        stop.set()


def _has_just_begun(ledger: Ledger, member: Member) -> Callable[[], bool]:
    """Whether that process runs a task which will not have ended when a grace from now is over."""

    def has_just_begun() -> bool:
        lately = time.monotonic() - (NAP - GRACE) / 2
        return any(entry.pid == member.pid and entry.at > lately for entry in ledger.entries("began"))

    return has_just_begun


@pytest.mark.timeout(900)
async def test_deploys_spend_no_attempt_and_what_they_interrupt_goes_on_at_once(
    tmp_path: Path, redis: RedisServer, fleet: Fleet, report: Callable[[Tally], None]
) -> None:
    ledger = Ledger(tmp_path / "ledger")
    options = _options(redis, ledger, concurrency=10, grace=GRACE)
    members = [fleet.start(programs.napper, **options) for _ in range(PROCESSES)]
    await eventually(lambda: len(ledger.entries("started")) == PROCESSES, "all workers are up")
    stopped: list[Member] = []
    async with RedisKV(redis.url, prefix=programs.PREFIX) as kv:
        scheduler = TaskScheduler(kv)
        async with _supply(scheduler, ledger):
            for number in range(DEPLOYS):
                await asyncio.sleep(random.uniform(0.5, 1.5) * BETWEEN)
                index = number % PROCESSES
                await eventually(_has_just_begun(ledger, members[index]), "it runs what outlasts the grace")
                members[index].send(signal.SIGTERM)
                stopped.append(members[index])
                members[index] = fleet.start(programs.napper, **options)
            statuses = [await asyncio.to_thread(each.wait) for each in stopped]
        await eventually(lambda: none_waits(scheduler), "every task has ended")
        tasks = await all_tasks(scheduler)
    await check_for_leaks(redis.url, programs.PREFIX)
    assert set(statuses) == {0}
    events = by_number(ledger.entries("began", "interrupted"))
    waits = [
        later.at - earlier.at
        for each in events.values()
        for earlier, later in itertools.pairwise(each)
        if earlier.event == "interrupted"
    ]
    last = last_runs(ledger)
    interrupting = {entry.pid for entry in ledger.entries("interrupted")}
    if LONG:
        assert max(waits) <= 1
        assert interrupting == {each.pid for each in stopped}
    completed = [task for task in tasks if task.status == "completed"]
    assert sum(task.interruptions for task in tasks) == len(waits)
    assert [task.id for task in tasks if task.attempt != 1 or task.crashes] == []
    total = 1 + max(task.input[0] for task in tasks)
    report(
        Tally(
            f"SIGTERM with {NAP:g} s tasks and {GRACE:g} s grace",
            f"{DEPLOYS} deploys, {total} tasks",
            lost=total - len(completed),
            duplicated=len(tasks) - total,
            overwritten=sum(task.result != last[task.input[0]] for task in completed),
            figures={
                "interrupted": f"{len(waits)} by {len(interrupting)} of the deploys",
                "attempts spent": sum(task.attempt - 1 for task in tasks),
                "claimed again within": f"{max(waits):.3f} s",
            },
        )
    )


def _has(ledger: Ledger, event: str, number: int, times: int) -> Callable[[], bool]:
    return lambda: len([each for each in ledger.entries(event) if each.number == number]) >= times
