"""The connection that listens: it is made anew when it is lost, and whoever listens is told."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from concave.errors import StoreDeniedError, StoreUnavailableError
from concave.kv import RedisKV
from concave.store.protocol import WORK, done_topic
from concave.store.records import Complete, Settlement, TaskRecord
from concave.store.redis import topics
from concave.store.redis.wire import End, Hear, Wire, Wires
from concave.testing.suite_support import Heard, add, new_tasks, take
from tests.servers import RedisProxy, RedisServer
from tests.stores.wires import wires_of
from tests.tasks.support import WatchedClock


@pytest.fixture
async def listening_kv(redis_kv: RedisKV, redis_url: str, redis: Redis) -> AsyncGenerator[RedisKV]:
    """A store whose connections carry a name, so that a test can cut them and nobody else's."""
    async with RedisKV(redis_url, prefix=redis_kv.prefix, client_name=redis_kv.prefix) as kv:
        yield kv


async def listening(redis: Redis, kv: RedisKV) -> list[str]:
    """Its connections that listen."""
    return [client["id"] for client in await redis.client_list("pubsub") if client["name"] == kv.prefix]


async def cut(redis: Redis, kv: RedisKV) -> int:
    """Kill them; how many."""
    mine = await listening(redis, kv)
    for client_id in mine:
        await redis.client_kill_filter(_id=client_id)
    return len(mine)


async def test_listeners_are_told_when_the_connection_was_lost(listening_kv: RedisKV, redis: Redis) -> None:
    store = listening_kv.store
    work, done = Heard(), Heard()
    task_id = await add(store)
    await store.listen(WORK, work)
    await store.listen(done_topic(task_id), done)
    for _ in range(3):
        assert await cut(redis, listening_kv) == 1
        await work.until(None)
        await done.until(None)
        # From here on nothing is missed.
        await add(store, "news")
        await work.until("news")
        await take(store, "news")
        work.forget()
    await store.cancel(task_id)
    await done.until(task_id)


async def test_all_of_a_process_share_one_connection(listening_kv: RedisKV, redis: Redis) -> None:
    store = listening_kv.store
    heard = [Heard() for _ in range(10)]
    listeners = await asyncio.gather(
        *(store.listen(topic, each) for each in heard for topic in (WORK, done_topic("x"), "abort:me"))
    )
    assert (
        len([each for each in await redis.client_list("pubsub") if each["name"] == listening_kv.prefix]) == 1
    )
    await add(store)
    for each in heard:
        await each.until("job")
    for listener in listeners:
        await listener.close()


async def test_the_connection_ends_when_nobody_listens_and_comes_back(
    listening_kv: RedisKV, redis: Redis
) -> None:
    store = listening_kv.store
    for _ in range(3):
        heard = Heard()
        listener = await store.listen(WORK, heard)
        await add(store)
        await heard.until("job")
        await listener.close()
        while any(each["name"] == listening_kv.prefix for each in await redis.client_list("pubsub")):
            pass  # the reader lets go of it once the server has confirmed that nothing is subscribed
        await take(store)


@pytest.mark.parametrize("lingers", [True, False])
async def test_who_waits_again_and_again_subscribes_once(
    listening_kv: RedisKV, redis: Redis, monkeypatch: pytest.MonkeyPatch, lingers: bool
) -> None:
    monkeypatch.setattr(topics, "LINGER", 60 if lingers else 0)
    store = listening_kv.store
    before = await _subscribing(redis)
    for number in range(1, 4):
        heard = Heard()
        listener = await store.listen(done_topic(task_id := await add(store)), heard)
        await store.cancel(task_id)
        await heard.until(task_id)
        await listener.close()
        await listener.close()
        while not lingers and await listening(redis, listening_kv):
            pass
        assert await _subscribing(redis) - before == (1 if lingers else number)


async def _subscribing(redis: Redis) -> int:
    """How often anyone has subscribed."""
    stats = await redis.info("commandstats")
    return int(stats.get("cmdstat_subscribe", {"calls": 0})["calls"])


@pytest.mark.parametrize(
    "count, size, whole", [(1, 10, True), (4, 10, True), (5, 10, False), (1, 5000, False)]
)
async def test_where_few_end_at_once_their_records_come_along(
    redis_kv: RedisKV, count: int, size: int, whole: bool
) -> None:
    # For many, or large ones, that would be more than anybody waits for.
    store = redis_kv.store
    ids = await store.add(new_tasks(count, input=b"[" + b" " * size + b"]"))
    told: dict[str, asyncio.Queue[TaskRecord | None]] = {task_id: asyncio.Queue() for task_id in ids}
    listeners = [await store.ended(task_id, told[task_id].put_nowait) for task_id in ids]
    await store.settle([Settlement(lease, Complete(b"1")) for lease in await take(store, limit=count)])
    for task_id in ids:
        assert await told[task_id].get() == (await store.get(task_id) if whole else None)
    for listener in listeners:
        await listener.close()


async def test_a_message_that_nobody_can_read_says_that_there_was_one(
    redis_kv: RedisKV, redis: Redis
) -> None:
    task_id = await add(redis_kv.store)
    told: asyncio.Queue[TaskRecord | None] = asyncio.Queue()
    listener = await redis_kv.store.ended(task_id, told.put_nowait)
    for rest in (b"", b"\xc1", b"\x01", b"\xdb\xff"):
        await redis.publish(f"{{{redis_kv.prefix}}}:done", task_id.encode() + b"\0" + rest)
        assert await told.get() is None
    await listener.close()


