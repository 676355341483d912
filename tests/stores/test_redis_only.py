"""What is particular to Redis: namespaces, scripts, errors, damaged records, lost connections."""

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from concave.errors import StoreError, StoreFullError, StoreUnavailableError
from concave.kv import RedisKV, create_kv
from concave.store.protocol import WORK, Store
from concave.store.records import Claim, Complete, Query, Settlement
from concave.testing import FakeClock
from concave.testing.store_suite import LEASE, add, claim_some, new_task
from tests.servers import RedisServer


async def test_two_prefixes_never_meet(redis_kv: RedisKV, redis_url: str) -> None:
    async with RedisKV(redis_url, prefix=redis_kv.prefix + "2") as other:
        await add(redis_kv.store)
        assert await other.store.depth() == 0
        assert await other.store.find(Query()) == []


async def test_a_server_that_forgot_its_scripts_is_told_again() -> None:
    with RedisServer() as server:
        async with await create_kv(server.url) as kv, Redis.from_url(server.url) as client:
            for _ in range(3):
                await add(kv.store)
                await client.script_flush()
            assert len((await claim_some(kv.store)).leases) == 3


async def test_each_hot_verb_is_one_round_trip() -> None:
    with RedisServer() as server:
        async with await create_kv(server.url) as kv, Redis.from_url(server.url) as client:
            store = kv.store

            async def commands() -> int:
                stats: dict[str, Any] = await client.info("commandstats")
                return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "eval"))

            warm = await claim_some(store)
            await store.settle([], Claim("w", (("job", 0),), 1, LEASE, "x" * 16))
            await store.add([new_task() for _ in range(10)])
            warm = await claim_some(store, limit=5)
            await store.extend(warm.leases, LEASE)
            before = await commands()
            await store.add([new_task() for _ in range(100)])
            leases = (await claim_some(store, limit=50)).leases
            await store.extend(leases, LEASE)
            assert await commands() - before == 3
            wanted = Claim("w", (("job", 0),), 50, LEASE, "y" * 16)
            await store.settle([Settlement(lease, Complete(b"1")) for lease in leases], wanted)
            # One more for the script's source, which the server sees here for the first time.
            assert await commands() - before in {4, 5}


async def test_errors_are_ours_and_hide_the_password() -> None:
    with RedisServer() as server:
        async with Redis.from_url(server.url) as client:
            await client.config_set("requirepass", "right")
        url = server.url.replace("redis://", "redis://default:wrong@")
        with pytest.raises(StoreError) as raised:
            await create_kv(url)
        assert "wrong" not in str(raised.value)


async def test_a_server_out_of_memory_takes_nothing() -> None:
    with RedisServer(options=("--maxmemory", "3mb", "--maxmemory-policy", "noeviction")) as server:
        async with await create_kv(server.url) as kv:
            with pytest.raises(StoreFullError):
                await _fill(kv.store)


async def test_a_server_that_is_gone_is_unavailable_until_it_is_back() -> None:
    with RedisServer(durable=True) as server:
        async with await create_kv(server.url) as kv:
            task_id = await add(kv.store)
            told = asyncio.Event()
            missed: list[str | None] = []

            def notify(message: str | None) -> None:
                missed.append(message)
                told.set()

            await kv.store.listen(WORK, notify)
            server.kill()
            with pytest.raises(StoreUnavailableError):
                await add(kv.store)
            await asyncio.to_thread(server.start)
            await told.wait()
            assert missed == [None]
            assert await kv.store.get(task_id) is not None


@pytest.mark.parametrize(
    "damage", [b"", b"\x00", b"garbage", b"\x93\x01\x02", b"\xc1", b"\x90\x90", b"\xff" * 50]
)
async def test_a_damaged_record_is_put_aside_and_harms_nobody(
    redis_kv: RedisKV, redis_url: str, clock: FakeClock, damage: bytes
) -> None:
    store = redis_kv.store
    bad, good = await store.add([new_task(), new_task()])
    async with Redis.from_url(redis_url) as client:
        await client.set(f"{{{redis_kv.prefix}}}:t:{bad}", damage)
        assert [record.id for record in await store.find(Query())] == [good]
        with pytest.raises(StoreError):
            await store.get(bad)
        assert [lease.task.id for lease in (await claim_some(store)).leases] == [good]
        clock.advance(31)
        assert [lease.task.id for lease in (await claim_some(store)).leases] == [good]
        assert await client.get(f"{{{redis_kv.prefix}}}:bad:{bad}") == damage
        assert await store.get(bad) is None


async def _fill(store: Store) -> None:
    for _ in range(100):
        await add(store, input=b"1" * 100_000)
