"""Workers and schedulers whose clocks are an hour off either way: Redis' time alone decides what is due and what is held."""

import asyncio
import itertools
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from concave import TaskScheduler
from concave.kv import RedisKV
from concave.tasks import create_recurring_manager
from tests.chaos import programs
from tests.chaos.counting import all_tasks, by_number, none_waits
from tests.chaos.fleet import Fleet
from tests.chaos.ledger import Entry, Ledger
from tests.chaos.punctual import BACKOFF, LEASE
from tests.chaos.tally import Tally, sized
from tests.chaos.waiting import eventually
from tests.servers import RedisServer
from tests.stores.leaks import check_for_leaks

HOURS = (-1, 0, 1) * sized(1, 3)
EACH = sized(20, 500)
"""Tasks of one process; every fifth fails once, and every tenth comes with a nap for longer than its lease."""
BLURRED = 0.001
"""Seconds by which the machine's two clocks may be corrected against each other meanwhile."""


@pytest.mark.timeout(600)
async def test_clocks_that_are_an_hour_off_start_nothing_early_and_steal_no_lease(
    tmp_path: Path, redis: RedisServer, fleet: Fleet, report: Callable[[Tally], None]
) -> None:
    ledger = Ledger(tmp_path / "ledger")
    options = {"url": redis.url, "ledger": str(ledger.path), "naps": 2.5 * LEASE}
    options |= {"concurrency": 40, "lock_ttl": LEASE, "heartbeat": LEASE / 4}
    members = {
        fleet.start(
            programs.punctual, **options, clock_off=3600 * hours, numbers=(each * EACH, (each + 1) * EACH)
        ): hours
        for each, hours in enumerate(HOURS)
    }
    async with RedisKV(redis.url, prefix=programs.PREFIX) as kv:
        scheduler = TaskScheduler(kv)
        await eventually(lambda: len(ledger.entries("asked all")) == len(HOURS), "all have enqueued")
        await eventually(lambda: _none_waits(ledger), "all that is not recurring has run")
        await create_recurring_manager(kv).delete("slot")
        await eventually(lambda: none_waits(scheduler), "every slot has run")
        for member in members:
            member.send(signal.SIGTERM)
        assert [await asyncio.to_thread(each.wait) for each in members] == [0] * len(HOURS)
        tasks = await all_tasks(scheduler)
    await check_for_leaks(redis.url, programs.PREFIX)

    since_epoch = time.time() - time.monotonic()
    hours_of = {member.pid: hours for member, hours in members.items()}
    for entry in ledger.entries("due", "again"):
        assert round((float(entry.more) - entry.at - since_epoch) / 3600) == hours_of[entry.pid]
    assert {hours_of[entry.pid] for entry in ledger.entries("due")} == set(HOURS)

    slots = ledger.entries("slot")
    early = [slot for slot in slots if slot.at + since_epoch < float(slot.more) - BLURRED]
    begun = {event: by_number(ledger.entries(event)) for event in ("due", "again", "began")}
    for number, (asked,) in by_number(ledger.entries("asked")).items():
        early += [run for run in begun["due"][number] if run.at < asked.at + float(asked.more) - BLURRED]
    for runs in begun["again"].values():
        early += [later for sooner, later in itertools.pairwise(runs) if later.at < sooner.at + BACKOFF]
    wanted = {"due": (1, 1), "again": (5, 2), "began": (10, 1)}
    stolen = sum(task.crashes for task in tasks) + sum(int(each.more) for each in ledger.entries("refused"))
    total = len(HOURS) * EACH
    report(
        Tally(
            "clocks of workers and schedulers an hour off either way",
            f"{total} delays, {total // 5} retries, {len(slots)} slots, {total // 10} naps for {2.5:g} leases",
            lost=sum(total // step - len(begun[event]) for event, (step, _) in wanted.items())
            + sum(task.status != "completed" for task in tasks),
            duplicated=sum(_beyond(times, begun[event]) for event, (_, times) in wanted.items())
            + len(slots)
            - len({slot.more for slot in slots}),
            figures={"early": len(early), "leases stolen": stolen},
        )
    )
    assert (len(early), stolen) == (0, 0)


def _none_waits(ledger: Ledger) -> bool:
    total = len(HOURS) * EACH
    return (
        len(ledger.entries("due")) >= total
        and len(ledger.entries("again")) >= total // 5 * 2
        and len(ledger.entries("ended")) >= total // 10
    )


def _beyond(times: int, runs: dict[int, list[Entry]]) -> int:
    return sum(len(each) - times for each in runs.values() if len(each) > times)
