"""A task as the memory store holds it."""

from __future__ import annotations

from dataclasses import dataclass, field

from concave.clock import Micros
from concave.store.records import Failure, NewTask, TaskRecord, TaskStatus

__all__ = ["WAITING", "Entry", "due_of"]

WAITING = frozenset[TaskStatus]({"pending", "scheduled", "failed"})


@dataclass(slots=True, eq=False)
class Entry:
    """The one mutable thing. `place` is renewed whenever the task moves, so that what a heap still holds of an
    earlier place is recognised as stale; `token` is None unless it runs.
    """

    new: NewTask
    created_at: Micros
    due_at: Micros
    status: TaskStatus
    input: bytes
    place: int = 0
    attempts_failed: int = 0
    crashes: int = 0
    interruptions: int = 0
    claimed_once: bool = False
    token: str | None = None
    deadline: Micros = 0
    abort: bool = False
    started_at: Micros | None = None
    ended_at: Micros | None = None
    worker_id: str | None = None
    result: bytes | None = None
    reason: str | None = None
    failures: list[Failure] = field(default_factory=list[Failure])
    revived_from: str | None = None
    progress: bytes | None = None
    idempotency_key: str | None = None

    @property
    def suspect(self) -> bool:
        """Whether it has taken a worker down before."""
        return self.crashes > 0

    def record(self, now: Micros) -> TaskRecord:
        """A snapshot. What is due by now reads as pending."""
        new = self.new
        status = self.status
        if status in {"scheduled", "failed"} and self.due_at <= now:
            status = "pending"
        return TaskRecord(
            new.id,
            new.name,
            self.input,
            status,
            new.priority,
            self.created_at,
            self.due_at,
            self.attempts_failed + (status in {"running", "completed"}),
            self.crashes,
            self.interruptions,
            new.max_attempts,
            new.max_crashes,
            self.idempotency_key,
            new.debounce.key if new.debounce else None,
            new.retention,
            self.started_at,
            self.ended_at,
            self.failures[-1].worker_id if status in WAITING and self.failures else self.worker_id,
            self.result,
            self.reason,
            tuple(self.failures),
            self.revived_from,
            self.progress,
        )


def due_of(new: NewTask, now: Micros, created: Micros) -> Micros:
    """When a submission is due.

    A debounced one waits for its window, which counts from now and is bounded by `max_wait` from the creation of the
    task that it makes or joins; it is never earlier than it was asked for.
    """
    asked = now + new.delay if new.at is None else new.at
    if new.debounce is None:
        return asked
    window = now + new.debounce.window
    if new.debounce.max_wait is not None:
        window = min(window, created + new.debounce.max_wait)
    return max(asked, window)
