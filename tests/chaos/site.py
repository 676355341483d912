"""Web processes on one database and one Redis, and the books: which writes committed, and what became of their tasks."""

import asyncio
import itertools
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from concave import TaskScheduler
from concave.kv import RedisKV
from tests.chaos import programs
from tests.chaos.counting import all_tasks, none_waits
from tests.chaos.fleet import Fleet, Member
from tests.chaos.ledger import Ledger
from tests.chaos.things import TASKS, Thing
from tests.chaos.waiting import eventually
from tests.servers import RedisServer

VERBS = ("create", "update", "delete")
DONE = {"create": "new", "update": "changed", "delete": None}
"""The state of a row by which one sees that such a write has committed; None where it is gone."""

Write = tuple[str, str]
"""A verb, and the name of the row that it is about: one of its own."""


@dataclass(frozen=True, slots=True)
class Account:
    """Tasks by what they tell: those that committed writes call for, those that there are, and those that ran."""

    committed: int
    wanted: Counter[str]
    found: Counter[str]
    runs: Counter[str]

    @property
    def lost(self) -> int:
        return (self.wanted - self.found).total() + (self.wanted - self.runs).total()

    @property
    def duplicated(self) -> int:
        return (self.found - self.wanted).total() + (self.runs - self.wanted).total()


class Site:
    """Starts web processes, writes through them, and keeps the books."""

    def __init__(self, fleet: Fleet, engine: AsyncEngine, redis: RedisServer, folder: Path) -> None:
        self.engine = engine
        self.ledger = Ledger(folder / "ledger")
        self.tried: list[Write] = []
        self.url = redis.url
        self._fleet = fleet
        self._folder = folder
        self._options = {
            "url": redis.url,
            "database": engine.url.render_as_string(hide_password=False),
            "ledger": str(self.ledger.path),
        }

    async def start(self, *, workers: int = 0, **options: Any) -> tuple[Member, str]:
        """A web process and its URL."""
        port_file = self._folder / f"port-{secrets.token_hex(4)}"
        member = self._fleet.start(
            programs.web, **self._options, port_file=str(port_file), workers=workers, **options
        )
        await eventually(lambda: port_file.exists() or not member.alive, "a web process is up")
        return member, f"http://127.0.0.1:{port_file.read_text()}/things"

    async def write(self, urls: Sequence[str], label: str) -> None:
        """Creates, updates and deletes, three of each, at once and in turn through these processes, whatever becomes of them."""
        writes = [(verb, f"{label}-{verb}-{each}") for each in range(3) for verb in VERBS]
        self.tried += writes
        async with self.engine.begin() as connection:
            rows = [{"name": name, "state": "new"} for verb, name in writes if verb != "create"]
            made = await connection.execute(insert(Thing).values(rows).returning(Thing.id, Thing.name))
            ids = {name: id_ for id_, name in made.all()}
        async with httpx.AsyncClient(timeout=30) as client:
            turns = zip(itertools.cycle(urls), writes, strict=False)
            await asyncio.gather(*(_write(client, url, *write, ids.get(write[1])) for url, write in turns))

    async def outbox_is_empty(self) -> bool:
        async with self.engine.connect() as connection:
            return not (await connection.execute(text("select count(*) from concave_outbox"))).scalar_one()

    async def account(self) -> Account:
        """Once the outbox is empty and every task has ended."""
        await eventually(self.outbox_is_empty, "all of the outbox is relayed")
        async with self.engine.connect() as connection:
            rows = await connection.execute(select(Thing.name, Thing.state))
            states = {row.name: row.state for row in rows}
        committed = [f"{verb} {name}" for verb, name in self.tried if states.get(name) == DONE[verb]]
        async with RedisKV(self.url, prefix=programs.PREFIX) as kv:
            scheduler = TaskScheduler(kv)
            await eventually(lambda: none_waits(scheduler), "all tasks have run")
            tasks = await all_tasks(scheduler)
        return Account(
            len(committed),
            wanted=Counter(f"{task} {write}" for write in committed for task in TASKS),
            found=Counter(
                f"{task.name} {task.input['event']} {task.input['data']['name']}" for task in tasks
            ),
            runs=Counter(entry.more for entry in self.ledger.entries("told")),
        )


async def _write(client: httpx.AsyncClient, url: str, verb: str, name: str, id_: int | None) -> None:
    try:
        match verb:
            case "create":
                await client.post(url, json={"name": name})
            case "update":
                await client.patch(f"{url}/{id_}", json={"state": "changed"})
            case _:
                await client.delete(f"{url}/{id_}")
    except httpx.TransportError:
        pass  # the process was killed, which is the point
