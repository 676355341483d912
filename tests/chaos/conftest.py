"""What the faults have in common: a line for each at the end of the run."""

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from concave_sqlalchemy import create_outbox_tables
from tests.chaos.fleet import Fleet
from tests.chaos.tally import LONG, Tally
from tests.chaos.things import Base
from tests.servers import RedisServer, temporary_database

LINES = pytest.StashKey[list[str]]()


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[Tally], None]:
    """Note what came of a fault, and fail where anything was lost, doubled or overwritten."""

    def note(tally: Tally) -> None:
        request.config.stash.setdefault(LINES, []).append(tally.line())
        assert (tally.lost, tally.duplicated, tally.overwritten) == (0, 0, 0), tally.line()

    return note


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path) as fleet:
        yield fleet
    print("the end of the fleet's log:", *fleet.logged()[-40:], sep="\n")


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A server of the test's own, so that what is counted there is all its."""
    with RedisServer() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    """A new database of each kind, with the tables of `things` and an outbox."""
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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = terminalreporter.config.stash.get(LINES, [])
    if lines:
        terminalreporter.section(f"faults, in the {'long' if LONG else 'short'} form")
        for line in lines:
            terminalreporter.line(line)
