"""The web process is killed at random instants while rows are written: tasks = committed rows, exactly."""

import itertools
import json
import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.chaos.tally import Tally, sized
from tests.servers import RedisServer, UvicornServer
from tests.servers.process import ROOT

POSTS = sized(150, 1000)
KILLS = sized(2, 20)

LIST_TASKS = """
import asyncio, json, sys
from concave import create_kv
from concave.tasks import TaskScheduler

async def main():
    async with await create_kv(sys.argv[1], prefix="chaos") as kv:
        tasks, scheduler = [], TaskScheduler(kv)
        while page := await scheduler.get_tasks(name="send-welcome-email", limit=1000, offset=len(tasks)):
            tasks += page
        print(json.dumps([[task.input["email"], task.status] for task in tasks]))

asyncio.run(main())
"""


class Clients:
    """Threads that POST, whatever becomes of the server."""

    def __init__(self, server: UvicornServer) -> None:
        self._server = server
        self._numbers = itertools.count()
        self._threads = [threading.Thread(target=self._post) for _ in range(8)]
        self.answered = 0

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _post(self) -> None:
        while (number := next(self._numbers)) < POSTS:
            try:
                body = {"email": f"{number}@example.com", "name": "x"}
                answer = httpx.post(f"{self._server.url}/api/users", json=body, timeout=30)
                self.answered += answer.status_code == 201
            except httpx.HTTPError:
                threading.Event().wait(0.05)  # a client that is refused backs off a little


@pytest.mark.timeout(900)
def test_tasks_equal_committed_rows_however_often_the_web_process_is_killed(
    tmp_path: Path, report: Callable[[Tally], None]
) -> None:
    database = tmp_path / "shop.db"
    with RedisServer(durable=True) as redis:
        env = {
            "CONCAVE_KV_URL": redis.url,
            "SHOP_PREFIX": "chaos",
            "SHOP_DATABASE_URL": f"sqlite+aiosqlite:///{database}",
        }
        with UvicornServer("examples.shop:app", env=env) as server:
            clients = Clients(server)
            clients.start()
            for _ in range(KILLS):
                threading.Event().wait(random.uniform(0.05, 0.25))  # the random instant is the point
                server.kill()
                server.start()
            clients.join()
            server.process.wait_until(
                lambda: _outbox_left(database) == 0 and _all_completed(redis.url), "done with every task", 120
            )
        rows = _emails(database)
        tasks = [email for email, _ in _tasks(redis.url)]
        assert clients.answered <= len(rows)
        assert set(tasks) <= set(rows)
        report(
            Tally(
                "web process killed at random",
                f"{POSTS} posts, {KILLS} kills",
                lost=len(set(rows) - set(tasks)),
                duplicated=len(tasks) - len(set(tasks)),
                figures={"answered 201": clients.answered, "rows": len(rows), "tasks": len(tasks)},
            )
        )


def _tasks(url: str) -> list[tuple[str, str]]:
    ran = subprocess.run(
        [sys.executable, "-c", LIST_TASKS, url], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return [(email, status) for email, status in json.loads(ran.stdout)]


def _all_completed(url: str) -> bool:
    return all(status == "completed" for _, status in _tasks(url))


def _emails(database: Path) -> list[str]:
    with sqlite3.connect(database, timeout=30) as connection:
        rows = connection.execute("select email from users").fetchall()
    connection.close()
    return [email for (email,) in rows]


def _outbox_left(database: Path) -> int:
    with sqlite3.connect(database, timeout=30) as connection:
        (left,) = connection.execute("select count(*) from concave_outbox").fetchone()
    connection.close()
    return int(left)
