"""Processes whose wall clock is wrong, and tasks that write down when they began."""

import time
from typing import Any
from unittest.mock import patch

from concave import RetryConfig, TaskContext, TaskDefinition, define_task
from tests.chaos.ledger import Ledger

BACKOFF = 0.5
LEASE = 1.0


def set_clock_off(seconds: float) -> None:
    """From now on this process's wall clock is that much ahead. Its monotonic clock is as it was: no setting moves that one.

    `concave/clock.py` is the only place of ours that reads it, and it asks `time`, as the driver does.
    """
    true, true_ns = time.time, time.time_ns
    patch.object(time, "time", lambda: true() + seconds).start()
    patch.object(time, "time_ns", lambda: true_ns() + round(seconds * 1_000_000_000)).start()


def punctual_tasks(ledger: Ledger | None = None) -> dict[str, TaskDefinition[Any, Any]]:
    """All of them by name; each run notes what time its process thinks it is. Who only enqueues needs no ledger."""

    def note(event: str, number: int) -> None:
        assert ledger is not None
        ledger.note(event, number, str(time.time()))

    @define_task(name="due")
    async def due(ctx: TaskContext, number: int) -> int:
        note("due", number)
        return number

    @define_task(name="again", retry=RetryConfig(2, backoff="fixed", initial_delay=BACKOFF))
    async def again(ctx: TaskContext, number: int) -> int:
        note("again", number)
        if ctx.attempt == 1:
            raise ConnectionError("at first")
        return number

    @define_task(name="slot")
    async def slot(ctx: TaskContext) -> None:
        assert ledger is not None
        ledger.note("slot", 0, str(ctx.scheduled_at.timestamp()))

    return {task.name: task for task in (due, again, slot)}
