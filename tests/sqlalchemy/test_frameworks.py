"""One resource in a Starlette app and in a FastAPI app: whatever is asked, both answer alike, to the byte."""

import json
import re
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from weakref import WeakSet

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.routing import Mount

from concave import TaskTrigger, create_task_trigger_hooks, define_task, task_lifespan
from concave.tasks import defaults
from concave.tasks.defaults import get_task_scheduler
from concave_sqlalchemy import Resource, create_outbox_tables, use_resource
from concave_sqlalchemy.outbox import Outbox
from tests.servers import temporary_database
from tests.servers.process import ROOT


class Base(DeclarativeBase):
    pass


class Book(Base):
    __tablename__ = "books"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(unique=True)
    pages: Mapped[int | None]


@define_task(name="note")
async def note(ctx: Any, entry: Any) -> None: ...


JSON = {"content-type": "application/json"}
# In order: what one does, the next ones see.
REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "", {"json": {"title": "Emma; 'ü", "pages": 474}}),
    ("POST", "/", {"json": {"title": "Ulysses"}}),
    ("POST", "", {"json": {"title": "Ulysses"}}),
    ("POST", "", {"json": {"title": 5, "nope": 1}}),
    ("POST", "", {"content": b"{", "headers": JSON}),
    ("POST", "", {"content": b"[]", "headers": JSON}),
    ("POST", "", {"content": b"title=x", "headers": {"content-type": "application/x-www-form-urlencoded"}}),
    ("POST", "", {"content": b"{" + b" " * 3000 + b"}", "headers": JSON}),
    ("GET", "", {}),
    ("GET", "/", {}),
    ("HEAD", "", {}),
    ("GET", "?limit=1&orderBy=title:desc&totalCount=true&select=id", {}),
    ("GET", "?limit=0", {}),
    ("GET", "?nope=1", {}),
    ("GET", "?filter=title=contains=%27;pages==474", {}),
    ("GET", "?filter=title=%3D", {}),
    ("GET", "/count?filter=pages==null", {}),
    ("GET", "/aggregate?count=true&max=pages&groupBy=id", {}),
    ("GET", "/1", {}),
    ("GET", "/1?select=title", {}),
    ("GET", "/01", {}),
    ("GET", "/99", {}),
    ("GET", "/1/2", {}),
    ("GET", "/%2F", {}),
    ("GET", "/1%2C2", {}),
    ("PATCH", "/1", {"json": {"pages": None}}),
    ("PATCH", "/1", {"json": {"id": 7}}),
    ("PUT", "/1", {"json": {"title": "Emma"}}),
    ("PUT", "", {"json": {}}),
    ("OPTIONS", "/1", {}),
    ("BREW", "/1", {}),
    ("DELETE", "/1", {}),
    ("DELETE", "/1", {}),
    ("GET", "", {"headers": {"x-user": "nobody"}}),
    ("GET", "/2", {"headers": {"x-user": "broken"}}),
]  # fmt: skip


@pytest.fixture(params=["sqlite", "postgresql"])
async def engines(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[list[AsyncEngine]]:
    """A database for each app: what one does, the other doesn't see."""
    # Lifespans sweep every outbox of their process: none of another test's, whose engine is disposed of.
    monkeypatch.setattr(defaults, "_outboxes", WeakSet())
    async with AsyncExitStack() as stack:
        made: list[AsyncEngine] = []
        for number in range(2):
            url = f"sqlite+aiosqlite:///{tmp_path}/{number}.db"
            if request.param == "postgresql":
                server = request.getfixturevalue("postgres_url")
                url = await stack.enter_async_context(temporary_database(server))
            engine = create_async_engine(url)
            stack.push_async_callback(engine.dispose)
            async with engine.begin() as connection:
                await connection.run_sync(Base.metadata.create_all)
            await create_outbox_tables(engine)
            made.append(engine)
        yield made


def user_of(request: Request) -> Any:
    match request.headers.get("x-user"):
        case "nobody":
            raise HTTPException(401, "who are you?", headers={"www-authenticate": "Bearer"})
        case "broken":
            raise LookupError("a secret")
        case name:
            return {"id": name}


def resource_of(engine: AsyncEngine) -> Resource:
    trigger = TaskTrigger(note)
    return use_resource(
        Book,
        session=async_sessionmaker(engine),
        hooks=create_task_trigger_hooks(on_create=[trigger], on_update=[trigger], on_delete=[trigger]),
        user=user_of,
        max_body=2000,
        secret="the same for both",
    )


async def answers(app: Any, engine: AsyncEngine, base: str) -> tuple[list[Any], list[Any]]:
    """What an app answers, and the tasks that came of it."""
    found: list[Any] = []
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app, raise_app_exceptions=False), base_url=f"http://test{base}"
        ) as client,
    ):
        for verb, path, options in REQUESTS:
            answer = await client.request(verb, path, **options)
            found.append((verb, path, answer.status_code, sorted(answer.headers.items()), answer.content))
        await Outbox.of(async_sessionmaker(engine)).drain()
        tasks = [task.input for task in await get_task_scheduler().get_tasks()]
    return found, sorted(tasks, key=json.dumps)


