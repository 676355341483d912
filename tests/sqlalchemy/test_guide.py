"""docs/writes.md: what its requests are said to be answered, they are."""

import json
import re
from typing import Any

import httpx
from sqlalchemy.ext.asyncio import AsyncEngine

from concave_sqlalchemy import create_outbox_tables
from tests.servers.process import ROOT

GUIDE = (ROOT / "docs" / "writes.md").read_text(encoding="utf-8")
EXCHANGES = [
    exchange.strip().splitlines()
    for block in re.findall(r"```http\n(.*?)```", GUIDE, re.DOTALL)
    for exchange in block.split("\n\n")
]


async def test_each_request_of_the_guide_is_answered_as_it_says() -> None:
    (setup,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    app: dict[str, Any] = {"__name__": "guide"}
    exec(setup, app)  # noqa: S102, RUF100  (the guide is ours)
    engine: AsyncEngine = app["engine"]
    async with engine.begin() as connection:
        await connection.run_sync(app["Base"].metadata.create_all)
    await create_outbox_tables(engine)
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
