"""Two relays and four sweepers at the same rows, some killed right after they have sent: each task once."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.chaos import programs
from tests.chaos.fleet import Fleet
from tests.chaos.site import Site
from tests.chaos.tally import Tally, sized
from tests.chaos.waiting import eventually
from tests.servers import RedisServer

ROUNDS = sized(2, 40)
RELAYS = 2
SWEEPERS = 4


@pytest.mark.timeout(900)
async def test_two_relays_and_four_sweepers_make_each_task_once(
    engine: AsyncEngine, tmp_path: Path, redis: RedisServer, fleet: Fleet, report: Callable[[Tally], None]
) -> None:
    site = Site(fleet, engine, redis, tmp_path)
    # Those who run the tasks sweep nothing, so that rows are left to the four.
    fleet.start(programs.teller, url=redis.url, ledger=str(site.ledger.path))
    met = 0
    for number in range(ROUNDS):
        relays = [site.start(fail_point="outbox.sent") for _ in range(RELAYS)]
        # Each holds the rows that it read until all four have read some; then one of them dies once it has sent its own.
        sweepers = [
            site.start(meet=[number, SWEEPERS], fail_point=None if survives else "sweep.sent")
            for survives in range(SWEEPERS)
        ]
        started = await asyncio.gather(*relays, *sweepers)
        killed, stopped = started[: RELAYS + 1], started[RELAYS + 1 :]
        await site.write([url for _, url in started[:RELAYS]], f"round-{number}")
        for each, _ in killed:
            assert await asyncio.to_thread(each.wait) == -signal.SIGKILL
        await eventually(site.outbox_is_empty, "all of the outbox is relayed")
        for each, _ in stopped:
            # Once uvicorn has shut down, it lets the signal that ended it have its way.
            assert await asyncio.to_thread(each.stop) == -signal.SIGTERM
        met += len({entry.pid for entry in site.ledger.entries("met") if entry.number == number})
    account = await site.account()
    assert met == ROUNDS * SWEEPERS
    report(
        Tally(
            f"{RELAYS} relays and {SWEEPERS} sweepers at once ({engine.dialect.name})",
            f"{ROUNDS} rounds, {ROUNDS * RELAYS} relays and {ROUNDS} sweepers killed after sending,"
            f" {account.committed} committed writes",
            lost=account.lost,
            duplicated=account.duplicated,
            figures={
                "tasks": account.found.total(),
                "runs": account.runs.total(),
                "times that all four held what they had read": met // SWEEPERS,
            },
        )
    )
