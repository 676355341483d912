"""A small app whose every write triggers two tasks: what web processes of a fleet serve."""

import os
import socket
from pathlib import Path
from typing import Any

import uvicorn
from sqlalchemy import String
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.applications import Starlette

from concave import (
    HookContext,
    ResourceHooks,
    TaskContext,
    TaskDefinition,
    TaskTrigger,
    compose_hooks,
    create_task_trigger_hooks,
    define_task,
    task_lifespan,
)
from concave_sqlalchemy import use_resource
from tests.chaos.ledger import Ledger


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "things"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    state: Mapped[str] = mapped_column(String(20), default="new")


TASKS = ("tell-ada", "tell-grace")


def telling(name: str, ledger: Ledger) -> TaskDefinition[dict[str, Any], None]:
    @define_task(name=name)
    async def tell(ctx: TaskContext, entry: dict[str, Any]) -> None:
        ledger.note("told", 0, f"{name} {entry['event']} {entry['data']['name']}")

    return tell


async def refuse(ctx: HookContext, row: dict[str, Any]) -> None:
    """A hook that has a write rolled back after its row and its triggers."""
    if row["name"].startswith("refused"):
        raise ValueError(row["name"])


async def serve(url: str, *, prefix: str, database: str, ledger: str, port_file: str, workers: int) -> None:
    """Serve the app on a free port, which is written to a file once it is bound, until SIGTERM."""
    engine = create_async_engine(database)
    told = [telling(name, Ledger(ledger)) for name in TASKS]
    triggers = [TaskTrigger(task) for task in told]
    hooks = create_task_trigger_hooks(on_create=triggers, on_update=triggers, on_delete=triggers)
    if workers:
        # A new row takes another way where a hook is waited for than where there are triggers alone.
        hooks = compose_hooks(hooks, ResourceHooks(on_after_create=refuse))
    things = use_resource(Thing, session=async_sessionmaker(engine), hooks=hooks)
    lifespan = task_lifespan(
        url, prefix=prefix, tasks=told, workers=workers, concurrency=20, sweep_interval=0.1, shutdown_grace=1
    )
    app = Starlette(routes=[things.mount("/things")], lifespan=lifespan)
    listening = _listen(port_file)
    await uvicorn.Server(uvicorn.Config(app, lifespan="on", log_config=None)).serve([listening])
    await engine.dispose()


def _listen(port_file: str) -> socket.socket:
    """A socket on a free port, which is written to a file all at once."""
    listening = socket.create_server(("127.0.0.1", 0))
    written = Path(f"{port_file}.{os.getpid()}")
    written.write_text(str(listening.getsockname()[1]))
    written.rename(port_file)
    return listening
