"""A web process is killed between every pair of steps from BEGIN to the outbox row's delete: tasks = committed writes."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from concave.testing import FAIL_POINTS, FailPoint
from tests.chaos.fleet import Fleet
from tests.chaos.site import Site
from tests.chaos.tally import Tally, sized
from tests.servers import RedisServer

STEPS: list[FailPoint] = [point for point in FAIL_POINTS if point.startswith(("write.", "outbox."))]
ROUNDS = sized(1, 12)


@pytest.mark.timeout(900)
async def test_tasks_are_those_of_the_committed_writes_whatever_step_a_web_process_is_killed_at(
    engine: AsyncEngine, tmp_path: Path, redis: RedisServer, fleet: Fleet, report: Callable[[Tally], None]
) -> None:
    site = Site(fleet, engine, redis, tmp_path)
    _, surviving = await site.start(workers=1)
    for number in range(ROUNDS):
        for step in STEPS:
            # What writes share is passed once for many of them: what they send to the store, and the DELETE of their rows.
            after = 0 if step.startswith("outbox.") else random.randrange(4)
            member, url = await site.start(fail_point=step, after=after)
            await site.write([url], f"{step}-{number}")
            assert await asyncio.to_thread(member.wait) == -9, f"it wasn't killed at {step}"
    await _refused(surviving)
    account = await site.account()
    assert account.committed < len(site.tried)
    kills = ROUNDS * len(STEPS)
    report(
        Tally(
            f"web process killed at each of {len(STEPS)} steps ({engine.dialect.name})",
            f"{kills} kills, {len(site.tried)} writes of which {account.committed} committed",
            lost=account.lost,
            duplicated=account.duplicated,
            figures={"tasks": account.found.total(), "runs": account.runs.total()},
        )
    )


async def _refused(url: str) -> None:
    """Writes that are rolled back, by a hook and by the database."""
    async with httpx.AsyncClient(timeout=30) as client:
        assert (await client.post(url, json={"name": "refused"})).status_code == 500
        assert (await client.post(url, json={"name": "write.begun-0-update-0"})).status_code == 409
