"""A shop: users and orders in a database, and the tasks that their rows trigger. `make demo` serves it."""

import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from pydantic import BaseModel
from sqlalchemy import ForeignKey, String
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from concave import (
    RetryConfig,
    Schedule,
    TaskContext,
    TaskTrigger,
    create_task_trigger_hooks,
    define_task,
    task_lifespan,
)
from concave_sqlalchemy import create_outbox_tables, use_resource

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
log = logging.getLogger("shop")


# The database -------------------------------------------------------------------------------------------------------

engine = create_async_engine(os.environ.get("SHOP_DATABASE_URL", "sqlite+aiosqlite:///shop.db"))
async_session = async_sessionmaker(engine)


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(String(200), unique=True)
    name: Mapped[str] = mapped_column(String(100))
    role: Mapped[str] = mapped_column(String(20), default="user")


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    amount: Mapped[int]


# The tasks ----------------------------------------------------------------------------------------------------------


class WelcomeEmail(BaseModel):
    user_id: int
    email: str


class Charge(BaseModel):
    order_id: int
    amount: int


@define_task(name="send-welcome-email", timeout=30)
async def send_welcome_email(ctx: TaskContext, email: WelcomeEmail) -> None:
    log.info("[%s] welcome, %s!", ctx.task_id, email.email)


@define_task(name="audit-log")
async def audit_log(ctx: TaskContext, entry: dict[str, Any]) -> None:
    log.info("[%s] audit: %s %s %s", ctx.task_id, entry["event"], entry["resource"], entry["data"])


@define_task(name="charge-card", retry=RetryConfig(max_attempts=3, initial_delay=0.5))
async def charge_card(ctx: TaskContext, charge: Charge) -> str:
    log.info("[%s] charging order %d, attempt %d", ctx.task_id, charge.order_id, ctx.attempt)
    if charge.amount > 1000:
        raise RuntimeError(f"card declined: {charge.amount} is over its limit")
    return f"charged {charge.amount}"


@define_task(name="daily-report")
async def daily_report(ctx: TaskContext) -> None:
    log.info("[%s] the report of %s", ctx.task_id, ctx.scheduled_at.date())


# The app ------------------------------------------------------------------------------------------------------------

users = use_resource(
    User,
    session=async_session,
    hooks=create_task_trigger_hooks(
        on_create=[
            TaskTrigger(
                send_welcome_email,
                when=lambda user: user["role"] == "user",
                transform=lambda user: WelcomeEmail(user_id=user["id"], email=user["email"]),
            ),
            TaskTrigger(audit_log),
        ],
        on_update=[TaskTrigger(audit_log)],
        on_delete=[TaskTrigger(audit_log)],
    ),
)
orders = use_resource(
    Order,
    session=async_session,
    hooks=create_task_trigger_hooks(
        on_create=[
            TaskTrigger(
                charge_card, transform=lambda order: Charge(order_id=order["id"], amount=order["amount"])
            )
        ],
    ),
)


async def dead_letters(request: Request) -> Response:
    entries = await request.state.scheduler.dead_letters.list()
    return JSONResponse(
        [
            {"task_id": e.task_id, "name": e.task.name, "attempts": e.attempts, "reason": e.reason}
            for e in entries
        ]
    )


@asynccontextmanager
async def database(app: Any) -> AsyncGenerator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await create_outbox_tables(engine)
    yield
    await engine.dispose()


lifespan = task_lifespan(
    tasks=[send_welcome_email, audit_log, charge_card],
    schedules=[Schedule(daily_report, cron="0 6 * * *", timezone="Europe/Paris")],
    workers=int(os.environ.get("SHOP_WORKERS", "1")),
    prefix=os.environ.get("SHOP_PREFIX", "shop"),
    lifespan=database,
)

app = Starlette(
    routes=[users.mount("/api/users"), orders.mount("/api/orders"), Route("/dead-letters", dead_letters)],
    lifespan=lifespan,
)
