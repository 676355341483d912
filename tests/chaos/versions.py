"""Code before, during and after a deploy: what `greet` takes changes, `wave` is new, and `settle` takes what none foresaw."""

from typing import Any, Literal

from pydantic import BaseModel

from concave import RetryConfig, TaskContext, TaskDefinition, define_task
from tests.chaos.ledger import Ledger

Version = Literal["old", "new", "mended"]


class Old(BaseModel):
    number: int
    name: str


class New(BaseModel):
    number: int
    first: str
    last: str


class Odd(BaseModel):
    number: int
    names: list[str]


INPUTS: dict[Version, Any] = {"old": Old, "new": New, "mended": Old | New | Odd}
DEPLOY = RetryConfig(100, backoff="fixed", initial_delay=0.25)
"""Attempts for as long as a deploy takes, on a slow machine too."""


def tasks_of(version: Version, ledger: Ledger | None = None) -> dict[str, TaskDefinition[Any, int]]:
    """The tasks of one version by name; who only enqueues needs no ledger."""

    async def handler(ctx: TaskContext, input: Any) -> int:
        assert ledger is not None
        ledger.note("greeted", input.number, version)
        return int(input.number)

    takes = INPUTS[version]
    tasks = [
        define_task("greet", handler, input=takes, output=int, retry=DEPLOY),
        define_task("settle", handler, input=takes, output=int, retry=RetryConfig(2, initial_delay=0.1)),
    ]
    if version != "old":
        tasks.append(define_task("wave", handler, input=takes, output=int))
    return {task.name: task for task in tasks}
