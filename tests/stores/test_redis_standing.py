"""Claims that stand on Redis: a task that comes along is leased in the step that adds it, and its worker is told."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from concave.kv import RedisKV, create_kv
from concave.store.protocol import WORK, Store
from concave.store.records import Complete, Debounce, Lease
from concave.testing import FakeClock
from concave.testing.suite_standing import standing, unheard
from concave.testing.suite_support import (
    SECOND,
    Heard,
    add,
    ids_of,
    new_task,
    new_tasks,
    record_of,
    settle,
    status_of,
    take,
)
from tests.servers import ClusterServers


class Desk:
    """What came to a desk."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[tuple[str, Sequence[Lease]]] = asyncio.Queue()

    def __call__(self, nonce: str, leases: Sequence[Lease]) -> None:
        self.answers.put_nowait((nonce, leases))


@pytest.fixture
def store(redis_kv: RedisKV) -> Store:
    return redis_kv.store


@pytest.fixture
async def desk(store: Store) -> AsyncGenerator[Desk]:
    desk = Desk()
    listener = await store.answers("desk", desk)
    yield desk
    await listener.close()


async def test_the_answer_is_the_lease(store: Store, desk: Desk, clock: FakeClock) -> None:
    claim = standing("other job", worker_id="me")
    await store.claim(claim)
    clock.advance(1)
    task_id = await add(store, input=b"[1]")
    assert await status_of(store, task_id) == "running"
    nonce, (lease,) = await desk.answers.get()
    assert (nonce, lease.token, lease.suspect) == (claim.nonce, claim.nonce, False)
    assert lease.task == await record_of(store, task_id)
    assert (lease.task.worker_id, lease.task.started_at) == ("me", clock.now())
    assert await settle(store, lease, Complete(b"2"))


async def test_a_claim_stands_once(store: Store, desk: Desk) -> None:
    await store.claim(standing())
    first, second = await add(store), await add(store)
    assert [await status_of(store, each) for each in (first, second)] == ["running", "pending"]
    _, leases = await desk.answers.get()
    assert ids_of(list(leases)) == [first]


async def test_more_than_it_takes_wait(store: Store, desk: Desk) -> None:
    await store.claim(standing(limit=2))
    ids = await store.add(new_tasks(5))
    _, leases = await desk.answers.get()
    assert ids_of(list(leases)) == ids[:2]
    assert ids_of(await take(store)) == ids[2:]


@pytest.mark.parametrize("kilobytes, handed_out", [(80, 3), (100, 2), (200, 1), (300, 0)])
async def test_what_is_large_waits_for_a_claim(
    store: Store, desk: Desk, kilobytes: int, handed_out: int
) -> None:
    # A listener who is sent tens of megabytes before it has read them is cut off.
    await store.claim(standing())
    ids = await store.add(new_tasks(3, input=b"1" * kilobytes * 1024))
    if handed_out:
        _, leases = await desk.answers.get()
        assert ids_of(list(leases)) == ids[:handed_out]
    assert ids_of(await take(store)) == ids[handed_out:]
    assert desk.answers.empty()


async def test_nothing_overtakes_what_waits(store: Store, desk: Desk) -> None:
    # The one that waits came while the claim stood, and couldn't be handed out: it has a key.
    await store.claim(standing())
    waits = await add(store, idempotency_key="k")
    later = await add(store)
    assert [await status_of(store, each) for each in (waits, later)] == ["pending", "pending"]
    assert desk.answers.empty()
    assert ids_of(await take(store)) == [waits, later]


async def test_of_what_comes_at_once_the_higher_bucket_is_handed_out_first(store: Store, desk: Desk) -> None:
    await store.claim(standing(limit=2))
    low = new_tasks(3, priority=0)
    high = [new_task(priority=100) for _ in range(3)]
    await store.add([*low[:2], *high, low[2]])
    _, leases = await desk.answers.get()
    assert ids_of(list(leases)) == [high[0].id, high[1].id]
    assert ids_of(await take(store)) == [high[2].id, *(each.id for each in low)]


async def test_nothing_is_handed_out_while_something_higher_waits(store: Store, desk: Desk) -> None:
    await store.claim(standing())
    lower, higher = new_task(priority=0), new_task("unknown", priority=100)
    await store.add([lower, higher])
    assert await status_of(store, lower.id) == "pending"
    assert ids_of(await take(store)) == [lower.id]
    assert ids_of(await take(store, "unknown")) == [higher.id]


