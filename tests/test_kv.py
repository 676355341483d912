"""From a URL to a connection: which there are, what can go wrong, and that no password is told."""

import asyncio
import builtins
import logging
import re
import sys
import uuid
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from concave import (
    ConcaveError,
    ConfigurationError,
    StoreUnavailableError,
    TaskRegistry,
    TaskScheduler,
    create_kv,
    create_task_worker,
    define_task,
)
from concave.kv import KV, MemoryKV, RedisKV, kv_from_url
from concave.tasks import create_task_lock
from tests.servers import Fault, RedisProxy, RedisServer, free_port
from tests.tasks.support import working


@define_task(name="noop")
async def noop() -> None: ...


async def test_without_a_url_it_is_memory_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("CONCAVE_KV_URL", raising=False)
    with caplog.at_level(logging.INFO):
        kv = await create_kv()
    assert kv.description == "memory://"
    assert "kept in memory: they end with this process" in caplog.text
    await kv.close()


async def test_the_environment_names_the_url(monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    monkeypatch.setenv("CONCAVE_KV_URL", redis_url)
    kv = await create_kv()
    assert kv.description == redis_url
    await kv.close()
    assert (await create_kv("memory://")).description == "memory://"


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "rediss://h",
        "unix:///tmp/socket",
        "redis+cluster://h",
        "redis+sentinel://h/m",
        "REDIS://h",
    ],
)
def test_a_kv_can_be_made_without_a_loop(url: str) -> None:
    assert isinstance(kv_from_url(url), RedisKV)
    assert isinstance(kv_from_url("memory://"), MemoryKV)


@pytest.mark.parametrize("url", ["postgres://h", "redis", "localhost:6379", "http://h", "://"])
def test_a_url_of_no_store_names_those_there_are(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"there are memory://, redis://, rediss://"):
        kv_from_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://h:port",
        "redis://[h",
        "redis://h?socket_timeout=long",
        "redis+sentinel://h:26379",
        "redis+sentinel://h:port/m",
        "redis+sentinel://h/m/zero",
    ],
)
async def test_a_url_that_cannot_be(url: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a URL for Redis"):
        await create_kv(url)


PASSWORDS = [
    ("redis://user:s3cret@h:1/0", "redis://user:***@h:1/0"),
    ("redis://:s3cret@h", "redis://:***@h"),
    ("redis://user@h", "redis://user@h"),
    ("redis://h/0?password=s3cret", "redis://h/0"),
    ("rediss://u:s3/cr/et@h:1", "rediss://u:***@h:1"),
    ("redis://u:s3@cr@et@h", "redis://u:***@h"),
    ("redis://u:s3?cr#et@h", "redis://u:***@h"),
    ("redis+sentinel://u:s3cret@h1:1,h2:2/m/0", "redis+sentinel://u:***@h1:1,h2:2/m/0"),
    ("redis+cluster://u:s3cret@h", "redis+cluster://u:***@h"),
    ("unix://u:s3cret@/tmp/socket?db=1", "unix://u:***@/tmp/socket"),
]


@pytest.mark.parametrize("url,description", PASSWORDS)
def test_a_description_has_no_password(url: str, description: str) -> None:
    assert kv_from_url(url).description == description


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:s3cret@127.0.0.1:1",
        "redis://u:s3/cret@127.0.0.1:1",
        "redis://u:s3cret@127.0.0.1:port",
        "redis+cluster://u:s3cret@127.0.0.1:1",
        "redis+sentinel://u:s3cret@127.0.0.1:1/m",
    ],
)
async def test_no_error_has_a_password_and_each_is_one_line(url: str) -> None:
    with pytest.raises(ConcaveError) as caught:
        await create_kv(url)
    text = str(caught.value)
    assert "127.0.0.1" in text
    assert "s3" not in text
    assert "cret" not in text
    assert "\n" not in text


