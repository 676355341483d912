"""The memory store's own CPU a task: add, claim and settle, in batches of 100, with no handlers in between."""

import asyncio
import secrets
import time
from collections.abc import Mapping

from benchmarks.plan import Goal, Measure, Scale, Scenario
from concave import define_task
from concave.kv import create_kv
from concave.store.records import Claim, Complete, Settlement
from concave.tasks.submission import submission

__all__ = ["measures"]

BATCH = 100


def measures(scale: Scale) -> list[Measure]:
    return [
        Measure(
            "memory-store",
            f"The memory store: {scale.tasks * 5:,} tasks added, claimed and settled",
            Scenario("memory://", lambda: asyncio.run(_cycle(scale.tasks * 5))),
            [],
            [Goal("CPU a task", lambda result: result.ours("store_us"), 10, "at most", " µs")],
            {"store_us": "µs a task", "add_us": "add", "rest_us": "claim and settle"},
        )
    ]


async def _cycle(count: int) -> Mapping[str, float]:
    task = define_task("work", lambda: None)
    async with await create_kv("memory://") as kv:
        store, names = kv.store, (("work", 0),)
        new = [submission(task, {"index": number, "data": "x" * 75}) for number in range(count)]
        start = time.process_time()
        for first in range(0, count, BATCH):
            await store.add(new[first : first + BATCH])
        added = time.process_time()
        settlements: list[Settlement] = []
        done = 0
        while done < count:
            claim = Claim("bench", names, BATCH, 30_000_000, secrets.token_hex(8))
            claimed = (
                (await store.settle(settlements, claim)).claimed if settlements else await store.claim(claim)
            )
            settlements = [Settlement(lease, Complete(b"1")) for lease in claimed.leases]
            done += len(settlements)
        await store.settle(settlements)
        end = time.process_time()
    return {
        "store_us": (end - start) / count * 1e6,
        "add_us": (added - start) / count * 1e6,
        "rest_us": (end - added) / count * 1e6,
    }