async def test_who_waits_for_what_utf8_cannot_hold_harms_no_other(redis_kv: RedisKV) -> None:
    store = redis_kv.store
    odd = await store.ended("\ud800", lambda _: None)
    task_id = await add(store)
    told: asyncio.Queue[TaskRecord | None] = asyncio.Queue()
    listener = await store.ended(task_id, told.put_nowait)
    await store.settle([Settlement(lease, Complete(b"1")) for lease in await take(store)])
    # The record itself came, over the same connection: a new one would only say that something may have been missed.
    assert await told.get() == await store.get(task_id)
    await listener.close()
    await odd.close()


async def test_a_listener_that_raises_harms_no_other(listening_kv: RedisKV) -> None:
    store = listening_kv.store
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    def fail(_: str | None) -> None:
        raise RuntimeError("not mine")

    heard = Heard()
    await store.listen(WORK, fail)
    await store.listen(WORK, heard)
    for name in ("a", "b"):
        await add(store, name)
        await heard.until(name)
    assert [str(context["exception"]) for context in reported] == ["not mine", "not mine"]


async def test_a_listener_that_has_left_hears_nothing_that_was_under_way(listening_kv: RedisKV) -> None:
    store = listening_kv.store
    late: list[str | None] = []
    heard = Heard()

    def leave(message: str | None) -> None:
        heard(message)
        closing.append(asyncio.ensure_future(other.close()))

    closing: list[asyncio.Future[None]] = []
    await store.listen(WORK, leave)
    other = await store.listen("abort:me", late.append)
    await add(store)
    await heard.until("job")
    await asyncio.gather(*closing)
    assert late == []


async def test_a_server_that_is_gone_for_long_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "RECONNECT_PAUSE", 0.001)
    monkeypatch.setattr(topics, "LONGEST_PAUSE", 0.01)
    failed_often = asyncio.Event()
    failures = 0
    connect = topics.RedisTopics._connect

    async def counted(self: topics.RedisTopics) -> None:
        nonlocal failures
        try:
            await connect(self)
        except Exception:
            failures += 1
            if failures == 5:
                failed_often.set()
            raise

    monkeypatch.setattr(topics.RedisTopics, "_connect", counted)
    with RedisServer(durable=True) as server:
        async with RedisKV(server.url) as kv:
            heard = Heard()
            await kv.store.listen(WORK, heard)
            server.kill()
            await failed_often.wait()
            with pytest.raises(StoreUnavailableError):
                await kv.store.listen("abort:me", heard)
            await asyncio.to_thread(server.start)
            await heard.until(None)
            await add(kv.store)
            await heard.until("job")
            listener = await kv.store.listen("abort:me", heard)
            await listener.close()


async def test_listening_where_nobody_answers_is_refused_and_may_be_tried_again() -> None:
    with RedisServer() as server:
        async with RedisKV(server.url) as kv:
            server.kill()
            heard = Heard()
            for _ in range(2):
                with pytest.raises(StoreUnavailableError):
                    await kv.store.listen(WORK, heard)
            server.start()
            await kv.store.listen(WORK, heard)
            await add(kv.store)
            await heard.until("job")


@pytest.mark.parametrize("protocol", [2, 3])
async def test_who_may_not_listen_is_told_so_and_nothing_goes_on_trying(
    redis: Redis, redis_url: str, caplog: pytest.LogCaptureFixture, protocol: int
) -> None:
    await redis.acl_setuser(
        "deaf", enabled=True, passwords=["+x"], keys=["*"], categories=["+@all"], reset_channels=True
    )
    try:
        url = redis_url.replace("redis://", "redis://deaf:x@", 1)
        async with RedisKV(url, prefix="test-deaf", protocol=protocol) as kv:
            with pytest.raises(StoreDeniedError, match="permissions"):
                await kv.store.listen(WORK, lambda _: None)
            assert kv._topics is not None
            assert kv._topics._reconnecting is not None
            await kv._topics._reconnecting
            assert caplog.text.count("lost the connection that listens") == 1
    finally:
        await redis.acl_deluser("deaf")


class OverheardWires(Wires):
    """Connections of a client's pool, and the answers to the question whether a server is there."""

    def __init__(self, client: Redis) -> None:
        super().__init__(wires_of(client)._pool_of, patience=10)
        self.pongs: asyncio.Queue[Any] = asyncio.Queue()
        self.opened = 0

    async def open(self, hear: Hear, end: End) -> Wire:
        def overhear(reply: Any) -> None:
            hear(reply)
            if reply in (b"PONG", [b"pong", b""]):
                self.pongs.put_nowait(reply)

        self.opened += 1
        return await super().open(overhear, end)


@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_silent_connection_is_asked_and_made_anew_if_it_does_not_answer(
    redis_kv: RedisKV, redis_url: str, protocol: int
) -> None:
    clock = WatchedClock()
    with RedisProxy(urlsplit(redis_url).port or 6379) as proxy:
        async with Redis.from_url(proxy.url, protocol=protocol) as client:
            wires = OverheardWires(client)
            listening = topics.RedisTopics(wires, f"{{{redis_kv.prefix}}}:", "redis", clock)
            heard = Heard()
            await listening.listen(WORK, lambda message: heard(None if message is None else message.decode()))
            for _ in range(3):
                clock.advance(topics.SILENCE)
                await wires.pongs.get()
            assert wires.opened == 1
            # As behind a firewall that has forgotten it: what is sent gets lost, and no error tells.
            proxy.swallow()
            clock.advance(topics.SILENCE)
            await clock.timer_set(topics.SILENCE, times=5)  # it is asked again
            clock.advance(topics.SILENCE)
            await clock.timer_set(topics.RECONNECT_PAUSE)
            clock.advance(topics.RECONNECT_PAUSE)
            await heard.until(None)
            assert wires.opened == 2
            await add(redis_kv.store)
            await heard.until("job")
            await listening.close()
