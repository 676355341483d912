"""streaQ: Redis streams; acknowledged when finished, claimed from the dead after `idle_timeout`."""

from streaq import Worker

from benchmarks.peers.record import run_counter
from benchmarks.peers.settings import CONCURRENCY, RESULTS, URL

ran = run_counter()
worker = Worker(redis_url=URL, concurrency=CONCURRENCY, prefetch=4 * CONCURRENCY)


@worker.task(silent=True, ttl=86_400 if RESULTS else 0)
async def work(index: int, data: str) -> int:
    ran(index)
    return index
