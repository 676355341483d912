"""What we add to a web process: time and memory of the imports and of the lifespan's start, over an app's own imports."""

import asyncio
import json
import time
from importlib import import_module
from pathlib import Path

import pydantic
import redis.asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.peers.settings import URL

for name in (
    "sqlalchemy.orm",
    "starlette.applications",
    "starlette.requests",
    "starlette.responses",
    "starlette.routing",
):
    import_module(name)


def resident() -> int:
    """Resident bytes."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024


async def main() -> None:
    # An app has models of its own, and has connected to its database and its Redis.
    pydantic.create_model("Model", field=(int, ...))
    engine = create_async_engine("sqlite+aiosqlite://")
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
    client = redis.asyncio.Redis.from_url(URL)
    await client.ping()  # pyright: ignore[reportGeneralTypeIssues]
    memory, start = resident(), time.perf_counter()

    import concave
    import concave_sqlalchemy

    imported, imported_memory = time.perf_counter(), resident()
    assert concave_sqlalchemy.use_resource is not None
    async with concave.task_lifespan(URL)():
        end, end_memory = time.perf_counter(), resident()
    await client.aclose()
    await engine.dispose()
    print(
        json.dumps(
            {
                "ms": (end - start) * 1e3,
                "mb": (end_memory - memory) / 1e6,
                "import_ms": (imported - start) * 1e3,
                "import_mb": (imported_memory - memory) / 1e6,
            }
        )
    )


asyncio.run(main())
