"""A worker: claims tasks in batches, runs their handlers, settles what is done together with the next claim.

One exchange with the store is under way at a time. Whatever finishes meanwhile goes with the next one, so that batches
grow with the load by themselves, and an idle worker says nothing: its claim stands with the store, which hands it what
comes along. Where half of what a worker may run has finished before the store's answer is there, a second line steps in:
the store works on one half while handlers of the other run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

from concave.clock import Micros, seconds
from concave.errors import StoreError
from concave.kv.protocol import KV
from concave.store.protocol import WORK, abort_topic
from concave.store.records import Claimed, Lease, Release
from concave.tasks.alerts import DeadLetterAlerts, OnDeadLetter
from concave.tasks.claims import TWO_LINES_FROM, Claims, share_of_line
from concave.tasks.context import Report
from concave.tasks.defaults import announced_outboxes
from concave.tasks.heartbeat import Heartbeat
from concave.tasks.lines import Line
from concave.tasks.model import WorkerStats, WorkerStatus
from concave.tasks.options import Duration
from concave.tasks.registry import TaskRegistry
from concave.tasks.runs import UNWIND, Runs
from concave.tasks.scheduler import TaskScheduler
from concave.tasks.sweeper import Sweeper
from concave.tasks.threads import HandlerThreads, call_on

__all__ = ["TaskWorker"]

log = logging.getLogger("concave.worker")

SWEEP_INTERVAL = 5.0
LAST_TRIES = 3
"""How often a stopping worker tries again to settle what is done; after that the leases run out."""
MOST_ABORTED = 1000
"""Tasks that a worker remembers as told to stop before it knew of them."""


class TaskWorker:
    """Runs tasks. Made by `create_task_worker`; it belongs to the event loop that starts it."""

    def __init__(
        self,
        kv: KV,
        registry: TaskRegistry,
        *,
        id: str,
        concurrency: int,
        poll_interval: float,
        lock_ttl: float,
        heartbeat: float,
        task_types: frozenset[str] | None,
        state: Any,
        sweeps: bool,
        on_dead_letter: OnDeadLetter | None,
    ) -> None:
        self.id = id
        self._kv = kv
        self._registry = registry
        self._concurrency = concurrency
        self._longest_idle = min(poll_interval, lock_ttl)
        self._lock_ttl = lock_ttl
        self._heartbeat_every = heartbeat
        self._task_types = task_types
        self._state = state
        self._sweeps = sweeps
        self._on_dead_letter = on_dead_letter
        self._status: WorkerStatus = "stopped"
        self._stopping = False
        self._control = asyncio.Lock()
        self._share = share_of_line(concurrency)
        self._numbers = range(2 if concurrency >= TWO_LINES_FROM else 1)
        self._started = 0.0
        self._main: asyncio.Task[None] | None = None
        self._resources = AsyncExitStack()
        self._prepare()

    def _prepare(self) -> None:
        """What each start has anew."""
        self._try_again = asyncio.Event()
        self._threads = HandlerThreads(self._concurrency, f"concave-{self.id}")
        self._runs = Runs(
            worker_id=self.id,
            clock=self._kv.clock,
            state=self._state,
            threads=self._threads,
            report=self._reporter,
            on_end=self._on_end,
        )
        self._lines = [Line(number, self._kv, self._runs.outcomes) for number in self._numbers]
        self._claims = Claims(
            worker_id=self.id,
            registry=self._registry,
            task_types=self._task_types,
            concurrency=self._concurrency,
            lock_ttl=self._lock_ttl,
            patience=self._longest_idle,
            runs=self._runs,
            lines=self._lines,
            tell=self._wake_from_anywhere,
        )

    # Control ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start working. Raises `StoreUnavailableError` where the store can't be reached; twice is harmless."""
        async with self._control:
            if self._main is not None:
                return
            self._prepare()
            async with AsyncExitStack() as resources:
                await self._open(resources)
                self._resources = resources.pop_all()
            self._status, self._stopping = "running", False
            self._started = self._kv.clock.monotonic()
            self._main = asyncio.create_task(self._work(), name=f"concave-worker-{self.id}")

    async def _open(self, resources: AsyncExitStack) -> None:
        """What a worker needs beside its loop; closed in the opposite order."""
        resources.callback(self._threads.close)
        await self._kv.connect()
        heartbeat = Heartbeat(self._kv, self._runs, every=self._heartbeat_every, lease=self._lock_ttl)
        resources.push_async_callback(heartbeat.stop)
        await heartbeat.start()
        for topic, notify in ((WORK, self._on_work), (abort_topic(self.id), self._on_abort)):
            listener = await self._kv.store.listen(topic, notify)
            resources.push_async_callback(listener.close)
        listener = await self._kv.store.answers(self._claims.desk, self._on_answer)
        resources.push_async_callback(listener.close)
        if self._on_dead_letter is not None:
            alerts = DeadLetterAlerts(self._kv, self._on_dead_letter)
            resources.push_async_callback(alerts.stop)
            await alerts.start()
        if self._sweeps:
            submit = TaskScheduler(self._kv).submit
            sweeper = Sweeper(announced_outboxes, submit, interval=SWEEP_INTERVAL, clock=self._kv.clock)
            resources.push_async_callback(sweeper.stop)

    def pause(self) -> None:
        """Begin nothing more; what runs, runs on."""
        if self._status == "running":
            self._status = "paused"
            self._wake()  # its claim is to stand no more

    def resume(self) -> None:
        """Claim again."""
        if self._status == "paused":
            self._status = "running"
            self._wake()

    async def stop(self, grace: Duration = 25.0) -> None:
        """Stop claiming, give what runs `grace` seconds to finish, hand the rest back at once; twice is harmless.

        A task that is handed back loses neither an attempt nor its place, and is claimed elsewhere right away. A second
        call, while the first one waits, may cut its grace short.
        """
        limit = seconds(grace, "grace")
        async with self._control:  # a start that is under way comes first
            main = self._main
        if main is None:
            return
        self._stopping = True
        self._wake()
        try:
            await self._runs.finish(limit)
            self._runs.stop_all("shutdown", "the worker stops")
            await self._runs.finish(UNWIND)
        finally:
            self._runs.stop_all("shutdown", "the worker stops")  # where someone cancelled the waiting
            self._runs.hand_back()
            self._status = "stopped"
            for line in self._lines:
                line.failures = 0
                line.wake.set()
            self._try_again.set()
            await main
            self._claims.end()
            async with self._control:
                if self._main is main:
                    self._main = None
                    await self._resources.aclose()

    def get_stats(self) -> WorkerStats:
        """What the worker did since it was started."""
        return WorkerStats(
            id=self.id,
            status=self._status,
            active_tasks=len(self._runs),
            processed_count=self._runs.processed,
            failed_count=self._runs.failed,
            uptime=self._kv.clock.monotonic() - self._started if self._main is not None else 0.0,
            stale_count=self._runs.outcomes.refused,
        )

    # The loop ---------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        await asyncio.gather(*map(self._converse, self._lines))

    async def _converse(self, line: Line) -> None:
        # A claim without an answer may have been carried out, one that stands be answered: what it leased is to be handed back.
        while self._status != "stopped" or self._runs.outcomes or line.open:
            if line.number > 0 and not self._steps_in(line):
                await line.wake.wait()
                line.wake.clear()
                continue
            try:
                claimed = await self._exchange(line)
            except Exception as error:
                if self._status == "stopped" and line.failures > LAST_TRIES:
                    unsettled = len(self._runs.outcomes)
                    log.error("worker %s stops with %d results unsettled: %s", self.id, unsettled, error)
                    return
                await self._back_off(line, error)
                continue
            for lease in claimed.leases:
                self._begin(lease, line)
            self._claims.share_suspect_turn()
            if line.number == 0:
                busy = line.wake.is_set() or self._runs.outcomes or len(claimed.leases) == self._share
                if not busy and self._status != "stopped":
                    await self._idle(claimed.idle_for)
                line.wake.clear()

    def _steps_in(self, line: Line) -> bool:
        """Whether a second line has something to say: its last claim once more, or a good half of all that may run."""
        if line.unanswered or self._status == "stopped":
            return True
        outcomes = self._runs.outcomes
        return self._lines[0].talks and len(outcomes) >= self._share and not outcomes.one_by_one

    async def _exchange(self, line: Line) -> Claimed:
        """Settle what is done and claim what there is room for, in one step of the store."""
        outcomes = self._runs.outcomes
        batch = outcomes.take(self._share)
        claim = None if batch and outcomes.one_by_one else self._claims.next_of(line, begins=self._begins)
        answer = line.exchange(batch, claim)
        self._call_in()
        return await answer

    def _wake_from_anywhere(self) -> None:
        if self._main is not None:  # another worker of this process may have another loop
            call_on(self._main.get_loop(), self._wake)

    @property
    def _begins(self) -> bool:
        """Whether it begins tasks at all: it is neither paused nor stopping."""
        return self._status == "running" and not self._stopping

    def _begin(self, lease: Lease, line: Line) -> None:
        definition = self._registry.get(lease.task.name)
        if definition is None or not self._begins:
            self._runs.outcomes.add(lease, Release())  # claimed before it was paused or stopped
        else:
            run = self._runs.begin(lease, definition)
            if lease.task.id in line.aborted:
                run.stop("cancelled", "cancelled")

    async def _idle(self, idle_for: Micros | None) -> None:
        """Wait to be woken: by work, by a handler that ends, or by the time at which something falls due.

        Never longer than a lease: one that another worker took meanwhile and let run out is to be noticed in time.
        """
        pause = self._longest_idle if idle_for is None else min(self._longest_idle, idle_for / 1_000_000)
        wake = self._lines[0].wake
        timer = self._kv.clock.call_later(pause, wake.set)
        try:
            await wake.wait()
        finally:
            timer.cancel()

    async def _back_off(self, line: Line, error: Exception) -> None:
        # Nothing ends this loop but `stop`: a worker that is alive and silent is worse than one that is dead.
        pause = line.pause
        unexpected = error if not isinstance(error, StoreError) else None
        log.warning("worker %s: %s; trying again in %.2f s", self.id, error, pause, exc_info=unexpected)
        timer = self._kv.clock.call_later(pause, self._try_again.set)
        try:
            await self._try_again.wait()
        finally:
            timer.cancel()
            self._try_again.clear()

    def _wake(self) -> None:
        self._lines[0].wake.set()

    # Callbacks --------------------------------------------------------------------------------------------------

    def _reporter(self, lease: Lease) -> Report:
        async def report(progress: bytes) -> None:
            try:
                await self._kv.store.report(lease, progress)
            except StoreError as error:  # no reason to fail a task: the next report will do
                log.warning("task %s (%s): progress not kept: %s", lease.task.id, lease.task.name, error)

        return report

    def _on_end(self) -> None:
        self._wake()
        self._call_in()

    def _call_in(self) -> None:
        if len(self._runs.outcomes) >= self._share:
            for line in self._lines[1:]:
                line.wake.set()

    def _on_abort(self, task_id: str | None) -> None:
        if task_id is None or self._runs.abort(task_id):
            return
        for line in self._lines:  # the word may come before the task
            if line.open is not None:
                # Workers may share an id, and hear of one another's: an idle one's list would grow for ever. What comes early is
                # early by a moment, so that the old ones aren't missed.
                if len(line.aborted) >= MOST_ABORTED:
                    line.aborted.clear()
                line.aborted.add(task_id)

    def _on_answer(self, nonce: str, leases: Sequence[Lease]) -> None:
        line = self._lines[0]
        for lease in line.take(nonce, leases):
            self._begin(lease, line)

    def _on_work(self, name: str | None) -> None:
        if name is None:
            self._try_again.set()  # whoever listens has found the store again: no need to wait any longer
        if name is None or any(name == known for known, _ in self._claims.names):
            self._wake()
