"""The databases that web processes under measure work on, filled anew for each."""

import asyncio
import sqlite3
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text

from benchmarks.peers.users import engine_of, metadata
from concave_sqlalchemy import create_outbox_tables
from concave_sqlalchemy.tables import metadata as outbox_metadata
from tests.servers import PostgresServer

__all__ = ["Database", "databases"]

DEEP = {
    "postgresql": """
        INSERT INTO users (email, name, role, active, age, score, created_at)
        SELECT 'user-' || n || '@example.com', 'User ' || n, 'user', true, n % 90, n / 7.0,
               timestamptz '2024-01-01 00:00:00Z' + (n / 3) * interval '1 second'
        FROM generate_series(1, :rows) AS n""",
    "sqlite": """
        WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :rows)
        INSERT INTO users (email, name, role, active, age, score, created_at)
        SELECT 'user-' || n || '@example.com', 'User ' || n, 'user', true, n % 90, n / 7.0,
               strftime('%Y-%m-%d %H:%M:%S.000000', 1704067200 + n / 3, 'unixepoch')
        FROM numbers""",
}


@dataclass(frozen=True, slots=True)
class Database:
    """One to run on. Nothing waits for a disk there: that would take as long for the slow as for the fast."""

    name: str
    url: str
    version: str

    def fill(self, rows: int) -> None:
        """Make the tables anew, with so many users, three of them for each moment."""
        asyncio.run(self._fill(rows))

    async def _fill(self, rows: int) -> None:
        engine = engine_of(self.url)
        async with engine.begin() as connection:
            await connection.run_sync(metadata.drop_all)
            await connection.run_sync(outbox_metadata.drop_all)
            await connection.run_sync(metadata.create_all)
            await connection.execute(text(DEEP[self.name]), {"rows": rows})
        await create_outbox_tables(engine)
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(text("ANALYZE"))
        await engine.dispose()


@contextmanager
def databases() -> Generator[list[Database]]:
    """SQLite in memory-backed files, and a PostgreSQL that doesn't sync."""
    with ExitStack() as stack:
        shared = Path("/dev/shm")
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="concave-bench-", dir=shared if shared.is_dir() else None)
        )
        server = stack.enter_context(PostgresServer())
        yield [
            Database("sqlite", f"sqlite+aiosqlite:///{folder}/bench.db", sqlite3.sqlite_version),
            Database("postgresql", server.url, asyncio.run(_version(server.url))),
        ]


async def _version(url: str) -> str:
    engine = engine_of(url)
    async with engine.connect() as connection:
        version = (await connection.execute(text("SHOW server_version"))).scalar_one()
    await engine.dispose()
    return str(version)
