"""Concurrent submissions share round trips.

A lone submission leaves at once, in its caller's own task. Whatever else is submitted while it is on its way leaves together in the
next turn of the loop, and what comes after that gathers until those have arrived: a hundred at a time cost two round trips at
first, and one from then on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from concave.errors import NO_FAULT_OF_TASKS
from concave.store.protocol import Store
from concave.store.records import NewTask

__all__ = ["Batcher", "add_in_steps", "in_batches"]

MAX_TASKS = 500
MAX_BYTES = 1024 * 1024
"""A batch's inputs, unless a single one is larger: a store that is busy with one batch serves nobody else."""

_Waiting = tuple[NewTask, "asyncio.Future[str]"]


class Batcher:
    """Gathers submissions of one event loop. A cancelled caller doesn't cancel its neighbours, a bad call fails alone."""

    def __init__(self, send: Callable[[Sequence[NewTask]], Awaitable[list[str]]]) -> None:
        self._send = send
        self._waiting: deque[_Waiting] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lone = False
        """Whether a lone one is on its way."""
        self._gathering = False
        """Whether what is submitted is to wait for its turn: others are sent, one batch after the other."""
        self._sender: asyncio.Task[None] | None = None

    async def submit(self, task: NewTask) -> str:
        """The id that stands for a submission, once the store has it."""
        return await self.added(task)

    def added(self, task: NewTask) -> Awaitable[str]:
        """The same, to be awaited at once: where others are about to be sent, a future does, and no coroutine goes around it."""
        loop = self._running_loop()
        # Of debounced ones the last is to win, and one that is sent again, to a server that was loading say, comes behind the next:
        # they never leave while another of them is on its way.
        if self._lone or self._gathering or self._waiting or task.debounce is not None:
            return self._join(task, loop)
        return self._send_own(task, loop)

    async def _send_own(self, task: NewTask, loop: asyncio.AbstractEventLoop) -> str:
        self._lone = True
        try:
            return (await self._send([task]))[0]
        finally:
            if self._loop is loop:
                self._lone = False

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # Another loop has ended, and whoever waited there with it.
            self._loop, self._lone, self._gathering = loop, False, False
            self._waiting.clear()
        return loop

    def _join(self, task: NewTask, loop: asyncio.AbstractEventLoop) -> asyncio.Future[str]:
        future: asyncio.Future[str] = loop.create_future()
        self._waiting.append((task, future))
        if not self._gathering:
            self._gathering = True
            # In a task of its own, so that none of them is another's to cancel. It begins in the next turn of the loop: whoever else
            # submits in this one comes along.
            self._sender = loop.create_task(self._send_all(loop), name="concave-submit")
        return future

    async def _send_all(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while batch := self._next_batch():
                await self._deliver(batch)
                await asyncio.sleep(0)  # whoever has its answer may submit again, and shares the next trip
        finally:
            if self._loop is loop:
                self._gathering = False

    async def _deliver(self, batch: list[_Waiting]) -> None:
        try:
            ids = await self._send([task for task, _ in batch])
        except NO_FAULT_OF_TASKS as error:
            _fail(batch, error)
        except Exception as error:  # noqa: BLE001  whatever it is, it belongs to a caller
            if len(batch) == 1:
                _fail(batch, error)
                return
            # One of them may be to blame. Sent one by one, the others don't pay for it.
            for each in batch:
                await self._deliver([each])
        except BaseException as error:
            _fail(batch, error)
            raise
        else:
            for (_, future), task_id in zip(batch, ids, strict=True):
                if not future.done():
                    future.set_result(task_id)

    def _next_batch(self) -> list[_Waiting]:
        waiting = self._waiting
        batch: list[_Waiting] = []
        size = 0
        while waiting and len(batch) < MAX_TASKS:
            entry = waiting.popleft()
            task, future = entry
            if future.done():  # its caller was cancelled before it was sent
                continue
            size += len(task.input)
            if size > MAX_BYTES and batch:
                waiting.appendleft(entry)
                break
            batch.append(entry)
        return batch


def _fail(batch: list[_Waiting], error: BaseException) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)


async def add_in_steps(store: Store, steps: Sequence[Sequence[NewTask]]) -> list[str]:
    """Add tasks in several steps, in their order; the ids that stand for them. Where a step raises, others may have been added."""
    if len(steps) == 1:
        return await store.add(steps[0])
    # One that is sent again, to a server that was loading say, comes behind the next: of debounced ones the last is to win.
    debounced = any(task.debounce for step in steps for task in step)
    at_once = 2 if store.in_order and not debounced else 1
    ids: list[str] = []
    under_way = deque[asyncio.Task[list[str]]]()
    try:
        for step in steps:
            under_way.append(asyncio.create_task(store.add(step)))
            # It is packed and sent after this, while the store is busy with the one before it.
            await asyncio.sleep(0)
            if len(under_way) == at_once:
                ids += await under_way.popleft()
        while under_way:
            ids += await under_way.popleft()
    finally:
        for each in under_way:
            each.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
    return ids


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
