"""What a resource promises at its edges: values that databases differ on, queries that look right, and where it is mounted."""

import datetime as dt
import json
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from concave.errors import ConfigurationError
from concave_sqlalchemy import use_resource
from tests.sqlalchemy.notes import NOTE, client_of, count, notes, tables, tokens
from tests.sqlalchemy.support import database


@pytest.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    async with database(request, tmp_path, tables) as engine:
        yield engine


async def test_a_moment_keeps_its_place_in_time(engine: AsyncEngine) -> None:
    async with client_of(use_resource(notes, session=async_sessionmaker(engine))) as client:
        for made in (
            await client.post("/", json={**NOTE, "at": "2024-01-01T10:00:00+02:00"}),
            await client.get("/1"),
        ):
            at = dt.datetime.fromisoformat(made.json()["at"])
            assert at == dt.datetime(2024, 1, 1, 8, tzinfo=dt.UTC)


@pytest.mark.parametrize("text", ["+/8=", "-_8="])
async def test_binary_values_are_base64_of_either_alphabet(engine: AsyncEngine, text: str) -> None:
    async with client_of(use_resource(notes, session=async_sessionmaker(engine))) as client:
        made = await client.post("/", json={**NOTE, "blob": text})
        assert made.status_code == 201, made.text
        assert made.json()["blob"] == "+/8="
    async with engine.connect() as connection:
        assert (await connection.execute(select(notes.c.blob))).scalar_one() == b"\xfb\xff"


async def test_a_value_that_is_no_number_is_still_json(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(insert(notes).values(**NOTE, ratio=float("inf")))
    async with client_of(use_resource(notes, session=async_sessionmaker(engine))) as client:
        answer = await client.get("/1")
        assert json.loads(answer.content, parse_constant=pytest.fail)["ratio"] is None


async def test_what_only_the_database_refuses_is_422(engine: AsyncEngine) -> None:
    async with client_of(use_resource(notes, session=async_sessionmaker(engine))) as client:
        made = await client.post("/", json={**NOTE, "data": {"a": "\0"}})
        assert made.status_code == (422 if engine.dialect.name == "postgresql" else 201), made.text


@pytest.mark.parametrize("values", [{"title": 5}, {"ratio": "1.5"}, {"at": 1700000000}, {"ratio": True}])
async def test_values_of_another_json_type_are_refused(engine: AsyncEngine, values: dict[str, Any]) -> None:
    async with client_of(use_resource(notes, session=async_sessionmaker(engine))) as client:
        assert (await client.post("/", json={**NOTE, **values})).status_code == 422


async def test_a_client_cannot_choose_a_generated_key(engine: AsyncEngine) -> None:
    async with client_of(use_resource(tokens, session=async_sessionmaker(engine))) as client:
        chosen = await client.post("/", json={"id": str(uuid.uuid4()), "label": "a"})
        assert chosen.status_code == 422
        assert (await client.post("/", json={"label": "a"})).status_code == 201


@pytest.mark.parametrize(
    "query",
    [
        "limit=0000000100999999",
        "limit=%2B5",
        "limit=",
        "limit=1_0",
        "limit=٣",
        "cursor=",
        "cursor=W!zFd",
        "cursor=WyIxIl0",
        "cursor=WzEuNV0",
    ],
)
async def test_queries_that_look_right(engine: AsyncEngine, query: str) -> None:
    async with client_of(use_resource(notes, session=async_sessionmaker(engine))) as client:
        assert (await client.get(f"/?{query}")).status_code == 400


async def test_unknown_query_parameters_are_refused_everywhere(engine: AsyncEngine) -> None:
    async with client_of(use_resource(notes, session=async_sessionmaker(engine))) as client:
        await client.post("/", json=NOTE)
        assert (await client.get("/1?x=1")).status_code == 400
        assert (await client.post("/?x=1", json=NOTE)).status_code == 400
        assert (await client.delete("/1?all=true")).status_code == 400
    assert await count(engine, notes) == 1


async def test_a_mount_below_path_parameters(engine: AsyncEngine) -> None:
    seen: list[Any] = []

    def user(request: Request) -> None:
        seen.append(request.path_params["org"])

    app = Starlette(
        routes=[use_resource(notes, session=async_sessionmaker(engine), user=user).mount("/orgs/{org}/notes")]
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        assert (await client.get("/orgs/acme/notes")).status_code == 200
        assert (await client.get("/orgs/acme/notes/")).status_code == 200
        assert (await client.get("/orgs/acme/notes/1")).status_code == 404
        assert (await client.get("/orgs/acme/notesx")).status_code == 404
    assert seen == ["acme"] * 3


async def test_in_a_router_that_fastapi_includes(engine: AsyncEngine) -> None:
    router = APIRouter()
    router.routes.append(use_resource(notes, session=async_sessionmaker(engine)).mount("/notes"))
    router.routes.append(Mount("/plain", routes=[Route("/", lambda request: Response())]))
    app = FastAPI()
    app.include_router(router, prefix="/v1")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        if (await client.get("/v1/plain/")).status_code == 404:
            pytest.skip("this FastAPI is too old: it drops every mount of an included router")
        assert (await client.get("/v1/notes")).status_code == 200
        assert (await client.get("/v1/notes/")).status_code == 200
        assert (await client.get("/openapi.json")).status_code == 200


async def test_urls_of_the_app_from_within_a_hook(engine: AsyncEngine) -> None:
    seen: list[str] = []

    def user(request: Request) -> None:
        seen.append(str(request.url_for("home")))

    async def home(request: Request) -> Any: ...

    app = Starlette()
    app.add_route("/home", home, name="home")
    app.router.routes.append(
        use_resource(notes, session=async_sessionmaker(engine), user=user).mount("/api/notes")
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        assert (await client.get("/api/notes")).status_code == 200
    assert seen == ["http://test/home"]


async def test_an_id_must_be_unique() -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    with pytest.raises(ConfigurationError, match="unique"):
        use_resource(notes, session=async_sessionmaker(engine), id="title")


async def test_the_route_by_its_name(engine: AsyncEngine) -> None:
    app = Starlette(routes=[use_resource(notes, session=async_sessionmaker(engine)).mount("/api/notes")])
    assert app.url_path_for("notes") == "/api/notes"
    assert app.url_path_for("notes", path="3") == "/api/notes/3"
