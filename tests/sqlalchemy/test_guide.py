"""docs/writes.md: what its requests are said to be answered, they are."""

import json
import re
from typing import Any

import httpx
from fastapi import APIRouter, Depends, FastAPI, HTTPException
from sqlalchemy.ext.asyncio import AsyncEngine

from concave_sqlalchemy import create_outbox_tables
from tests.servers.process import ROOT

GUIDE = (ROOT / "docs" / "writes.md").read_text(encoding="utf-8")
EXCHANGES = [
    exchange.strip().splitlines()
    for block in re.findall(r"```http\n(.*?)```", GUIDE, re.DOTALL)
    for exchange in block.split("\n\n")
]


async def guide() -> dict[str, Any]:
    """What the guide's Python makes."""
    app: dict[str, Any] = {"__name__": "guide"}
    for code in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL):
        exec(code, app)  # noqa: S102, RUF100  (the guide is ours)
    engine: AsyncEngine = app["engine"]
    async with engine.begin() as connection:
        await connection.run_sync(app["Base"].metadata.create_all)
    await create_outbox_tables(engine)
    return app


async def test_each_request_of_the_guide_is_answered_as_it_says() -> None:
    app = await guide()
    engine: AsyncEngine = app["engine"]
    transport = httpx.ASGITransport(app=app["app"])
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for first, *headers, wanted in EXCHANGES:
            method, path, *body = first.split(" ", 2)
            answer = await client.request(
                method,
                path,
                content=body[0] if body else None,
                headers={
                    "content-type": "application/json",
                    **dict(header.split(": ", 1) for header in headers),
                },
            )
            status, _, row = wanted.removeprefix("→ ").partition(" ")
            assert answer.status_code == int(status), (first, answer.text)
            if row:
                assert answer.json() == json.loads(row), first
    await engine.dispose()
    assert len(EXCHANGES) > 5


async def test_what_guards_a_resource_in_fastapi_and_what_does_not() -> None:
    app = await guide()

    def deny() -> None:
        raise HTTPException(401)

    depending = FastAPI(dependencies=[Depends(deny)])
    depending.get("/native")(lambda: None)
    router = APIRouter(dependencies=[Depends(deny)])
    for name in ("guarded", "notes"):
        depending.router.routes.append(app[name].mount(f"/{name}"))
        router.routes.append(app[name].mount(f"/{name}"))
    depending.include_router(router, prefix="/v1", dependencies=[Depends(deny)])

    async def statuses(of: Any, *paths: str, **headers: str) -> list[int]:
        transport = httpx.ASGITransport(app=of)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
            return [(await client.get(path)).status_code for path in paths]

    # If FastAPI comes to guard what is mounted, then this is to be told.
    assert await statuses(depending, "/native", "/notes") == [401, 200]
    assert await statuses(depending, "/guarded", "/guarded/1", "/guarded/count") == [401] * 3
    # An old FastAPI drops every mount of an included router.
    assert await statuses(depending, "/v1/notes", "/v1/guarded") in ([200, 401], [404, 404])
    assert await statuses(app["api"], "/notes", "/notes/count", authorization="Bearer secret") == [200, 200]
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app["api"]), base_url="http://test"
    ) as client:
        refused = await client.get("/notes")
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert refused.json()["detail"] == "sign in first"
        assert (await client.post("/notes", json={})).status_code == 401
    await app["engine"].dispose()
