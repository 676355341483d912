"""What crosses the store's seam: tasks, claims, decisions and schedules, as plain data.

Times and durations are whole microseconds (`Micros`). Inputs and results are opaque bytes (JSON), never looked
into below the seam.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from concave.clock import Micros

TaskStatus = Literal["pending", "scheduled", "running", "completed", "failed", "dead", "cancelled"]

BUCKETS = 4
"""Priorities 0-24, 25-49, 50-74 and 75-100."""

DAY: Micros = 86_400_000_000

MAX_FAILURES = 20
"""How many failed attempts a record remembers in full: the latest."""


SUPERSEDED = "a newer task has taken its place"
"""How a task ends that another one has taken the place of before it could run again."""


def crash_reason(crashes: int) -> str:
    """Why a task is dead that took its workers down."""
    return f"its worker died {crashes} times while it ran (max_crashes)"


def bucket_of(priority: int) -> int:
    """The bucket of a priority, 0 (last) to 3 (first)."""
    return min(priority // 25, BUCKETS - 1)


# What is added ------------------------------------------------------------------------------------------


class Retention(NamedTuple):
    """How long the store remembers a task that has ended, and its idempotency key after completion."""

    completed: Micros = DAY
    cancelled: Micros = DAY
    dead: Micros = 90 * DAY
    key: Micros = DAY


class Debounce(NamedTuple):
    """Calls with one `key` become one task, due `window` after the last call, `max_wait` after the first.

    `sequence` orders calls that may arrive in another order than that in which they were made: one that comes after a
    call with a higher number changes nothing. None or 0: not numbered, the last to arrive wins.
    """

    key: str
    window: Micros
    max_wait: Micros | None
    sequence: int | None = None


class NewTask(NamedTuple):
    """One submission. Its id is made by the caller, so that sending it twice adds it once."""

    id: str
    name: str
    input: bytes
    priority: int = 50
    delay: Micros = 0
    at: Micros | None = None
    max_attempts: int = 3
    max_crashes: int = 3
    idempotency_key: str | None = None
    debounce: Debounce | None = None
    retention: Retention = Retention()


# What is kept -------------------------------------------------------------------------------------------


class Failure(NamedTuple):
    """One failed attempt, as it is kept with the task."""

    error: str
    traceback: str = ""
    attempt: int = 0
    at: Micros = 0
    worker_id: str = ""


class TaskRecord(NamedTuple):
    """Everything a store knows of one task.

    `attempt` counts attempts begun that ended or may yet end in an outcome of the handler: failures, plus the
    run in progress, plus the one that completed. `crashes` and `interruptions` are counted apart.
    `started_at` and `worker_id` are those of the run in progress or, of a task that has ended, of its last one; while
    a task waits, `worker_id` is whose attempt failed last.
    """

    id: str
    name: str
    input: bytes
    status: TaskStatus
    priority: int
    created_at: Micros
    due_at: Micros
    attempt: int
    crashes: int
    interruptions: int
    max_attempts: int
    max_crashes: int
    idempotency_key: str | None
    debounce_key: str | None
    retention: Retention
    started_at: Micros | None = None
    ended_at: Micros | None = None
    worker_id: str | None = None
    result: bytes | None = None
    reason: str | None = None
    failures: tuple[Failure, ...] = ()
    revived_from: str | None = None
    progress: bytes | None = None


# Claiming and settling ------------------------------------------------------------------------------------

ClaimNames = tuple[tuple[str, int], ...]
"""Task names a worker may take, each with its ``max_concurrency`` (0: no cap)."""


class Claim(NamedTuple):
    """What a worker wants.

    `nonce` is 16 ASCII characters, fresh for each claim, and repeated only when the same claim is sent again. A worker may
    have several claims under way, each on a line of its own: of each line the store knows the last claim. Workers may share an id:
    those that count their claims (see `number`) have lines of their own all the same.
    """

    worker_id: str
    names: ClaimNames
    limit: int
    lease: Micros
    nonce: str
    suspects: int = 1
    """How many tasks may be among them that have crashed a worker before."""
    line: int = 0
    desk: str = ""
    """Where its worker hears of leases that come later; see `Store.answers`."""
    stands: Micros = 0
    """How long a store may keep a claim that found nothing, to answer it at the desk. Until its next claim with that desk."""
    number: int = 0
    """What a worker asked on one line since its start, counted; the nonces of one start begin with the same eight characters. The
    store carries out none that comes after one with a higher number, held back on its way: what it leased, nobody would know
    of. One that is sent again has the number it had; one that asks for something else has a new one, also under the same nonce. 0
    isn't counted.
    """


class Lease(NamedTuple):
    """A claimed task and the token that proves the claim. Each claim of a task has a token of its own."""

    task: TaskRecord
    token: str
    suspect: bool = False


Extended = Literal["held", "aborted", "lost"]
"""What became of a lease that was to be extended: it runs on; so it does, but its task is to be stopped; it is no more."""


class Claimed(NamedTuple):
    """What a claim found. `idle_for`: when it found less than it wanted, how long until something known falls due."""

    leases: list[Lease]
    idle_for: Micros | None = None
    stands: bool = False
    """Whether the store keeps the claim, to answer it at its desk."""


NOTHING_CLAIMED = Claimed([])


class Complete(NamedTuple):
    """The handler returned; `result` is JSON."""

    result: bytes


class Retry(NamedTuple):
    """Run again after `delay`. Without `failure` no attempt is spent."""

    delay: Micros
    failure: Failure | None


class Release(NamedTuple):
    """Hand the task back at once: an interruption, which spends neither an attempt nor a crash."""


class Die(NamedTuple):
    """Into the dead letter queue."""

    reason: str
    failure: Failure | None


class Cancel(NamedTuple):
    """Stopped while it ran, because someone asked for it: cancelled for good."""

    reason: str


Decision = Complete | Retry | Release | Die | Cancel


class Settlement(NamedTuple):
    """A decision about a task that is held under a lease."""

    lease: Lease
    decision: Decision


class Settled(NamedTuple):
    """`accepted[i]` is False where the token of settlement `i` was stale: nothing was changed there."""

    accepted: list[bool]
    claimed: Claimed = NOTHING_CLAIMED


# Looking, and schedules -------------------------------------------------------------------------------------


class Query(NamedTuple):
    """Which tasks to find; newest first."""

    statuses: tuple[TaskStatus, ...] = ()
    names: tuple[str, ...] = ()
    created_after: Micros | None = None
    created_before: Micros | None = None
    limit: int = 100
    offset: int = 0


class ScheduleRecord(NamedTuple):
    """A recurring schedule, with all that firing it needs, so that no task code is needed to fire it."""

    id: str
    task: NewTask
    cron: str | None
    interval: Micros | None
    timezone: str
    misfire: Literal["skip", "once", "all"]
    enabled: bool
    created_at: Micros
    anchor: Micros
    """Where an interval counts from: when this rule was first declared."""
    next_at: Micros
    last_at: Micros | None = None

    @property
    def rule(self) -> tuple[str | None, Micros | None, str]:
        """When it runs, apart from where it stands."""
        return self.cron, self.interval, self.timezone


class Due(NamedTuple):
    """What is due at `now` by the store's clock, and how long until the next one is that isn't yet."""

    now: Micros
    schedules: list[ScheduleRecord]
    idle_for: Micros | None


class Fired(NamedTuple):
    """A slot's outcome: the schedule moves to `next_at`, and `tasks` are added in the same step."""

    schedule_id: str
    expected_at: Micros
    next_at: Micros
    last_at: Micros | None
    tasks: Sequence[NewTask]
