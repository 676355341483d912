"""How workers are made: their options, checked."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, TypedDict, Unpack

from concave.clock import seconds
from concave.errors import ConfigurationError
from concave.kv.protocol import KV
from concave.tasks.alerts import OnDeadLetter, checked_callback
from concave.tasks.options import Duration, at_least_one, micros
from concave.tasks.registry import TaskRegistry
from concave.tasks.worker import TaskWorker

__all__ = ["WorkerOptions", "create_task_worker", "start_task_workers"]

HEARTBEAT = 10.0
"""Seconds between renewals of leases that last long enough."""


class WorkerOptions(TypedDict, total=False):
    """The options of `create_task_worker`."""

    id: str | None
    concurrency: int
    poll_interval: Duration
    lock_ttl: Duration
    heartbeat: Duration | None
    task_types: Sequence[str] | None
    state: Any
    sweeps: bool
    on_dead_letter: OnDeadLetter | None


def create_task_worker(
    kv: KV,
    registry: TaskRegistry,
    *,
    id: str | None = None,
    concurrency: int = 5,
    poll_interval: Duration = 1.0,
    lock_ttl: Duration = 30.0,
    heartbeat: Duration | None = None,
    task_types: Sequence[str] | None = None,
    state: Any = None,
    sweeps: bool = True,
    on_dead_letter: OnDeadLetter | None = None,
) -> TaskWorker:
    """A worker that is yet to be started.

    `concurrency`: tasks at a time. `lock_ttl`: seconds after which a worker that fell silent is taken for dead.
    `heartbeat`: seconds between renewals, at most half of `lock_ttl`; 10, or a third of a shorter one. `poll_interval`: the longest an idle worker
    goes without a look, should a wake-up be lost. `task_types`: names to take; all registered ones by default. `state`
    is handed to handlers as ``ctx.state``. `sweeps`: whether it also relays what the outboxes of this process still hold.
    `on_dead_letter`, ``async`` or not, is called with the `DeadLetterEntry` of each task that dies meanwhile, whichever
    worker it died on; of several processes that have a callback one calls it. What it raises is logged.

    Raises `ConfigurationError` for an option that can't be.
    """
    if not isinstance(registry, TaskRegistry):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"a worker takes a registry, TaskRegistry([task, …]), not {registry!r}")
    lease = micros(lock_ttl, "lock_ttl", minimum=0.01) / 1_000_000
    beat = min(HEARTBEAT, lease / 3) if heartbeat is None else seconds(heartbeat, "heartbeat", minimum=0.001)
    if beat > lease / 2:
        raise ConfigurationError(f"heartbeat ({beat:g} s) must be at most half of lock_ttl ({lease:g} s)")
    if isinstance(task_types, str):
        raise ConfigurationError(f"task_types is a list of names, not the text {task_types!r}")
    return TaskWorker(
        kv,
        registry,
        id=id or f"worker-{secrets.token_hex(6)}",
        concurrency=at_least_one(concurrency, "concurrency"),
        poll_interval=seconds(poll_interval, "poll_interval", minimum=0.001),
        lock_ttl=lease,
        heartbeat=beat,
        task_types=None if task_types is None else frozenset(task_types),
        state=state,
        sweeps=sweeps,
        on_dead_letter=checked_callback(on_dead_letter),
    )


async def start_task_workers(
    kv: KV, registry: TaskRegistry, count: int, **options: Unpack[WorkerOptions]
) -> list[TaskWorker]:
    """Create and start `count` workers; the options are those of `create_task_worker`.

    Given an `id`, they are called by it and their number. Raises `StoreUnavailableError` where the store can't be
    reached; none is left running then.
    """
    workers: list[TaskWorker] = []
    for number in range(at_least_one(count, "count")):
        own = options.copy()
        if given := options.get("id"):
            own["id"] = f"{given}-{number + 1}"
        if number > 0:  # what is done once for all workers of a process, the first one does
            own["sweeps"], own["on_dead_letter"] = False, None
        workers.append(create_task_worker(kv, registry, **own))
    async with AsyncExitStack() as stack:
        for worker in workers:
            await worker.start()
            stack.push_async_callback(worker.stop, 0)
        stack.pop_all()
    return workers
