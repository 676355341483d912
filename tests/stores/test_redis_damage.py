"""Records that nobody can read: they are put aside, and harm no one."""

import logging
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from concave.errors import StoreError
from concave.kv import RedisKV
from concave.store.records import (
    Complete,
    Debounce,
    Decision,
    Die,
    Query,
    Release,
    Retention,
    Retry,
    Settlement,
)
from concave.store.redis.packing import pack
from concave.store.redis.reading import MalformedRecordError
from concave.testing import FakeClock
from concave.testing.suite_schedules import schedule_at
from concave.testing.suite_support import (
    SECOND,
    add,
    claim_of,
    claim_some,
    complete_all,
    die,
    found,
    ids_of,
    new_task,
    new_tasks,
    settle,
    take,
    take_one,
)
from tests.stores.leaks import drop_namespace

DAMAGE = [
    b"",
    b"\x00",
    b"garbage",
    b"\x93\x01\x02",
    b"\xc1",
    b"\x90\x90",
    b"\xff" * 50,
    pack([1, 2, 3]) + pack([4]),
    pack(["a"] * 7) + pack(["b"] * 9),
    pack({"head": 1}) + pack({"spec": 2}),
]


class Harm:
    """Does harm to records of a store."""

    def __init__(self, kv: RedisKV, redis: Redis) -> None:
        self.redis = redis
        self.namespace = f"{{{kv.prefix}}}:"

    async def read(self, task_id: str) -> bytes:
        data = await self.redis.get(f"{self.namespace}t:{task_id}")
        assert isinstance(data, bytes)
        return data

    async def write(self, task_id: str, damage: bytes) -> None:
        await self.redis.set(f"{self.namespace}t:{task_id}", damage, keepttl=True)

    async def aside(self, task_id: str) -> object:
        return await self.redis.get(f"{self.namespace}bad:{task_id}")


@pytest.fixture
def harm(redis_kv: RedisKV, redis: Redis) -> Harm:
    return Harm(redis_kv, redis)


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_waiting_record_that_is_damaged_is_put_aside(
    redis_kv: RedisKV, harm: Harm, clock: FakeClock, damage: bytes
) -> None:
    store = redis_kv.store
    bad, good, late = await store.add([new_task(), new_task(), new_task(delay=SECOND)])
    for task_id in (bad, late):
        await harm.write(task_id, damage)
    assert await found(store) == [good]
    with pytest.raises(StoreError, match=bad):
        await store.get(bad)
    assert not await store.cancel(bad)
    assert await store.revive(bad, "new") is None
    assert await store.add([new_task(id=bad)]) == [bad]
    clock.advance(1)
    assert ids_of(await take(store, "job:5")) == [good]
    assert await found(store) == [good]
    clock.advance(31)
    assert await store.reap() == 3
    assert ids_of(await take(store, "job:1")) == [good]
    for task_id in (bad, late):
        assert await harm.aside(task_id) == damage
        assert await store.get(task_id) is None
    assert await store.depth() == 0


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_running_record_that_is_damaged_is_put_aside(
    redis_kv: RedisKV, harm: Harm, clock: FakeClock, damage: bytes
) -> None:
    store = redis_kv.store
    ids = await store.add(new_tasks(4))
    leases = await take(store, limit=3)
    for lease in leases:
        await harm.write(lease.task.id, damage)
    assert await found(store) == ids[3:]
    decisions: list[Decision] = [Retry(0, None), Release(), Die("x", None)]
    settled = await store.settle(
        [Settlement(lease, decision) for lease, decision in zip(leases, decisions, strict=True)]
    )
    assert settled.accepted == [True, True, True]
    for task_id in ids[:3]:
        assert await harm.aside(task_id) == damage
    assert ids_of(await take(store)) == ids[3:]


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_dead_record_that_is_damaged_is_passed_over(
    redis_kv: RedisKV, harm: Harm, clock: FakeClock, damage: bytes
) -> None:
    store = redis_kv.store
    bad, good = await die(store, clock, 2)
    await harm.write(bad, damage)
    assert [record.id for record in await store.dead(10, 0)] == [good]
    assert await store.revive(bad, "new") is None
    clock.advance(1)
    assert await store.purge(SECOND) == 1
    assert await store.dead_count() == 0
    assert await store.dead(10, 0) == []


NO_HEADS = [
    pack(0),
    *(
        b"".join(map(pack, values))
        for values in (
            (0, 10**9, 0, "x"),
            (0, 1, None, "x"),
            (0, -1, -1, "x"),
            (0, math.nan, math.nan, "x"),
            (0, math.inf, -math.inf, "x"),
        )
    ),
]
NO_TASKS = [
    b"".join(map(pack, values))
    for values in (("x",), (7, 7), ("x", "y"), ("x", math.nan), ("x", math.inf, "y", -math.inf))
]


