"""What every store promises to people and dashboards that look at tasks."""

# ruff: noqa: D102  (a test's name is its documentation)

from __future__ import annotations

import asyncio
import random

from concave.store.protocol import Store
from concave.store.records import Complete, Die, Failure, Query, Retention, Retry, TaskStatus
from concave.testing.clock import FakeClock
from concave.testing.suite_support import (
    SECOND,
    add,
    add_in_turn,
    complete_all,
    found,
    ids_of,
    new_task,
    new_tasks,
    record_of,
    settle,
    status_of,
    take,
    take_one,
)

__all__ = ["LookingSuite"]


class LookingSuite:
    """`Store.get`, `find`, `depth`, `cancel` and `now`."""

    async def test_now_is_the_clock(self, store: Store, clock: FakeClock) -> None:
        assert await store.now() == clock.now()
        clock.advance_micros(1)
        assert await store.now() == clock.now()

    async def test_what_never_was_is_nowhere(self, store: Store) -> None:
        assert await store.get("unknown") is None
        assert await found(store) == []
        assert await found(store, names=("unknown",), statuses=("pending", "running")) == []
        assert await store.depth() == 0

    async def test_what_utf8_cannot_hold_is_nowhere(self, store: Store) -> None:
        await add(store)
        for odd in ("\ud800", "unknown \udfff"):
            assert await store.get(odd) is None
            assert await found(store, names=(odd,)) == []
            assert not await store.cancel(odd)
            assert not await store.abort(odd)
            assert await store.revive(odd, "new") is None
            assert await store.schedules.get(odd) is None
            assert not await store.schedules.enable(odd, None)
            assert not await store.schedules.delete(odd)
        assert await store.depth() == 1

    async def test_find_tells_every_status_and_the_newest_first(self, store: Store, clock: FakeClock) -> None:
        ids = await _one_of_each_status(store, clock)
        assert await found(store) == list(reversed(ids.values()))
        for status, task_id in ids.items():
            (record,) = await store.find(Query(statuses=(status,)))
            assert (record.id, record.status) == (task_id, status)
            assert record == await store.get(task_id)
        assert await found(store, statuses=("pending", "dead")) == [ids["pending"], ids["dead"]]
        assert await found(store, statuses=("dead", "pending", "dead")) == [ids["pending"], ids["dead"]]

    async def test_what_has_fallen_due_is_pending(self, store: Store, clock: FakeClock) -> None:
        failed = await add(store)
        await settle(store, await take_one(store), Retry(SECOND, Failure("x")))
        scheduled = await add(store, delay=SECOND)
        assert (await found(store, statuses=("scheduled",)), await found(store, statuses=("failed",))) == (
            [scheduled],
            [failed],
        )
        clock.advance(1)
        assert [await status_of(store, each) for each in (scheduled, failed)] == ["pending", "pending"]
        assert await found(store, statuses=("scheduled", "failed")) == []
        assert sorted(await found(store, statuses=("pending",))) == sorted([scheduled, failed])
        assert len((await record_of(store, failed)).failures) == 1
        assert await store.depth() == 2

    async def test_thousands_that_have_fallen_due_are_pending(self, store: Store, clock: FakeClock) -> None:
        ids = await store.add(new_tasks(2500, delay=SECOND))
        clock.advance(2)
        assert await found(store, statuses=("scheduled",), limit=3000) == []
        assert await found(store, statuses=("pending",), limit=3000) == list(reversed(ids))

    async def test_find_filters_by_name(self, store: Store, clock: FakeClock) -> None:
        ids = [(await add_in_turn(store, clock, 1, name=name))[0] for name in ("a", "b", "a", "c")]
        assert await found(store, names=("a",)) == [ids[2], ids[0]]
        assert await found(store, names=("a", "c", "none", "a")) == [ids[3], ids[2], ids[0]]

    async def test_the_bounds_of_creation_are_exclusive(self, store: Store, clock: FakeClock) -> None:
        ids = await add_in_turn(store, clock, 4)
        created = [(await record_of(store, task_id)).created_at for task_id in ids]
        assert await found(store, created_after=created[0]) == [ids[3], ids[2], ids[1]]
        assert await found(store, created_after=created[0] - 1) == list(reversed(ids))
        assert await found(store, created_before=created[3]) == [ids[2], ids[1], ids[0]]
        assert await found(store, created_before=created[3] + 1) == list(reversed(ids))
        assert await found(store, created_after=created[0], created_before=created[3]) == [ids[2], ids[1]]
        assert await found(store, created_after=created[1], created_before=created[2]) == []
        assert await found(store, created_after=created[3]) == []
        await take(store)
        assert await found(store, created_after=created[0], created_before=created[3]) == [ids[2], ids[1]]
        assert await found(store, created_after=created[0] - 1) == list(reversed(ids))
        assert await found(store, created_before=created[0]) == []

    async def test_all_filters_hold_at_once(self, store: Store, clock: FakeClock) -> None:
        expected = await _mixed_tasks(store, clock, 240)
        everything = await store.find(Query(limit=1000))
        assert [record.id for record in everything] == expected
        middle = everything[120].created_at
        late = everything[20].created_at
        statuses: list[tuple[TaskStatus, ...]] = [("pending", "completed", "failed"), ("running",), ()]
        for names in ((), ("n0",), ("n0", "n2")):
            for wanted in statuses:
                query = Query(wanted, names, middle, late, 1000)
                assert [record.id for record in await store.find(query)] == [
                    record.id
                    for record in everything
                    if (not wanted or record.status in wanted)
                    and (not names or record.name in names)
                    and middle < record.created_at < late
                ]

    async def test_pages_are_disjoint_and_complete_however_deep(self, store: Store, clock: FakeClock) -> None:
        expected = await _mixed_tasks(store, clock, 3000)
        for limit in (100, 700):
            pages = [await found(store, limit=limit, offset=offset) for offset in range(0, 3200, limit)]
            assert [task_id for page in pages for task_id in page] == expected
        for offset in (999, 1000, 1001, 1500, 2222, 2999):
            assert await found(store, limit=1, offset=offset) == expected[offset : offset + 1]
        assert await found(store, limit=10, offset=5000) == []
        assert await found(store, limit=0) == []

    async def test_deep_pages_keep_to_the_filters(self, store: Store, clock: FakeClock) -> None:
        await _mixed_tasks(store, clock, 3000)
        everything = await store.find(Query(limit=5000))
        low, high = everything[-100].created_at, everything[100].created_at
        expected = [record.id for record in everything if low < record.created_at < high]
        for offset in (0, 1100, 1500, 2700):
            page = await found(store, created_after=low, created_before=high, limit=90, offset=offset)
            assert page == expected[offset : offset + 90]

    async def test_tasks_that_were_completed_together_are_found_each_in_its_place(
        self, store: Store, clock: FakeClock
    ) -> None:
        chance = random.Random(7)
        created = await _completed_together(store, clock, 2500, chance)
        expected = sorted(created, key=lambda each: created[each][1:], reverse=True)
        assert await found(store, limit=3000) == expected
        moments = sorted(moment for _, moment, _ in created.values())
        for _ in range(150):
            low, high = sorted(chance.sample(moments, 2))
            names = chance.choice(((), ("n0",), ("n0", "n1")))
            limit, offset = (
                chance.randint(1, 200),
                chance.choice((0, chance.randrange(300), chance.randrange(2500))),
            )
            query = Query(
                names=names,
                created_after=chance.choice((None, low)),
                created_before=chance.choice((None, high)),
                statuses=chance.choice(((), ("completed",), ("completed", "pending"))),
            )
            matching = [
                task_id
                for task_id in expected
                if (not names or created[task_id][0] in names)
                and (query.created_after is None or query.created_after < created[task_id][1])
                and (query.created_before is None or query.created_before > created[task_id][1])
            ]
            page = await store.find(query._replace(limit=limit, offset=offset))
            assert [record.id for record in page] == matching[offset : offset + limit]

    async def test_tasks_that_were_completed_together_expire_in_their_time(
        self, store: Store, clock: FakeClock
    ) -> None:
        brief = await store.add(new_tasks(4, retention=Retention(completed=SECOND)))
        # Created at the same moments as those.
        longer = await store.add(new_tasks(4, retention=Retention(completed=5 * SECOND)))
        clock.advance_micros(10)
        alone = await store.add(new_tasks(1, retention=Retention(completed=5 * SECOND)))
        leases = await take(store)
        late = leases.pop()
        await complete_all(store, leases, Complete(b"1"))
        clock.advance_micros(SECOND - 1)
        await settle(store, late, Complete(b"1"))
        pairs = zip(reversed(longer), reversed(brief), strict=True)
        assert await found(store) == [*alone, *(task_id for pair in pairs for task_id in pair)]
        clock.advance_micros(1)
        assert await found(store) == [*alone, *longer[::-1]]
        clock.advance(4)
        assert await found(store) == alone
        clock.advance(1)
        assert await found(store) == []

    async def test_what_has_expired_leaves_no_gap_in_a_page(self, store: Store, clock: FakeClock) -> None:
        brief, lasting = Retention(completed=SECOND), Retention(completed=60 * SECOND)
        kept: list[str] = []
        for _ in range(10):
            await add_in_turn(store, clock, 2, name="brief", retention=brief)
            kept += await add_in_turn(store, clock, 1, name="lasting", retention=lasting)
        for lease in await take(store, "brief lasting", limit=100):
            await settle(store, lease, Complete(b"1"))
        clock.advance(1)
        kept.reverse()
        assert await found(store, limit=5) == kept[:5]
        assert await found(store, limit=5, offset=5) == kept[5:]
        assert await found(store, limit=5, offset=10) == []

    async def test_depth_counts_what_waits(self, store: Store, clock: FakeClock) -> None:
        await store.add([*new_tasks(3), new_task(delay=SECOND), new_task("other", delay=SECOND, priority=0)])
        assert await store.depth() == 5
        leases = await take(store)
        assert await store.depth() == 2
        await settle(store, leases[0], Retry(SECOND, Failure("x")))
        assert await store.depth() == 3
        await settle(store, leases[1], Complete(b"1"))
        assert await store.depth() == 3
        clock.advance(1)
        assert await store.depth() == 3
        await take(store)
        assert await store.depth() == 1

    async def test_hundreds_may_ask_at_once(self, store: Store) -> None:
        task_id = await add(store)
        records = await asyncio.gather(*(store.get(task_id) for _ in range(500)))
        assert [record.id for record in records if record] == [task_id] * 500

    # Cancelling

    async def test_whatever_waits_can_be_cancelled(self, store: Store, clock: FakeClock) -> None:
        failed = await add(store)
        await settle(store, await take_one(store, worker_id="me"), Retry(SECOND, Failure("x")))
        pending, scheduled = await add(store), await add(store, delay=SECOND)
        clock.advance_micros(5)
        for task_id in (failed, pending, scheduled):
            assert await store.cancel(task_id)
            assert not await store.cancel(task_id)
            task = await record_of(store, task_id)
            assert (task.status, task.reason, task.ended_at) == ("cancelled", None, clock.now())
            assert (task.started_at, task.worker_id) == (None, None)
        assert len((await record_of(store, failed)).failures) == 1
        clock.advance(2)
        assert await store.depth() == 0
        assert await take(store) == []

    async def test_what_runs_or_has_ended_cannot_be_cancelled(self, store: Store) -> None:
        ids = await store.add(new_tasks(3))
        running, completed, dead = await take(store)
        await settle(store, completed, Complete(b"1"))
        await settle(store, dead, Die("x", None))
        for task_id in (*ids, "unknown"):
            assert not await store.cancel(task_id)
        assert [await status_of(store, task_id) for task_id in ids] == ["running", "completed", "dead"]
        assert await settle(store, running, Complete(b"1"))

    async def test_a_suspect_and_a_task_handed_back_can_be_cancelled(
        self, store: Store, clock: FakeClock
    ) -> None:
        first, second = await store.add(new_tasks(2))
        await take(store)
        clock.advance(31)
        await store.reap()
        assert await store.cancel(first)
        lease = await take_one(store, suspects=5)
        assert lease.task.id == second
        await settle(store, lease, Retry(SECOND, None))
        assert await store.cancel(second)
        clock.advance(1)
        assert ids_of(await take(store, suspects=5)) == []


