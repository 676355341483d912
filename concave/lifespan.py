"""The composition root: a connection, a registry, workers, schedules and sweepers, for as long as an app runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from concave.clock import seconds
from concave.errors import ConfigurationError, StoreError
from concave.kv import KV, kv_from_url
from concave.tasks.alerts import DeadLetterAlerts, OnDeadLetter, checked_callback
from concave.tasks.defaults import Defaults, announced_outboxes, restore_defaults, use_defaults
from concave.tasks.define import TaskDefinition
from concave.tasks.options import Duration
from concave.tasks.recurring import Misfire, start_recurring_scheduler
from concave.tasks.registry import TaskRegistry
from concave.tasks.scheduler import TaskScheduler
from concave.tasks.sweeper import Sweeper
from concave.tasks.worker import TaskWorker
from concave.tasks.workers import create_task_worker

__all__ = ["AppLifespan", "Schedule", "TaskLifespan", "task_lifespan"]

log = logging.getLogger("concave")

AppLifespan = (
    Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any]]]
    | Callable[[Any], AbstractAsyncContextManager[None]]
)
"""An app's own lifespan, as Starlette and FastAPI take it."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A recurring task for `task_lifespan`, which declares it at each start; see `TaskScheduler.schedule_recurring`."""

    task: TaskDefinition[Any, Any]
    input: Any = None
    cron: str | None = None
    interval: Duration | None = None
    timezone: str = "UTC"
    id: str | None = None
    misfire: Misfire = "once"


@dataclass(frozen=True, slots=True)
class TaskLifespan:
    """What `task_lifespan` returns: a lifespan for an app, and for a worker process that serves no app.

    Each time it is entered it opens a connection and starts workers of its own.
    """

    kv: KV | str | None
    tasks: tuple[TaskDefinition[Any, Any], ...]
    registry: TaskRegistry | None
    workers: int
    schedules: tuple[Schedule, ...]
    shutdown_grace: float
    sweep_interval: float
    inner: AppLifespan | None
    on_dead_letter: OnDeadLetter | None
    prefix: str
    worker_options: Mapping[str, Any]

    def __call__(self, app: Any = None) -> AbstractAsyncContextManager[dict[str, Any]]:
        """Run for an app; yields the state that its requests see, with the `scheduler` in it."""
        return self._run(app)

    def with_workers(self, workers: int) -> TaskLifespan:
        """The same with another number of workers."""
        return replace(self, workers=_count(workers))

    @asynccontextmanager
    async def _run(self, app: Any) -> AsyncGenerator[dict[str, Any]]:
        async with AsyncExitStack() as stack:
            kv = await self._connected(stack)
            defaults = Defaults(TaskScheduler(kv), self._registry())
            use_defaults(defaults)
            stack.callback(restore_defaults, defaults)
            state = await self._inner_state(stack, app)
            await self._declare(defaults.scheduler)
            await self._start(stack, kv, defaults, state)
            yield {**state, "scheduler": defaults.scheduler}

    async def _connected(self, stack: AsyncExitStack) -> KV:
        """The connection: opened and closed here if it was given as a URL, else its owner closes it."""
        kv = (
            kv_from_url(self.kv, prefix=self.prefix)
            if self.kv is None or isinstance(self.kv, str)
            else self.kv
        )
        try:
            await kv.connect()
        except StoreError as error:
            log.error("%s", error)
            raise
        if kv is not self.kv:
            stack.push_async_callback(kv.close)
        return kv

    def _registry(self) -> TaskRegistry:
        registry = TaskRegistry() if self.registry is None else self.registry
        for task in (*self.tasks, *(schedule.task for schedule in self.schedules)):
            registry.register(task)
        return registry

    async def _inner_state(self, stack: AsyncExitStack, app: Any) -> dict[str, Any]:
        if self.inner is None:
            return {}
        state = await stack.enter_async_context(self.inner(app))
        return {} if state is None else dict(state)

    async def _declare(self, scheduler: TaskScheduler) -> None:
        for schedule in self.schedules:
            await scheduler.schedule_recurring(
                schedule.task,
                schedule.input,
                cron=schedule.cron,
                interval=schedule.interval,
                timezone=schedule.timezone,
                id=schedule.id,
                misfire=schedule.misfire,
            )

    async def _start(self, stack: AsyncExitStack, kv: KV, defaults: Defaults, state: dict[str, Any]) -> None:
        """Start what runs beside the app. At the end it stops in the opposite order, before anything it uses does."""
        sweeper = Sweeper(
            announced_outboxes, defaults.scheduler.submit, interval=self.sweep_interval, clock=kv.clock
        )
        stack.push_async_callback(sweeper.stop)
        if self.on_dead_letter is not None:
            alerts = DeadLetterAlerts(kv, self.on_dead_letter)
            stack.push_async_callback(alerts.stop)
            await alerts.start()
        workers = [
            create_task_worker(kv, defaults.registry, state=state, sweeps=False, **self.worker_options)
            for _ in range(self.workers)
        ]
        stack.push_async_callback(_stop_all, workers, self.shutdown_grace)
        for worker in workers:
            await worker.start()
        recurring = start_recurring_scheduler(
            kv, declare=partial(self._declare, defaults.scheduler) if self.schedules else None
        )
        stack.push_async_callback(recurring.stop)
        log.info(
            "tasks on %s: %d workers, %d tasks",
            kv.description,
            self.workers,
            len(defaults.registry.get_all()),
        )


