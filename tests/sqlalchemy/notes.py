"""Tables, and small helps, of the tests of what a resource promises at its edges."""

import uuid
from typing import Any

import httpx
from sqlalchemy import (
    JSON,
    Column,
    DateTime,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Uuid,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette

from concave import define_task
from concave_sqlalchemy import Resource

tables = MetaData()

notes = Table(
    "notes",
    tables,
    Column("id", Integer, primary_key=True),
    Column("title", String(20), nullable=False),
    Column("owner", String(20), nullable=False),
    Column("at", DateTime(timezone=True)),
    Column("blob", LargeBinary),
    Column("ratio", Float),
    Column("data", JSON().with_variant(JSONB(), "postgresql")),
    Column("made_at", DateTime, server_default=func.now()),
)

tokens = Table(
    "tokens",
    tables,
    Column("id", Uuid, primary_key=True, default=uuid.uuid4),
    Column("label", String(20), nullable=False),
)


def _shouted(context: Any) -> str:
    return str(context.get_current_parameters()["label"]).upper()


derived = Table(
    "derived",
    tables,
    Column("id", Integer, primary_key=True),
    Column("label", String(20), nullable=False),
    Column("shouted", String(20), default=_shouted),
)

NOTE = {"title": "a", "owner": "me"}


@define_task(name="promise")
async def promise(ctx: Any, entry: Any) -> None: ...


def client_of(resource: Resource, framework: Any = Starlette) -> httpx.AsyncClient:
    app = framework()
    app.router.routes.append(resource.mount("/api/notes"))
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test/api/notes")


async def count(engine: AsyncEngine, table: Any) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(select(func.count()).select_from(table))).scalar_one())
