"""What resources tell of themselves in OpenAPI, and that it is true."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from sqlalchemy import BigInteger, Column, Integer, MetaData, String, Table
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from starlette.applications import Starlette
from starlette.routing import Mount

from concave import ResourceHooks
from concave_sqlalchemy import Fields, extend_openapi, openapi_route, use_resource
from tests.servers import UvicornServer, temporary_database
from tests.servers.process import ROOT
from tests.sqlalchemy.openapi_app import labels, things

EXAMPLES = os.environ.get("CONCAVE_SCHEMATHESIS_EXAMPLES", "2")
"""Of each operation, beside those that cover its schema; `make hostile` has more."""

WRITTEN = {
    "create by POST /slots",
    "update by POST /slots",
    "create by POST /slots/batch",
    "update by POST /slots/batch",
    "update by PATCH /slots/batch",
    "delete by DELETE /slots/batch",
}
"""What valid requests come to, if they are more than valid: upserts that meet a row, batches that are of some."""

words = Table(
    "words",
    MetaData(),
    Column("word", String(20), primary_key=True),
    Column("big", BigInteger),
    Column("small", Integer),
)


@pytest.mark.timeout(600)
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    """All checks, what is valid and what isn't, single requests and sequences of them, over real HTTP."""
    url = f"sqlite+aiosqlite:///{tmp_path}/test.db"
    with UvicornServer("tests.sqlalchemy.openapi_app:app", env={"OPENAPI_DATABASE_URL": url}) as server:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
        command += ["--checks", "all", "--mode", "all", "--max-examples", EXAMPLES]
        command += ["--seed", "1", "--no-color"]
        hooks = str(Path(__file__).with_name("openapi_hooks.py"))
        # Coverage counts what the server runs. Told of it, the client would take three times as long.
        env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        env |= {"SCHEMATHESIS_HOOKS": hooks, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=env, cwd=tmp_path, check=False, capture_output=True, text=True)
        print(done.stdout)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "44 selected / 44 total" in done.stdout
        assert set(server.lines) >= WRITTEN
        failed = [line for line in server.lines if "failed" in line]
        assert failed == []


