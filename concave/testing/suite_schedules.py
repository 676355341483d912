"""What every store promises of recurring schedules: declaring is idempotent, and a slot is fired once."""

# ruff: noqa: D102  (a test's name is its documentation)

from __future__ import annotations

import asyncio
from typing import Any

from concave.store.protocol import Store
from concave.store.records import Fired, Retention, ScheduleRecord
from concave.testing.clock import FakeClock
from concave.testing.suite_support import HOUR, SECOND, new_task, record_of, take_one

__all__ = ["SchedulesSuite"]

MINUTE = 60 * SECOND


def schedule_at(now: int, **fields: Any) -> ScheduleRecord:
    """A schedule declared `now`, every minute."""
    given: dict[str, Any] = {
        "id": "s1", "task": new_task("tick", input=b'{"a": []}', priority=80), "cron": None, "interval": MINUTE,
        "timezone": "UTC", "misfire": "once", "enabled": True, "created_at": now, "anchor": now,
        "next_at": now + MINUTE,
    }  # fmt: skip
    return ScheduleRecord(**{**given, **fields})


class SchedulesSuite:
    """`Store.schedules`."""

    async def test_a_schedule_is_kept_whole(self, store: Store, clock: FakeClock) -> None:
        kept = Retention(completed=HOUR, cancelled=2 * HOUR, dead=3 * HOUR, key=4 * HOUR)
        task = new_task(
            "é tick", input=b"[]", priority=3, max_attempts=9, max_crashes=8, retention=kept, delay=SECOND
        )
        now = clock.now()
        schedules = [
            schedule_at(now, id="due", task=task, timezone="Europe/Paris", misfire="all", anchor=now - 5),
            schedule_at(now + 1, id="é: 2", cron="0 6 * * *", interval=None, misfire="skip"),
        ]
        for schedule in schedules:
            await store.schedules.put(schedule)
        assert await store.schedules.list() == schedules
        for schedule in schedules:
            assert await store.schedules.get(schedule.id) == schedule
        assert await store.schedules.get("none") is None

    async def test_schedules_are_listed_by_creation(self, store: Store, clock: FakeClock) -> None:
        now = clock.now()
        for number in (3, 1, 2):
            await store.schedules.put(schedule_at(now + number, id=f"s{number}"))
        assert [schedule.id for schedule in await store.schedules.list()] == ["s1", "s2", "s3"]

    async def test_a_deleted_schedule_is_gone(self, store: Store, clock: FakeClock) -> None:
        schedule = schedule_at(clock.now())
        await store.schedules.put(schedule)
        assert await store.schedules.delete("s1")
        assert not await store.schedules.delete("s1")
        clock.advance(60)
        assert (await store.schedules.list(), await store.schedules.get("s1")) == ([], None)
        assert (await store.schedules.due(10)).schedules == []
        assert not await store.schedules.enable("s1", clock.now())
        assert not await store.schedules.fire(Fired("s1", schedule.next_at, clock.now(), None, ()))
        await store.schedules.put(schedule)
        assert await store.schedules.get("s1") == schedule

    async def test_declaring_again_keeps_where_it_stands(self, store: Store, clock: FakeClock) -> None:
        first = schedule_at(clock.now())
        await store.schedules.put(first)
        clock.advance(60)
        slot = first.next_at
        await store.schedules.fire(Fired("s1", slot, slot + MINUTE, slot, ()))
        clock.advance(10)
        newer = schedule_at(clock.now(), task=new_task("tick", input=b"2"), misfire="all")
        await store.schedules.put(newer)
        assert await store.schedules.get("s1") == newer._replace(
            created_at=first.created_at, anchor=first.anchor, next_at=slot + MINUTE, last_at=slot
        )

    async def test_a_changed_rule_starts_anew(self, store: Store, clock: FakeClock) -> None:
        first = schedule_at(clock.now())
        await store.schedules.put(first)
        clock.advance(60)
        slot = first.next_at
        await store.schedules.fire(Fired("s1", slot, slot + MINUTE, slot, ()))
        now = clock.now()
        for newer in (
            schedule_at(now, interval=SECOND, next_at=now + SECOND, anchor=now - 7),
            schedule_at(now, interval=None, cron="* * * * *", next_at=now + 2 * SECOND),
            schedule_at(
                now, interval=None, cron="* * * * *", timezone="Asia/Tokyo", next_at=now + 3 * SECOND
            ),
        ):
            await store.schedules.put(newer)
            assert await store.schedules.get("s1") == newer._replace(
                created_at=first.created_at, last_at=slot
            )
            assert (await store.schedules.due(10)).idle_for == newer.next_at - now

    async def test_a_pause_outlives_every_declaration(self, store: Store, clock: FakeClock) -> None:
        await store.schedules.put(schedule_at(clock.now()))
        assert await store.schedules.enable("s1", None)
        await store.schedules.put(schedule_at(clock.now()))
        await store.schedules.put(schedule_at(clock.now(), interval=SECOND))
        clock.advance(3600)
        schedule = await store.schedules.get("s1")
        assert schedule is not None
        assert not schedule.enabled
        due = await store.schedules.due(10)
        assert (due.schedules, due.idle_for) == ([], None)
        assert not await store.schedules.fire(Fired("s1", schedule.next_at, clock.now(), None, ()))
        assert await store.schedules.enable("s1", clock.now())
        due = await store.schedules.due(10)
        assert [(each.id, each.enabled, each.next_at) for each in due.schedules] == [
            ("s1", True, clock.now())
        ]
        assert not await store.schedules.enable("none", None)
        assert not await store.schedules.enable("none", clock.now())

    async def test_a_schedule_is_due_at_its_microsecond(self, store: Store, clock: FakeClock) -> None:
        start = clock.now()
        due = await store.schedules.due(10)
        assert (due.now, due.schedules, due.idle_for) == (start, [], None)
        await store.schedules.put(schedule_at(start))
        clock.advance_micros(MINUTE - 1)
        due = await store.schedules.due(10)
        assert (due.now, due.schedules, due.idle_for) == (clock.now(), [], 1)
        clock.advance_micros(1)
        due = await store.schedules.due(10)
        assert (due.now, due.schedules, due.idle_for) == (clock.now(), [schedule_at(start)._replace(
            task=due.schedules[0].task)], None)  # fmt: skip

    async def test_the_longest_due_come_first(self, store: Store, clock: FakeClock) -> None:
        now = clock.now()
        for number in (3, 1, 4, 2):
            await store.schedules.put(schedule_at(now, id=f"s{number}", next_at=now + number * SECOND))
        clock.advance(3)
        due = await store.schedules.due(2)
        assert ([each.id for each in due.schedules], due.idle_for) == (["s1", "s2"], SECOND)
        assert [each.id for each in (await store.schedules.due(10)).schedules] == ["s1", "s2", "s3"]

    # Firing

    async def test_a_slot_is_fired_once_and_its_tasks_added_in_the_same_step(
        self, store: Store, clock: FakeClock
    ) -> None:
        schedule = schedule_at(clock.now())
        await store.schedules.put(schedule)
        clock.advance(60)
        slot = schedule.next_at
        tasks = [schedule.task._replace(id=f"slot-{number}", at=slot) for number in (1, 2)]
        fired = Fired("s1", slot, slot + MINUTE, slot, tasks)
        outcomes = await asyncio.gather(*(store.schedules.fire(fired) for _ in range(20)))
        assert outcomes.count(True) == 1
        assert await store.depth() == 2
        for task in tasks:
            record = await record_of(store, task.id)
            assert (record.status, record.due_at, record.priority) == ("pending", slot, 80)
            assert (record.name, record.input) == ("tick", b'{"a": []}')
        after = await store.schedules.get("s1")
        assert after == schedule._replace(next_at=slot + MINUTE, last_at=slot)
        assert (await take_one(store, "tick", limit=1)).task.id == "slot-1"

    async def test_a_slot_that_is_skipped_leaves_the_last_run(self, store: Store, clock: FakeClock) -> None:
        schedule = schedule_at(clock.now())
        await store.schedules.put(schedule)
        slot = schedule.next_at
        assert await store.schedules.fire(Fired("s1", slot, slot + 1, slot, ()))
        assert await store.schedules.fire(Fired("s1", slot + 1, slot + 2, None, ()))
        assert await store.schedules.get("s1") == schedule._replace(next_at=slot + 2, last_at=slot)
        assert await store.depth() == 0

    async def test_a_schedule_that_has_moved_on_is_not_fired(self, store: Store, clock: FakeClock) -> None:
        schedule = schedule_at(clock.now())
        await store.schedules.put(schedule)
        slot = schedule.next_at
        task = schedule.task._replace(id="slot")
        for expected in (slot - 1, slot + 1):
            assert not await store.schedules.fire(Fired("s1", expected, slot + MINUTE, expected, (task,)))
        assert not await store.schedules.fire(Fired("none", slot, slot + MINUTE, slot, (task,)))
        assert await store.get("slot") is None
        assert await store.schedules.get("s1") == schedule

    async def test_a_slots_task_is_added_once_though_its_schedule_was_made_anew(
        self, store: Store, clock: FakeClock
    ) -> None:
        schedule = schedule_at(clock.now())
        slot = schedule.next_at
        fired = Fired("s1", slot, slot + MINUTE, slot, (schedule.task._replace(id="s1@slot"),))
        for _ in range(2):
            await store.schedules.put(schedule)
            assert await store.schedules.fire(fired)
            assert await store.schedules.delete("s1")
        assert await store.depth() == 1
