"""No queue at all: what redis-py and asyncio allow. A stream read 100 at a time, a task a job, acknowledged in batches."""

import asyncio
import json

import redis.asyncio as redis

from benchmarks.peers.produce import loop_runner
from benchmarks.peers.record import run_counter
from benchmarks.peers.settings import CONCURRENCY, URL

ran = run_counter()


async def work(data: bytes) -> None:
    ran(json.loads(data)["index"])


async def main() -> None:
    client = redis.Redis.from_url(URL)
    await client.xgroup_create("bench", "workers", id="0", mkstream=True)
    done: list[bytes] = []
    while True:
        async with client.pipeline(transaction=False) as pipe:
            if done:
                pipe.xack("bench", "workers", *done)
                pipe.xdel("bench", *done)
            pipe.xreadgroup("workers", "me", {"bench": ">"}, count=CONCURRENCY, block=None if done else 1000)
            got = (await pipe.execute())[-1]
        jobs = next(iter(got.values()))[0] if isinstance(got, dict) and got else (got[0][1] if got else [])
        done = [job_id for job_id, _ in jobs]
        await asyncio.gather(*(asyncio.create_task(work(fields[b"data"])) for _, fields in jobs))


if __name__ == "__main__":
    loop_runner()(main())
