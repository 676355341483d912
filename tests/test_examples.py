"""The examples, as a newcomer runs them: real uvicorn, real HTTP, real worker processes."""

import re
import subprocess
import sys
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import pytest

from tests.servers import LoggedProcess, UvicornServer, free_port, temporary_database
from tests.servers.process import ROOT


@pytest.fixture(params=["memory+sqlite", "redis+sqlite", "redis+postgresql"])
async def where(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[dict[str, str]]:
    tasks, _, rows = request.param.partition("+")
    kv = "memory://" if tasks == "memory" else request.getfixturevalue("redis_url")
    prefix = f"test-{uuid.uuid4().hex}"
    env = {"CONCAVE_KV_URL": kv, "REDIS_URL": kv, "SHOP_PREFIX": prefix, "PREFIX": prefix}
    if rows == "sqlite":
        url = f"sqlite+aiosqlite:///{tmp_path}/shop.db"
        yield {**env, "SHOP_DATABASE_URL": url, "DATABASE_URL": url}
        return
    async with temporary_database(request.getfixturevalue("postgres_url")) as url:
        yield {**env, "SHOP_DATABASE_URL": url, "DATABASE_URL": url}


def test_the_shop(where: dict[str, str]) -> None:
    with UvicornServer("examples.shop:app", env=where) as server, httpx.Client(base_url=server.url) as client:
        ada = client.post("/api/users", json={"email": "ada@example.com", "name": "Ada"})
        assert ada.status_code == 201
        server.wait_for_log("welcome, ada@example.com!")
        server.wait_for_log("audit: create users")
        path = f"/api/users/{ada.json()['id']}"
        assert client.patch(path, json={"name": "Ada Lovelace"}).json()["name"] == "Ada Lovelace"
        server.wait_for_log("audit: update users .*Ada Lovelace")
        order = client.post("/api/orders", json={"user_id": ada.json()["id"], "amount": 5000})
        assert order.status_code == 201
        for attempt in (1, 2, 3):
            server.wait_for_log(f"charging order 1, attempt {attempt}")
        server.process.wait_until(lambda: bool(client.get("/dead-letters").json()), "a dead letter")
        (entry,) = client.get("/dead-letters").json()
        assert (entry["name"], entry["attempts"]) == ("charge-card", 3)
        assert "card declined" in entry["reason"]
        bob = client.post(
            "/api/users/", json={"email": "bob@example.com", "name": "Bob", "role": "admin"}
        ).json()
        assert client.delete(f"/api/users/{bob['id']}").status_code == 204
        server.wait_for_log("audit: delete users .*bob@example.com")
        assert "welcome, bob" not in server.process.log
        assert client.post("/api/users", json={"email": "x"}).status_code == 422
        server.stop()
        assert "Application shutdown complete" in server.process.log


def test_the_full_example(where: dict[str, str]) -> None:
    with UvicornServer("examples.full_example:app", env=where) as server:
        user = {"id": "u1", "email": "ada@example.com"}
        answer = httpx.post(f"{server.url}/api/users", json=user)
        assert (answer.status_code, answer.json()) == (201, user)
        server.wait_for_log("to ada@example.com: Welcome! Hello user u1!")
        server.stop()
        assert "Application shutdown complete" in server.process.log


def test_web_and_workers_in_processes_of_their_own(redis_url: str, tmp_path: Path) -> None:
    env = {
        "CONCAVE_KV_URL": redis_url,
        "SHOP_PREFIX": f"test-{uuid.uuid4().hex}",
        "SHOP_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path}/shop.db",
        "SHOP_WORKERS": "0",
    }
    command = [sys.executable, "-m", "concave", "worker", "examples.shop:lifespan", "--workers", "2"]
    with UvicornServer("examples.shop:app", env=env) as web, LoggedProcess(command, env=env) as worker:
        worker.wait_for_log("2 workers, 4 tasks")
        httpx.post(f"{web.url}/api/users", json={"email": "ada@example.com", "name": "Ada"})
        worker.wait_for_log("welcome, ada@example.com!")
        assert "welcome" not in web.process.log
        assert worker.stop() == 0


@pytest.mark.parametrize("installed", [True, False])
def test_a_worker_process_runs_on_uvloop_where_it_is_installed(tmp_path: Path, installed: bool) -> None:
    (tmp_path / "app.py").write_text(
        "import asyncio, concave, logging\n"
        "@concave.define_task\n"
        "async def look() -> None:\n"
        "    logging.getLogger().warning('runs on %s', type(asyncio.get_running_loop()).__module__)\n"
        "lifespan = concave.task_lifespan(\n"
        "    'memory://', tasks=[look], schedules=[concave.Schedule(look, interval=0.05)]\n"
        ")\n"
    )
    if not installed:
        (tmp_path / "uvloop.py").write_text("raise ImportError('not here')")
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-m", "concave", "worker", "app:lifespan"]
    with LoggedProcess(command, env=env) as worker:
        worker.wait_for_log("runs on uvloop" if installed else "runs on asyncio")
        assert worker.stop() == 0


@pytest.mark.parametrize(
    "own,concurrency,threshold",
    [
        ("", 30, 6000),
        ("", 2**31, 50_000),
        ("gc.set_threshold(0)", 30, 0),
        ("gc.set_threshold(7000)", 30, 7000),
    ],
)
def test_a_worker_process_has_the_collector_look_less_often(
    tmp_path: Path, own: str, concurrency: int, threshold: int
) -> None:
    (tmp_path / "app.py").write_text(
        "import concave, gc, logging\n"
        f"{own}\n"
        "@concave.define_task\n"
        "async def look() -> None:\n"
        "    logging.getLogger().warning('looks after %d.', gc.get_threshold()[0])\n"
        "lifespan = concave.task_lifespan(\n"
        "    'memory://', tasks=[look], schedules=[concave.Schedule(look, interval=0.05)],\n"
        f"    concurrency={concurrency}\n"
        ")\n"
    )
    command = [sys.executable, "-m", "concave", "worker", "app:lifespan", "--workers", "2"]
    with LoggedProcess(command, env={"PYTHONPATH": f"{tmp_path}:{ROOT}"}) as worker:
        worker.wait_for_log(f"looks after {threshold}.")
        assert worker.stop() == 0


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["nowhere:lifespan"], "no module 'nowhere'"),
        (["examples.shop"], "names no object"),
        (["examples.shop:nothing"], "has no 'nothing'"),
        (["examples.shop:app"], "is Starlette"),
        (["examples.shop:lifespan", "--workers", "-1"], "workers must be"),
        (["examples.shop:lifespan"], r"redis://u:\*\*\*@127\.0\.0\.1:\d+ doesn't answer"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    env = {
        "CONCAVE_KV_URL": f"redis://u:secret@127.0.0.1:{free_port()}",
        "SHOP_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path}/shop.db",
    }
    with LoggedProcess([sys.executable, "-m", "concave", "worker", *arguments], env=env) as process:
        assert process.wait(60) == 1
    assert re.search(message, process.lines[-1])
    assert "secret" not in process.log
    assert "Traceback" not in process.log


def test_the_readme_runs(tmp_path: Path) -> None:
    first, second = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "app.py").write_text(first + CREATE_TABLES)
    with UvicornServer("app:with_tables", cwd=tmp_path) as server:
        httpx.post(f"{server.url}/api/users", json={"email": "ada@example.com"})
        server.wait_for_log("welcome, ada@example.com!")
    ran = subprocess.run(
        [sys.executable, "-c", second], capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout == "cat.png resized\n1 True\n"


CREATE_TABLES = """

from contextlib import asynccontextmanager
from concave_sqlalchemy import create_outbox_tables

@asynccontextmanager
async def tables(app):
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await create_outbox_tables(engine)
    async with lifespan(app) as state:
        yield state

with_tables = Starlette(routes=[users.mount("/api/users")], lifespan=tables)
"""
