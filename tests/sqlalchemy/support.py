"""Databases and clients for the tests of what is written."""

import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import MetaData, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from starlette.applications import Starlette

from concave.store.records import NewTask
from concave.tasks.defaults import announced_outboxes
from concave.tasks.outbox import Submit
from concave_sqlalchemy import Resource, create_outbox_tables, use_resource
from concave_sqlalchemy.outbox import Outbox
from tests.servers import temporary_database


@asynccontextmanager
async def database(
    request: pytest.FixtureRequest, folder: Path, tables: MetaData, *, outbox: bool = True
) -> AsyncGenerator[AsyncEngine]:
    """An engine on the database that the fixture's parameter names, with these tables and, unless told otherwise, the outbox's."""
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres_url")
        async with temporary_database(server) as url, _engine(url, tables, outbox=outbox) as engine:
            yield engine
        return
    async with _engine(f"sqlite+aiosqlite:///{folder}/test.db", tables, outbox=outbox) as engine:
        yield engine


@asynccontextmanager
async def role_of(engine: AsyncEngine, *grants: str) -> AsyncGenerator[str]:
    """A role of one test's own. Roles are the server's, which other runs may share: so its name is nobody else's."""
    name = f"role_{secrets.token_hex(8)}"
    async with engine.begin() as connection:
        await connection.execute(text(f"CREATE ROLE {name}"))
        for grant in (*grants, "USAGE ON ALL SEQUENCES IN SCHEMA public"):
            await connection.execute(text(f"GRANT {grant} TO {name}"))
    try:
        yield name
    finally:
        async with engine.connect() as connection:
            await connection.execute(text("RESET ROLE"))
            await connection.execute(text(f"DROP OWNED BY {name}"))
            await connection.execute(text(f"DROP ROLE {name}"))
            await connection.commit()


@asynccontextmanager
async def _engine(url: str, tables: MetaData, *, outbox: bool) -> AsyncGenerator[AsyncEngine]:
    engine = create_async_engine(url)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(tables.create_all)
        if outbox:
            await create_outbox_tables(engine)
        yield engine
    finally:
        await _drain(engine)
        await engine.dispose()


def failing(error: Exception) -> Submit:
    """What `TaskScheduler.submit` is with a store that can't."""

    async def submit(tasks: Sequence[NewTask]) -> list[str]:
        raise error

    return submit


async def _drain(engine: AsyncEngine) -> None:
    # A relayed row is deleted a moment later: from an engine that is disposed by then, through a connection that nobody closes.
    for outbox in announced_outboxes():
        if isinstance(outbox, Outbox) and outbox.transactions.engine is engine.sync_engine:
            await outbox.drain()


def client_of(table: Any, engine: AsyncEngine, **options: Any) -> httpx.AsyncClient:
    return client_for(use_resource(table, session=async_sessionmaker(engine), **options))


def client_for(resource: Resource) -> httpx.AsyncClient:
    app = Starlette(routes=[resource.mount("/t")])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test/t")
