"""Tasks that are bad for their worker."""

import asyncio
import itertools
import os
import signal
import time
from typing import Any

from concave import RetryConfig, TaskContext, TaskDefinition, define_task
from tests.chaos.ledger import Ledger


def failing_at_once(tasks: int) -> TaskDefinition[Any, Any]:
    """A task that fails as soon as so many of it run."""
    begun, all_run = itertools.count(1), asyncio.Event()

    @define_task(name="fail", retry=RetryConfig(initial_delay=60))
    async def fail(ctx: TaskContext) -> None:
        if next(begun) == tasks:
            all_run.set()
        await all_run.wait()
        raise ConnectionError("what all of them depend on is gone")

    return fail


def take_the_process_down(how: str) -> None:
    match how:
        case "exit":
            os._exit(1)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case _:
            hoard = list[bytes]()
            while True:  # until the kernel kills
                hoard.append(b"x" * 1_000_000)


def hostile_tasks(ledger: Ledger | None = None) -> dict[str, TaskDefinition[Any, Any]]:
    """All of them by name; a test that only enqueues them needs no ledger."""

    def note(event: str, number: int) -> None:
        assert ledger is not None
        ledger.note(event, number)

    @define_task(name="pill")
    async def pill(ctx: TaskContext, how: str) -> None:
        """Takes its process down once its neighbours run beside it."""
        note("pill", 0)
        await asyncio.sleep(0.1)
        take_the_process_down(how)

    @define_task(name="neighbour")
    async def neighbour(ctx: TaskContext, number: int) -> None:
        note("began", number)
        await asyncio.sleep(0.15)
        note("ended", number)

    @define_task(name="raise", retry=RetryConfig(1))
    async def raising(ctx: TaskContext, what: str) -> None:
        raise {
            "SystemExit": SystemExit(3),
            "KeyboardInterrupt": KeyboardInterrupt(),
            "CancelledError": asyncio.CancelledError(),
        }[what]

    @define_task(name="raise-in-thread", retry=RetryConfig(1))
    def raising_in_thread(ctx: TaskContext, what: str) -> None:
        raise {
            "SystemExit": SystemExit(3),
            "KeyboardInterrupt": KeyboardInterrupt(),
            "CancelledError": asyncio.CancelledError(),
        }[what]

    @define_task(name="stubborn", retry=RetryConfig(1), timeout=0.02, max_concurrency=5)
    async def stubborn(ctx: TaskContext, number: int) -> None:
        """Ignores that it was cancelled, and goes on for a while."""
        note("began", number)
        end = time.monotonic() + 0.1
        while time.monotonic() < end:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                note("cancelled", number)
        note("ended", number)

    @define_task(name="block", timeout=30)
    async def block(ctx: TaskContext, seconds: float) -> int:
        """Blocks the event loop."""
        note("began", 0)
        time.sleep(seconds)  # noqa: ASYNC251  the fault
        note("ended", 0)
        return os.getpid()

    tasks = (pill, neighbour, raising, raising_in_thread, stubborn, block)
    return {task.name: task for task in tasks}
