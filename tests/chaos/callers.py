"""Those who enqueue without a pause, whatever goes wrong meanwhile, and remember what they were promised."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from concave import ConcaveError, Task, TaskDefinition, TaskScheduler

AT_ONCE = 8


@dataclass
class Callers:
    """They enqueue a number each, until it is promised. An error that is none of ours ends the test."""

    schedulers: Sequence[TaskScheduler]
    task: TaskDefinition[int, Any]
    promised: dict[int, str] = field(default_factory=dict[int, str])
    refusals: Counter[str] = field(default_factory=Counter[str])
    reasons: set[str] = field(default_factory=set[str])
    last: int = 0
    """The last number that one of them has begun with."""
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def calling(self) -> AsyncGenerator[None]:
        """For as long as this is open; those who wait for a promise then get one."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for scheduler, _ in itertools.product(self.schedulers, range(AT_ONCE)):
                group.create_task(self._call(scheduler, stop))
            try:
                yield
            finally:
                stop.set()

    async def more(self, tasks: int) -> None:
        """Wait until so many more are promised."""
        wanted = len(self.promised) + tasks
        while len(self.promised) < wanted:
            self._changed.clear()
            await self._changed.wait()

    async def _call(self, scheduler: TaskScheduler, stop: asyncio.Event) -> None:
        while not stop.is_set():
            number = self.last = next(self._numbers)
            while number not in self.promised:
                try:
                    task_id = await scheduler.enqueue(self.task, number, idempotency_key=str(number))
                    self.promised[number] = task_id
                except ConcaveError as error:
                    self.refusals[type(error).__name__] += 1
                    self.reasons.add(str(error))
                    await asyncio.sleep(0.02)
            self._changed.set()


async def ended(scheduler: TaskScheduler, promised: Mapping[int, str]) -> dict[int, Task | None]:
    """What became of each, once it has ended; None for what the store knows nothing of."""
    tasks = await asyncio.gather(*map(scheduler.get_task, promised.values()))
    return {
        number: task if task is None or task.completed_at else await scheduler.wait(task.id, timeout=60)
        for number, task in zip(promised, tasks, strict=True)
    }
