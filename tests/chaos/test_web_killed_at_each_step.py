"""A web process is killed between every pair of steps from BEGIN to the outbox row's delete: tasks = committed writes."""

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from concave import TaskScheduler
from concave.kv import RedisKV
from concave.testing import FAIL_POINTS, FailPoint
from concave_sqlalchemy import create_outbox_tables
from tests.chaos import programs
from tests.chaos.fleet import Fleet, Member
from tests.chaos.ledger import Ledger
from tests.chaos.tally import Tally, sized
from tests.chaos.things import TASKS, Base, Thing
from tests.chaos.waiting import eventually
from tests.servers import RedisServer, temporary_database

STEPS: list[FailPoint] = [point for point in FAIL_POINTS if point.startswith(("write.", "outbox."))]
ROUNDS = sized(1, 12)
VERBS = ("create", "update", "delete")


@pytest.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    async with AsyncExitStack() as stack:
        url = f"sqlite+aiosqlite:///{tmp_path}/things.db"
        if request.param == "postgresql":
            url = await stack.enter_async_context(temporary_database(request.getfixturevalue("postgres_url")))
        engine = create_async_engine(url)
        stack.push_async_callback(engine.dispose)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        await create_outbox_tables(engine)
        yield engine


class Site:
    """Web processes on one database and one Redis: one that lives on, and one after the other that is killed."""

    def __init__(self, fleet: Fleet, engine: AsyncEngine, redis: RedisServer, folder: Path) -> None:
        self.engine = engine
        self.ledger = Ledger(folder / "ledger")
        self.kills = 0
        self._fleet = fleet
        self._folder = folder
        self._options = {
            "url": redis.url,
            "database": engine.url.render_as_string(hide_password=False),
            "ledger": str(self.ledger.path),
        }

    async def start(
        self, *, workers: int = 0, fail_point: FailPoint | None = None, after: int = 0
    ) -> tuple[Member, str]:
        """A web process and its URL."""
        port_file = self._folder / f"port-{secrets.token_hex(4)}"
        member = self._fleet.start(
            programs.web,
            **self._options,
            port_file=str(port_file),
            workers=workers,
            fail_point=fail_point,
            after=after,
        )
        await eventually(lambda: port_file.exists() or not member.alive, "a web process is up")
        return member, f"http://127.0.0.1:{port_file.read_text()}/things"

    async def written(self, verb: str, name: str) -> bool:
        """Whether that write has been committed, by the database's account."""
        async with self.engine.connect() as connection:
            state = (await connection.execute(select(Thing.state).where(Thing.name == name))).scalar()
        return state == {"create": "new", "update": "changed", "delete": None}[verb]

    async def outbox_is_empty(self) -> bool:
        async with self.engine.connect() as connection:
            return not (await connection.execute(text("select count(*) from concave_outbox"))).scalar_one()


@pytest.mark.timeout(900)
async def test_tasks_are_those_of_the_committed_writes_whatever_step_a_web_process_is_killed_at(
    engine: AsyncEngine, tmp_path: Path, redis: RedisServer, fleet: Fleet, report: Callable[[Tally], None]
) -> None:
    site = Site(fleet, engine, redis, tmp_path)
    _, surviving = await site.start(workers=1)
    tried: list[tuple[str, str]] = []
    for number in range(ROUNDS):
        for step in STEPS:
            tried += await _write_until_killed(site, step, number)
    await _refused(surviving)
    await eventually(site.outbox_is_empty, "all of the outbox is relayed")
    committed = [f"{verb} {name}" for verb, name in tried if await site.written(verb, name)]
    wanted = Counter(f"{task} {write}" for write in committed for task in TASKS)
    async with RedisKV(redis.url, prefix=programs.PREFIX) as kv:
        scheduler = TaskScheduler(kv)
        await eventually(lambda: _none_waits(scheduler), "all tasks have run")
        found: Counter[str] = Counter()
        offset = 0
        while page := await scheduler.get_tasks(limit=1000, offset=offset):
            found.update(f"{task.name} {task.input['event']} {task.input['data']['name']}" for task in page)
            offset += len(page)
    runs = Counter(entry.more for entry in site.ledger.entries("told"))
    assert len(committed) < len(tried)
    report(
        Tally(
            f"web process killed at each of {len(STEPS)} steps ({engine.dialect.name})",
            f"{site.kills} kills, {len(tried)} writes of which {len(committed)} committed",
            lost=(wanted - found).total() + (wanted - runs).total(),
            duplicated=(found - wanted).total() + (runs - wanted).total(),
            figures={"tasks": found.total(), "runs": runs.total()},
        )
    )


async def _write_until_killed(site: Site, step: FailPoint, number: int) -> list[tuple[str, str]]:
    """Creates, updates and deletes at once on a process that dies at `step`; what was tried."""
    # A DELETE takes many outbox rows at once, so that those steps are passed more rarely than others.
    member, url = await site.start(fail_point=step, after=0 if "delet" in step else random.randrange(4))
    writes = [(verb, f"{step}-{number}-{verb}-{each}") for each in range(3) for verb in VERBS]
    async with site.engine.begin() as connection:
        rows = [{"name": name, "state": "new"} for verb, name in writes if verb != "create"]
        made = await connection.execute(insert(Thing).values(rows).returning(Thing.id, Thing.name))
        ids = {name: id_ for id_, name in made.all()}
    async with httpx.AsyncClient(timeout=30) as client:
        sent = [_write(client, url, verb, name, ids.get(name)) for verb, name in writes]
        await asyncio.gather(*sent)
    assert await asyncio.to_thread(member.wait) == -9, f"it wasn't killed at {step}"
    site.kills += 1
    return writes


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


async def _refused(url: str) -> None:
    """Writes that are rolled back, by a hook and by the database."""
    async with httpx.AsyncClient(timeout=30) as client:
        assert (await client.post(url, json={"name": "refused"})).status_code == 500
        assert (await client.post(url, json={"name": "write.begun-0-update-0"})).status_code == 409


async def _none_waits(scheduler: TaskScheduler) -> bool:
    return not await scheduler.get_tasks(status=["pending", "scheduled", "running", "failed"], limit=1)
