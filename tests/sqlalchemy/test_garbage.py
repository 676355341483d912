"""A request leaves nothing that only the collector of garbage finds: memory that comes back late is cold, and all the dearer.

But for what a database refuses: SQLAlchemy's own handling of errors leaves its frames there.
"""

import gc
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from starlette.applications import Starlette

from concave import (
    HookContext,
    ResourceHooks,
    TaskTrigger,
    compose_hooks,
    create_task_trigger_hooks,
    define_task,
)
from concave.kv import MemoryKV
from concave.tasks import initialize_tasks
from concave_sqlalchemy import use_resource
from tests.sqlalchemy.support import database

tables = MetaData()
things = Table("things", tables, Column("id", Integer, primary_key=True), Column("name", String(20)))
FIRST, TIMES = 6, 20


@define_task(name="collected")
async def collected(ctx: Any, event: Any) -> None: ...


@pytest.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    async with database(request, tmp_path, tables) as engine:
        yield engine


async def send(app: Any, method: str, path: str, body: Any, headers: dict[str, str]) -> int:
    """One request, without a client that might leave something itself."""
    sent = [{"type": "http.request", "body": b"" if body is None else json.dumps(body).encode()}]
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    given = {"content-type": kind, **headers}
    path, _, query = path.partition("?")
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "root_path": "", "http_version": "1.1", "scheme": "http", "server": ("test", 80), "client": ("test", 1),
    }  # fmt: skip
    status = 0

    async def receive() -> Any:
        return sent.pop()

    async def answer(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    await app(scope, receive, answer)
    return status


async def hook(ctx: HookContext, row: dict[str, Any]) -> None:
    ctx.on_commit(lambda: None)


TRIGGERS = create_task_trigger_hooks(
    on_create=[TaskTrigger(collected)],
    on_update=[TaskTrigger(collected, when=lambda row: True)],
    on_delete=[TaskTrigger(collected, key=lambda row: str(row["id"]))],
)
HOOKS = {
    "none": ResourceHooks(),
    "triggers": TRIGGERS,
    "session": compose_hooks(TRIGGERS, ResourceHooks(on_after_create=hook, on_after_update=hook)),
}
NEW = {"name": "a"}
# What is asked, and what is answered; {} stands for a number that is another one for each request.
REQUESTS: dict[str, tuple[str, str, Any, dict[str, str], int]] = {
    "create": ("POST", "/things", NEW, {}, 201),
    "once": ("POST", "/things", NEW, {"idempotency-key": "{}"}, 201),
    "several": ("POST", "/things/batch", {"items": [NEW, NEW]}, {}, 200),
    "update": ("PATCH", "/things/{}", {"name": "b"}, {}, 200),
    "replace": ("PUT", "/things/{}", {"name": "b"}, {}, 200),
    "delete": ("DELETE", "/things/{}", None, {}, 204),
    "row": ("GET", "/things/{}", None, {}, 200),
    "page": ("GET", "/things?limit=2", None, {}, 200),
    "invalid": ("POST", "/things", {"name": 1}, {}, 422),
    "stale": ("PATCH", "/things/{}", {"name": "b"}, {"if-match": '"old"'}, 412),
    "missing": ("PATCH", "/things/100000", {"name": "b"}, {}, 404),
}


@pytest.mark.parametrize("hooks", HOOKS)
@pytest.mark.parametrize("kind", REQUESTS)
async def test_a_request_leaves_nothing_for_the_collector(engine: AsyncEngine, hooks: str, kind: str) -> None:
    resource = use_resource(things, session=async_sessionmaker(engine), hooks=HOOKS[hooks])
    app = Starlette(routes=[resource.mount("/things")])
    method, path, body, headers, status = REQUESTS[kind]

    async def ask(number: int) -> int:
        given = {name: value.format(number) for name, value in headers.items()}
        return await send(app, method, path.format(number), body, given)

    async with MemoryKV() as kv:
        initialize_tasks(kv)
        for _ in range(TIMES + FIRST):
            await send(app, "POST", "/things", NEW, {})
        for number in range(1, FIRST):  # what is made once, and kept
            await ask(number)
        gc.collect()
        gc.disable()
        try:
            statuses = [await ask(number) for number in range(FIRST, FIRST + TIMES)]
            left = gc.collect()
        finally:
            gc.enable()
    assert statuses == [status] * TIMES
    assert left < TIMES
