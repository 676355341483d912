"""The task that most faults are about: it naps, and writes down when it began, ended or was interrupted."""

import asyncio
import os

from concave import RetryConfig, TaskContext, TaskDefinition, define_task
from tests.chaos.ledger import Ledger

Nap = tuple[int, float]
"""Its number, and how long it takes (seconds)."""


def nap(ledger: Ledger | None = None) -> TaskDefinition[Nap, int]:
    """The task; a test that only enqueues it needs no ledger. Its result is the process that finished it."""

    @define_task(name="nap", retry=RetryConfig(1), timeout=60, max_crashes=1000)
    async def handler(ctx: TaskContext, nap: Nap) -> int:
        assert ledger is not None
        number, duration = nap
        ledger.note("began", number)
        try:
            await asyncio.sleep(duration)
        except asyncio.CancelledError:
            ledger.note("interrupted", number)
            raise
        ledger.note("ended", number)
        return os.getpid()

    return handler
