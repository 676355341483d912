"""The verbs of the seam, in this process's memory: for tests, and for a laptop.

Each verb runs to its end under one lock, so that other threads (heartbeats, handlers) may call too. What it holds
lives and dies with the process.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

from concave.clock import Clock, Micros, SystemClock
from concave.store.memory.entry import Entry
from concave.store.memory.locks import MemoryLocks
from concave.store.memory.schedules import MemorySchedules
from concave.store.memory.state import State
from concave.store.protocol import Listener, done_topic
from concave.store.records import (
    NOTHING_CLAIMED,
    Claim,
    Claimed,
    Extended,
    Lease,
    NewTask,
    Query,
    Settled,
    Settlement,
    TaskRecord,
)

__all__ = ["MemoryStore"]


class MemoryStore:
    """A task store in memory; see `concave.store.protocol.Store` for what each verb promises."""

    in_order = True

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.RLock()
        self._state = State()
        self.schedules = MemorySchedules(self._lock, self._clock, self._add)
        self.locks = MemoryLocks(self._lock, self._clock)

    def _tick(self) -> Micros:
        now = self._clock.now()
        self._state.tick(now)
        return now

    def _add(self, tasks: Sequence[NewTask]) -> list[str]:
        with self._lock:
            now = self._tick()
            return [self._state.add(new, now, now + number) for number, new in enumerate(tasks)]

    async def add(self, tasks: Sequence[NewTask]) -> list[str]:
        # A turn of the loop, as a trip to a server is: whoever adds one after the other leaves it to the workers as well.
        await asyncio.sleep(0)
        return self._add(tasks)

    async def claim(self, claim: Claim) -> Claimed:
        with self._lock:
            return self._state.claim(claim, self._tick())

    async def answers(
        self,
        desk: str,
        take: Callable[[str, Sequence[Lease]], object],  # noqa: ARG002  a claim costs no trip here: none is answered later
    ) -> Listener:
        return self._state.topics.listen(desk, lambda _: None)

    async def settle(self, settlements: Sequence[Settlement], claim: Claim | None = None) -> Settled:
        with self._lock:
            now = self._tick()
            accepted = [self._state.settle(lease, decision, now) for lease, decision in settlements]
            claimed = NOTHING_CLAIMED if claim is None else self._state.claim(claim, now)
            self._state.tell_of_room({lease.task.name for lease, _ in settlements}, claim)
            return Settled(accepted, claimed)

    async def extend(self, leases: Sequence[Lease], duration: Micros) -> list[Extended]:
        with self._lock:
            deadline = self._tick() + duration
            return [self._state.extend(lease, deadline) for lease in leases]

    async def reap(self) -> int:
        with self._lock:
            return self._state.tick(self._clock.now())

    async def listen(self, topic: str, notify: Callable[[str | None], object]) -> Listener:
        return self._state.topics.listen(topic, notify)

    async def ended(self, task_id: str, tell: Callable[[TaskRecord | None], object]) -> Listener:
        return self._state.topics.listen(done_topic(task_id), lambda _: tell(None))

    async def now(self) -> Micros:
        return self._clock.now()

    async def get(self, task_id: str) -> TaskRecord | None:
        with self._lock:
            now = self._tick()
            entry = self._state.entries.get(task_id)
            return entry.record(now) if entry else None

    async def find(self, query: Query) -> list[TaskRecord]:
        with self._lock:
            now = self._tick()
            oldest_first = sorted(self._state.entries.values(), key=lambda entry: entry.created_at)
            newest_first = (entry.record(now) for entry in reversed(oldest_first))
            found = [record for record in newest_first if _fits(record, query)]
            return found[query.offset : query.offset + query.limit]

    async def depth(self) -> int:
        with self._lock:
            self._tick()
            return self._state.lanes.waiting

    async def cancel(self, task_id: str) -> bool:
        with self._lock:
            return self._state.cancel(task_id, self._tick())

    async def abort(self, task_id: str) -> bool:
        with self._lock:
            self._tick()
            return self._state.abort(task_id)

    async def report(self, lease: Lease, progress: bytes) -> bool:
        with self._lock:
            self._tick()
            if entry := self._state.held(lease):
                entry.progress = progress
            return entry is not None

    async def tidy(self) -> None:
        with self._lock:
            self._tick()

    async def dead(self, limit: int, offset: int) -> list[TaskRecord]:
        with self._lock:
            now = self._tick()
            latest_first = sorted(self._dead(), key=lambda entry: entry.ended_at or 0, reverse=True)
            return [entry.record(now) for entry in latest_first[offset : offset + limit]]

    async def dead_count(self) -> int:
        with self._lock:
            self._tick()
            return len(self._dead())

    async def revive(self, task_id: str, new_id: str) -> str | None:
        with self._lock:
            return self._state.revive(task_id, new_id, self._tick())

    async def purge(self, older_than: Micros) -> int:
        with self._lock:
            now = self._tick()
            gone = [entry for entry in self._dead() if (entry.ended_at or 0) < now - older_than]
            for entry in gone:
                self._state.forget(entry.new.id, now)
            return len(gone)

    def _dead(self) -> list[Entry]:
        return [entry for entry in self._state.entries.values() if entry.status == "dead"]


def _fits(record: TaskRecord, query: Query) -> bool:
    return (
        (not query.statuses or record.status in query.statuses)
        and (not query.names or record.name in query.names)
        and (query.created_after is None or record.created_at > query.created_after)
        and (query.created_before is None or record.created_at < query.created_before)
    )
