"""Fixtures that every test may ask for: real servers, started once a run and only when a test needs them."""

import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from importlib import import_module
from typing import Any

import pytest
from sqlalchemy import make_url

from concave.tasks import defaults
from tests.servers import PostgresServer, RedisServer, ServerError, temporary_database
from tests.servers.ports import is_listening
from tests.stores.leaks import problems_of_server

# A failure of the store suite is to show the values that it compared.
pytest.register_assert_rewrite("concave.testing")


REDIS = pytest.StashKey[str]()


def pytest_configure() -> None:
    """Keep CPython 3.11 from running in circles while it is traced for coverage.

    greenlet lets go of a thread's main greenlet in a pending call of the interpreter. Where that has a weak reference with a callback
    in Python, and another such call comes in meanwhile, the traced callback looks for pending calls for ever, at its first
    instruction: a run hung at 100 % of a core, and no timeout ended it. What is kept is never let go of.
    """
    if sys.version_info >= (3, 12) or sys.gettrace() is None:
        return
    greenlet: Any = import_module("greenlet")
    greenlet._greenlet.enable_optional_cleanup(False)  # which would look all through memory for what is kept
    kept: list[Any] = []
    real: Any = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]

    def bootstrap(thread: threading.Thread) -> None:
        kept.append(greenlet.getcurrent())
        real(thread)

    threading.Thread._bootstrap_inner = bootstrap  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def nothing_is_left_on_redis(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test did there: a key without an expiry is live work, and the indexes tell of what there is.

    Of a server that isn't ours to look through, only what has a test's prefix is looked at.
    """
    yield
    if url := request.config.stash.get(REDIS, None):
        ours = "CONCAVE_TEST_REDIS_URL" not in os.environ
        assert problems_of_server(url, "" if ours else "test-") == []


@pytest.fixture(scope="session")
def redis_url(pytestconfig: pytest.Config) -> Iterator[str]:
    """A real Redis: the one at CONCAVE_TEST_REDIS_URL, or one of this run's own. Tests share it, by prefixes."""
    if url := os.environ.get("CONCAVE_TEST_REDIS_URL"):
        pytestconfig.stash[REDIS] = _reachable(url, "CONCAVE_TEST_REDIS_URL", 6379)
        yield url
        return
    with ExitStack() as stack:
        try:
            server = stack.enter_context(RedisServer())
        except ServerError as error:
            raise pytest.fail.Exception(f"No Redis to test against.\n{error}", pytrace=False) from None
        pytestconfig.stash[REDIS] = server.url
        yield server.url
        del pytestconfig.stash[REDIS]


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A real PostgreSQL: the one at CONCAVE_TEST_POSTGRES_URL, or one of this run's own."""
    if url := os.environ.get("CONCAVE_TEST_POSTGRES_URL"):
        yield _reachable(url, "CONCAVE_TEST_POSTGRES_URL", 5432)
        return
    with ExitStack() as stack:
        try:
            server = stack.enter_context(PostgresServer())
        except ServerError as error:
            raise pytest.fail.Exception(f"No PostgreSQL to test against.\n{error}", pytrace=False) from None
        yield server.url


@pytest.fixture
async def postgres_database(postgres_url: str) -> AsyncIterator[str]:
    """The URL of a new, empty PostgreSQL database, dropped after the test."""
    async with temporary_database(postgres_url) as url:
        yield url


def _reachable(url: str, variable: str, default_port: int) -> str:
    """That URL, when something listens there; a server that was asked for and is missing fails the run."""
    parts = make_url(url)
    if not is_listening(parts.host or "localhost", parts.port or default_port):
        pytest.fail(f"{variable} is {parts.render_as_string()}, and nothing answers there.", pytrace=False)
    return url


@pytest.fixture(autouse=True)
def no_defaults_left() -> Iterator[None]:
    """The process-wide default of one test is not the next one's, and its outboxes aren't either.

    Those live as long as what tracks their sessions; lifespans of later tests would sweep databases that are gone.
    """
    before = set(defaults.announced_outboxes())
    yield
    defaults._stack.clear()
    for announced in defaults.announced_outboxes():
        if announced not in before:
            defaults._outboxes.discard(announced)
