"""What the memory store holds, and the transitions of a task. Nothing here waits, and time is given, not read."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable

from concave.clock import Micros
from concave.store.memory.entry import WAITING, Entry, due_of
from concave.store.memory.expiries import Expiries
from concave.store.memory.lanes import Lanes
from concave.store.memory.listeners import Topics
from concave.store.memory.numbering import Numbering
from concave.store.protocol import DEAD, WORK, abort_topic, done_topic
from concave.store.records import (
    DAY,
    MAX_FAILURES,
    SUPERSEDED,
    Cancel,
    Claim,
    Claimed,
    Complete,
    Decision,
    Die,
    Extended,
    Failure,
    Lease,
    NewTask,
    Release,
    Retry,
    TaskStatus,
    crash_reason,
)

__all__ = ["State"]

KeyOf = tuple[str, str]
"""A task's name and a key of its user's: keys are scoped to names."""


class State:
    """All tasks. The caller holds the store's lock and calls `tick` first."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.lanes = Lanes()
        self.topics = Topics()
        self._running: dict[str, set[Entry]] = {}
        self._deadlines: list[tuple[Micros, int, Entry]] = []
        self._order = itertools.count()
        self._held_keys: dict[KeyOf, str] = {}
        self._debounced: dict[KeyOf, str] = {}
        self._stands_for: dict[str, str] = {}
        self._last_claims: dict[tuple[str, int], tuple[str, list[Entry], Micros]] = {}
        self._expiries = Expiries()
        self._numbering = Numbering(self._expiries)

    def tick(self, now: Micros) -> int:
        """Let time pass: forget what has expired, take back what dead workers held, promote what is due."""
        self._expiries.run(now)
        reaped = self._reap(now)
        self.lanes.promote(now)
        return reaped

    # Adding

    def add(self, new: NewTask, now: Micros, created: Micros) -> str:
        """The id that stands for a submission. `created` is now, a microsecond apart within a batch, which orders it."""
        if new.id in self.entries:
            return new.id
        if standing := self._stands_for.get(new.id):
            return standing
        if overtaken := self._numbering.overtaken(new):
            return self._remember(new.id, overtaken, now)
        other = self._held_keys.get((new.name, new.idempotency_key or "")) or self._debounce(new, now)
        if self._numbering.concerns(new):
            self._numbering.note(new, other or new.id, max(now, due_of(new, now, created)))
        if other:
            return self._remember(new.id, other, now)
        if new.idempotency_key is not None:
            self._held_keys[new.name, new.idempotency_key] = new.id
        entry = Entry(new, created, now, "pending", new.input, idempotency_key=new.idempotency_key)
        self.entries[new.id] = entry
        self._wait(entry, "scheduled", due_of(new, now, created), now)
        return new.id

    def _debounce(self, new: NewTask, now: Micros) -> str | None:
        """Fold a submission into the task that waits under its debounce key, if one still does."""
        if new.debounce is None:
            return None
        key = (new.name, new.debounce.key)
        waiting = self.entries.get(self._debounced.setdefault(key, new.id))
        if waiting is None or waiting.claimed_once or waiting.status not in WAITING:
            if waiting and waiting.status in WAITING and self._numbering.concerns(new):
                # It must not run again after a newer one.
                self.lanes.remove(waiting)
                self._supersede(waiting, now)
            self._debounced[key] = new.id
            return None
        if new.idempotency_key is not None:
            self._take_key(waiting, new, now)
        self.lanes.remove(waiting)
        waiting.input = new.input
        self._wait(waiting, "scheduled", due_of(new, now, waiting.created_at), now)
        return waiting.new.id

    def _take_key(self, waiting: Entry, new: NewTask, now: Micros) -> None:
        """Hold a folded submission's key. A task has one of its own; another's stands for it for a time."""
        assert new.idempotency_key is not None
        key, lasting = (new.name, new.idempotency_key), new.retention.key
        if waiting.idempotency_key is None:
            waiting.idempotency_key = new.idempotency_key
            self._held_keys[key] = waiting.new.id
        elif lasting > 0:
            self._held_keys[key] = waiting.new.id
            self._expiries.at(now + lasting, self._free_key, key, waiting.new.id)

    def revive(self, task_id: str, new_id: str, now: Micros) -> str | None:
        revived, old = self.entries.get(new_id), self.entries.get(task_id)
        if revived is not None:
            return new_id if revived.revived_from == task_id else None
        if old is None or old.status != "dead":
            return None
        key = old.idempotency_key
        if key is not None and self._held_keys.get((old.new.name, key)) == task_id:
            self._held_keys[old.new.name, key] = new_id
        else:
            key = None
        new = old.new._replace(id=new_id, debounce=None)
        entry = Entry(new, now, now, "pending", old.input, idempotency_key=key, revived_from=task_id)
        self.entries[new_id] = entry
        self.forget(task_id, now)
        self._wait(entry, "pending", now, now)
        return new_id

    # Claiming

    def claim(self, claim: Claim, now: Micros) -> Claimed:
        nonce, entries, _ = self._last_claims.get((claim.worker_id, claim.line), ("", [], 0))
        if nonce == claim.nonce:
            return Claimed([self._lease(entry, now) for entry in entries if entry.token == nonce], 0)
        room = {
            name: (cap - len(self._running.get(name, ()))) if cap else claim.limit
            for name, cap in claim.names
        }
        taken = list(self.lanes.take(claim.limit, room, claim.suspects))
        for entry in taken:
            entry.status = "running"
            entry.claimed_once = True
            entry.token, entry.deadline = claim.nonce, now + claim.lease
            entry.started_at, entry.worker_id = now, claim.worker_id
            self._running.setdefault(entry.new.name, set()).add(entry)
            heapq.heappush(self._deadlines, (entry.deadline, next(self._order), entry))
        if taken:
            self._remember_claim(claim, taken, now)
        leases = [self._lease(entry, now) for entry in taken]
        return Claimed(leases, self._idle_for(now) if len(leases) < claim.limit else None)

    def _remember_claim(self, claim: Claim, taken: list[Entry], now: Micros) -> None:
        """Know what was claimed last on a worker's line, for as long as its leases were to last; forget who is gone."""
        line = claim.worker_id, claim.line
        if line not in self._last_claims:
            for gone in [known for known, (_, _, until) in self._last_claims.items() if until <= now]:
                del self._last_claims[gone]
        self._last_claims[line] = (claim.nonce, taken, now + claim.lease)

    def held(self, lease: Lease) -> Entry | None:
        """The task that a lease is of, if its token still stands."""
        entry = self.entries.get(lease.task.id)
        return entry if entry is not None and entry.token == lease.token else None

    def extend(self, lease: Lease, deadline: Micros) -> Extended:
        entry = self.held(lease)
        if entry is None:
            return "lost"
        entry.deadline = deadline
        heapq.heappush(self._deadlines, (deadline, next(self._order), entry))
        return "aborted" if entry.abort else "held"

    def abort(self, task_id: str) -> bool:
        entry = self.entries.get(task_id)
        if entry is None or entry.token is None:
            return False
        entry.abort = True
        self.topics.publish(abort_topic(entry.worker_id or ""), task_id)
        return True

    def _lease(self, entry: Entry, now: Micros) -> Lease:
        return Lease(entry.record(now), entry.token or "", entry.suspect)

    def _idle_for(self, now: Micros) -> Micros | None:
        moments = [moment for moment in (self.lanes.next_due(), self._next_deadline()) if moment is not None]
        return max(0, min(moments) - now) if moments else None

    def _next_deadline(self) -> Micros | None:
        while self._deadlines:
            deadline, _, entry = self._deadlines[0]
            if entry.token is not None and entry.deadline == deadline:
                return deadline
            heapq.heappop(self._deadlines)
        return None

    # Ending a run

    def settle(self, lease: Lease, decision: Decision, now: Micros) -> bool:
        entry = self.held(lease)
        if entry is None:
            return False
        self._leave_running(entry)
        match decision:
            case Complete(result):
                entry.result = result
                self._end(entry, "completed", now)
            case Retry(delay, failure):
                self._fail(entry, failure, now)
                self._wait_again(entry, "failed" if failure else "scheduled", now + delay, now)
            case Release():
                entry.interruptions += 1
                self._wait_again(entry, "pending", now, now)
            case Die(reason, failure):
                self._fail(entry, failure, now)
                entry.reason = reason
                self._end(entry, "dead", now)
            case Cancel(reason):
                entry.reason = reason
                self._end(entry, "cancelled", now)
        return True

    def tell_of_room(self, names: Iterable[str], claim: Claim | None) -> None:
        """A slot under a cap came free and this worker didn't fill it: others may be idle because of the cap alone."""
        caps = dict(claim.names) if claim else None
        for name in names:
            if (caps is None or caps.get(name, 1)) and self.lanes.has_ready(name):
                self.topics.publish(WORK, name)

    def cancel(self, task_id: str, now: Micros) -> bool:
        entry = self.entries.get(task_id)
        if entry is None or entry.status not in WAITING:
            return False
        self.lanes.remove(entry)
        self._end(entry, "cancelled", now)
        return True

    def _reap(self, now: Micros) -> int:
        reaped = 0
        while (deadline := self._next_deadline()) is not None and deadline <= now:
            _, _, entry = heapq.heappop(self._deadlines)
            aborted = entry.abort
            self._leave_running(entry)
            reaped += 1
            entry.crashes += 1
            if aborted:
                entry.reason = "cancelled while it ran, and its worker died"
                self._end(entry, "cancelled", now)
            elif entry.crashes >= entry.new.max_crashes:
                entry.reason = crash_reason(entry.crashes)
                self._end(entry, "dead", now)
            else:
                self._wait_again(entry, "pending", now, now)
            if self.lanes.has_ready(entry.new.name):
                self.topics.publish(WORK, entry.new.name)
        return reaped

    def _leave_running(self, entry: Entry) -> None:
        entry.token = entry.progress = None
        entry.abort = False
        running = self._running[entry.new.name]
        running.discard(entry)
        if not running:
            del self._running[entry.new.name]

    def _fail(self, entry: Entry, failure: Failure | None, now: Micros) -> None:
        if failure is not None:
            entry.attempts_failed += 1
            known = failure._replace(attempt=entry.attempts_failed, at=now, worker_id=entry.worker_id or "")
            entry.failures = [*entry.failures, known][-MAX_FAILURES:]

    # Waiting and being forgotten

    def _wait(self, entry: Entry, status: TaskStatus, due: Micros, now: Micros) -> None:
        """Let a task wait, under `status` as long as it isn't due, and tell idle workers if it concerns them."""
        later = due > now
        entry.status, entry.due_at = (status if later else "pending"), due
        entry.started_at = entry.worker_id = None
        if self.lanes.put(entry, later=later):
            self.topics.publish(WORK, entry.new.name)

    def _wait_again(self, entry: Entry, status: TaskStatus, due: Micros, now: Micros) -> None:
        if self._numbering.supersedes(entry.new):
            self._supersede(entry, now)
        else:
            self._wait(entry, status, due, now)

    def _supersede(self, entry: Entry, now: Micros) -> None:
        entry.reason = SUPERSEDED
        self._end(entry, "cancelled", now)

    def _end(self, entry: Entry, status: TaskStatus, now: Micros) -> None:
        entry.status, entry.ended_at = status, now
        retention, name, task_id = entry.new.retention, entry.new.name, entry.new.id
        kept = {"completed": retention.completed, "cancelled": retention.cancelled}.get(
            status, retention.dead
        )
        self._expiries.at(now + kept, self._expire, entry, now + kept)
        if entry.new.debounce is not None and self._debounced.get((name, entry.new.debounce.key)) == task_id:
            del self._debounced[name, entry.new.debounce.key]
        if entry.idempotency_key is not None:
            key = (name, entry.idempotency_key)
            if status == "cancelled":
                self._free_key(key, task_id)
            else:
                lasting = retention.key if status == "completed" else retention.dead
                self._expiries.at(now + lasting, self._free_key, key, task_id)
        self.topics.publish(done_topic(task_id), task_id)
        if status == "dead":
            self.topics.publish(DEAD, task_id)

    def _free_key(self, key: KeyOf, task_id: str) -> None:
        if self._held_keys.get(key) == task_id:
            del self._held_keys[key]

    def forget(self, task_id: str, now: Micros) -> None:
        """Drop an ended task's record. Its submission is still known for the rest of its day."""
        entry = self.entries.pop(task_id)
        if entry.status == "dead" and entry.idempotency_key is not None:
            self._free_key((entry.new.name, entry.idempotency_key), task_id)
        if entry.created_at + DAY > now:
            self._remember(task_id, task_id, entry.created_at)

    def _expire(self, entry: Entry, now: Micros) -> None:
        # It may be gone before its time, and its id in use again.
        if self.entries.get(entry.new.id) is entry:
            self.forget(entry.new.id, now)

    def _remember(self, submission_id: str, task_id: str, since: Micros) -> str:
        """Know for a day which task a submission became, so that sending it again adds nothing."""
        self._stands_for[submission_id] = task_id
        self._expiries.at(since + DAY, self._stands_for.pop, submission_id, None)
        return task_id
