"""What every store promises of idempotency and debounce keys."""

# ruff: noqa: D102  (a test's name is its documentation)

from __future__ import annotations

import asyncio

from concave.store.protocol import Store
from concave.store.records import (
    Cancel,
    Complete,
    Debounce,
    Decision,
    Die,
    Failure,
    Release,
    Retention,
    Retry,
)
from concave.testing.clock import FakeClock
from concave.testing.suite_support import (
    HOUR,
    SECOND,
    add,
    claim_some,
    new_task,
    record_of,
    settle,
    status_of,
    take,
    take_one,
)

__all__ = ["KeysSuite"]

FIVE = Debounce("k", 5 * SECOND, None)


class KeysSuite:
    """`Store.add` with keys, and what the other verbs do to a key."""

    # Idempotency

    async def test_an_idempotency_key_makes_one_task_within_a_name(self, store: Store) -> None:
        first = await add(store, input=b"1", idempotency_key="k")
        assert await add(store, input=b"2", idempotency_key="k") == first
        assert (await record_of(store, first)).input == b"1"
        other_name = await add(store, name="other", idempotency_key="k")
        other_key = await add(store, idempotency_key="k2")
        assert len({first, other_name, other_key, await add(store)}) == 4

    async def test_names_and_keys_cannot_be_mistaken_for_one_another(self, store: Store) -> None:
        first = await add(store, name="a:b", idempotency_key="c", debounce=FIVE._replace(key="c"))
        second = await add(store, name="a", idempotency_key="b:c", debounce=FIVE._replace(key="b:c"))
        assert first != second
        assert await add(store, idempotency_key="c", debounce=FIVE._replace(key="d")) not in {first, second}

    async def test_one_batch_may_hold_a_key_twice(self, store: Store) -> None:
        first, second, third = [new_task(idempotency_key=key) for key in ("k", "k", "other")]
        assert await store.add([first, second, third]) == [first.id, first.id, third.id]
        assert await store.depth() == 2

    async def test_a_hundred_at_once_with_one_key_make_one_task(self, store: Store) -> None:
        ids = await asyncio.gather(*(add(store, idempotency_key="k") for _ in range(100)))
        assert len(set(ids)) == 1
        assert await store.depth() == 1

    async def test_a_submission_that_met_a_taken_key_goes_on_standing_for_its_holder(
        self, store: Store, clock: FakeClock
    ) -> None:
        holder, late = await add(store, idempotency_key="k"), new_task(idempotency_key="k")
        assert await store.add([late]) == [holder]
        await store.cancel(holder)
        clock.advance(23 * 3600)
        assert await store.add([late]) == [holder]
        assert await store.depth() == 0

    async def test_a_key_is_held_whatever_the_task_does(self, store: Store, clock: FakeClock) -> None:
        first = await add(store, idempotency_key="k", max_crashes=5)
        decisions: list[Decision] = [Retry(0, Failure("x")), Retry(0, None), Release(), Die("x", None)]
        for decision in decisions:
            lease = await take_one(store)
            assert await add(store, idempotency_key="k") == first
            await settle(store, lease, decision)
            assert await add(store, idempotency_key="k") == first
        clock.advance(90 * 24 * 3600 - 1)
        assert await add(store, idempotency_key="k") == first
        clock.advance(1)
        assert await add(store, idempotency_key="k") != first

    async def test_a_crashed_tasks_key_is_held(self, store: Store, clock: FakeClock) -> None:
        first = await add(store, idempotency_key="k", max_crashes=2)
        for _ in range(2):
            await take_one(store)
            clock.advance(31)
            await store.reap()
            assert await add(store, idempotency_key="k") == first
        assert await status_of(store, first) == "dead"

    async def test_a_key_outlives_completion_for_exactly_its_time(
        self, store: Store, clock: FakeClock
    ) -> None:
        first = await add(store, idempotency_key="k", retention=Retention(completed=SECOND, key=HOUR))
        await settle(store, await take_one(store), Complete(b"1"))
        clock.advance_micros(HOUR - 1)
        assert await store.get(first) is None
        assert await add(store, idempotency_key="k") == first
        clock.advance_micros(1)
        assert await add(store, idempotency_key="k") != first

    async def test_a_key_may_be_kept_for_less_than_its_record(self, store: Store, clock: FakeClock) -> None:
        first = await add(store, idempotency_key="k", retention=Retention(key=SECOND))
        await settle(store, await take_one(store), Complete(b"1"))
        clock.advance(1)
        second = await add(store, idempotency_key="k")
        assert second != first
        clock.advance(24 * 3600)  # the first one's record goes, and leaves the second one's key alone
        assert await store.get(first) is None
        assert await add(store, idempotency_key="k") == second

    async def test_cancelling_frees_the_key(self, store: Store) -> None:
        first = await add(store, idempotency_key="k")
        assert await store.cancel(first)
        second = await add(store, idempotency_key="k")
        await settle(store, await take_one(store), Cancel("stop"))
        third = await add(store, idempotency_key="k")
        assert len({first, second, third}) == 3

    async def test_purging_frees_the_key(self, store: Store, clock: FakeClock) -> None:
        first = await add(store, idempotency_key="k")
        await settle(store, await take_one(store), Die("x", None))
        clock.advance(2)
        assert await store.purge(SECOND) == 1
        assert await add(store, idempotency_key="k") != first

    async def test_reviving_moves_the_key(self, store: Store) -> None:
        await add(store, idempotency_key="k")
        lease = await take_one(store)
        await settle(store, lease, Die("x", None))
        new = await store.revive(lease.task.id, "revived")
        assert new == "revived"
        assert (await record_of(store, new)).idempotency_key == "k"
        assert await add(store, idempotency_key="k") == new
        await store.cancel(new)
        assert await add(store, idempotency_key="k") not in {lease.task.id, new}

    # Debounce

    async def test_debounced_calls_become_one_task_with_the_last_input(
        self, store: Store, clock: FakeClock
    ) -> None:
        first = await add(store, input=b"1", debounce=FIVE)
        created = (await record_of(store, first)).created_at
        for number in (2, 3, 4):
            clock.advance(3)
            assert await add(store, input=b"%d" % number, debounce=FIVE) == first
            record = await record_of(store, first)
            assert (record.status, record.due_at) == ("scheduled", clock.now() + 5 * SECOND)
        clock.advance_micros(5 * SECOND - 1)
        assert await take(store) == []
        clock.advance_micros(1)
        lease = await take_one(store)
        assert (lease.task.id, lease.task.input, lease.task.created_at) == (first, b"4", created)
        assert await store.depth() == 0

    async def test_what_has_fallen_due_and_was_not_claimed_is_still_debounced(
        self, store: Store, clock: FakeClock
    ) -> None:
        first = await add(store, debounce=FIVE)
        clock.advance(5)
        assert (await claim_some(store, "other")).leases == []
        assert await status_of(store, first) == "pending"
        assert await add(store, input=b"2", debounce=FIVE) == first
        assert await take(store) == []
        clock.advance(5)
        assert (await take_one(store)).task.input == b"2"

    async def test_max_wait_bounds_a_debounce(self, store: Store, clock: FakeClock) -> None:
        bounded = Debounce("k", 5 * SECOND, 8 * SECOND)
        start = clock.now()
        first = await add(store, debounce=bounded)
        clock.advance(4)
        await add(store, debounce=bounded)
        assert (await record_of(store, first)).due_at == start + 8 * SECOND
        clock.advance(4)
        await add(store, input=b"last", debounce=bounded)
        lease = await take_one(store)
        assert (lease.task.id, lease.task.input) == (first, b"last")

    async def test_max_wait_bounds_the_first_window_too(self, store: Store, clock: FakeClock) -> None:
        for key, bound in (("k", 2 * SECOND), ("at once", 0)):
            first = await add(store, debounce=Debounce(key, 5 * SECOND, bound))
            assert (await record_of(store, first)).due_at == clock.now() + bound

    async def test_a_debounced_task_is_never_earlier_than_it_was_asked_for(
        self, store: Store, clock: FakeClock
    ) -> None:
        bounded = Debounce("k", 5 * SECOND, 8 * SECOND)
        start = clock.now()
        first = await add(store, delay=60 * SECOND, debounce=bounded)
        assert (await record_of(store, first)).due_at == start + 60 * SECOND
        clock.advance(1)
        await add(store, at=start + 90 * SECOND, debounce=bounded)
        assert (await record_of(store, first)).due_at == start + 90 * SECOND
        await add(store, debounce=bounded)
        assert (await record_of(store, first)).due_at == start + 6 * SECOND

    async def test_debounce_keys_are_a_names_own(self, store: Store) -> None:
        ids = {
            await add(store, debounce=FIVE),
            await add(store, debounce=FIVE._replace(key="other")),
            await add(store, name="other", debounce=FIVE),
            await add(store),
        }
        assert len(ids) == 4

    async def test_a_claimed_task_is_no_longer_replaced(self, store: Store, clock: FakeClock) -> None:
        first = await add(store, input=b"1", debounce=FIVE, max_crashes=9)
        clock.advance(5)
        lease = await take_one(store)
        second = await add(store, input=b"2", debounce=FIVE)
        assert second != first
        # Wherever it is by now: back in the queue, waiting for its retry, taken back from a dead worker.
        decisions: list[Decision] = [Release(), Retry(0, None), Retry(0, Failure("x"))]
        for decision in decisions:
            await settle(store, lease, decision)
            assert await add(store, input=b"3", debounce=FIVE) == second
            lease = await take_one(store, limit=1)
            assert (lease.task.id, lease.task.input) == (first, b"1")
        clock.advance(31)
        await store.reap()
        assert await add(store, input=b"4", debounce=FIVE) == second
        assert (await record_of(store, first)).input == b"1"

    async def test_the_next_call_after_an_end_makes_a_new_task(self, store: Store, clock: FakeClock) -> None:
        ids = [await add(store, debounce=FIVE)]
        await store.cancel(ids[-1])
        decisions: list[Decision] = [Complete(b"1"), Die("x", None), Cancel("x")]
        for decision in decisions:
            ids.append(await add(store, debounce=FIVE))
            clock.advance(5)
            await settle(store, await take_one(store), decision)
        ids.append(await add(store, debounce=FIVE))
        assert len(set(ids)) == 5

    async def test_a_revived_task_is_not_debounced(self, store: Store, clock: FakeClock) -> None:
        await add(store, debounce=FIVE)
        clock.advance(5)
        lease = await take_one(store)
        await settle(store, lease, Die("x", None))
        assert await store.revive(lease.task.id, "revived") == "revived"
        assert (await record_of(store, "revived")).status == "pending"
        assert await add(store, debounce=FIVE) != "revived"

    async def test_a_folded_submission_sent_again_changes_nothing(
        self, store: Store, clock: FakeClock
    ) -> None:
        first = await add(store, input=b"1", debounce=FIVE)
        folded = new_task(input=b"2", debounce=FIVE)
        assert await store.add([folded]) == [first]
        clock.advance(3)
        await add(store, input=b"3", debounce=FIVE)
        before = await record_of(store, first)
        clock.advance(1)
        assert await store.add([folded]) == [first]
        assert await record_of(store, first) == before
        clock.advance(4)
        await settle(store, await take_one(store), Complete(b"1"))
        assert await store.add([folded]) == [first]
        assert await store.depth() == 0

    async def test_many_debounced_at_once_are_one_task(self, store: Store) -> None:
        ids = await asyncio.gather(*(add(store, debounce=FIVE) for _ in range(50)))
        assert len(set(ids)) == 1
        assert await store.depth() == 1

    # Both

    async def test_a_taken_key_is_answered_before_anything_is_debounced(
        self, store: Store, clock: FakeClock
    ) -> None:
        first = await add(store, input=b"1", idempotency_key="a", debounce=FIVE)
        clock.advance(1)
        assert await add(store, input=b"2", idempotency_key="a", debounce=FIVE) == first
        record = await record_of(store, first)
        assert (record.input, record.due_at) == (b"1", clock.now() + 4 * SECOND)

    async def test_a_folded_submissions_key_stands_for_the_task_it_was_folded_into(
        self, store: Store, clock: FakeClock
    ) -> None:
        first = await add(store, idempotency_key="a", debounce=FIVE)
        assert await add(store, idempotency_key="b", debounce=FIVE) == first
        clock.advance(5)
        await settle(store, await take_one(store), Complete(b"1"))
        clock.advance(12 * 3600)
        for key in ("a", "b"):
            assert await add(store, idempotency_key=key, debounce=FIVE) == first
        clock.advance(12 * 3600)
        assert await add(store, idempotency_key="b", debounce=FIVE) != first

    async def test_a_debounced_task_without_a_key_takes_that_of_the_next_call(self, store: Store) -> None:
        first = await add(store, debounce=FIVE)
        assert await add(store, idempotency_key="a", debounce=FIVE) == first
        assert (await record_of(store, first)).idempotency_key == "a"
        await store.cancel(first)
        assert await add(store, idempotency_key="a") != first
