"""The one seam: what a task store does, in the domain's own verbs.

Everything above (scheduler, workers, recurring schedules, dead letters, locks) speaks to a store only
through `Store`. Everything below (memory, Redis) implements it, and passes `concave.testing.store_suite.StoreSuite`.

The rules of the seam:

- **Each verb is one atomic step.** A verb has happened wholly or not at all, whoever else calls at the time.
- **The store's clock decides.** A caller says "in 5 seconds", never "at 12:00:05 by my watch". Only an absolute
  time that a user named (`NewTask.at`) crosses the seam as a point in time.
- **Decisions arrive as data.** Backoff, cron and validation are pure functions above the seam.
- **Inputs and results are opaque bytes** (JSON), never looked into below the seam.
- **Every verb may be sent again** after a `StoreUnavailableError`: the second time finds the first one done.

Times and durations are whole microseconds (`Micros`).

The way of a task::

    add ─→ pending ─────────────┐
      └──→ scheduled ─(due)─→ claim ─→ running ─→ settle ─→ completed
                                ↑                   ├─ Retry ───→ failed ─(due)─→ claim …
                                ├── Release ────────┤
                                └── lease ran out ──┼─ Die, or too many crashes ─→ dead ─→ revive
                                                    └─ Cancel ─→ cancelled
    cancel: pending, scheduled, failed ─→ cancelled
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from concave.clock import Micros
from concave.store.records import (
    Claim,
    Claimed,
    Due,
    Extended,
    Fired,
    Lease,
    NewTask,
    Query,
    ScheduleRecord,
    Settled,
    Settlement,
    TaskRecord,
)

__all__ = ["DEAD", "WORK", "Listener", "Locks", "Schedules", "Store", "abort_topic", "done_topic"]

WORK = "work"
"""A message here is the name of a task that may now be claimed, or is due earlier than any before it."""


DEAD = "dead"
"""A message here is the id of a task that has just died."""


def done_topic(task_id: str) -> str:
    """A message here says that this task has ended."""
    return f"done:{task_id}"


def abort_topic(worker_id: str) -> str:
    """A message here is the id of a running task that this worker is to abort."""
    return f"abort:{worker_id}"


class Listener(Protocol):
    """A subscription, until it is closed."""

    async def close(self) -> None:
        """Hear no more; twice is harmless."""
        ...


class Schedules(Protocol):
    """The recurring schedules of a store."""

    async def put(self, schedule: ScheduleRecord) -> None:
        """Create a schedule, or bring one of the same id up to date.

        Where the rule is unchanged, its next slot and last run are kept; a pause is kept in any case.
        """
        ...

    async def get(self, schedule_id: str) -> ScheduleRecord | None:
        """One schedule."""
        ...

    async def list(self) -> list[ScheduleRecord]:
        """All schedules, by creation."""
        ...

    async def delete(self, schedule_id: str) -> bool:
        """Forget a schedule. False where there is none."""
        ...

    async def enable(self, schedule_id: str, next_at: Micros | None) -> bool:
        """Resume at `next_at`, or pause with None. False where there is no such schedule."""
        ...

    async def due(self, limit: int) -> Due:
        """The enabled schedules that are due, the longest due first."""
        ...

    async def fire(self, fired: Fired) -> bool:
        """If the schedule still stands at `expected_at`: move it on and add its tasks, in one step."""
        ...


class Locks(Protocol):
    """Named locks with an owner and an end."""

    async def acquire(self, name: str, owner: str, ttl: Micros) -> bool:
        """Take a lock that is free, or is the owner's already (which renews it)."""
        ...

    async def extend(self, name: str, owner: str, ttl: Micros) -> bool:
        """Renew a lock if the owner holds it."""
        ...

    async def release(self, name: str, owner: str) -> bool:
        """Release a lock if the owner holds it."""
        ...

    async def is_held(self, name: str, owner: str) -> bool:
        """Whether the owner holds the lock."""
        ...