async def _one_of_each_status(store: Store, clock: FakeClock) -> dict[TaskStatus, str]:
    """One task of each status, the oldest first."""
    ids: dict[TaskStatus, str] = {}
    statuses: tuple[TaskStatus, ...] = ("completed", "failed", "dead", "running")
    for status in statuses:
        (ids[status],) = await add_in_turn(store, clock, 1)
    leases = {lease.task.id: lease for lease in await take(store)}
    await settle(store, leases[ids["completed"]], Complete(b"1"))
    await settle(store, leases[ids["failed"]], Retry(60 * SECOND, Failure("x")))
    await settle(store, leases[ids["dead"]], Die("x", None))
    await store.report(leases[ids["running"]], b"[1]")
    (ids["cancelled"],) = await add_in_turn(store, clock, 1)
    await store.cancel(ids["cancelled"])
    (ids["scheduled"],) = await add_in_turn(store, clock, 1, delay=90 * SECOND)
    (ids["pending"],) = await add_in_turn(store, clock, 1)
    return ids


async def _mixed_tasks(store: Store, clock: FakeClock, count: int) -> list[str]:
    """Tasks of several names, buckets and statuses; their ids, the newest first."""
    chance = random.Random(count)
    ids = await store.add(
        [
            new_task(
                f"n{number % 3}", priority=chance.randrange(100), delay=chance.choice((0, 0, 0, 90)) * SECOND
            )
            for number in range(count)
        ]
    )
    clock.advance(1)
    for _ in range(count // 300 + 1):
        for lease in await take(store, "n0 n1 n2", limit=count // 15):
            match chance.randrange(4):
                case 0:
                    await settle(store, lease, Complete(b"1"))
                case 1:
                    await settle(store, lease, Retry(60 * SECOND, Failure("x")))
                case 2:
                    await settle(store, lease, Die("x", None))
                case _:
                    pass  # it runs on
    for task_id in chance.sample(ids, count // 20):
        await store.cancel(task_id)
    return list(reversed(ids))


async def _completed_together(
    store: Store, clock: FakeClock, count: int, chance: random.Random
) -> dict[str, tuple[str, int, str]]:
    """Tasks of three names, created at moments near together and far apart, and completed many at a time in another order.

    Of each its name, its creation and its id.
    """
    while count > 0:
        some = min(count, chance.choice((1, 2, 50, 300)))
        count -= some
        await store.add(
            [
                new_task(f"n{chance.choice((0, 0, 0, 0, 0, 0, 1, 2))}", priority=chance.randrange(100))
                for _ in range(some)
            ]
        )
        clock.advance_micros(chance.choice((0, 10, SECOND // 2, SECOND, 300 * SECOND)))
    created: dict[str, tuple[str, int, str]] = {}
    while leases := await take(store, "n0 n1 n2", limit=chance.choice((1, 2, 30, 100, 400))):
        created |= {
            lease.task.id: (lease.task.name, lease.task.created_at, lease.task.id) for lease in leases
        }
        chance.shuffle(leases)
        await complete_all(store, leases, Complete(b"1"))
    return created
