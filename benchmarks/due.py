"""`python -m benchmarks.due [--tasks N]`: how late a delayed task, or one for a given time, starts on an idle worker.

A worker process with nothing else to do, over Redis. Tasks fall due one at a time, some way apart, so that the worker
sleeps before each; lateness is from the moment asked for to the handler's first line, on one machine's clock.
"""

import argparse
import asyncio
import json
import random
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.catalogue import OURS
from benchmarks.peers.concave.app import Work, work
from benchmarks.processes import Worker, worker
from benchmarks.statistics import percentile
from concave.kv import create_kv
from concave.tasks import TaskScheduler
from tests.servers import RedisServer
from tests.servers.process import ROOT

LIMIT_MS = 50.0
SPACING = 0.1
"""Seconds between two due times, on average."""
FIRST = 1.0
"""Seconds until the first: all are stored by then."""


async def plan(url: str, count: int) -> list[int]:
    """Store the tasks, every other one with `delay` and with `at`; when each is due, in ns of the monotonic clock."""
    due: list[int] = []
    async with await create_kv(url) as kv:
        scheduler = TaskScheduler(kv)
        when = FIRST + count * 0.002
        started = time.monotonic_ns()
        for index in range(count):
            when += random.uniform(0.5, 1.5) * SPACING
            moment = started + round(when * 1e9)
            left = (moment - time.monotonic_ns()) / 1e9
            value = Work(index=index, data="x")
            if index % 2:
                await scheduler.schedule(work, value, delay=left)
            else:
                await scheduler.schedule(work, value, at=datetime.now(UTC) + timedelta(seconds=left))
            due.append(moment)
    return due


def lateness(url: str, count: int) -> list[float]:
    """ms that each task began after it was due, in the order of their due times."""
    with worker(OURS, url, tasks=count, times=True) as running:
        due = asyncio.run(plan(url, count))
        _wait_for(running, count, count * SPACING * 2 + 60)
        return [(began - moment) / 1e6 for began, moment in zip(running.times, due, strict=True)]


def _wait_for(running: Worker, count: int, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while running.head[3] < count:
        if time.monotonic() > deadline:
            raise running.process.error(f"ran {running.head[3]} of {count} tasks within {timeout:g} s")
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.due")
    parser.add_argument("--tasks", type=int, default=400)
    parser.add_argument("--out", type=Path, default=ROOT / ".bench" / "results" / "due.json")
    options = parser.parse_args()
    with RedisServer() as server:
        late = lateness(server.url, options.tasks)
    figures: dict[str, dict[str, float]] = {}
    for kind, values in {"all": late, "at": late[::2], "delay": late[1::2]}.items():
        figures[kind] = {
            "p50": percentile(values, 50),
            "p99": percentile(values, 99),
            "max": max(values),
            "min": min(values),
        }
        shown = "  ".join(f"{name} {value:.2f}" for name, value in figures[kind].items())
        print(f"{kind} ({len(values)} tasks): {shown} ms late; must stay within {LIMIT_MS:g} ms")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"tasks": options.tasks, "late_ms": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
