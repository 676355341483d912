"""What every store promises of debounced submissions that are numbered: the latest wins, in whatever order they arrive."""

# ruff: noqa: D102  (a test's name is its documentation)

from __future__ import annotations

import itertools

from concave.store.protocol import Store
from concave.store.records import (
    DAY,
    SUPERSEDED,
    Complete,
    Debounce,
    Decision,
    Die,
    Failure,
    Release,
    Retry,
)
from concave.testing.clock import FakeClock
from concave.testing.suite_support import (
    SECOND,
    add,
    new_task,
    record_of,
    settle,
    status_of,
    take,
    take_one,
)

__all__ = ["NumberedSuite"]


def numbered(sequence: int | None, window: int = 0) -> Debounce:
    """Coalesced at once, or after a window that the first submission opens."""
    return Debounce("row", window, window or None, sequence)


class NumberedSuite:
    """`Store.add` with `Debounce.sequence`, and what a retry may bring back."""

    async def test_in_any_order_of_arrival_the_highest_number_wins(self, store: Store) -> None:
        for index, order in enumerate(itertools.permutations((1, 2, 3))):
            name = f"job-{index}"
            ids = {
                await add(store, name, input=b"%d" % number, debounce=numbered(number)) for number in order
            }
            assert len(ids) == 1
            lease = await take_one(store, name)
            assert (lease.task.id, lease.task.input) == (ids.pop(), b"3")

    async def test_a_lower_number_adds_nothing_once_the_higher_one_has_run(
        self, store: Store, clock: FakeClock
    ) -> None:
        first = await add(store, input=b"2", debounce=numbered(2))
        lease = await take_one(store)
        assert await add(store, input=b"1", debounce=numbered(1)) == first
        await settle(store, lease, Complete(b"null"))
        clock.advance_micros(DAY - 1)
        late = new_task(input=b"1", debounce=numbered(1))
        assert await store.add([late]) == [first]
        assert await store.depth() == 0
        assert await store.add([late]) == [first]
        clock.advance_micros(1)
        assert await add(store, input=b"1", debounce=numbered(1)) != first

    async def test_a_number_is_known_until_a_day_after_its_task_was_due(
        self, store: Store, clock: FakeClock
    ) -> None:
        first = await add(store, input=b"2", delay=2 * DAY, debounce=numbered(2))
        clock.advance_micros(2 * DAY)
        await settle(store, await take_one(store), Complete(b"null"))
        clock.advance_micros(DAY - 1)
        assert await add(store, debounce=numbered(1)) == first

    async def test_a_lower_number_leaves_the_window_as_it_is(self, store: Store, clock: FakeClock) -> None:
        debounce = Debounce("row", 5 * SECOND, None, 2)
        first = await add(store, input=b"2", debounce=debounce)
        before = await record_of(store, first)
        clock.advance(3)
        assert await add(store, input=b"1", debounce=debounce._replace(sequence=1)) == first
        assert await record_of(store, first) == before

    async def test_a_bounded_window_is_that_of_the_first(self, store: Store, clock: FakeClock) -> None:
        first = await add(store, debounce=numbered(1, 5 * SECOND))
        due = (await record_of(store, first)).due_at
        clock.advance(3)
        assert await add(store, input=b"2", debounce=numbered(2, 5 * SECOND)) == first
        record = await record_of(store, first)
        assert (record.input, record.due_at) == (b"2", due)

    async def test_a_higher_number_while_one_runs_makes_a_new_task(self, store: Store) -> None:
        first = await add(store, input=b"1", debounce=numbered(1))
        lease = await take_one(store)
        second = await add(store, input=b"2", debounce=numbered(2))
        assert second != first
        assert await settle(store, lease, Complete(b"null"))
        assert (await take_one(store)).task.input == b"2"

    async def test_what_runs_is_not_run_again_after_a_higher_number(
        self, store: Store, clock: FakeClock
    ) -> None:
        ends: list[Decision | None] = [Retry(SECOND, Failure("x")), Retry(0, None), Release(), None]
        for index, end in enumerate(ends):
            name = f"job-{index}"
            first = await add(store, name, input=b"1", debounce=numbered(1))
            lease = await take_one(store, name)
            second = await add(store, name, input=b"2", debounce=numbered(2))
            if end is None:
                clock.advance(31)
                await store.reap()
            else:
                assert await settle(store, lease, end)
            record = await record_of(store, first)
            assert (record.status, record.reason) == ("cancelled", SUPERSEDED)
            newer = await take_one(store, name)
            assert newer.task.id == second
            assert await settle(store, newer, Complete(b"null"))
            assert await store.depth() == 0

    async def test_what_waits_for_a_retry_makes_room_for_a_higher_number(self, store: Store) -> None:
        first = await add(store, input=b"1", idempotency_key="one", debounce=numbered(1))
        await settle(store, await take_one(store), Retry(SECOND, Failure("x")))
        second = await add(store, input=b"2", debounce=numbered(2))
        record = await record_of(store, first)
        assert (record.status, record.reason, record.attempt) == ("cancelled", SUPERSEDED, 1)
        assert [lease.task.id for lease in await take(store)] == [second]
        assert await add(store, idempotency_key="one") != first

    async def test_a_lower_number_does_not_stop_a_retry(self, store: Store) -> None:
        first = await add(store, input=b"2", debounce=numbered(2))
        await settle(store, await take_one(store), Retry(0, Failure("x")))
        assert await add(store, input=b"1", debounce=numbered(1)) == first
        assert (await take_one(store)).task.input == b"2"

    async def test_one_without_a_number_is_the_latest(self, store: Store) -> None:
        first = await add(store, input=b"5", debounce=numbered(5))
        assert await add(store, input=b"unnumbered", debounce=numbered(None)) == first
        lease = await take_one(store)
        second = await add(store, input=b"again", debounce=numbered(None))
        await settle(store, lease, Release())
        assert await status_of(store, first) == "cancelled"
        assert await add(store, input=b"4", debounce=numbered(4)) == second
        assert (await take_one(store)).task.input == b"again"

    async def test_a_dead_task_stays_dead(self, store: Store) -> None:
        first = await add(store, input=b"1", debounce=numbered(1))
        lease = await take_one(store)
        await add(store, input=b"2", debounce=numbered(2))
        await settle(store, lease, Die("enough", None))
        assert await status_of(store, first) == "dead"

    async def test_a_poison_pill_is_dead_whatever_came_after_it(self, store: Store, clock: FakeClock) -> None:
        first = await add(store, debounce=numbered(1), max_crashes=1)
        await take_one(store)
        await add(store, debounce=numbered(2))
        clock.advance(31)
        await store.reap()
        assert await status_of(store, first) == "dead"

    async def test_a_number_counts_where_a_key_is_taken_too(self, store: Store) -> None:
        holder = await add(store, input=b"0", idempotency_key="k")
        assert await add(store, input=b"2", idempotency_key="k", debounce=numbered(2)) == holder
        assert await add(store, input=b"1", debounce=numbered(1)) == holder

    async def test_numbers_are_a_names_and_a_keys_own(self, store: Store) -> None:
        ids = {
            await add(store, debounce=numbered(2)),
            await add(store, "other", debounce=numbered(1)),
            await add(store, debounce=numbered(1)._replace(key="other")),
        }
        assert len(ids) == 3
