"""What the faults have in common: a line for each at the end of the run."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.fleet import Fleet
from tests.chaos.tally import LONG, Tally
from tests.servers import RedisServer

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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = terminalreporter.config.stash.get(LINES, [])
    if lines:
        terminalreporter.section(f"faults, in the {'long' if LONG else 'short'} form")
        for line in lines:
            terminalreporter.line(line)