class Store(Protocol):
    """A task store. See the module's docstring for the rules that hold for every verb."""

    @property
    def schedules(self) -> Schedules:
        """The recurring schedules."""
        ...

    @property
    def locks(self) -> Locks:
        """The locks."""
        ...

    @property
    def in_order(self) -> bool:
        """Whether calls are carried out in the order in which they are made, also where the first isn't answered yet."""
        ...

    # Hot: what a task costs.

    async def add(self, tasks: Sequence[NewTask]) -> list[str]:
        """Add tasks; the id that stands for each submission.

        It is the submission's own, or that of the task that holds its idempotency key, or that of the waiting
        task it was debounced into. A submission added within the last 24 hours is not added again, even where
        its record is gone by now.

        The tasks of one call are created a microsecond apart, in their order: creation is what "first in, first out"
        and "newest first" go by. A debounced submission is due when its window ends, which `max_wait` bounds from the
        creation of the task it was folded into, and never before its own delay or time. That task takes the
        submission's idempotency key if it has none yet; otherwise the key stands for it as long as it would after a
        completion.

        Under a debounce key whose submissions are numbered (`Debounce.sequence`) the highest number wins, until a day
        after it was due: one that comes later with a lower number changes nothing, and the task that stands last under
        the key stands for it. And a task that was claimed before doesn't run again (for a retry, say) once another one
        stands last: it is cancelled. One without a number is the latest of all.
        """
        ...

    async def claim(self, claim: Claim) -> Claimed:
        """Lease up to `limit` due tasks, by bucket, oldest first within a name, fairly between names.

        Takes back what dead workers held first. Never exceeds a name's cap. The same claim sent again returns
        the same leases, as far as they are still held. Suspects, which have crashed a worker before, are a queue of
        their own within their name.
        """
        ...

    async def answers(self, desk: str, take: Callable[[str, Sequence[Lease]], object]) -> Listener:
        """Call `take` with a claim's nonce and what it leased, for claims that stood at this desk; as `listen` calls.

        A store that never answers later is right, too. Answers may be lost: the same claim sent again finds its leases.
        """
        ...

    async def settle(self, settlements: Sequence[Settlement], claim: Claim | None = None) -> Settled:
        """Carry out decisions about leased tasks, then claim, in one step."""
        ...

    async def extend(self, leases: Sequence[Lease], duration: Micros) -> list[Extended]:
        """Let leases run for `duration` from now, and learn what became of each.

        "lost": it is no longer held, and someone else may be running its task. "aborted": it runs on, and `abort` was
        called for its task: a message may be lost, this isn't.
        """
        ...

    async def reap(self) -> int:
        """Take back the tasks whose leases ran out, as a crash each; how many. Claims do it by themselves."""
        ...

    async def listen(self, topic: str, notify: Callable[[str | None], object]) -> Listener:
        """Call `notify` for each message on a topic, on the loop that called `listen`.

        None stands for "there may have been some": the connection was lost and is back. A message is a hint,
        never the only way to learn what it says.
        """
        ...

    # Cold: what people and dashboards ask.

    async def ended(self, task_id: str, tell: Callable[[TaskRecord | None], object]) -> Listener:
        """Call `tell` when a task has ended, as `listen` calls: with its record, or with None where that is to be looked up."""
        ...

    async def now(self) -> Micros:
        """The store's clock."""
        ...

    async def get(self, task_id: str) -> TaskRecord | None:
        """One task, or None where it never was or has expired."""
        ...

    async def find(self, query: Query) -> list[TaskRecord]:
        """The tasks that a query asks for, newest first, by index."""
        ...

    async def depth(self) -> int:
        """How many tasks wait: pending, scheduled, and failed ones before their retry."""
        ...

    async def cancel(self, task_id: str) -> bool:
        """Cancel a task that waits. False for one that runs, has ended or is unknown."""
        ...

    async def abort(self, task_id: str) -> bool:
        """Tell the worker that runs a task to stop it, and to cancel it for good. False where it doesn't run."""
        ...

    async def report(self, lease: Lease, progress: bytes) -> bool:
        """Keep a running task's progress (JSON). False where the token is stale."""
        ...

    async def tidy(self) -> None:
        """Forget index entries of records that have expired. Cheap, bounded, safe to call from anywhere."""
        ...

    # Dead letters.

    async def dead(self, limit: int, offset: int) -> list[TaskRecord]:
        """Dead tasks, the latest to die first."""
        ...

    async def dead_count(self) -> int:
        """How many tasks are dead."""
        ...

    async def revive(self, task_id: str, new_id: str) -> str | None:
        """Turn a dead task into a new pending one; its id, or None where there is no such dead task.

        The idempotency key goes along, unless a newer task holds it by now.
        """
        ...

    async def purge(self, older_than: Micros) -> int:
        """Forget the dead tasks that died more than `older_than` ago; how many."""
        ...