@pytest.mark.parametrize(
    "part, damage",
    [
        *(("head", damage) for damage in DAMAGE + NO_HEADS),
        *(("tasks", damage) for damage in DAMAGE + NO_TASKS),
    ],
)
async def test_a_damaged_block_of_completed_tasks_is_passed_over(
    redis_kv: RedisKV, redis: Redis, clock: FakeClock, part: str, damage: bytes
) -> None:
    store, kept = redis_kv.store, Retention(completed=10 * SECOND)
    ids: list[str] = []
    for _ in range(2):
        ids += await store.add(new_tasks(4, retention=kept))
        await complete_all(store, await take(store), Complete(b"1"))
        clock.advance(1)
    heads, tasks = (f"{{{redis_kv.prefix}}}:{kind}:job" for kind in ("x:b", "y"))
    blocks: Any = await redis.zrange(heads, 0, -1, withscores=True)
    head, created = blocks[0]
    if part == "head":
        await redis.zrem(heads, head)
        await redis.zadd(heads, {damage: created})
        await redis.hdel(tasks, head)
    else:
        await redis.hset(tasks, head, damage)
    assert await found(store) == ids[:3:-1]
    assert await found(store, offset=1, created_before=int(created) + SECOND) == ids[5:3:-1]
    assert await found(store, offset=1001) == []
    clock.advance(10)
    await store.add(new_tasks(1))
    assert await found(store, statuses=("completed",)) == []
    assert await redis.exists(heads, tasks) == 0


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_damaged_record_is_not_debounced_into(redis_kv: RedisKV, harm: Harm, damage: bytes) -> None:
    store = redis_kv.store
    debounce = Debounce("k", 0, None)
    first = await add(store, debounce=debounce)
    await harm.write(first, damage)
    second = await add(store, debounce=debounce)
    assert second != first
    assert await add(store, debounce=debounce) == second
    assert (await take_one(store)).task.id == second


async def test_a_record_that_was_cut_off_is_not_taken_for_a_whole_one(redis_kv: RedisKV, harm: Harm) -> None:
    store = redis_kv.store
    task_id = await add(store)
    await settle(store, await take_one(store), Complete(b'{"a": [1, 2, 3]}'))
    whole = await harm.read(task_id)
    unreadable = 0
    for length in range(len(whole)):
        await harm.write(task_id, whole[:length])
        try:
            record = await store.get(task_id)
        except MalformedRecordError:
            unreadable += 1
        else:
            # Cut off between two values, it is an earlier state of the same task.
            assert record is not None
            assert record.status == "pending"
    assert unreadable >= len(whole) - 1


