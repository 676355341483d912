"""A program that writes through a tracked session is killed at random instants: tasks = committed rows, exactly."""

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from concave import TaskTrigger, create_task_trigger_hooks, define_task, initialize_tasks
from concave.kv import MemoryKV
from concave_sqlalchemy import create_outbox_tables, enqueue_in, track_session
from concave_sqlalchemy.outbox import Outbox
from tests.chaos.tally import Tally, sized
from tests.servers import LoggedProcess, temporary_database
from tests.servers.process import ROOT

KILLS = sized(3, 30)


class Base(DeclarativeBase):
    pass


class Entry(Base):
    __tablename__ = "entries"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


@define_task(name="note")
async def note(ctx: Any, entry: str) -> None: ...


async def write_for_ever(url: str) -> None:
    """Commits, rolls back, and rolls savepoints back, in turn."""
    sessions = async_sessionmaker(create_async_engine(url))
    trigger = TaskTrigger(note, transform=lambda row, event: f"{event.event} {row['id']}")
    track_session(sessions, {Entry: create_task_trigger_hooks(on_create=[trigger], on_update=[trigger])})
    number = 0
    while True:
        number += 1
        async with sessions() as session:
            entry = Entry(text="new")
            session.add(entry)
            await session.flush()
            if number % 2:
                entry.text = "changed"
            savepoint = await session.begin_nested()
            session.add(Entry(text="taken"))
            await session.flush()
            await (savepoint.rollback() if number % 3 else savepoint.commit())
            if number % 5 == 0:
                await session.rollback()
                continue
            await enqueue_in(session, note, f"beside {entry.id}")
            await session.commit()
        print(f"commit {number}", flush=True)


async def _wanted(session: AsyncSession) -> list[str]:
    found: list[str] = []
    for row in (await session.execute(select(Entry))).scalars():
        found.append(f"create {row.id}")
        if row.text != "taken":
            found.append(f"beside {row.id}")
        if row.text == "changed":
            found.append(f"update {row.id}")
    return found


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_there_is_a_task_for_each_row_however_often_the_writer_is_killed(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, report: Callable[[Tally], None]
) -> None:
    if kind == "sqlite":
        wanted, tasks = await _killed_and_counted(f"sqlite+aiosqlite:///{tmp_path}/test.db")
    else:
        async with temporary_database(request.getfixturevalue("postgres_url")) as url:
            wanted, tasks = await _killed_and_counted(url)
    lost, duplicated = Counter(wanted) - Counter(tasks), Counter(tasks) - Counter(wanted)
    report(
        Tally(
            f"A tracked writer is killed ({kind})",
            f"{KILLS} kills, {len(wanted)} tasks",
            lost=lost.total(),
            duplicated=duplicated.total(),
        )
    )
    assert (lost, duplicated) == ({}, {})


async def _killed_and_counted(url: str) -> tuple[list[str], list[str]]:
    """The tasks that there should be of the rows that are there, and those that there are."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await create_outbox_tables(engine)
    for _ in range(KILLS):
        with LoggedProcess([sys.executable, "-c", PROGRAM, url], cwd=ROOT) as writer:
            # One that is not a multiple of five, which are rolled back.
            await asyncio.to_thread(writer.wait_for_log, f"commit {5 * random.randint(1, 12) + 1}$")
            await asyncio.sleep(random.random() / 100)
            writer.kill()
    sessions = async_sessionmaker(engine)
    tasks: list[str] = []
    async with MemoryKV() as kv:
        scheduler = initialize_tasks(kv)
        assert await Outbox.of(sessions).sweep(scheduler.submit) >= KILLS
        while page := await scheduler.get_tasks(limit=100, offset=len(tasks)):
            tasks += [str(task.input) for task in page]
    async with sessions() as session:
        wanted = await _wanted(session)
    await engine.dispose()
    return wanted, tasks


PROGRAM = """
import asyncio, sys
from tests.chaos.test_tracked_writer_killed import write_for_ever

asyncio.run(write_for_ever(sys.argv[1]))
"""
