"""`python -m benchmarks.pages [--records N]`: how long a page of `get_tasks` takes among a million records on Redis.

Twenty names, every status, records of all ages mixed; each filter, near and far pages, and filters together.
"""

import argparse
import asyncio
import json
import secrets
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.statistics import percentile
from concave import define_task
from concave.kv import create_kv
from concave.kv.protocol import KV
from concave.store.records import Cancel, Claim, Complete, Decision, Die, Failure, Lease, Retry, Settlement
from concave.tasks import TaskScheduler
from concave.tasks.submission import submission
from tests.servers import RedisServer
from tests.servers.process import ROOT

LIMIT_MS = 50.0
NAMES = [f"name-{number}" for number in range(20)]
CHUNKS = 20
TASKS = [define_task(name, lambda: None) for name in NAMES]
FAILURE = Failure("ValueError: it went wrong", "Traceback (most recent call last): ...", 1, 0, "bench")
SHARES: Mapping[str, float] = {
    "completed": 0.40,
    "dead": 0.10,
    "cancelled": 0.05,
    "failed": 0.05,
    "scheduled": 0.10,
    "pending": 0.30,
}
HOUR = 3_600_000_000


def decision(number: int, counts: Mapping[str, int]) -> Decision:
    """What becomes of the claimed task number so-and-so of a chunk, by the shares."""
    rest = number
    for status, made in (
        ("completed", Complete(b'{"sent":true}')),
        ("dead", Die("ValueError: it went wrong", FAILURE)),
        ("cancelled", Cancel("not wanted")),
    ):
        if rest < counts[status]:
            return made
        rest -= counts[status]
    return Retry(24 * HOUR, FAILURE)


async def build(kv: KV, records: int) -> datetime:
    """Fill the store; a moment in the middle of it."""
    middle = datetime.now(UTC)
    counts = {status: round(records * share / CHUNKS) for status, share in SHARES.items()}
    ending = sum(counts[status] for status in ("completed", "dead", "cancelled", "failed"))
    for chunk in range(CHUNKS):
        if chunk == CHUNKS // 2:
            middle = datetime.now(UTC)
        await add(kv, ending, priority=50)
        await end(kv, ending, counts)
        await add(kv, counts["scheduled"], priority=50, delay=86_400)
        await add(kv, counts["pending"], priority=10)
        print(f"built {(chunk + 1) * records // CHUNKS:,}", flush=True)
    return middle


async def add(kv: KV, count: int, **options: Any) -> None:
    for start in range(0, count, 500):
        numbers = range(start, min(start + 500, count))
        await kv.store.add(
            [
                submission(TASKS[number % 20], {"index": number, "data": "x" * 75}, **options)
                for number in numbers
            ]
        )


async def end(kv: KV, count: int, counts: Mapping[str, int]) -> None:
    """Claim and settle what was just added: it is of a higher priority than all else that waits."""
    names = tuple((name, 0) for name in NAMES)
    done = 0
    while done < count:
        claim = Claim("bench", names, min(500, count - done), HOUR, secrets.token_hex(8), 0)
        leases: list[Lease] = (await kv.store.claim(claim)).leases
        await kv.store.settle(
            [Settlement(lease, decision(done + number, counts)) for number, lease in enumerate(leases)]
        )
        done += len(leases)


async def run_some(kv: KV, count: int) -> None:
    """Leave some tasks running."""
    names = tuple((name, 0) for name in NAMES)
    await kv.store.claim(Claim("bench", names, count, 24 * HOUR, secrets.token_hex(8), 0))


def filters(middle: datetime, records: int) -> dict[str, dict[str, Any]]:
    """Every filter of `get_tasks`, alone and together."""
    statuses = ("pending", "scheduled", "running", "completed", "failed", "dead", "cancelled")
    window = {"created_after": middle - timedelta(seconds=1), "created_before": middle + timedelta(seconds=1)}
    return {
        "nothing": {},
        **{f"status={status}": {"status": status} for status in statuses},
        "two statuses": {"status": ["completed", "dead"]},
        "name": {"name": "name-7"},
        "ten names": {"name": NAMES[:10]},
        "an unknown name": {"name": "nobody"},
        "name and status": {"name": "name-7", "status": "dead"},
        "created_after": {"created_after": middle},
        "created_before": {"created_before": middle},
        "a window of 2 s": window,
        "a window, name and status": {**window, "name": "name-7", "status": "completed"},
        "created_after all": {"created_after": datetime.now(UTC)},
        "offset=900": {"offset": 900},
        f"offset={records // 2}": {"offset": records // 2},
        f"status=completed, offset={records // 4}": {"status": "completed", "offset": records // 4},
        f"offset={2 * records}": {"offset": 2 * records},
    }


async def measure(url: str, records: int, repeats: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    async with await create_kv(url) as kv:
        start = time.perf_counter()
        middle = await build(kv, records)
        await run_some(kv, 500)
        scheduler = TaskScheduler(kv)
        print(f"built in {time.perf_counter() - start:.0f} s", flush=True)
        for title, query in filters(middle, records).items():
            took: list[float] = []
            found = 0
            for _ in range(repeats):
                start = time.perf_counter()
                found = len(await scheduler.get_tasks(limit=100, **query))
                took.append((time.perf_counter() - start) * 1000)
            rows.append({"filter": title, "found": found, "p50": percentile(took, 50), "max": max(took)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--out", type=Path, default=ROOT / ".bench" / "results" / "pages.json")
    options = parser.parse_args()
    with RedisServer() as server:
        rows = asyncio.run(measure(server.url, options.records, options.repeats))
    print("\n| `get_tasks(limit=100)` by | found | p50 ms | max ms |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row['filter']} | {row['found']} | {row['p50']:.2f} | {row['max']:.2f} |")
    slowest = max(rows, key=lambda row: row["p50"])
    print(f"\nslowest p50: {slowest['p50']:.1f} ms ({slowest['filter']}); must stay under {LIMIT_MS:g} ms")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"records": options.records, "pages": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
