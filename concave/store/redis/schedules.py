"""Recurring schedules on Redis."""

from __future__ import annotations

import logging
from typing import Any

from concave.clock import Micros
from concave.store.records import Due, Fired, ScheduleRecord
from concave.store.redis.client import ScriptCaller
from concave.store.redis.packing import pack_schedule, packed_tasks
from concave.store.redis.reading import MalformedRecordError, read_schedule

__all__ = ["RedisSchedules"]

log = logging.getLogger("concave.store")


class RedisSchedules:
    """See `concave.store.protocol.Schedules`."""

    def __init__(self, scripts: ScriptCaller) -> None:
        self._scripts = scripts

    async def put(self, schedule: ScheduleRecord) -> None:
        body, rule = pack_schedule(schedule)
        await self._scripts.call_again(
            "schedule_put",
            schedule.id,
            body,
            rule,
            schedule.next_at,
            schedule.created_at,
            schedule.anchor,
            int(schedule.enabled),
        )

    async def get(self, schedule_id: str) -> ScheduleRecord | None:
        rows = await self._scripts.call_again("schedule_list", schedule_id)
        return read_schedule(rows[0]) if rows else None

    async def list(self) -> list[ScheduleRecord]:
        return _readable(await self._scripts.call_again("schedule_list", ""))

    async def delete(self, schedule_id: str) -> bool:
        return bool(await self._scripts.call("schedule_delete", schedule_id))

    async def enable(self, schedule_id: str, next_at: Micros | None) -> bool:
        return bool(
            await self._scripts.call_again("schedule_enable", schedule_id, "" if next_at is None else next_at)
        )

    async def due(self, limit: int) -> Due:
        now, idle_for, rows = await self._scripts.call_again("schedule_due", limit)
        due: list[ScheduleRecord] = []
        for row in rows:
            try:
                due.append(read_schedule(row))
            except MalformedRecordError as error:
                # Nobody can fire it, and it must not crowd out others: paused, it still shows in the log of each listing.
                log.error("paused: %s", error)
                await self.enable(row[0].decode(), None)
        return Due(int(now), due, None if idle_for < 0 else int(idle_for))

    async def fire(self, fired: Fired) -> bool:
        return bool(
            await self._scripts.call(
                "schedule_fire",
                fired.schedule_id,
                fired.expected_at,
                fired.next_at,
                "" if fired.last_at is None else fired.last_at,
                packed_tasks(list(fired.tasks)),
            )
        )


def _readable(rows: list[Any]) -> list[ScheduleRecord]:
    schedules: list[ScheduleRecord] = []
    for row in rows:
        try:
            schedules.append(read_schedule(row))
        except MalformedRecordError as error:
            log.error("left out of a listing: %s", error)
    return schedules