async def passes_on(request: Request, call_next: Any) -> Any:
    return await call_next(request)


def starlette(resource: Resource, lifespan: Any) -> Any:
    return Starlette(routes=[resource.mount("/api/books")], lifespan=lifespan)


def starlette_with_more(resource: Resource, lifespan: Any) -> Any:
    """Below another mount, and behind the middleware that many apps have."""
    middleware = [Middleware(BaseHTTPMiddleware, dispatch=passes_on)]
    within = Mount("/api", routes=[resource.mount("/books")])
    return Starlette(routes=[within], lifespan=lifespan, middleware=middleware)


def fastapi(resource: Resource, lifespan: Any) -> Any:
    return FastAPI(routes=[resource.mount("/api/books")], lifespan=lifespan)


def fastapi_appended(resource: Resource, lifespan: Any) -> Any:
    """Added to an app that has routes of its own already."""
    app = FastAPI(lifespan=lifespan)

    @app.get("/api/other")
    async def other() -> str:  # pyright: ignore[reportUnusedFunction]
        return "other"

    app.router.routes.append(resource.mount("/api/books"))
    return app


def fastapi_mounted(resource: Resource, lifespan: Any) -> Any:
    """As an ASGI app within an ASGI app, behind middleware."""
    app = FastAPI(lifespan=lifespan)
    app.middleware("http")(passes_on)
    inner = FastAPI(routes=[resource.mount("/books")])
    app.mount("/api", inner)
    return app


def fastapi_router(resource: Resource, lifespan: Any) -> Any:
    app = FastAPI(lifespan=lifespan)
    router = APIRouter(routes=[resource.mount("/api/books")])
    app.router.routes.extend(router.routes)
    return app


@pytest.mark.parametrize(
    "make", [starlette_with_more, fastapi, fastapi_appended, fastapi_mounted, fastapi_router]
)
async def test_they_answer_alike(engines: list[AsyncEngine], make: Any) -> None:
    one, other = engines
    lifespans = [task_lifespan("memory://", tasks=[note], workers=0) for _ in engines]
    by_starlette = await answers(starlette(resource_of(one), lifespans[0]), one, "/api/books")
    by_other = await answers(make(resource_of(other), lifespans[1]), other, "/api/books")
    for mine, its in zip(by_starlette[0], by_other[0], strict=True):
        assert its == mine
    assert by_other[1] == by_starlette[1]
    statuses = {each[2] for each in by_starlette[0]}
    assert statuses >= {200, 201, 204, 400, 401, 404, 405, 409, 413, 415, 422, 500}
    assert len(by_starlette[1]) == 5  # two books, two changes, one gone


async def test_the_line_of_the_readme(engines: list[AsyncEngine]) -> None:
    found = re.search(r"`app = (FastAPI\(.*?\))`", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert found
    lifespan = task_lifespan("memory://", tasks=[note], workers=0)
    app = eval(found[1], {"FastAPI": FastAPI, "users": resource_of(engines[0]), "lifespan": lifespan})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        assert (await client.get("/api/users/count")).json() == {"count": 0}