def task_lifespan(
    kv: KV | str | None = None,
    *,
    tasks: Iterable[TaskDefinition[Any, Any]] = (),
    registry: TaskRegistry | None = None,
    workers: int = 1,
    concurrency: int = 5,
    schedules: Iterable[Schedule] = (),
    shutdown_grace: Duration = 25.0,
    lifespan: AppLifespan | None = None,
    prefix: str = "concave",
    poll_interval: Duration = 1.0,
    lock_ttl: Duration = 30.0,
    heartbeat: Duration | None = None,
    task_types: Sequence[str] | None = None,
    sweep_interval: Duration = 5.0,
    on_dead_letter: OnDeadLetter | None = None,
) -> TaskLifespan:
    """A lifespan that runs tasks in the web process.

    `kv`: a URL, opened and closed by it, or a KV, which its owner closes; ``CONCAVE_KV_URL`` or memory by default.
    `tasks` and those of `schedules` are registered, in a fresh registry unless one is given. `workers`: how many, each
    with `concurrency` tasks at a time; 0 for a process that only serves the web. `shutdown_grace`: seconds that running
    tasks get at the end, before they are handed back. `lifespan`: the app's own, entered after the connection is open and
    left after the workers have stopped; what it yields is also the handlers' ``ctx.state``. `prefix`: the namespace in the
    store. `sweep_interval`: seconds between looks at the outboxes. `on_dead_letter` is
    called, in one of the processes that run it, for each task that dies; also with ``workers=0``. The others are those of `create_task_worker`.

    While it runs, its scheduler and registry are the process-wide default. It installs no signal handler. Entering it
    raises `StoreUnavailableError` where the store can't be reached.
    """
    options = {
        "concurrency": concurrency,
        "poll_interval": poll_interval,
        "lock_ttl": lock_ttl,
        "heartbeat": heartbeat,
        "task_types": task_types,
    }
    return TaskLifespan(
        kv=kv,
        tasks=tuple(tasks),
        registry=registry,
        workers=_count(workers),
        schedules=tuple(schedules),
        shutdown_grace=seconds(shutdown_grace, "shutdown_grace"),
        sweep_interval=seconds(sweep_interval, "sweep_interval", minimum=0.01),
        inner=lifespan,
        on_dead_letter=checked_callback(on_dead_letter),
        prefix=prefix,
        worker_options=options,
    )


async def _stop_all(workers: Sequence[TaskWorker], grace: float) -> None:
    # At the same time: a deploy waits for the slowest, not for the sum.
    await asyncio.gather(*(worker.stop(grace) for worker in workers))


def _count(workers: object) -> int:
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
        raise ConfigurationError(f"workers must be a whole number of at least 0, not {workers!r}")
    return workers