async def test_listings_and_claims_survive_a_thousand_damaged_records(
    redis_kv: RedisKV, harm: Harm, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    store, chance = redis_kv.store, random.Random(7)
    bad = await store.add(
        [new_task(name, priority=chance.randrange(100)) for name in "ab" for _ in range(500)]
    )
    for task_id in bad:
        await harm.write(task_id, fuzzed(await harm.read(task_id), chance))
    good = await store.add(new_tasks(50, "a", priority=0))
    claimed: set[str] = set()
    for _ in range(40):
        await store.find(Query(limit=2000))
        await store.dead(100, 0)
        leases = await take(store, "a b", limit=200, suspects=200)
        claimed |= set(ids_of(leases))
        for lease in leases:
            await settle(store, lease, Complete(b"1"))
        clock.advance(31)
        if set(good) <= claimed:
            break
    assert set(good) <= claimed
    await store.reap()


def fuzzed(data: bytes, chance: random.Random) -> bytes:
    how: list[Callable[[], bytes]] = [
        lambda: data[: chance.randrange(len(data))],
        lambda: chance.randbytes(chance.randrange(200)),
        lambda: bytes([chance.randrange(0x80, 0x97)]) + data[1:],
        lambda: data + chance.randbytes(5),
    ]
    return chance.choice(how)()


async def test_a_schedule_that_is_damaged_stops_and_crowds_out_nobody(
    redis_kv: RedisKV, redis: Redis, clock: FakeClock
) -> None:
    schedules = redis_kv.store.schedules
    now = clock.now()
    for number in range(3):
        await schedules.put(schedule_at(now + number, id=f"bad-{number}", next_at=now + 1))
        await redis.hset(f"{{{redis_kv.prefix}}}:sched:bad-{number}", "body", b"garbage")
    await schedules.put(schedule_at(now + 9, id="good", next_at=now + 2))
    assert [schedule.id for schedule in await schedules.list()] == ["good"]
    with pytest.raises(StoreError, match="bad-1"):
        await schedules.get("bad-1")
    clock.advance(60)
    assert (await schedules.due(3)).schedules == []
    assert [schedule.id for schedule in (await schedules.due(3)).schedules] == ["good"]
    assert await schedules.delete("bad-1")


async def test_records_that_are_gone_leave_nothing_to_run(
    redis_kv: RedisKV, redis: Redis, clock: FakeClock
) -> None:
    # A server that evicts, or one that was restarted with half of its data.
    store = redis_kv.store
    ids = await store.add(new_tasks(5))
    for task_id in ids[:3]:
        await redis.delete(f"{{{redis_kv.prefix}}}:t:{task_id}")
    claimed = await claim_some(store, limit=3)
    assert (claimed.leases, claimed.idle_for) == ([], 0)  # there may be something behind them, and there is
    assert ids_of(await take(store, limit=3)) == ids[3:]
    await redis.delete(f"{{{redis_kv.prefix}}}:t:{ids[3]}")
    clock.advance(31)
    assert await store.reap() == 2
    assert ids_of(await take(store)) == ids[4:]


async def test_what_is_gone_among_others_keeps_none_of_them(redis_kv: RedisKV, redis: Redis) -> None:
    store = redis_kv.store
    ids = await store.add(new_tasks(5))
    await redis.delete(f"{{{redis_kv.prefix}}}:t:{ids[2]}")
    leases = await take(store, limit=5)
    assert ids_of(leases) == [ids[0], ids[1], ids[3], ids[4]]
    await redis.delete(f"{{{redis_kv.prefix}}}:t:{ids[3]}")
    await complete_all(store, leases, Complete(b"1"))
    completed: Any = await redis.zrange(f"{{{redis_kv.prefix}}}:x:c:{leases[0].task.name}", 0, -1)
    assert [task_id.decode() for task_id in completed] == [ids[0], ids[1], ids[4]]


async def test_a_key_whose_holder_is_gone_is_free(
    redis_kv: RedisKV, redis: Redis, harm: Harm, clock: FakeClock
) -> None:
    store = redis_kv.store
    evicted = await add(store, idempotency_key="evicted")
    await redis.delete(f"{{{redis_kv.prefix}}}:t:{evicted}")
    damaged = await add(store, idempotency_key="damaged")
    await harm.write(damaged, b"garbage")
    await take(store)
    clock.advance(31)
    await store.reap()
    for key, gone in (("evicted", evicted), ("damaged", damaged)):
        new = await add(store, idempotency_key=key)
        assert new != gone
        assert await add(store, idempotency_key=key) == new


@pytest.mark.parametrize("damage", DAMAGE)
async def test_what_is_kept_beside_the_records_may_be_damaged_too(
    redis_kv: RedisKV, redis: Redis, redis_url: str, clock: FakeClock, damage: bytes
) -> None:
    store = redis_kv.store
    numbered = Debounce("key", SECOND, None, sequence=1)
    await add(store, idempotency_key="k", retention=Retention(completed=10 * SECOND))
    await settle(store, await take_one(store), Complete(b"1"))
    await store.add([new_task("other", debounce=numbered), *new_tasks(3)])
    claim = claim_of(limit=1)
    (held,) = (await store.claim(claim)).leases
    assert await store.locks.acquire("lock", "owner", SECOND)

    harmed = set[str]()
    async for key in redis.scan_iter(f"{{{redis_kv.prefix}}}:*"):
        kind = key.decode().split("}:")[1].split(":")[0]
        if kind in {"w", "k", "s", "o", "lock"}:
            await redis.set(key, damage, keepttl=True)
        elif kind == "e":
            await redis.lset(key, 0, damage)  # type: ignore[arg-type]  # its stubs know text alone
        elif kind == "run":
            await redis.hset(key, held.task.id, held.token.encode() + damage)
        else:
            continue
        harmed.add(kind)
    assert harmed == {"w", "k", "s", "o", "lock", "e", "run"}

    assert await store.get(held.task.id) is not None
    assert len(await found(store)) >= 4
    await store.claim(claim)
    assert await settle(store, held, Retry(SECOND, None))
    await store.add([new_task("other", debounce=numbered), new_task(idempotency_key="k")])
    clock.advance(31)
    await store.reap()
    await store.tidy()
    for lease in await take(store, "job other"):
        assert await settle(store, lease, Complete(b"1"))
    assert await store.locks.acquire("lock", "another", SECOND)
    assert await store.depth() == 0
    # What a damaged entry of `e:` told to drop stays in its index as long as that lasts: the leak checker would say so.
    await drop_namespace(redis_url, redis_kv.prefix)
