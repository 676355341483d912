"""A task as the memory store holds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from concave.clock import Micros
from concave.store.records import Failure, NewTask, TaskRecord, TaskStatus

__all__ = ["WAITING", "Entry", "Hold", "due_of"]

WAITING = frozenset[TaskStatus]({"pending", "scheduled", "failed"})


class Hold(NamedTuple):
    """A claim, as all the tasks that it took share it."""

    token: str
    worker_id: str
    since: Micros


@dataclass(slots=True, eq=False)
class Entry:
    """The one mutable thing. `place` is renewed whenever the task moves, so that what a lane still holds of an
    earlier place is recognised as stale. `hold` is the claim under which it runs, or ran last if it has ended;
    `lease_end` is 0 unless it runs.
    """

    new: NewTask
    created_at: Micros
    input: bytes
    idempotency_key: str | None
    status: TaskStatus = "pending"
    due_at: Micros = 0
    place: int = 0
    claimed_once: bool = False
    hold: Hold | None = None
    lease_end: Micros = 0
    abort: bool = False
    progress: bytes | None = None
    attempts_failed: int = 0
    crashes: int = 0
    interruptions: int = 0
    failures: tuple[Failure, ...] = ()
    ended_at: Micros | None = None
    result: bytes | None = None
    reason: str | None = None
    revived_from: str | None = None

    @property
    def suspect(self) -> bool:
        """Whether it has taken a worker down before."""
        return self.crashes > 0

    def record(self, now: Micros) -> TaskRecord:
        """A snapshot. What is due by now reads as pending."""
        new, status, hold, failures = self.new, self.status, self.hold, self.failures
        attempt, worker_id = self.attempts_failed, hold.worker_id if hold else None
        if status in {"running", "completed"}:
            attempt += 1
        elif status in {"scheduled", "failed"} and self.due_at <= now:
            status = "pending"
        if hold is None and failures and status in WAITING:
            worker_id = failures[-1].worker_id
        return TaskRecord(
            new.id,
            new.name,
            self.input,
            status,
            new.priority,
            self.created_at,
            self.due_at,
            attempt,
            self.crashes,
            self.interruptions,
            new.max_attempts,
            new.max_crashes,
            self.idempotency_key,
            new.debounce.key if new.debounce else None,
            new.retention,
            hold.since if hold else None,
            self.ended_at,
            worker_id,
            self.result,
            self.reason,
            failures,
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
