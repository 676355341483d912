"""Ours, as a user gets it. BENCH_TRIGGERS: whether a POST triggers a task, which goes to BENCH_REDIS; without it nothing does."""

import os
from typing import Any

from sqlalchemy.ext.asyncio import async_sessionmaker
from starlette.applications import Starlette

from benchmarks.peers.drive import main
from benchmarks.peers.users import engine_of, users
from concave import (
    ResourceHooks,
    TaskContext,
    TaskTrigger,
    create_task_trigger_hooks,
    define_task,
    task_lifespan,
)
from concave_sqlalchemy import use_resource


@define_task
async def welcome(ctx: TaskContext, user: dict[str, Any]) -> None: ...


hooks = ResourceHooks()
if os.environ.get("BENCH_TRIGGERS"):
    hooks = create_task_trigger_hooks(on_create=[TaskTrigger(welcome)])
redis = os.environ.get("BENCH_REDIS")
resource = use_resource(
    users,
    session=async_sessionmaker(engine_of()),
    hooks=hooks,
    max_limit=int(os.environ.get("BENCH_MAX_LIMIT", "100")),
)
app = Starlette(
    routes=[resource.mount("/users")],
    lifespan=task_lifespan(redis, tasks=[welcome], workers=0) if redis else None,
)

if __name__ == "__main__":
    main(app, page_query="limit=20")
