"""Ours, as a user gets it: defaults, an input checked by Pydantic, the result kept, claims fenced."""

import os

from pydantic import BaseModel

from benchmarks.peers.record import run_counter
from benchmarks.peers.settings import CONCURRENCY, URL
from concave import TaskContext, TaskDefinition, define_task, task_lifespan

ran = run_counter()


class Work(BaseModel):
    index: int
    data: str


@define_task
async def work(ctx: TaskContext, input: Work) -> int:
    ran(input.index)
    return input.index


async def _handler(ctx: TaskContext, input: Work) -> int:
    ran(input.index)
    return input.index


NAMES = int(os.environ.get("BENCH_NAMES", "0"))
"""How many task names there are beside `work`; one in ten of them has a cap that doesn't bind."""


def _named(number: int) -> TaskDefinition[Work, int]:
    return define_task(f"work-{number}", _handler, max_concurrency=50 if number % 10 == 0 else None)


named = [_named(number) for number in range(NAMES)]
lifespan = task_lifespan(URL, tasks=[work, *named], workers=1, concurrency=CONCURRENCY)
