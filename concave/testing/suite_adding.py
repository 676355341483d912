"""What every store promises of adding: one submission is one task, whatever it carries."""

# ruff: noqa: D102  (a test's name is its documentation)

from __future__ import annotations

import asyncio

from concave.store.protocol import Store
from concave.store.records import Complete, Debounce, Die, Retention
from concave.testing.clock import FakeClock
from concave.testing.suite_support import (
    HOUR,
    SECOND,
    add,
    claim_of,
    claim_some,
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

__all__ = ["AddingSuite"]

BINARY_EXACT = [
    b"[]",
    b"{}",
    b'""',
    b"null",
    b"0.1",
    b"[[],{},[{}]]",
    b"12345678901234567890123456789",
    b"-9007199254740993",
    b"1.0000000000000000000001e400",
    b'{"a": [], "n": 9223372036854775808, "s": "\xc3\xa9\xe6\x97\xa5\xf0\x9f\x90\x8d\\u0000\\ud83d"}',
    b'{ "order" : 1, "is" : 2, "kept" : 3 , "is" : 4 }',
    bytes(range(256)),
    b'"' + b"x" * (1024 * 1024 - 2) + b'"',
]
"""JSON that a store which decoded it would change, and bytes that aren't even JSON."""


class AddingSuite:
    """`Store.add`, apart from keys."""

    async def test_a_task_is_kept_as_it_was_submitted(self, store: Store, clock: FakeClock) -> None:
        kept = Retention(completed=1 * HOUR, cancelled=2 * HOUR, dead=3 * HOUR, key=4 * HOUR)
        task = new_task(
            "a name", input=b'{"a": []}', priority=80, max_attempts=7, max_crashes=2, retention=kept,
            idempotency_key="key", debounce=Debounce("group", 5 * SECOND, None),
        )  # fmt: skip
        assert await store.add([task]) == [task.id]
        record = await record_of(store, task.id)
        assert (record.id, record.name, record.input) == (task.id, "a name", b'{"a": []}')
        assert (record.status, record.priority, record.retention) == ("scheduled", 80, kept)
        assert (record.max_attempts, record.max_crashes) == (7, 2)
        assert (record.idempotency_key, record.debounce_key) == ("key", "group")
        assert (record.created_at, record.due_at) == (clock.now(), clock.now() + 5 * SECOND)
        assert (record.attempt, record.crashes, record.interruptions, record.failures) == (0, 0, 0, ())
        assert (record.started_at, record.ended_at, record.worker_id) == (None, None, None)
        assert (record.result, record.reason, record.progress, record.revived_from) == (None,) * 4

    async def test_inputs_and_results_are_kept_to_the_byte(self, store: Store) -> None:
        ids = await store.add([new_task(input=data) for data in BINARY_EXACT])
        leases = {lease.task.id: lease for lease in await take(store, limit=100)}
        for task_id, data in zip(ids, BINARY_EXACT, strict=True):
            assert leases[task_id].task.input == data
            assert (await record_of(store, task_id)).input == data
            await store.report(leases[task_id], data)
            assert (await record_of(store, task_id)).progress == data
            await settle(store, leases[task_id], Complete(data))
            assert (await record_of(store, task_id)).result == data

    async def test_inputs_survive_every_transition_to_the_byte(self, store: Store, clock: FakeClock) -> None:
        debounce = Debounce("k", SECOND, None)
        for data in BINARY_EXACT[:-1]:
            first = await add(store, input=b"0", debounce=debounce)
            assert await add(store, input=data, debounce=debounce) == first
            clock.advance(1)
            await take_one(store)
            clock.advance(31)
            await settle(store, await take_one(store), Die("x", None))
            assert await store.revive(first, f"again-{first}") is not None
            lease = await take_one(store)
            assert lease.task.input == data
            await settle(store, lease, Complete(b"1"))

    async def test_names_keys_and_ids_may_be_any_text(self, store: Store) -> None:
        odd = ["a:b", "a b", "{a}", "é日🐍", "%s%d", "*", "due", "n:1:a", "x" * 200, "-inf", "(1", '"', "\\"]
        for text in odd:
            task = new_task(text, id=f"id {text}", idempotency_key=text, debounce=Debounce(text, 0, None))
            assert await store.add([task]) == [task.id]
            assert await add(store, text, idempotency_key=text) == task.id
        assert await store.depth() == len(odd)
        for text in odd:
            assert await found(store, names=(text,)) == [f"id {text}"]
            claimed = await store.claim(claim_of()._replace(names=((text, 0),)))
            assert ids_of(claimed.leases) == [f"id {text}"]
            assert await settle(store, claimed.leases[0], Die("x", None))
            assert (await record_of(store, f"id {text}")).idempotency_key == text
        assert await store.dead_count() == len(odd)

    async def test_a_batch_keeps_its_order(self, store: Store, clock: FakeClock) -> None:
        ids = await store.add(new_tasks(50))
        assert await found(store) == list(reversed(ids))
        assert {await status_of(store, task_id) for task_id in ids} == {"pending"}
        clock.advance(1)
        assert ids_of(await take(store, limit=100)) == ids

    async def test_a_batch_of_several_names_and_priorities_keeps_its_order(self, store: Store) -> None:
        kinds = [("a", 50), ("a", 50), ("b", 50), ("a", 90), ("a", 50), ("b", 50)]
        ids = await store.add([new_task(name=name, priority=priority) for name, priority in kinds])
        assert await found(store) == list(reversed(ids))

    async def test_an_id_that_stands_twice_in_a_batch_is_the_first_ones(self, store: Store) -> None:
        first = new_task(name="a", input=b"1")
        assert await store.add([first, first._replace(name="b", input=b"2")]) == [first.id, first.id]
        record = await record_of(store, first.id)
        assert (record.name, record.input) == ("a", b"1")
        assert await store.depth() == 1

    async def test_an_empty_batch_adds_nothing(self, store: Store) -> None:
        assert await store.add([]) == []
        assert await found(store) == []

    async def test_a_delay_counts_from_now_and_a_time_is_kept(self, store: Store, clock: FakeClock) -> None:
        now = clock.now()
        delayed, later, past = await store.add(
            [new_task(delay=5 * SECOND), new_task(at=now + 7 * SECOND), new_task(at=now - SECOND)]
        )
        assert [(await record_of(store, each)).due_at - now for each in (later, past)] == [
            7 * SECOND,
            -SECOND,
        ]
        assert (await record_of(store, delayed)).due_at - now in {5 * SECOND, 5 * SECOND + 1}
        assert [await status_of(store, each) for each in (delayed, later, past)] == [
            "scheduled", "scheduled", "pending",
        ]  # fmt: skip

    # Sent again

    async def test_a_submission_sent_again_adds_nothing(self, store: Store) -> None:
        task = new_task(input=b"1")
        assert await store.add([task, task]) == [task.id, task.id]
        assert await store.add([task._replace(input=b"2", priority=100, delay=SECOND)]) == [task.id]
        record = await record_of(store, task.id)
        assert (record.input, record.priority, record.status) == (b"1", 50, "pending")
        assert await store.depth() == 1

    async def test_a_submission_sent_again_adds_nothing_whatever_became_of_it(
        self, store: Store, clock: FakeClock
    ) -> None:
        tasks = new_tasks(4)
        await store.add(tasks)
        running, completed, dead = await take(store, limit=3)
        await settle(store, completed, Complete(b"1"))
        await settle(store, dead, Die("x", None))
        await store.cancel(tasks[3].id)
        before = [await record_of(store, task.id) for task in tasks]
        clock.advance(1)
        assert await store.add(tasks) == [task.id for task in tasks]
        assert [await record_of(store, task.id) for task in tasks] == before
        assert await store.depth() == 0
        assert await settle(store, running, Complete(b"1"))

    async def test_a_submission_is_known_for_a_day_though_its_record_is_gone(
        self, store: Store, clock: FakeClock
    ) -> None:
        short = Retention(completed=SECOND, cancelled=SECOND, dead=SECOND)
        tasks = new_tasks(4, retention=short)
        await store.add(tasks)
        completed, dead, revived = await take(store, limit=3)
        await settle(store, completed, Complete(b"1"))
        await settle(store, dead, Die("x", None))
        await settle(store, revived, Die("x", None))
        assert await store.revive(revived.task.id, "revived") == "revived"
        await store.cancel(tasks[3].id)
        await store.cancel("revived")
        clock.advance(1)
        await store.tidy()
        assert await found(store) == []
        clock.advance(23 * 3600)
        assert await store.add(tasks) == [task.id for task in tasks]
        assert await found(store) == []
        assert await store.depth() == 0

    async def test_a_submission_is_forgotten_after_a_day_with_its_record(
        self, store: Store, clock: FakeClock
    ) -> None:
        task = new_task(retention=Retention(completed=SECOND))
        await store.add([task])
        await settle(store, await take_one(store), Complete(b"1"))
        clock.advance(24 * 3600 + 1)
        assert await store.add([task]) == [task.id]
        assert await store.depth() == 1

    async def test_many_who_send_one_submission_add_one_task(self, store: Store) -> None:
        task = new_task()
        ids = await asyncio.gather(*(store.add([task]) for _ in range(50)))
        assert ids == [[task.id]] * 50
        assert await store.depth() == 1
        assert len((await claim_some(store)).leases) == 1
