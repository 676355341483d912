"""What a worker runs at the moment: begun, timed, told to stop, and handed on as outcomes."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from functools import partial
from random import random
from typing import Any

from concave.clock import Clock, Timer
from concave.store.records import Complete, Decision, Die, Lease, Release, Retry
from concave.tasks.context import Report, TaskContext
from concave.tasks.define import TaskDefinition
from concave.tasks.executor import Run, StopCause, abandoned, execute
from concave.tasks.outcomes import Outcomes
from concave.tasks.threads import HandlerThreads

__all__ = ["UNWIND", "Runs"]

log = logging.getLogger("concave.worker")

UNWIND = 1.0
"""Seconds that a handler has to clean up once it was told to stop, before that it doesn't is acted upon."""


class Runs:
    """The runs of one worker. `on_end` is called whenever one has ended."""

    def __init__(
        self,
        *,
        worker_id: str,
        clock: Clock,
        state: Any,
        threads: HandlerThreads,
        report: Callable[[Lease], Report],
        on_end: Callable[[], object],
    ) -> None:
        self._worker_id = worker_id
        self._clock = clock
        self._state = state
        self._threads = threads
        self._report = report
        self._on_end = on_end
        # By identity: a task whose lease was lost may be claimed anew while its first run hasn't ended.
        self._running: dict[Run, None] = {}
        self.suspects = 0
        """How many of those that run have crashed a worker before."""
        # One timer for all timeouts, set to the earliest: most runs end long before theirs, and setting one costs as much
        # as running a task.
        self._next_deadline = math.inf
        self._timer: Timer | None = None
        self.outcomes = Outcomes()
        self.processed = self.failed = 0

    def __len__(self) -> int:
        return len(self._running)

    @property
    def to_renew(self) -> list[Run]:
        """Those whose leases are to go on: until the store knows how they ended. May be called from any thread."""
        return [run for run in (*list(self._running), *self.outcomes.runs) if not run.lost]

    def begin(self, lease: Lease, definition: TaskDefinition[Any, Any]) -> Run:
        """Start a task's handler."""
        context = TaskContext(
            lease.task, worker_id=self._worker_id, state=self._state, report=self._report(lease)
        )
        run = Run(lease, definition, context, self._clock.monotonic())
        self._running[run] = None
        self.suspects += lease.suspect
        if run.deadline < self._next_deadline:
            self._time(run.deadline)
        run.task = asyncio.create_task(self._run(run), name=f"concave-task-{lease.task.name}")
        return run

    def abort(self, task_id: str) -> bool:
        """Tell a task to stop; False if it doesn't run here."""
        found = [run for run in self._running if run.lease.task.id == task_id and not run.lost]
        for run in found:
            run.stop("cancelled", "cancelled")
        return bool(found)

    def lose(self, run: Run) -> None:
        """The store no longer knows a run's lease."""
        if run not in self._running or run.lost:
            return  # it has ended meanwhile, and that is why
        task = run.lease.task
        log.warning(
            "task %s (%s): the lease was lost while its handler ran; its outcome will not count",
            task.id,
            task.name,
        )
        run.lost = True
        run.stop("lease lost", "the lease was lost")

    def stop_all(self, cause: StopCause, reason: str) -> None:
        """Tell all of them to stop."""
        for run in list(self._running):
            run.stop(cause, reason)

    async def finish(self, limit: float) -> None:
        """Wait until they have ended, at most `limit` seconds."""
        tasks = [run.task for run in self._running if run.task is not None]
        if not tasks or limit <= 0:
            return
        ended = asyncio.ensure_future(asyncio.wait(tasks))
        timer = self._clock.call_later(limit, ended.cancel)
        try:
            await asyncio.wait({ended})
        finally:
            timer.cancel()
            ended.cancel()

    def hand_back(self) -> None:
        """Let go of those that haven't ended: they are run elsewhere, but for those that were to stop for good."""
        for run in self._running:
            task = run.lease.task
            _cancel_timer(run)
            decision = abandoned(run, random())
            if decision is None:
                continue  # its lease is lost
            log.warning(
                "task %s (%s) did not stop in time and is %s while it runs",
                task.id,
                task.name,
                "handed back" if isinstance(decision, Release) else f"given up ({run.cause})",
            )
            self._count(decision)
            self.outcomes.add(run.lease, decision, run)
        self._running.clear()
        self.suspects = 0
        self._time(math.inf)

    async def _run(self, run: Run) -> None:
        decision = await execute(run, self._threads)
        _cancel_timer(run)
        if run not in self._running:
            return  # handed back while the handler unwound
        del self._running[run]
        self.suspects -= run.lease.suspect
        if decision is not None:
            self._count(decision)
            self.outcomes.add(run.lease, decision, run)
        self._on_end()

    def _count(self, decision: Decision) -> None:
        if isinstance(decision, Complete):
            self.processed += 1
        elif isinstance(decision, Die) or (isinstance(decision, Retry) and decision.failure is not None):
            self.failed += 1

    def _time(self, deadline: float) -> None:
        """Have the timer ring at `deadline`, or at none (inf)."""
        if self._timer is not None:
            self._timer.cancel()
        self._next_deadline, self._timer = deadline, None
        if deadline < math.inf:
            self._timer = self._clock.call_later(deadline - self._clock.monotonic(), self._on_deadline)

    def _on_deadline(self) -> None:
        now = self._clock.monotonic() + 1e-6  # what adding and subtracting may have rounded off
        for run in [run for run in self._running if run.deadline <= now]:
            self._on_timeout(run)
        self._time(min((run.deadline for run in self._running if run.deadline > now), default=math.inf))

    def _on_timeout(self, run: Run) -> None:
        if run.stop("timeout", f"timeout after {run.definition.timeout:g} s"):
            run.timer = self._clock.call_later(UNWIND, partial(self._on_overrun, run))

    def _on_overrun(self, run: Run) -> None:
        task = run.lease.task
        log.warning(
            "task %s (%s) ignores its timeout of %g s: it keeps its slot until it ends",
            task.id, task.name, run.definition.timeout,
        )  # fmt: skip


def _cancel_timer(run: Run) -> None:
    if run.timer is not None:
        run.timer.cancel()
