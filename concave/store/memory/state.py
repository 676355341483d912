"""What the memory store holds, and the transitions of a task. Nothing here waits, and time is given, not read."""

from __future__ import annotations

from collections.abc import Iterable

from concave.clock import Micros
from concave.store.memory.entry import WAITING, Entry, Hold, due_of
from concave.store.memory.lanes import Lanes
from concave.store.memory.last_claims import LastClaims
from concave.store.memory.leases import Leases
from concave.store.memory.listeners import Topics
from concave.store.memory.moments import Moments
from concave.store.memory.numbering import Numbering
from concave.store.protocol import DEAD, WORK, abort_topic, done_topic
from concave.store.records import (
    DAY,
    MAX_FAILURES,
    NOTHING_CLAIMED,
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
        self._leases = Leases()
        self._held_keys: dict[KeyOf, str] = {}
        self._debounced: dict[KeyOf, str] = {}
        self._stands_for: dict[str, str] = {}
        self._last_claims = LastClaims()
        self._numbering = Numbering()
        # What is forgotten, and when: records, idempotency keys with the task that holds them, and submissions.
        self._record_ends = Moments[Entry]()
        self._key_ends = Moments[tuple[KeyOf, str]]()
        self._submission_ends = Moments[str]()

    def tick(self, now: Micros) -> int:
        """Let time pass: forget what has expired, take back what dead workers held, promote what is due."""
        self._expire(now)
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
        keyed = new.idempotency_key is not None or new.debounce is not None
        if keyed and (other := self._fold(new, now, created)):
            return self._remember(new.id, other, now)
        entry = self.entries[new.id] = Entry(new, created, new.input, new.idempotency_key)
        self._wait(entry, "scheduled", due_of(new, now, created), now)
        return new.id

    def _fold(self, new: NewTask, now: Micros, created: Micros) -> str | None:
        """The task that stands for a submission with a key, if another one does; else it holds its keys from now on."""
        if overtaken := self._numbering.overtaken(new):
            return overtaken
        key = None if new.idempotency_key is None else (new.name, new.idempotency_key)
        other = (self._held_keys.get(key) if key else None) or self._debounce(new, now)
        if self._numbering.concerns(new):
            self._numbering.note(new, other or new.id, max(now, due_of(new, now, created)))
        if key and not other:
            self._held_keys[key] = new.id
        return other

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
            self._key_ends.at(now + lasting).append((key, waiting.new.id))

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
        entry = Entry(new, now, old.input, key, revived_from=task_id)
        self.entries[new_id] = entry
        self.forget(task_id, now)
        self._wait(entry, "pending", now, now)
        return new_id

    # Claiming

    def claim(self, claim: Claim, now: Micros) -> Claimed:
        last = self._last_claims.before(claim)
        if last is not None and last.has_overtaken(claim):
            return NOTHING_CLAIMED
        if last is not None and last.is_repeated_by(claim):
            held = [entry for entry in last.entries if _holds(entry, last.nonce)]
            return Claimed([Lease(entry.record(now), last.nonce, entry.suspect) for entry in held], 0)
        room = {name: (cap - self._leases.running(name)) if cap else claim.limit for name, cap in claim.names}
        taken = self.lanes.take(claim.limit, room, claim.suspects)
        if taken:
            self._leases.begin(taken, Hold(claim.nonce, claim.worker_id, now), now + claim.lease)
        self._last_claims.remember(claim, taken, now)
        leases = [Lease(entry.record(now), claim.nonce, entry.suspect) for entry in taken]
        return Claimed(leases, self._idle_for(now) if len(leases) < claim.limit else None)

    def held(self, lease: Lease) -> Entry | None:
        """The task that a lease is of, if its token still stands."""
        entry = self.entries.get(lease.task.id)
        return entry if entry is not None and _holds(entry, lease.token) else None

    def extend(self, lease: Lease, deadline: Micros) -> Extended:
        entry = self.held(lease)
        if entry is None:
            return "lost"
        self._leases.renew(entry, deadline)
        return "aborted" if entry.abort else "held"

    def abort(self, task_id: str) -> bool:
        entry = self.entries.get(task_id)
        if entry is None or entry.status != "running" or entry.hold is None:
            return False
        entry.abort = True
        self.topics.publish(abort_topic(entry.hold.worker_id), task_id)
        return True

    def _idle_for(self, now: Micros) -> Micros | None:
        moments = [
            moment for moment in (self.lanes.next_due(), self._leases.next_end()) if moment is not None
        ]
        return max(0, min(moments) - now) if moments else None

    # Ending a run

    def settle(self, lease: Lease, decision: Decision, now: Micros) -> bool:
        entry = self.held(lease)
        if entry is None:
            return False
        self._leases.end(entry)
        match decision:
            case Complete():
                entry.result = decision.result
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
        run_out = self._leases.run_out(now)
        for entry in run_out:
            aborted = entry.abort
            self._leases.end(entry)
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
        return len(run_out)

    def _fail(self, entry: Entry, failure: Failure | None, now: Micros) -> None:
        if failure is not None:
            entry.attempts_failed += 1
            known = failure._replace(
                attempt=entry.attempts_failed, at=now, worker_id=entry.hold.worker_id if entry.hold else ""
            )
            entry.failures = (*entry.failures, known)[-MAX_FAILURES:]

    # Waiting and being forgotten

    def _wait(self, entry: Entry, status: TaskStatus, due: Micros, now: Micros) -> None:
        """Let a task wait, under `status` as long as it isn't due, and tell idle workers if it concerns them."""
        later = due > now
        entry.status, entry.due_at = (status if later else "pending"), due
        entry.hold = None
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
        if status == "completed":
            kept, key_kept = retention.completed, retention.key
        elif status == "cancelled":
            kept, key_kept = retention.cancelled, 0
        else:
            kept = key_kept = retention.dead
        self._record_ends.at(now + kept).append(entry)
        if entry.new.debounce is not None and self._debounced.get((name, entry.new.debounce.key)) == task_id:
            del self._debounced[name, entry.new.debounce.key]
        if entry.idempotency_key is not None:
            key = (name, entry.idempotency_key)
            if status == "cancelled":
                self._free_key(key, task_id)
            else:
                self._key_ends.at(now + key_kept).append((key, task_id))
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

    def _expire(self, now: Micros) -> None:
        for moment, entry in self._record_ends.take(now):
            # It may be gone before its time, and its id in use again.
            if self.entries.get(entry.new.id) is entry:
                self.forget(entry.new.id, moment)
        # After the records: a record that goes leaves its submission, which may have had its day by now.
        for _, submission_id in self._submission_ends.take(now):
            self._stands_for.pop(submission_id, None)
        for _, (key, task_id) in self._key_ends.take(now):
            self._free_key(key, task_id)
        self._numbering.tick(now)

    def _remember(self, submission_id: str, task_id: str, since: Micros) -> str:
        """Know for a day which task a submission became, so that sending it again adds nothing."""
        self._stands_for[submission_id] = task_id
        self._submission_ends.at(since + DAY).append(submission_id)
        return task_id


def _holds(entry: Entry, token: str) -> bool:
    return entry.status == "running" and entry.hold is not None and entry.hold.token == token
