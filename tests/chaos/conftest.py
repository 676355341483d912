"""What the faults have in common: a line for each at the end of the run."""

from collections.abc import Callable

import pytest

from tests.chaos.tally import LONG, Tally

LINES = pytest.StashKey[list[str]]()


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[Tally], None]:
    """Note what came of a fault, and fail where anything was lost, doubled or overwritten."""

    def note(tally: Tally) -> None:
        request.config.stash.setdefault(LINES, []).append(tally.line())
        assert (tally.lost, tally.duplicated, tally.overwritten) == (0, 0, 0), tally.line()

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = terminalreporter.config.stash.get(LINES, [])
    if lines:
        terminalreporter.section(f"faults, in the {'long' if LONG else 'short'} form")
        for line in lines:
            terminalreporter.line(line)
