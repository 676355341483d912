"""`make bench-smoke`: counts that don't depend on the machine. Commands and round trips a task, bytes a task, idling.

Exits with 1 where one is over its limit. A limit leaves a tenth of room over what was measured when it was set; the
idle one is the requirement.
"""

import asyncio
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.catalogue import OURS
from benchmarks.measures.drain import drain
from benchmarks.measures.idle import idle
from benchmarks.peers.concave.app import Work, work
from benchmarks.peers.settings import DATA
from benchmarks.redis_probe import Cost, RedisProbe
from concave.kv import create_kv
from concave.tasks import TaskScheduler
from tests.servers import RedisServer

TASKS = 10_000


@dataclass(frozen=True, slots=True)
class Limit:
    what: str
    most: float


LIMITS = {
    "enqueue": Limit("round trips of a lone enqueue", 1.0),
    "gathered": Limit("round trips of 500 enqueues at a time", 2.0),
    "many": Limit("round trips of enqueue_many of 10,000", 20.0),
    "commands": Limit("Redis commands a drained task, scripts' own included", 2.6),
    "trips": Limit("round trips a drained task, 100 at a time", 0.03),
    "queued": Limit("bytes a queued task", 470.0),
    "finished": Limit("bytes a finished task", 520.0),
    "idle": Limit("requests a second of an idle worker (2, and one more at each edge of the watch)", 2.3),
}


def scripts(cost: Cost) -> int:
    """Requests of ours: everything else is called within a script."""
    return cost.commands.get("evalsha", 0) + cost.commands.get("eval", 0)


async def enqueueing(url: str) -> Mapping[str, float]:
    probe = RedisProbe(url)

    async with await create_kv(url) as kv:
        scheduler = TaskScheduler(kv)
        value = Work(index=0, data=DATA)
        await scheduler.enqueue(work, value)  # the script is known from here on

        before = probe.read()
        for _ in range(20):
            await scheduler.enqueue(work, value)
        lone = scripts(probe.since(before)) / 20

        before = probe.read()
        await asyncio.gather(*(scheduler.enqueue(work, value) for _ in range(500)))
        gathered = scripts(probe.since(before))

        before = probe.read()
        await scheduler.enqueue_many(work, [value] * TASKS)
        many = scripts(probe.since(before))
    probe.close()
    return {"enqueue": lone, "gathered": gathered, "many": many}


def measured(url: str) -> Mapping[str, float]:
    drained = drain(OURS, url, TASKS)
    if drained["lost"] or drained["twice"]:
        sys.exit(f"lost {drained['lost']:.0f} tasks, ran {drained['twice']:.0f} twice")
    return {
        **asyncio.run(enqueueing(url)),
        "commands": drained["commands"],
        "trips": drained["scripts"],
        "queued": drained["queued_bytes"],
        "finished": drained["finished_bytes"],
        "idle": idle(OURS, url, 8.0)["requests"],
    }


def main() -> None:
    start = time.monotonic()
    with RedisServer() as server:
        figures = measured(server.url)
    over = 0
    for key, limit in LIMITS.items():
        bad = figures[key] > limit.most
        over += bad
        print(f"{'OVER' if bad else 'ok':4} {limit.what}: {figures[key]:.4g}, at most {limit.most:g}")
    print(f"{len(LIMITS) - over} passed, {over} failed ({time.monotonic() - start:.0f} s)")
    sys.exit(over > 0)


if __name__ == "__main__":
    main()