@pytest.mark.parametrize("url", ["redis", "redis+cluster", "redis+sentinel"])
async def test_where_nobody_answers(url: str) -> None:
    with pytest.raises(StoreUnavailableError, match=re.escape(f"{url}://127.0.0.1:1/m doesn't answer: ")):
        await create_kv(f"{url}://127.0.0.1:1/m")
    with pytest.raises(StoreUnavailableError, match="unix:///tmp/no-such-socket doesn't answer"):
        await create_kv("unix:///tmp/no-such-socket")


async def test_a_server_that_is_no_cluster_is_told(redis_url: str) -> None:
    with pytest.raises(ConcaveError, match=r"[Cc]luster"):
        await create_kv(redis_url.replace("redis://", "redis+cluster://"))


@pytest.fixture
async def cluster_url() -> AsyncGenerator[str]:
    """A cluster of one."""
    with RedisServer(options=["--cluster-enabled", "yes"]) as server:
        await _make_cluster(Redis.from_url(server.url))
        yield server.url.replace("redis://", "redis+cluster://")


async def _make_cluster(client: Any) -> None:
    async with client:
        await client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        state = b""
        while b"cluster_state:ok" not in state:  # the server says so when it is asked, and only then
            state = await client.execute_command("CLUSTER", "INFO")


async def test_a_cluster_runs_tasks(cluster_url: str) -> None:
    async with await create_kv(cluster_url) as kv:
        scheduler, worker = TaskScheduler(kv), create_task_worker(kv, TaskRegistry([noop]), poll_interval=30)
        await worker.start()
        task = await scheduler.wait(await scheduler.enqueue(noop))
        assert task is not None
        assert task.status == "completed"
        async with create_task_lock(kv).hold("lock"):
            await scheduler.schedule_recurring(noop, interval=60)
        assert await scheduler.get_queue_depth() == 0
        await worker.stop()


async def test_an_option_that_there_is_not(redis_url: str) -> None:
    for url in ("memory://", redis_url):
        with pytest.raises(ConfigurationError, match="bogus"):
            await create_kv(url, bogus=1)


@pytest.mark.parametrize("connections", [2, 5, 1000])
async def test_few_connections_are_enough_for_any_number_of_calls(redis_url: str, connections: int) -> None:
    name = f"test-{uuid.uuid4().hex}"
    async with await create_kv(redis_url, prefix=name, max_connections=connections) as kv:
        scheduler = TaskScheduler(kv)
        waiting = asyncio.create_task(scheduler.wait(await scheduler.enqueue(noop)))  # one listens
        assert await asyncio.gather(*(scheduler.get_task("unknown") for _ in range(300))) == [None] * 300
        async with working(kv, noop):
            await waiting


@pytest.mark.parametrize("url", ["redis://h", "redis+sentinel://h/m"])
async def test_one_connection_is_too_few(url: str) -> None:
    with pytest.raises(ConfigurationError, match="max_connections must be at least 2"):
        await create_kv(url, max_connections=1)


@pytest.mark.parametrize("prefix", ["", "a b", "a{b", "}", "x" * 101, "a\n"])
def test_a_prefix_that_cannot_be(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match="prefix"):
        kv_from_url("redis://h", prefix=prefix)


async def test_two_prefixes_never_meet(redis_url: str) -> None:
    names = [f"test-{uuid.uuid4().hex}" for _ in range(2)]
    async with (
        await create_kv(redis_url, prefix=names[0]) as one,
        await create_kv(redis_url, prefix=names[1]) as two,
    ):
        await TaskScheduler(one).enqueue(noop)
        assert await TaskScheduler(one).get_queue_depth() == 1
        assert await TaskScheduler(two).get_queue_depth() == 0
        async with one.twin() as twin:
            assert twin.prefix == one.prefix
            assert await TaskScheduler(twin).get_queue_depth() == 1