async def test_names_that_come_at_once_share_what_a_claim_has_room_for(store: Store, desk: Desk) -> None:
    await store.claim(standing("much little", limit=4))
    much, little = new_tasks(5, "much"), new_task("little")
    await store.add([*much, little])
    _, leases = await desk.answers.get()
    assert ids_of(list(leases)) == [each.id for each in much[:2]]
    assert little.id in ids_of(await take(store, "much little", limit=2))


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "capped"},
        {"name": "unknown"},
        {"name": "jo"},
        {"delay": SECOND},
        {"debounce": Debounce("k", SECOND, None)},
    ],
    ids=str,
)
async def test_what_is_not_plain_waits_for_a_claim(store: Store, desk: Desk, fields: dict[str, Any]) -> None:
    await store.claim(standing("job capped:1"))
    await store.add([new_task(**{"name": "job", **fields})])
    assert await store.depth() == 1
    assert desk.answers.empty()


async def test_a_worker_that_has_gone_gets_nothing(store: Store, redis_kv: RedisKV, redis: Redis) -> None:
    listener = await store.answers("desk", unheard)
    await store.claim(standing())
    await listener.close()
    # The end of a connection comes to the server in its own time.
    while (await redis.pubsub_numsub(f"{{{redis_kv.prefix}}}:leases:desk"))[0][1]:
        pass
    task_id = await add(store)
    assert await status_of(store, task_id) == "pending"
    assert await redis.exists(f"{{{redis_kv.prefix}}}:standing") == 0


async def test_a_worker_that_has_not_claimed_for_long_gets_nothing(
    store: Store, desk: Desk, clock: FakeClock
) -> None:
    await store.claim(standing())
    clock.advance(60.1)
    assert await status_of(store, await add(store)) == "pending"
    assert desk.answers.empty()


async def test_what_dead_workers_left_is_forgotten_though_nothing_is_handed_out(
    store: Store, redis_kv: RedisKV, redis: Redis, clock: FakeClock
) -> None:
    for number in range(5):
        await store.claim(standing(desk=f"dead-{number}"))
    clock.advance(60.1)
    for _ in range(5):
        await store.claim(standing())
    assert await redis.hkeys(f"{{{redis_kv.prefix}}}:standing") == [b"desk"]


async def test_an_entry_that_nobody_can_read_harms_nothing(
    store: Store, desk: Desk, redis_kv: RedisKV, redis: Redis
) -> None:
    key = f"{{{redis_kv.prefix}}}:standing"
    for damaged in ("", "\xc1", "nonsense", "\x91\x01"):
        await redis.hset(key, "desk", damaged)
        assert await status_of(store, await add(store, f"job-{damaged}")) == "pending"
    assert await redis.exists(key) == 0
    assert desk.answers.empty()


async def test_in_a_cluster_whoever_listens_does_so_where_the_tasks_are() -> None:
    # A message reaches every node, but a script sees the listeners of its own alone: it hands nothing to others.
    with ClusterServers(masters=3) as servers:
        homes = {servers.master_of(f"{{p{number}}}:").port: f"p{number}" for number in range(20)}
        assert len(homes) == 3
        for prefix in homes.values():
            async with await create_kv(servers.url, prefix=prefix) as kv:
                desk = Desk()
                listener = await kv.store.answers("desk", desk)
                await kv.store.claim(standing())
                task_id = await add(kv.store)
                _, leases = await desk.answers.get()
                assert ids_of(list(leases)) == [task_id]
                await listener.close()


async def test_who_only_listens_follows_the_tasks_to_their_new_master() -> None:
    # As a process that waits for an ending: it sends nothing by which it would learn who has taken over.
    with ClusterServers(masters=3, replicas=1) as servers:
        async with await create_kv(servers.url, prefix="p") as kv:
            desk, heard = Desk(), Heard()
            listeners = [await kv.store.answers("desk", desk), await kv.store.listen(WORK, heard)]
            servers.master_of("{p}:").kill()
            await heard.until(None)
            await kv.store.claim(standing())
            task_id = await add(kv.store)
            _, leases = await desk.answers.get()
            assert ids_of(list(leases)) == [task_id]
            for listener in listeners:
                await listener.close()
