"""What a handler is told about its run."""

from __future__ import annotations

import math
import threading
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from pydantic_core import to_json

from concave.clock import from_micros
from concave.store.records import TaskRecord
from concave.tasks.signal import AbortSignal

__all__ = ["Report", "TaskContext"]

Report = Callable[[bytes], Awaitable[None]]


class TaskContext:
    """The first argument of a handler: which task this is, which attempt, and the signal that says stop.

    `state` is what the lifespan or the worker was given to share with handlers (a session factory, an HTTP client).
    """

    __slots__ = ("_record", "_report", "_signal", "attempt", "state", "task_id", "worker_id")

    def __init__(
        self,
        record: TaskRecord,
        *,
        worker_id: str = "",
        signal: AbortSignal | None = None,
        state: Any = None,
        report: Report | None = None,
    ) -> None:
        self._record = record
        self._report = report
        self.task_id: str = record.id
        self.attempt: int = record.attempt
        self.worker_id = worker_id
        self._signal = signal
        self.state = state

    @property
    def signal(self) -> AbortSignal:
        """Says when to stop, and why."""
        return self._signal or self._made_signal()

    @property
    def name(self) -> str:
        """The task's name."""
        return self._record.name

    @property
    def scheduled_at(self) -> datetime:
        """When the task was due."""
        return from_micros(self._record.due_at)

    @property
    def started_at(self) -> datetime:
        """When this attempt was claimed, by the store's clock."""
        return from_micros(self._record.started_at or self._record.due_at)

    async def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Tell how far the task has come; `scheduler.get_task(...)` shows it while the task runs.

        A store that can't be reached loses the report, and fails nothing. Raises ValueError for what JSON can't hold.
        """
        if not (math.isfinite(done) and math.isfinite(total or 0)):
            raise ValueError(f"progress is told in finite numbers, not {done!r} of {total!r}")
        if self._report is not None:
            await self._report(to_json([done, total, message]))

    def _made_signal(self) -> AbortSignal:
        # Made when it is first asked for, as few handlers do. A handler's thread may ask while the worker aborts: both must
        # get the same one.
        with _LOCK:
            self._signal = self._signal or AbortSignal()
            return self._signal


_LOCK = threading.Lock()
# One for all contexts: it is held for an instruction or two.
