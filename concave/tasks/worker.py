"""A worker: claims tasks in batches, runs their handlers, settles what is done together with the next claim.

One exchange with the store is under way at a time. Whatever finishes meanwhile goes with the next one, so that batches
grow with the load by themselves, and an idle worker says nothing: it waits to be woken.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from functools import partial
from typing import Any

from concave.clock import Micros, seconds, sleep
from concave.errors import StoreError
from concave.kv.protocol import KV
from concave.store.protocol import WORK, Listener, abort_topic
from concave.store.records import (
    NOTHING_CLAIMED,
    Claim,
    Claimed,
    ClaimNames,
    Complete,
    Decision,
    Die,
    Lease,
    Release,
    Retry,
    Settlement,
)
from concave.tasks.context import TaskContext
from concave.tasks.defaults import announced_outboxes
from concave.tasks.executor import Run, StopCause, execute
from concave.tasks.heartbeat import Heartbeat
from concave.tasks.model import WorkerStats, WorkerStatus
from concave.tasks.options import Duration
from concave.tasks.registry import TaskRegistry
from concave.tasks.scheduler import TaskScheduler
from concave.tasks.sweeper import Sweeper
from concave.tasks.threads import HandlerThreads

__all__ = ["TaskWorker"]

log = logging.getLogger("concave.worker")

MAX_CLAIM = 200
"""Tasks per claim. More would keep the store from others for too long at once."""
UNWIND = 1.0
"""Seconds that a cancelled handler has, when its worker stops, to clean up before its task is handed back."""
LONGEST_BACKOFF = 5.0
SWEEP_INTERVAL = 5.0
LAST_TRIES = 3
"""How often a stopping worker tries again to settle what is done; after that the leases run out."""


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
        self._sweeper: Sweeper | None = None
        self._status: WorkerStatus = "stopped"
        self._stopping = False
        self._runs: dict[str, Run] = {}
        self._settlements: list[Settlement] = []
        self._wake = asyncio.Event()
        self._names: ClaimNames = ()
        self._names_of: object = None
        self._unanswered: Claim | None = None
        self._processed = self._failed = self._stale = 0
        self._started = 0.0
        self._main: asyncio.Task[None] | None = None
        self._listeners: list[Listener] = []
        self._heartbeat: Heartbeat | None = None
        self._threads = HandlerThreads(concurrency, f"concave-{id}")

    # Control ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start working. Raises `StoreUnavailableError` where the store can't be reached; twice is harmless."""
        if self._main is not None and not self._main.done():
            return
        await self._kv.connect()
        store = self._kv.store
        self._listeners = [
            await store.listen(WORK, self._on_work),
            await store.listen(abort_topic(self.id), self._on_abort),
        ]
        self._heartbeat = Heartbeat(
            self._kv, self._runs, every=self._heartbeat_every, lease=self._lock_ttl, on_lost=self._on_lost
        )
        await self._heartbeat.start()
        if self._sweeps:
            submit = TaskScheduler(self._kv).submit
            self._sweeper = Sweeper(announced_outboxes, submit, interval=SWEEP_INTERVAL, clock=self._kv.clock)
        self._status, self._stopping = "running", False
        self._started = self._kv.clock.monotonic()
        self._wake.set()
        self._main = asyncio.create_task(self._work(), name=f"concave-worker-{self.id}")

    def pause(self) -> None:
        """Claim nothing more; what runs, runs on."""
        if self._status == "running":
            self._status = "paused"

    def resume(self) -> None:
        """Claim again."""
        if self._status == "paused":
            self._status = "running"
            self._wake.set()

    async def stop(self, grace: Duration = 25.0) -> None:
        """Stop claiming, give what runs `grace` seconds to finish, hand the rest back at once; twice is harmless.

        A task that is handed back loses neither an attempt nor its place, and is claimed elsewhere right away.
        """
        if self._main is None:
            return
        main, self._stopping = self._main, True
        grace = seconds(grace, "grace")
        self._wake.set()
        try:
            await self._wait_for_runs(grace)
            for run in list(self._runs.values()):
                run.stop("shutdown", "the worker stops")
            await self._wait_for_runs(UNWIND)
            self._hand_back_the_rest()
        finally:
            self._status = "stopped"
            self._wake.set()
            await main
            await self._close()

    def get_stats(self) -> WorkerStats:
        """What the worker did so far."""
        return WorkerStats(
            id=self.id,
            status=self._status,
            active_tasks=len(self._runs),
            processed_count=self._processed,
            failed_count=self._failed,
            uptime=self._kv.clock.monotonic() - self._started if self._main is not None else 0.0,
            stale_count=self._stale,
        )

    # The loop ---------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        failures = 0
        while self._status != "stopped" or self._settlements:
            try:
                claimed = await self._exchange()
                failures = 0
            except Exception as error:
                failures += 1
                if self._status == "stopped" and failures > LAST_TRIES:
                    log.error(
                        "worker %s stops with %d results unsettled: %s",
                        self.id,
                        len(self._settlements),
                        error,
                    )
                    return
                await self._back_off(failures, error)
                continue
            for lease in claimed.leases:
                self._begin(lease)
            if not self._wake.is_set() and len(claimed.leases) < MAX_CLAIM:
                await self._idle(claimed.idle_for)
            self._wake.clear()

    async def _exchange(self) -> Claimed:
        """Settle what is done and claim what there is room for, in one step of the store."""
        claim, settlements = self._next_claim(), list(self._settlements)
        if not settlements:
            return NOTHING_CLAIMED if claim is None else await self._claim(claim)
        self._unanswered = claim
        settled = await self._kv.store.settle(settlements, claim)
        self._unanswered = None
        del self._settlements[: len(settlements)]
        for accepted, settlement in zip(settled.accepted, settlements, strict=True):
            if not accepted:
                self._refused(settlement)
        return settled.claimed

    async def _claim(self, claim: Claim) -> Claimed:
        self._unanswered = claim
        claimed = await self._kv.store.claim(claim)
        self._unanswered = None
        return claimed

    def _next_claim(self) -> Claim | None:
        """What to ask for; the same again, nonce and all, as long as there was no answer: it may have been carried out."""
        if self._unanswered is not None:
            return self._unanswered
        room = min(self._concurrency - len(self._runs), MAX_CLAIM)
        if self._status != "running" or self._stopping or room <= 0 or not self._claimable():
            return None
        suspects = sum(run.lease.suspect for run in self._runs.values())
        return Claim(
            worker_id=self.id,
            names=self._names,
            limit=room,
            lease=round(self._lock_ttl * 1_000_000),
            nonce=secrets.token_hex(8),
            suspects=max(0, 1 - suspects),
        )

    def _claimable(self) -> ClaimNames:
        known = self._registry.by_name
        if known is not self._names_of:
            self._names_of = known
            self._names = tuple(
                (name, task.max_concurrency or 0)
                for name, task in known.items()
                if self._task_types is None or name in self._task_types
            )
        return self._names

    async def _idle(self, idle_for: Micros | None) -> None:
        """Wait to be woken: by work, by a handler that ends, or by the time at which something falls due.

        Never longer than a lease: one that another worker took meanwhile and let run out is to be noticed in time.
        """
        pause = self._longest_idle if idle_for is None else min(self._longest_idle, idle_for / 1_000_000)
        timer = self._kv.clock.call_later(pause, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    async def _back_off(self, failures: int, error: Exception) -> None:
        # Nothing ends this loop but `stop`: a worker that is alive and silent is worse than one that is dead.
        pause = min(LONGEST_BACKOFF, 0.05 * 2 ** min(failures, 10)) * random.uniform(0.5, 1.0)
        unexpected = error if not isinstance(error, StoreError) else None
        log.warning("worker %s: %s; trying again in %.2f s", self.id, error, pause, exc_info=unexpected)
        await sleep(self._kv.clock, pause)

    # Runs -------------------------------------------------------------------------------------------------------

    def _begin(self, lease: Lease) -> None:
        task = lease.task
        definition = self._registry.get(task.name)
        if definition is None or self._stopping:
            self._settlements.append(Settlement(lease, Release()))
            self._wake.set()
            return
        context = TaskContext(task, worker_id=self.id, state=self._state, report=partial(self._report, lease))
        run = Run(lease, definition, context, self._kv.clock.monotonic())
        self._runs[task.id] = run
        if definition.timeout is not None:
            run.timer = self._kv.clock.call_later(definition.timeout, partial(self._on_timeout, run))
        run.task = asyncio.create_task(self._run(run), name=f"concave-task-{task.name}")

    async def _run(self, run: Run) -> None:
        decision = await execute(run, self._threads)
        if run.timer is not None:
            run.timer.cancel()
        if self._runs.get(run.lease.task.id) is not run:
            return  # handed back, or lost and claimed anew, while the handler unwound
        del self._runs[run.lease.task.id]
        if decision is not None:
            self._count(decision)
            self._settlements.append(Settlement(run.lease, decision))
        self._wake.set()

    def _count(self, decision: Decision) -> None:
        if isinstance(decision, Complete):
            self._processed += 1
        elif isinstance(decision, Die) or (isinstance(decision, Retry) and decision.failure is not None):
            self._failed += 1

    def _refused(self, settlement: Settlement) -> None:
        self._stale += 1
        task = settlement.lease.task
        log.warning(
            "task %s (%s): the outcome of attempt %d came too late and was refused; the lease had run out",
            task.id, task.name, task.attempt,
        )  # fmt: skip

    async def _report(self, lease: Lease, progress: bytes) -> None:
        await self._kv.store.report(lease, progress)

    def _stop_run(self, task_id: str, cause: StopCause, reason: str) -> None:
        if run := self._runs.get(task_id):
            run.stop(cause, reason)

    def _on_timeout(self, run: Run) -> None:
        if run.stop("timeout", f"timeout after {run.definition.timeout:g} s"):
            run.timer = self._kv.clock.call_later(UNWIND, partial(self._on_overrun, run))

    def _on_overrun(self, run: Run) -> None:
        task = run.lease.task
        log.warning(
            "task %s (%s) ignores its timeout of %g s: it keeps its slot until it ends",
            task.id, task.name, run.definition.timeout,
        )  # fmt: skip

    def _on_lost(self, task_id: str) -> None:
        log.warning("task %s: the lease was lost while its handler ran; its outcome will not count", task_id)
        self._stop_run(task_id, "lease lost", "the lease was lost")

    def _on_abort(self, message: str | None) -> None:
        if message is not None:
            self._stop_run(message, "cancelled", "cancelled")

    def _on_work(self, name: str | None) -> None:
        if name is None or any(name == known for known, _ in self._claimable()):
            self._wake.set()

    # Stopping ---------------------------------------------------------------------------------------------------

    async def _wait_for_runs(self, limit: float) -> None:
        tasks = [run.task for run in self._runs.values() if run.task is not None]
        if not tasks:
            return
        ended = asyncio.ensure_future(asyncio.wait(tasks))
        timer = self._kv.clock.call_later(limit, ended.cancel)
        try:
            await asyncio.wait({ended})
        finally:
            timer.cancel()
            ended.cancel()

    def _hand_back_the_rest(self) -> None:
        for run in self._runs.values():
            task = run.lease.task
            log.warning(
                "task %s (%s) did not stop in time and is handed back while it runs", task.id, task.name
            )
            self._settlements.append(Settlement(run.lease, Release()))
        self._runs.clear()

    async def _close(self) -> None:
        self._main = None
        if self._sweeper is not None:
            await self._sweeper.stop()
        for listener in self._listeners:
            await listener.close()
        if self._heartbeat is not None:
            await self._heartbeat.stop()
        self._threads.close()
