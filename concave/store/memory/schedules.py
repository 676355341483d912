"""Recurring schedules in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from concave.clock import Clock, Micros
from concave.store.records import Due, Fired, NewTask, ScheduleRecord

__all__ = ["MemorySchedules"]


class MemorySchedules:
    """See `concave.store.protocol.Schedules`. Shares the store's lock, so that firing and adding are one step."""

    def __init__(
        self, lock: threading.RLock, clock: Clock, add: Callable[[Sequence[NewTask]], list[str]]
    ) -> None:
        self._lock = lock
        self._clock = clock
        self._add = add
        self._schedules: dict[str, ScheduleRecord] = {}

    async def put(self, schedule: ScheduleRecord) -> None:
        with self._lock:
            old = self._schedules.get(schedule.id)
            if old is not None:
                schedule = schedule._replace(
                    enabled=old.enabled, created_at=old.created_at, last_at=old.last_at
                )
                if old.rule == schedule.rule:
                    schedule = schedule._replace(next_at=old.next_at, anchor=old.anchor)
            self._schedules[schedule.id] = schedule

    async def get(self, schedule_id: str) -> ScheduleRecord | None:
        with self._lock:
            return self._schedules.get(schedule_id)

    async def list(self) -> list[ScheduleRecord]:
        with self._lock:
            return sorted(self._schedules.values(), key=lambda schedule: (schedule.created_at, schedule.id))

    async def delete(self, schedule_id: str) -> bool:
        with self._lock:
            return self._schedules.pop(schedule_id, None) is not None

    async def enable(self, schedule_id: str, next_at: Micros | None) -> bool:
        with self._lock:
            old = self._schedules.get(schedule_id)
            if old is None:
                return False
            self._schedules[schedule_id] = old._replace(
                enabled=next_at is not None, next_at=old.next_at if next_at is None else next_at
            )
            return True

    async def due(self, limit: int) -> Due:
        with self._lock:
            now = self._clock.now()
            enabled = sorted(
                (schedule for schedule in self._schedules.values() if schedule.enabled),
                key=lambda schedule: schedule.next_at,
            )
            due = [schedule for schedule in enabled if schedule.next_at <= now]
            coming = [schedule.next_at - now for schedule in enabled if schedule.next_at > now]
            return Due(now, due[:limit], min(coming, default=None))

    async def fire(self, fired: Fired) -> bool:
        with self._lock:
            old = self._schedules.get(fired.schedule_id)
            if old is None or not old.enabled or old.next_at != fired.expected_at:
                return False
            last_at = old.last_at if fired.last_at is None else fired.last_at
            self._schedules[old.id] = old._replace(next_at=fired.next_at, last_at=last_at)
            self._add(fired.tasks)
            return True
