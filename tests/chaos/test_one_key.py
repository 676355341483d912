"""Many processes that enqueue with one idempotency key at the same moment make one task."""

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from concave import TaskScheduler
from concave.kv import RedisKV
from tests.chaos import programs
from tests.chaos.counting import all_tasks
from tests.chaos.fleet import Fleet
from tests.chaos.ledger import Ledger
from tests.chaos.tally import Tally, sized
from tests.servers import RedisServer

PROCESSES, CALLS = 5, 20
KEYS = sized(10, 200)


@pytest.mark.timeout(300)
async def test_a_hundred_enqueues_from_several_processes_with_one_key_are_one_task(
    tmp_path: Path, redis: RedisServer, fleet: Fleet, report: Callable[[Tally], None]
) -> None:
    ledger = Ledger(tmp_path / "ledger")
    start_at = time.monotonic() + 1.0
    members = [
        fleet.start(
            programs.enqueuer,
            url=redis.url,
            ledger=str(ledger.path),
            keys=KEYS,
            calls=CALLS,
            start_at=start_at,
        )
        for _ in range(PROCESSES)
    ]
    for member in members:
        assert member.wait(120) == 0
    async with RedisKV(redis.url, prefix=programs.PREFIX) as kv:
        tasks = await all_tasks(TaskScheduler(kv))
    ids: dict[int, set[str]] = defaultdict(set)
    for entry in ledger.entries("id"):
        ids[entry.number].add(entry.more)
    calls = len(ledger.entries("id"))
    assert calls == KEYS * PROCESSES * CALLS
    report(
        Tally(
            f"{PROCESSES * CALLS} concurrent enqueues from {PROCESSES} processes with one idempotency key",
            f"{KEYS} keys, {calls} enqueues",
            lost=sum(each not in {task.id for task in tasks} for each in set[str]().union(*ids.values())),
            duplicated=len(tasks) - KEYS + sum(len(each) - 1 for each in ids.values()),
            figures={"tasks": len(tasks)},
        )
    )
