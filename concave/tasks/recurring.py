"""Recurring schedules: declaring them, looking after them, and firing them.

A schedule carries all that its tasks need, so that firing takes no task code. Any number of schedulers may run: the
store moves a schedule on and adds its tasks in one step, and only for the scheduler that still finds it where it was.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeVar

from concave.clock import Micros, from_micros, seconds, to_micros
from concave.errors import (
    NO_FAULT_OF_TASKS,
    ConcaveError,
    ConfigurationError,
    InvalidScheduleError,
    StoreError,
)
from concave.failpoints import armed, reach
from concave.kv.protocol import KV
from concave.store.records import DAY, Fired, NewTask, ScheduleRecord
from concave.tasks.define import TaskDefinition
from concave.tasks.model import RecurringSchedule
from concave.tasks.options import Duration, printable
from concave.tasks.recurrence import (
    CronRule,
    IntervalRule,
    Misfire,
    Rule,
    next_slot,
    parse_rule,
    plan,
    schedule_id,
)
from concave.tasks.submission import submission

__all__ = [
    "Misfire",
    "RecurringManager",
    "RecurringScheduler",
    "create_recurring_manager",
    "start_recurring_scheduler",
]

In = TypeVar("In")

log = logging.getLogger("concave.recurring")

BATCH = 100
"""Schedules per look."""
POSTPONED: Micros = 60_000_000
"""How long a schedule that can't be read waits for its next try: long enough not to crowd out the others."""
MAX_ID = 200


class RecurringManager:
    """Creates, pauses, resumes and deletes recurring schedules."""

    def __init__(self, kv: KV) -> None:
        self._kv = kv

    async def create(
        self,
        task: TaskDefinition[In, Any],
        input: In | Mapping[str, Any] | None = None,
        *,
        cron: str | None = None,
        interval: Duration | None = None,
        timezone: str = "UTC",
        id: str | None = None,
        misfire: Misfire = "once",
    ) -> str:
        """Declare a schedule; its id. See `TaskScheduler.schedule_recurring`."""
        if misfire not in ("skip", "once", "all"):
            raise ConfigurationError(f"misfire must be 'skip', 'once' or 'all', not {misfire!r}")
        if id is not None:
            # It is part of its tasks' ids, which a store tells in lines.
            printable(id, "a schedule's id", MAX_ID)
        now = await self._kv.store.now()
        rule = parse_rule(cron=cron, interval=interval, timezone=timezone, anchor=from_micros(now))
        template = submission(task, input, recurring=True)
        schedule = ScheduleRecord(
            id=id or schedule_id(task.name, template.input, rule),
            task=template,
            cron=rule.expression if isinstance(rule, CronRule) else None,
            interval=round(rule.every * 1_000_000) if isinstance(rule, IntervalRule) else None,
            timezone=timezone,
            misfire=misfire,
            enabled=True,
            created_at=now,
            anchor=now,
            next_at=_slot_after(rule, now),
        )
        await self._kv.store.schedules.put(schedule)
        return schedule.id

    async def pause(self, schedule_id: str) -> bool:
        """Fire no more until `resume`. False where there is no such schedule."""
        return await self._kv.store.schedules.enable(schedule_id, None)

    async def resume(self, schedule_id: str) -> bool:
        """Fire again, from the next slot on: slots that passed during the pause are not made up for."""
        schedule = await self._kv.store.schedules.get(schedule_id)
        if schedule is None:
            return False
        if schedule.enabled:
            return True
        next_at = _slot_after(rule_of(schedule), await self._kv.store.now())
        return await self._kv.store.schedules.enable(schedule_id, next_at)

    async def delete(self, schedule_id: str) -> bool:
        """Forget a schedule; tasks that it enqueued stay. False where there is no such schedule."""
        return await self._kv.store.schedules.delete(schedule_id)

    async def get(self, schedule_id: str) -> RecurringSchedule | None:
        """A schedule, or None where there is no such."""
        record = await self._kv.store.schedules.get(schedule_id)
        return None if record is None else RecurringSchedule.from_record(record)

    async def list(self) -> list[RecurringSchedule]:
        """All schedules, the oldest first."""
        return [RecurringSchedule.from_record(record) for record in await self._kv.store.schedules.list()]


