"""What users see of tasks, dead letters, schedules and workers. Times are aware datetimes in UTC."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic_core import from_json

from concave.clock import from_micros
from concave.store.records import ScheduleRecord, TaskRecord, TaskStatus

__all__ = [
    "AttemptError",
    "DeadLetterEntry",
    "RecurringSchedule",
    "Task",
    "TaskProgress",
    "TaskStatus",
    "WorkerStats",
    "WorkerStatus",
]

WorkerStatus = Literal["running", "paused", "stopped"]


@dataclass(frozen=True, slots=True)
class AttemptError:
    """One failed attempt of a task."""

    attempt: int
    error: str
    traceback: str
    at: datetime
    worker_id: str


@dataclass(frozen=True, slots=True)
class TaskProgress:
    """How far a running task says it has come."""

    done: float
    total: float | None
    message: str | None


@dataclass(frozen=True, slots=True)
class Task:
    """A task as the store knows it. `input` and `result` are plain JSON values.

    `attempt` counts the attempts begun (1 while the first one runs); `crashes` and `interruptions` (deploys) are
    counted apart and spend none.
    """

    id: str
    name: str
    input: Any
    status: TaskStatus
    priority: int
    created_at: datetime
    scheduled_for: datetime
    started_at: datetime | None
    completed_at: datetime | None
    worker_id: str | None
    attempt: int
    max_attempts: int
    last_error: str | None
    result: Any
    idempotency_key: str | None
    crashes: int = 0
    interruptions: int = 0
    errors: tuple[AttemptError, ...] = ()
    revived_from: str | None = None
    progress: TaskProgress | None = None

    @classmethod
    def from_record(cls, record: TaskRecord) -> Task:
        """The public view of a store's record."""
        return cls(
            id=record.id,
            name=record.name,
            input=_json(record.input),
            status=record.status,
            priority=record.priority,
            created_at=from_micros(record.created_at),
            scheduled_for=from_micros(record.due_at),
            started_at=_moment(record.started_at),
            completed_at=_moment(record.ended_at),
            worker_id=record.worker_id,
            attempt=record.attempt,
            max_attempts=record.max_attempts,
            last_error=record.reason or (record.failures[-1].error if record.failures else None),
            result=None if record.result is None else _json(record.result),
            idempotency_key=record.idempotency_key,
            crashes=record.crashes,
            interruptions=record.interruptions,
            errors=tuple(
                AttemptError(f.attempt, f.error, f.traceback, from_micros(f.at), f.worker_id)
                for f in record.failures
            ),
            revived_from=record.revived_from,
            progress=None if record.progress is None else _progress(record.progress),
        )


@dataclass(frozen=True, slots=True)
class DeadLetterEntry:
    """A task that is out of attempts, and why."""

    task_id: str
    task: Task
    reason: str
    attempts: int
    failed_at: datetime

    @classmethod
    def from_record(cls, record: TaskRecord) -> DeadLetterEntry:
        """The dead letter that a dead task's record stands for."""
        task = Task.from_record(record)
        return cls(
            task_id=task.id,
            task=task,
            reason=record.reason or "",
            attempts=task.attempt,
            failed_at=from_micros(record.ended_at or 0),
        )


@dataclass(frozen=True, slots=True)
class RecurringSchedule:
    """A recurring schedule. `interval` is in seconds."""

    id: str
    task_name: str
    input: Any
    cron: str | None
    interval: float | None
    timezone: str
    enabled: bool
    last_run_at: datetime | None
    next_run_at: datetime
    created_at: datetime
    misfire: Literal["skip", "once", "all"] = "once"

    @classmethod
    def from_record(cls, record: ScheduleRecord) -> RecurringSchedule:
        """The public view of a store's record."""
        return cls(
            id=record.id,
            task_name=record.task.name,
            input=_json(record.task.input),
            cron=record.cron,
            interval=None if record.interval is None else record.interval / 1_000_000,
            timezone=record.timezone,
            enabled=record.enabled,
            last_run_at=_moment(record.last_at),
            next_run_at=from_micros(record.next_at),
            created_at=from_micros(record.created_at),
            misfire=record.misfire,
        )


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """What a worker did so far. `failed_count` counts failed attempts, `uptime` is in seconds."""

    id: str
    status: WorkerStatus
    active_tasks: int
    processed_count: int
    failed_count: int
    uptime: float
    stale_count: int = 0


def _moment(value: int | None) -> datetime | None:
    return None if value is None else from_micros(value)


def _json(data: bytes) -> Any:
    """What JSON stands for. Bytes that are none, written by something else, are shown as text: a listing must not fail."""
    try:
        return from_json(data)
    except ValueError:
        return data.decode(errors="replace")


def _progress(data: bytes) -> TaskProgress | None:
    match _json(data):
        case [int() | float() as done, total, message]:
            return TaskProgress(done, total, message)
        case _:
            return None
