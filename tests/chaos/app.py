"""What the worker processes run: `python -m concave worker tests.chaos.app:lifespan`."""

import os
from pathlib import Path

from concave import Schedule, TaskContext, define_task, task_lifespan

PREFIX = "chaos"


@define_task(name="count")
async def count(ctx: TaskContext, number: int) -> int:
    """Leave a line in a file for each run, in one write, so that lines of several processes don't mix."""
    file = os.open(os.environ["CHAOS_RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{number}\n".encode())
    os.close(file)
    return number


@define_task(name="tick")
async def tick() -> None: ...


def runs_in(path: Path) -> list[int]:
    """The number of each run so far."""
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


lifespan = task_lifespan(tasks=[count], schedules=[Schedule(tick, interval=3600, id="tick")], prefix=PREFIX)


@define_task(name="noop")
async def noop() -> None: ...


only_noops = task_lifespan(tasks=[noop], concurrency=100, prefix=PREFIX)
