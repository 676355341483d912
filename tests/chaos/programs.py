"""The programs of a fleet: each is a process's whole life, until SIGTERM."""

import asyncio
import os
import random
import signal
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from concave import TaskContext, TaskDefinition, TaskRegistry, TaskScheduler, create_task_worker, define_task
from concave.kv import RedisKV
from concave.tasks import start_recurring_scheduler, start_task_workers
from concave.testing import FailPoint, fail_at, kill_process
from tests.chaos import things
from tests.chaos.hostile import failing_at_once, hostile_tasks
from tests.chaos.ledger import Ledger
from tests.chaos.napping import nap
from tests.chaos.punctual import punctual_tasks, set_clock_off
from tests.chaos.versions import Version, tasks_of
from tests.chaos.waiting import eventually

PREFIX = "chaos"


async def until_terminated() -> None:
    terminated = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
    heed_termination()
    await terminated.wait()


def heed_termination() -> None:
    """Let come what the zygote keeps from a program until it is ready for it."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


# Recurring schedules --------------------------------------------------------------------------------------------------


async def recurring_scheduler(url: str) -> None:
    """Fires what is due."""
    async with RedisKV(url, prefix=PREFIX) as kv:
        scheduler = start_recurring_scheduler(kv, check_interval=0.2)
        await until_terminated()
        await scheduler.stop()


def tick(ledger: Ledger | None) -> TaskDefinition[int, None]:
    """The task of a slot."""

    @define_task(name="tick")
    async def handler(ctx: TaskContext, number: int) -> None:
        if ledger is not None:
            ledger.note("ran", number, ctx.task_id)

    return handler


async def ticker(url: str, ledger: str) -> None:
    """Runs slots."""
    async with RedisKV(url, prefix=PREFIX) as kv:
        worker = create_task_worker(kv, TaskRegistry([tick(Ledger(ledger))]), concurrency=100)
        await worker.start()
        await until_terminated()
        await worker.stop()


# Web processes ----------------------------------------------------------------------------------------------------------


async def web(
    *,
    url: str,
    database: str,
    ledger: str,
    port_file: str,
    workers: int,
    fail_point: FailPoint | None = None,
    after: int = 0,
    meet: tuple[int, int] | None = None,
) -> None:
    """Serves things; killed, if so ordered, when it has passed a fail-point some times.

    `meet`: which meeting, and of how many processes; each comes there with the first rows that it has read for a sweep.
    """
    heed_termination()  # uvicorn does the rest
    with ExitStack() as stack:
        if meet is not None:
            stack.enter_context(fail_at("sweep.read", partial(_meet, Ledger(ledger), *meet), times=1))
        if fail_point is not None:
            stack.enter_context(fail_at(fail_point, kill_process, after=after))
        await things.serve(
            url, prefix=PREFIX, database=database, ledger=ledger, port_file=port_file, workers=workers
        )


async def _meet(ledger: Ledger, number: int, processes: int) -> None:
    """Wait until all of them are here."""
    ledger.note("met", number)
    await eventually(
        lambda: sum(entry.number == number for entry in ledger.entries("met")) >= processes,
        "all of them are here",
    )


async def teller(url: str, ledger: str) -> None:
    """Runs what things trigger, and sweeps no outbox."""
    registry = TaskRegistry(things.telling(name, Ledger(ledger)) for name in things.TASKS)
    async with RedisKV(url, prefix=PREFIX) as kv:
        worker = create_task_worker(kv, registry, concurrency=20)
        await worker.start()
        await until_terminated()
        await worker.stop()


# Workers ----------------------------------------------------------------------------------------------------------------


async def napper(url: str, ledger: str, grace: float = 0, **options: Any) -> None:
    """A worker of naps; at its end it writes down how many of its outcomes the store refused."""
    book = Ledger(ledger)
    async with RedisKV(url, prefix=PREFIX) as kv:
        worker = create_task_worker(kv, TaskRegistry([nap(book)]), **options)
        await worker.start()
        book.note("started", 0)
        await until_terminated()
        await worker.stop(grace)
        book.note("refused", 0, str(worker.get_stats().stale_count))


async def punctual(
    url: str, ledger: str, clock_off: float, numbers: tuple[int, int], naps: float, **options: Any
) -> None:
    """A worker and a recurring scheduler whose clock is that many seconds off, and which enqueues the numbers of a range."""
    set_clock_off(clock_off)
    book = Ledger(ledger)
    tasks = punctual_tasks(book)
    async with RedisKV(url, prefix=PREFIX) as kv:
        scheduler = TaskScheduler(kv)
        worker = create_task_worker(kv, TaskRegistry([*tasks.values(), nap(book)]), **options)
        await worker.start()
        firing = start_recurring_scheduler(kv)
        await scheduler.schedule_recurring(tasks["slot"], interval=0.1, id="slot", misfire="all")
        for number in range(*numbers):
            delay = random.uniform(0.2, 2)
            book.note("asked", number, str(delay))
            await scheduler.schedule(tasks["due"], number, delay=delay)
            if number % 5 == 0:
                await scheduler.enqueue(tasks["again"], number)
            if number % 10 == 0:
                await scheduler.enqueue(nap(), (number, naps))
        book.note("asked all", 0)
        await until_terminated()
        await firing.stop()
        await worker.stop()
        book.note("refused", 0, str(worker.get_stats().stale_count))


async def greeter(url: str, ledger: str, version: Version) -> None:
    """A worker that runs some version of the code."""
    async with RedisKV(url, prefix=PREFIX) as kv:
        worker = create_task_worker(kv, TaskRegistry(tasks_of(version, Ledger(ledger)).values()), id=version)
        await worker.start()
        await until_terminated()
        await worker.stop()


async def enqueuer(url: str, ledger: str, keys: int, calls: int, start_at: float) -> None:
    """Enqueues so many times at once with each of some keys, in the same order and from the same moment as its like."""
    book = Ledger(ledger)
    async with RedisKV(url, prefix=PREFIX) as kv:
        # A scheduler each: one alone would send them in one round trip.
        schedulers = [TaskScheduler(kv) for _ in range(calls)]
        await asyncio.sleep(start_at - time.monotonic())
        for key in range(keys):
            ids = await asyncio.gather(
                *(each.enqueue(nap(), (key, 0.0), idempotency_key=f"key {key}") for each in schedulers)
            )
            for each in ids:
                book.note("id", key, each)


async def victim(
    url: str, ledger: str, workers: int = 1, memory_limit: str | None = None, **options: Any
) -> None:
    """Runs tasks that are bad for it, with several workers in one process, or within a limit of memory, if so told."""
    if memory_limit is not None:
        Path(memory_limit).write_text(str(os.getpid()))  # noqa: ASYNC240  before anything runs
    registry = TaskRegistry(hostile_tasks(Ledger(ledger)).values())
    async with RedisKV(url, prefix=PREFIX) as kv:
        running = await start_task_workers(kv, registry, workers, **options)
        await until_terminated()
        for worker in running:
            await worker.stop(0)


async def failer(url: str, tasks: int) -> None:
    """Runs so many tasks at a time, which fail together."""
    async with RedisKV(url, prefix=PREFIX) as kv:
        worker = create_task_worker(kv, TaskRegistry([failing_at_once(tasks)]), concurrency=tasks)
        await worker.start()
        await until_terminated()
        await worker.stop(0)