async def test_an_app_shows_all_of_its_resources() -> None:
    sessions = async_sessionmaker()
    app = Starlette(
        routes=[
            openapi_route(title="Shop", version="3"),
            Mount("/v1", routes=[use_resource(things, session=sessions).mount("/things")]),
            use_resource(labels, session=sessions).mount("/labels/"),
        ]
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        shown = (await client.get("/openapi.json")).json()
    assert (shown["openapi"], shown["info"]) == ("3.1.0", {"title": "Shop", "version": "3"})
    assert {path.removesuffix(end) for path in shown["paths"] for end in ("/{id}",) if end in path} == {
        "/v1/things",
        "/labels",
    }
    assert shown["paths"]["/v1/things"]["post"]["operationId"] == "v1.things.create"


async def test_fastapi_tells_of_resources_beside_its_own_routes() -> None:
    sessions = async_sessionmaker()
    app = FastAPI()
    extend_openapi(app)

    @app.get("/own")
    def own() -> str:
        return ""

    router = APIRouter()
    router.routes.append(use_resource(things, session=sessions).mount("/things"))
    app.include_router(router, prefix="/v1")
    app.router.routes.append(use_resource(labels, session=sessions).mount("/labels"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        shown = (await client.get("/openapi.json")).json()
        assert (await client.get("/openapi.json")).json() == shown
        assert (await client.get("/docs")).status_code == 200
    assert {"/own", "/labels", "/labels/{id}", "/v1/things", "/v1/things/{id}"} <= set(shown["paths"])
    assert {"labels.Row", "v1.things.Create", "concave.Problem"} <= set(shown["components"]["schemas"])


def test_a_document_tells_what_clients_may_see_and_set() -> None:
    hooks = ResourceHooks(on_before_create=lambda ctx, data: data)
    fields = Fields(readable=["id", "name"], filterable=["name"])
    hidden = use_resource(things, session=async_sessionmaker(), fields=fields, hooks=hooks).openapi("/t")
    schemas = hidden["components"]["schemas"]
    assert set(schemas["t.Row"]["properties"]) == {"id", "name"}
    assert "required" not in schemas["t.Create"]  # the hook may supply it
    parameters = {each["name"]: each for each in hidden["paths"]["/t/aggregate"]["get"]["parameters"]}
    assert parameters["groupBy"]["schema"]["items"]["enum"] == ["name"]
    assert "sum" in parameters
    shown = use_resource(things, session=async_sessionmaker()).openapi()
    assert shown["components"]["schemas"]["things.Create"]["required"] == ["name"]
    assert (
        "401"
        in use_resource(things, session=async_sessionmaker(), user=str).openapi("/")["paths"]["/"]["get"][
            "responses"
        ]
    )


async def test_what_a_body_may_be_is_what_is_taken(client: httpx.AsyncClient) -> None:
    plain, patch = {"application/json"}, {"application/json", "application/merge-patch+json"}
    paths = use_resource(words, session=async_sessionmaker()).openapi("/w")["paths"]
    await client.post("", json={"word": "x", "small": 1})
    for method, path, query, body, media_types in (
        ("post", "", "?on_conflict=word", {"word": "y"}, plain),
        ("post", "/batch", "", {"items": []}, plain),
        ("put", "/{id}", "", {"small": 2}, plain),
        ("patch", "/{id}", "", {"small": 3}, patch),
        ("patch", "/batch", "?filter=word==x", {"small": 4}, patch),
    ):
        assert set(paths[f"/w{path}"][method]["requestBody"]["content"]) == media_types
        for media_type in media_types:
            url = path.format(id="x") + query
            headers = {"content-type": media_type}
            answer = await client.request(method, url, content=json.dumps(body), headers=headers)
            assert answer.is_success, answer.text


# What Schemathesis found.


@pytest.fixture(params=["sqlite", "postgresql"])
async def client(request: pytest.FixtureRequest) -> AsyncGenerator[httpx.AsyncClient]:
    if request.param == "sqlite":
        async with _client(create_async_engine("sqlite+aiosqlite://")) as made:
            yield made
        return
    server = request.getfixturevalue("postgres_url")
    async with temporary_database(server) as url, _client(create_async_engine(url)) as made:
        yield made


@asynccontextmanager
async def _client(engine: AsyncEngine) -> AsyncGenerator[httpx.AsyncClient]:
    async with engine.begin() as connection:
        await connection.run_sync(words.metadata.create_all)
    app = Starlette(routes=[use_resource(words, session=async_sessionmaker(engine)).mount("/w")])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test/w") as client:
        yield client
    await engine.dispose()


async def test_an_id_may_have_line_feeds(client: httpx.AsyncClient) -> None:
    for word, path in (("a\nb", "/a%0Ab"), ("\n", "/%0A")):
        created = await client.post("", json={"word": word})
        assert created.status_code == 201, created.text
        assert (await client.get(path)).json()["word"] == word
        assert (await client.delete(path)).status_code == 204
    assert (await client.get("/%0Ab")).headers["content-type"] == "application/problem+json"


async def test_sums_beyond_64_bits(client: httpx.AsyncClient) -> None:
    values = [2**63 - 1, 2**63 - 1, 5, -(2**63), -7, 2**63 - 1, None]
    for at, value in enumerate(values):
        assert (await client.post("", json={"word": str(at), "big": value, "small": at})).status_code == 201

    async def total(filter: str) -> Any:
        found = await client.get("/aggregate", params={"sum": "big,small", "filter": filter})
        assert found.status_code == 200, found.text
        return found.json()["groups"][0]["sum"]

    assert await total("") == {"big": sum(value for value in values if value is not None), "small": 21}
    assert await total("big<0") == {"big": -(2**63) - 7, "small": 7}
    assert await total("big==null") == {"big": None, "small": 6}


async def test_one_point_zero_is_a_whole_number(client: httpx.AsyncClient) -> None:
    created = await client.post("", json={"word": "x", "small": 7.0})
    assert (created.status_code, created.json()["small"]) == (201, 7)
    for wrong in (7.5, "7", True, 1e300):
        assert (await client.patch("/x", json={"small": wrong})).status_code == 422


@pytest.mark.parametrize("query", ["select=", "select=word,", "orderBy=word,,big"])
async def test_an_empty_name_is_no_name(client: httpx.AsyncClient, query: str) -> None:
    assert (await client.get(f"?{query}")).status_code == 400
