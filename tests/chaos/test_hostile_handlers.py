"""Handlers that take their process down, raise what no handler should, ignore cancellation, or block the event loop."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from concave import TaskScheduler
from concave.kv import RedisKV
from tests.chaos import programs
from tests.chaos.counting import all_tasks, none_waits
from tests.chaos.fleet import Fleet, Member
from tests.chaos.hostile import hostile_tasks
from tests.chaos.ledger import Ledger
from tests.chaos.tally import Tally, sized
from tests.chaos.waiting import eventually
from tests.servers import RedisServer
from tests.servers.memory import MemoryLimit, NoMemoryLimitError, memory_limit
from tests.stores.leaks import check_for_leaks

TASKS = hostile_tasks()
NEIGHBOURS = sized(10, 100)
EACH = sized(20, 100)


@pytest.fixture
def limit(how: str) -> Iterator[MemoryLimit | None]:
    """The memory in which a pill runs out of it: the kernel kills it there, and nobody else."""
    if how != "out of memory":
        yield None
        return
    with ExitStack() as stack:
        try:
            made = stack.enter_context(memory_limit(200))
        except NoMemoryLimitError as error:
            pytest.skip(f"the kernel can't be made to kill for memory, and SIGKILL stands for it: {error}")
        yield made


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how, workers", [("exit", 1), ("exit", 3), ("killed", 1), ("out of memory", 1)])
async def test_a_poison_pill_dies_of_its_own_crashes_and_takes_no_neighbour_with_it(
    *,
    how: str,
    workers: int,
    limit: MemoryLimit | None,
    tmp_path: Path,
    redis: RedisServer,
    fleet: Fleet,
    report: Callable[[Tally], None],
) -> None:
    ledger = Ledger(tmp_path / "ledger")
    options: dict[str, Any] = {"concurrency": NEIGHBOURS // workers + 1, "lock_ttl": 0.5, "heartbeat": 0.2}
    options |= {"url": redis.url, "ledger": str(ledger.path), "workers": workers}
    options |= {"memory_limit": str(limit.entrance)} if limit else {}
    processes: list[Member] = []
    async with RedisKV(redis.url, prefix=programs.PREFIX) as kv:
        scheduler = TaskScheduler(kv)
        await scheduler.enqueue(TASKS["pill"], how)
        await scheduler.enqueue_many(TASKS["neighbour"], range(NEIGHBOURS))

        async def all_ended() -> bool:
            if not processes or not processes[-1].alive:  # as whoever supervises it would
                processes.append(fleet.start(programs.victim, **options))
            return await none_waits(scheduler)

        await eventually(all_ended, "all tasks have ended")
        (pill,) = await all_tasks(scheduler, "pill")
        neighbours = await all_tasks(scheduler, "neighbour")
    await check_for_leaks(redis.url, programs.PREFIX)
    crashes = len(processes) - 1
    assert (pill.status, pill.crashes, crashes) == ("dead", 3, 3)
    assert "its worker died 3 times" in str(pill.last_error)
    assert len(ledger.entries("pill")) == 3
    assert limit is None or limit.kills == 3
    processes[-1].kill()
    report(
        Tally(
            f"poison pill ({how}) among {NEIGHBOURS} neighbours, {workers} workers in its process",
            f"{crashes} crashes",
            lost=sum(task.status != "completed" for task in neighbours) + NEIGHBOURS - len(neighbours),
            figures={
                "neighbours' crashes": dict(sorted(Counter(task.crashes for task in neighbours).items()))
            },
        )
    )


@pytest.mark.timeout(300)
async def test_a_worker_survives_whatever_handlers_raise_and_each_is_a_failed_attempt(
    tmp_path: Path, redis: RedisServer, fleet: Fleet, report: Callable[[Tally], None]
) -> None:
    ledger = Ledger(tmp_path / "ledger")
    raised = ("SystemExit", "KeyboardInterrupt", "CancelledError")
    worker = fleet.start(programs.victim, url=redis.url, ledger=str(ledger.path), concurrency=10)
    async with RedisKV(redis.url, prefix=programs.PREFIX) as kv:
        scheduler = TaskScheduler(kv)
        for name in ("raise", "raise-in-thread"):
            await scheduler.enqueue_many(TASKS[name], [what for what in raised for _ in range(EACH)])
        await scheduler.enqueue_many(TASKS["stubborn"], range(EACH))
        await eventually(lambda: none_waits(scheduler), "all tasks have ended")
        tasks = await all_tasks(scheduler)
    await check_for_leaks(redis.url, programs.PREFIX)
    assert worker.alive
    ended = Counter(
        (task.name, str(task.last_error).partition(" ")[0].rstrip(":"))
        for task in tasks
        if task.status == "dead" and task.attempt == 1 and task.crashes == 0 and len(task.errors) == 1
    )
    expected = Counter({(name, what): EACH for name in ("raise", "raise-in-thread") for what in raised})
    expected["stubborn", "TaskTimeoutError"] = EACH
    report(
        Tally(
            f"handlers that raise {', '.join(raised)} or ignore cancellation",
            f"{expected.total()} tasks",
            lost=(expected - ended).total(),
            duplicated=(ended - expected).total(),
            figures={"most stubborn ones at once, of 5 allowed": _most_at_once(ledger)},
        )
    )
    assert _most_at_once(ledger) <= 5


@pytest.mark.timeout(120)
async def test_a_blocked_event_loop_keeps_its_lease(
    tmp_path: Path, redis: RedisServer, fleet: Fleet, report: Callable[[Tally], None]
) -> None:
    ledger, lease, times = Ledger(tmp_path / "ledger"), 0.5, sized(2, 20)
    for _ in range(2):
        fleet.start(
            programs.victim, url=redis.url, ledger=str(ledger.path), lock_ttl=lease, heartbeat=lease / 4
        )
    async with RedisKV(redis.url, prefix=programs.PREFIX) as kv:
        scheduler = TaskScheduler(kv)
        await scheduler.enqueue_many(TASKS["block"], [3 * lease] * times)
        await eventually(lambda: none_waits(scheduler), "all tasks have ended")
        tasks = await all_tasks(scheduler)
    await check_for_leaks(redis.url, programs.PREFIX)
    named = [line for line in fleet.logged() if "event loop has been blocked" in line and "block (" in line]
    assert named
    report(
        Tally(
            "event loop blocked for three leases",
            f"{times} times, another worker idle beside",
            lost=sum(task.status != "completed" for task in tasks),
            duplicated=len(ledger.entries("began")) - times + sum(task.crashes for task in tasks),
            figures={"warnings that name the task": len(named)},
        )
    )


def _most_at_once(ledger: Ledger) -> int:
    """How many of the stubborn ran at the same time, at most."""
    running = most = 0
    for entry in sorted(ledger.entries("began", "ended"), key=lambda entry: entry.at):
        running += 1 if entry.event == "began" else -1
        most = max(most, running)
    return most