async def test_two_in_memory_never_meet_and_twins_do() -> None:
    async with MemoryKV() as one, MemoryKV() as two, one.twin() as twin:
        await TaskScheduler(one).enqueue(noop)
        assert await TaskScheduler(two).get_queue_depth() == 0
        assert await TaskScheduler(twin).get_queue_depth() == 1
        assert twin.prefix == one.prefix


@pytest.fixture(params=["memory", "redis"])
def unconnected(request: pytest.FixtureRequest) -> KV:
    return MemoryKV() if request.param == "memory" else RedisKV(request.getfixturevalue("redis_url"))


async def test_it_belongs_to_the_loop_that_connects_it(unconnected: KV) -> None:
    with pytest.raises(ConfigurationError, match="isn't connected"):
        _ = unconnected.loop
    await unconnected.connect()
    await unconnected.connect()
    assert unconnected.loop is asyncio.get_running_loop()
    await unconnected.close()
    await unconnected.close()
    with pytest.raises(ConfigurationError, match="isn't connected"):
        _ = unconnected.loop
    await unconnected.connect()  # and can be opened again
    assert await TaskScheduler(unconnected).get_task("unknown") is None
    await unconnected.close()


async def test_who_connect_at_once_share_what_they_open(redis_url: str) -> None:
    kv = RedisKV(redis_url, client_name="at-once")
    await asyncio.gather(*(kv.connect() for _ in range(3)))
    assert await TaskScheduler(kv).get_task("unknown") is None
    await kv.close()
    async with Redis.from_url(redis_url) as redis:
        # The server hears of an end a moment later; of a connection that was left open, never.
        while any(each["name"] == "at-once" for each in await redis.client_list()):
            pass


async def test_what_is_closed_while_it_connects_stays_closed(redis_url: str) -> None:
    kv = RedisKV(redis_url)
    connecting = asyncio.create_task(kv.connect())
    await asyncio.sleep(0)
    await kv.close()
    with pytest.raises(StoreUnavailableError, match="was closed"):
        await connecting
    with pytest.raises(ConfigurationError, match="isn't connected"):
        _ = kv.store


async def test_redis_has_no_store_before_it_is_connected(redis_url: str) -> None:
    kv = RedisKV(redis_url)
    with pytest.raises(ConfigurationError, match="isn't connected"):
        _ = kv.store
    with pytest.raises(ConfigurationError, match="isn't connected"):
        await TaskScheduler(kv).enqueue(noop)


async def test_a_failed_connection_leaves_nothing_and_may_be_tried_again() -> None:
    kv = RedisKV(f"redis://127.0.0.1:{free_port()}")
    for _ in range(2):
        with pytest.raises(StoreUnavailableError):
            await kv.connect()
    await kv.close()


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    importing = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("concave.kv.redis"):
            raise ImportError("no redis")
        return importing(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "concave.kv.redis")
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ConfigurationError, match=r"pip install 'concave-asgi\[redis\]'"):
        kv_from_url("redis://h")


def test_the_package_has_what_it_says() -> None:
    import concave.kv

    assert concave.kv.RedisKV is RedisKV
    with pytest.raises(AttributeError, match="Nothing"):
        _ = concave.kv.Nothing  # pyright: ignore[reportAttributeAccessIssue]


async def test_a_server_that_takes_connections_and_says_nothing_is_told() -> None:
    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silence, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(StoreUnavailableError, match="doesn't answer"):
            await create_kv(f"redis://127.0.0.1:{port}", socket_timeout=0.1)


async def test_the_patience_that_a_url_names_is_that_of_calls(redis_url: str) -> None:
    with RedisProxy(urlsplit(redis_url).port or 6379, stall=60) as proxy:
        async with await create_kv(f"{proxy.url}?socket_timeout=0.1") as kv:
            with proxy.harming(lambda _: Fault.STALL), pytest.raises(StoreUnavailableError):
                async with asyncio.timeout(5):
                    await kv.store.now()
