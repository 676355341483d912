"""The guide's full example, every part by hand: `uvicorn examples.full_example:app`.

`task_lifespan` (see shop.py) does in one call what `lifespan` here spells out.
"""

import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from pydantic import BaseModel
from sqlalchemy import Column, MetaData, String, Table
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from starlette.applications import Starlette

from concave import RetryConfig, TaskContext, TaskTrigger, create_task_trigger_hooks, define_task
from concave.kv import create_kv
from concave.tasks import (
    get_task_registry,
    get_task_scheduler,
    initialize_tasks,
    start_recurring_scheduler,
    start_task_workers,
)
from concave_sqlalchemy import create_outbox_tables, use_resource

logging.basicConfig(level=logging.INFO)
log = logging.getLogger("example")

engine = create_async_engine(os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///example.db"))
async_session = async_sessionmaker(engine)
metadata = MetaData()
users_table = Table(
    "users",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("email", String(200), nullable=False),
)


# Define tasks


class WelcomeEmail(BaseModel):
    user_id: str
    email: str


@define_task(name="send-welcome-email", retry=RetryConfig(max_attempts=3, backoff="exponential"))
async def send_welcome_email(ctx: TaskContext, input: WelcomeEmail) -> None:
    log.info("to %s: Welcome! Hello user %s!", input.email, input.user_id)


@define_task(name="generate-daily-report", timeout=5 * 60)
async def generate_report(ctx: TaskContext) -> str:
    report = f"reports/{datetime.now(UTC).isoformat()}.pdf"
    log.info("uploaded %s", report)
    return report


# Resource with task triggers

user_task_hooks = create_task_trigger_hooks(
    on_create=[
        TaskTrigger(
            send_welcome_email, transform=lambda user: WelcomeEmail(user_id=user["id"], email=user["email"])
        )
    ]
)
users = use_resource(users_table, session=async_session, hooks=user_task_hooks)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await create_outbox_tables(engine)

    # Initialize KV and tasks
    kv = await create_kv(os.environ.get("REDIS_URL", "memory://"), prefix=os.environ.get("PREFIX", "example"))
    initialize_tasks(kv)
    registry, scheduler = get_task_registry(), get_task_scheduler()
    registry.register(send_welcome_email)
    registry.register(generate_report)

    # Schedule recurring task: every day at 6am
    await scheduler.schedule_recurring(generate_report, cron="0 6 * * *", timezone="UTC")

    # Start workers and recurring scheduler
    workers = await start_task_workers(kv, registry, 3, concurrency=5)
    recurring = start_recurring_scheduler(kv)
    yield

    # Graceful shutdown: workers finish what they are at
    await recurring.stop()
    for worker in workers:
        await worker.stop()
    await kv.close()
    await engine.dispose()


app = Starlette(routes=[users.mount("/api/users")], lifespan=lifespan)
