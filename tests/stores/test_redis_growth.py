"""Nothing grows with uptime, though nobody tidies."""

import pytest
from redis.asyncio import Redis

from concave.kv import RedisKV
from concave.store.records import Cancel, Complete, Decision, Die, Query, Retention
from concave.testing import FakeClock
from concave.testing.suite_support import SECOND, claim_of, complete_all, new_tasks, take
from tests.stores.leaks import SPACER, problems_of_server

KEPT = 600 * SECOND


@pytest.mark.parametrize(
    "decision", [Complete(b"1"), Cancel("x"), Die("x", None)], ids=lambda each: type(each).__name__
)
async def test_indexes_hold_what_is_kept_and_no_more(
    redis_kv: RedisKV, redis: Redis, clock: FakeClock, decision: Decision
) -> None:
    store, kept = redis_kv.store, Retention(KEPT, KEPT, KEPT, KEPT)
    sizes: list[int] = []
    for _ in range(30):
        await store.add(new_tasks(100, "a", retention=kept))
        await store.add(new_tasks(100, "b", retention=kept._replace(completed=2 * KEPT)))
        await complete_all(store, await take(store, "a b", limit=200), decision)
        clock.advance_micros(KEPT // 2)
        sizes.append(await _members(redis, redis_kv))
    # Tasks of three rounds of "a" and at most five of "b" are kept, and each stands in an index or two and in a batch.
    assert max(sizes) <= 800 * 3
    assert max(sizes[-10:]) <= max(sizes[:10])


async def test_names_that_are_used_no_more_are_forgotten(
    redis_kv: RedisKV, redis: Redis, clock: FakeClock
) -> None:
    store = redis_kv.store
    for number in range(50):
        await store.add(new_tasks(1, f"name-{number}", retention=Retention(completed=KEPT)))
        await complete_all(store, await take(store, f"name-{number}"), Complete(b"1"))
    assert len(await store.find(Query())) == 50
    clock.advance_micros(KEPT)
    await store.tidy()
    assert await _members(redis, redis_kv) == 0


async def test_the_last_claim_of_a_line_is_known_for_a_quarter_of_an_hour_and_not_for_ever(
    redis_kv: RedisKV, redis: Redis
) -> None:
    claims = claim_of(number=1), claim_of(number=2, lease=3600 * SECOND, line=1)
    for claim in claims:
        await redis_kv.store.claim(claim)
    lines = [f"{claim.nonce[:8]}:{claim.line}" for claim in claims]
    kept = [await redis.ttl(f"{{{redis_kv.prefix}}}:w:worker-1:{line}") for line in lines]
    assert 600 < kept[0] <= 901
    assert 1800 < kept[1] <= 3601


@pytest.mark.parametrize("count", [1, 100])
async def test_leases_are_no_list_that_is_walked_for_each_of_them(
    redis_kv: RedisKV, redis: Redis, count: int
) -> None:
    # Up to 128 members Redis keeps what is short in a list. With 50 leases, walking it was a fifth of Redis' time.
    await redis_kv.store.add(new_tasks(count, "a"))
    leases = await take(redis_kv.store, "a", limit=count)
    kinds = [await redis.object("encoding", f"{{{redis_kv.prefix}}}:{key}") for key in ("run", "l:a")]
    assert kinds == [b"hashtable", b"skiplist"]
    await complete_all(redis_kv.store, leases, Complete(b"1"))
    assert await redis.exists(*[f"{{{redis_kv.prefix}}}:{key}" for key in ("run", "l:a")]) == 0


async def test_what_stands_beside_the_runs_is_no_task_that_runs(redis_kv: RedisKV) -> None:
    # An id comes from outside, of an admin's route, say: this would leave a mark that nobody takes away.
    await redis_kv.store.add(new_tasks(1))
    (lease,) = await take(redis_kv.store)
    assert not await redis_kv.store.abort(SPACER)
    assert not await redis_kv.store.cancel(SPACER)
    assert await redis_kv.store.get(SPACER) is None
    assert await redis_kv.store.abort(lease.task.id)
    await complete_all(redis_kv.store, [lease], Complete(b"1"))


async def _members(redis: Redis, kv: RedisKV) -> int:
    """What all sorted sets, lists and hashes hold."""
    match, total = f"{{{kv.prefix}}}:*", 0
    async for key in redis.scan_iter(match=match, count=10_000, _type="zset"):
        total += await redis.zcard(key)
    async for key in redis.scan_iter(match=match, count=10_000, _type="list"):
        total += await redis.llen(key)
    async for key in redis.scan_iter(match=match, count=10_000, _type="hash"):
        total += await redis.hlen(key)
    return total


async def test_the_checker_finds_what_would_stay_for_ever_and_indexes_of_nothing(
    redis_kv: RedisKV, redis: Redis, redis_url: str
) -> None:
    space = f"{{{redis_kv.prefix}-leaky}}:"
    await redis.set(space + "s:lasting", b"")
    await redis.set(space + "unheard-of", b"")
    await redis.zadd(space + "q:2n:job", {"nobody": 1})
    found = "\n".join(problems_of_server(redis_url, f"{redis_kv.prefix}-leaky"))
    assert "s:lasting never ends" in found
    assert "unknown key unheard-of" in found
    assert "records that last: [], not ['nobody']" in found
    assert await redis.keys(space + "*") == []
