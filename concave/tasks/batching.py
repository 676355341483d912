"""Concurrent submissions share round trips.

While one batch is on its way, whatever else is submitted gathers for the next. A lone submission leaves at once;
a hundred at a time cost a few round trips instead of a hundred.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from concave.store.records import NewTask

__all__ = ["Batcher", "in_batches"]

MAX_TASKS = 500
MAX_BYTES = 1024 * 1024
"""A batch's inputs, unless a single one is larger: a store that is busy with one batch serves nobody else."""


class Batcher:
    """Gathers submissions of one event loop. A cancelled caller doesn't cancel its neighbours."""

    def __init__(self, send: Callable[[Sequence[NewTask]], Awaitable[list[str]]]) -> None:
        self._send = send
        self._waiting: deque[tuple[NewTask, asyncio.Future[str]]] = deque()
        self._sender: asyncio.Task[None] | None = None

    async def submit(self, task: NewTask) -> str:
        """The id that stands for a submission, once the store has it."""
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting.append((task, future))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send_all(), name="concave-submit")
        return await future

    async def _send_all(self) -> None:
        while self._waiting:
            batch = self._next_batch()
            try:
                ids = await self._send([task for task, _ in batch])
            except BaseException as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                if not isinstance(error, Exception):
                    raise
            else:
                for (_, future), task_id in zip(batch, ids, strict=True):
                    if not future.done():
                        future.set_result(task_id)

    def _next_batch(self) -> list[tuple[NewTask, asyncio.Future[str]]]:
        batch = [self._waiting.popleft()]
        size = len(batch[0][0].input)
        while self._waiting and len(batch) < MAX_TASKS:
            size += len(self._waiting[0][0].input)
            if size > MAX_BYTES:
                break
            batch.append(self._waiting.popleft())
        return batch


def in_batches(tasks: Sequence[NewTask]) -> list[Sequence[NewTask]]:
    """A long list in pieces that a store can take in one step without keeping others waiting."""
    batches: list[Sequence[NewTask]] = []
    start = size = 0
    for index, task in enumerate(tasks):
        size += len(task.input)
        if index > start and (index - start >= MAX_TASKS or size > MAX_BYTES):
            batches.append(tasks[start:index])
            start, size = index, len(task.input)
    if start < len(tasks):
        batches.append(tasks[start:])
    return batches