class RecurringScheduler:
    """Fires what is due, until it is stopped. Made by `start_recurring_scheduler`."""

    def __init__(
        self, kv: KV, check_interval: float, declare: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self._kv = kv
        self._check_interval = check_interval
        self._declare = declare
        self._declared = False
        self._id = f"recurring-{secrets.token_hex(6)}"
        self._stopping = asyncio.Event()
        self._main = asyncio.create_task(self._run(), name="concave-recurring")

    async def stop(self) -> None:
        """Stop firing; a slot that is being fired is finished. Twice is harmless."""
        self._stopping.set()
        await self._main
        if self._declared:
            self._declared = False
            with suppress(ConcaveError):  # it expires
                await self._kv.store.locks.release(self._id, self._id)

    async def _run(self) -> None:
        while not self._stopping.is_set():
            pause = self._check_interval
            try:
                await self._kv.connect()
                await self._declare_where_forgotten()
                pause = await self._fire_due()
            except StoreError as error:
                log.warning("recurring schedules: %s; trying again in %g s", error, pause)
            except Exception:
                # Nothing ends this loop but `stop`: a scheduler that is alive and silent is worse than a dead one.
                log.exception("recurring schedules; trying again in %g s", pause)
            await self._wait(pause)

    async def _declare_where_forgotten(self) -> None:
        """Declare once, and again whenever the store has lost what it held: restarted empty, or flushed.

        A lock tells: nobody else takes it, and it goes where the schedules go. Taken before they are declared, it can't
        outlive them. A schedule that someone deleted stays deleted until the next boot.
        """
        if self._declare is None:
            return
        locks = self._kv.store.locks
        if self._declared and await locks.extend(self._id, self._id, DAY):
            return
        self._declared = False
        await locks.acquire(self._id, self._id, DAY)
        try:
            await self._declare()
        except StoreError:
            raise  # and tried again
        except Exception:
            log.exception("not all schedules could be declared")
        self._declared = True

    async def _fire_due(self) -> float:
        """Fire what is due; how long to wait then."""
        due = await self._kv.store.schedules.due(BATCH)
        troubled = False
        for schedule in due.schedules:
            try:
                if armed:
                    await reach("schedule.due")
                await fire(self._kv, schedule, due.now)
                if armed:
                    await reach("schedule.fired")
            except NO_FAULT_OF_TASKS:
                raise
            except Exception as error:
                # The trouble may be with this one alone: the others have their turn.
                troubled = True
                log.exception(
                    "schedule %s (%s) can't be fired", schedule.id, schedule.task.name, exc_info=error
                )
        if due.schedules and not troubled:
            return 0.0  # those have moved on, and may be what falls due next
        coming = float("inf") if due.idle_for is None else due.idle_for / 1_000_000
        return min(self._check_interval, coming)

    async def _wait(self, pause: float) -> None:
        if pause == 0:
            await asyncio.sleep(0)  # a look at a store in memory is no pause by itself
            return
        wake = asyncio.Event()
        timer = self._kv.clock.call_later(pause, wake.set)
        waiters = [asyncio.ensure_future(wake.wait()), asyncio.ensure_future(self._stopping.wait())]
        try:
            await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            for waiter in waiters:
                waiter.cancel()


def create_recurring_manager(kv: KV) -> RecurringManager:
    """A manager of the recurring schedules in `kv`."""
    return RecurringManager(kv)


def start_recurring_scheduler(
    kv: KV, *, check_interval: Duration = 1.0, declare: Callable[[], Awaitable[None]] | None = None
) -> RecurringScheduler:
    """Start firing recurring schedules; a handle whose `stop` ends it.

    Run as many as there are processes: each slot is enqueued once. A slot fires when it is due; `check_interval` (seconds)
    is the longest it takes to notice a schedule that was added meanwhile. `declare` is to create schedules: it is called
    at first, and again whenever the store has lost what it held.
    """
    return RecurringScheduler(kv, seconds(check_interval, "check_interval", minimum=0.001), declare)


async def fire(kv: KV, schedule: ScheduleRecord, now: Micros) -> bool:
    """Fire a schedule that is due at `now`: enqueue what its misfire policy says and move it to its next slot.

    False where another scheduler was first. A schedule that this code can't read is put off, and never keeps others
    from firing.
    """
    try:
        planned = plan(rule_of(schedule), from_micros(schedule.next_at), from_micros(now), schedule.misfire)
    except InvalidScheduleError as error:
        log.error("schedule %s (%s) can't be fired: %s", schedule.id, schedule.task.name, error)
        postponed = Fired(schedule.id, schedule.next_at, now + POSTPONED, None, ())
        return await kv.store.schedules.fire(postponed)
    slots = [to_micros(slot, "slot") for slot in planned.run]
    fired = Fired(
        schedule_id=schedule.id,
        expected_at=schedule.next_at,
        next_at=to_micros(planned.next, "next slot"),
        last_at=slots[-1] if slots else None,
        tasks=[_slot_task(schedule, slot) for slot in slots],
    )
    return await kv.store.schedules.fire(fired)


def rule_of(schedule: ScheduleRecord) -> Rule:
    """The rule of a stored schedule. Raises `InvalidScheduleError` for one that isn't."""
    if schedule.interval is not None:
        return IntervalRule(schedule.interval / 1_000_000, from_micros(schedule.anchor))
    if schedule.cron is None:
        raise InvalidScheduleError("it has neither cron nor interval")
    return CronRule(schedule.cron, schedule.timezone)


def _slot_task(schedule: ScheduleRecord, slot: Micros) -> NewTask:
    # The slot is part of the id: whatever goes wrong around it, one slot can only ever be one task.
    moment: datetime = from_micros(slot)
    return schedule.task._replace(id=f"{schedule.id}@{moment.isoformat()}", at=slot)


def _slot_after(rule: Rule, now: Micros) -> Micros:
    slot = next_slot(rule, from_micros(now))
    if slot is None:
        raise InvalidScheduleError(f"{rule} has no slot after {from_micros(now).isoformat()}")
    return to_micros(slot, "slot")
