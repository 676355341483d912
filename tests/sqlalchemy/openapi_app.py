"""What Schemathesis is let loose on: tables with columns of many kinds, a required one and a unique one among them."""

import enum
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Enum,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
)
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from starlette.applications import Starlette

from concave import HookContext, ResourceHooks
from concave.hooks import Row
from concave_sqlalchemy import Fields, create_outbox_tables, openapi_route, use_resource


class Size(enum.Enum):
    SMALL = "small"
    LARGE = "large"


metadata = MetaData()
things = Table(
    "things",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(20), nullable=False),
    Column("text", Text),
    Column("size", Enum(Size)),
    Column("on", Boolean, nullable=False, default=False),
    Column("count", Integer),
    Column("big", BigInteger),
    Column("price", Float),
    Column("amount", Numeric(10, 2)),
    Column("token", Uuid),
    Column("day", Date),
    Column("at", DateTime(timezone=True)),
    Column("made", DateTime),
    Column("blob", LargeBinary),
    Column("data", JSON),
    Column("secret", String(20)),
)
labels = Table(
    "labels",
    metadata,
    Column("region", String(10), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("thing", ForeignKey("things.id")),
)
slugs = Table(
    "slugs", metadata, Column("slug", String(10), primary_key=True), Column("rank", Integer, unique=True)
)
# So few keys that all rows are one batch, and that upserts meet a row more often than not.
NAMES = "abcdefghijklmnopqrst"
slots = Table(
    "slots",
    metadata,
    Column("name", Enum(*NAMES, name="slot_name"), primary_key=True),
    Column("row", SmallInteger),
    Column("seat", SmallInteger),
    Column("note", String(10)),
    UniqueConstraint("row", "seat"),
)

engine = create_async_engine(os.environ.get("OPENAPI_DATABASE_URL", "sqlite+aiosqlite://"))
sessions = async_sessionmaker(engine)


@asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await create_outbox_tables(engine)
    yield
    await engine.dispose()


def tell(event: str) -> Callable[[HookContext, Row], None]:
    """A hook that says what happened to a row, and by which request."""

    def hook(ctx: HookContext, _row: Row) -> None:
        assert ctx.request is not None
        print(f"{event} by {ctx.request.method} {ctx.request.url.path}", flush=True)

    return hook


every_but_the_secret = [column.key for column in things.columns if column.key != "secret"]
app = Starlette(
    routes=[
        openapi_route(title="Things", version="2.0"),
        use_resource(things, session=sessions, fields=Fields(readable=every_but_the_secret)).mount(
            "/api/things"
        ),
        use_resource(labels, session=sessions).mount("/api/labels"),
        use_resource(slugs, session=sessions, max_limit=30).mount("/slugs"),
        use_resource(
            slots,
            session=sessions,
            max_batch=len(NAMES),
            hooks=ResourceHooks(
                on_after_create=tell("create"),
                on_after_update=tell("update"),
                on_after_delete=tell("delete"),
            ),
        ).mount("/slots"),
    ],
    lifespan=lifespan,
)
