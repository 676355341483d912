"""What the store and the ledger say about tasks, side by side."""

from collections import defaultdict
from collections.abc import Iterable

from concave import Task, TaskScheduler
from concave.tasks.model import TaskStatus
from tests.chaos.ledger import Entry, Ledger

WAITING: tuple[TaskStatus, ...] = ("pending", "scheduled", "running", "failed")


async def none_waits(scheduler: TaskScheduler) -> bool:
    """Whether every task has ended."""
    return not await scheduler.get_tasks(status=WAITING, limit=1)


async def all_tasks(scheduler: TaskScheduler, name: str | None = None) -> list[Task]:
    """All tasks, of all statuses; nothing may end meanwhile."""
    tasks: list[Task] = []
    while page := await scheduler.get_tasks(name=name, limit=1000, offset=len(tasks)):
        tasks += page
    return tasks


def by_number(entries: Iterable[Entry]) -> dict[int, list[Entry]]:
    """Ledger entries by the number of their task, in the order in which they were written."""
    found: dict[int, list[Entry]] = defaultdict(list)
    for entry in entries:
        found[entry.number].append(entry)
    return found


def last_runs(ledger: Ledger) -> dict[int, int]:
    """By task number, the process in which it ran last."""
    return {number: runs[-1].pid for number, runs in by_number(ledger.entries("began")).items()}
