import asyncio
import logging
from typing import Any

from arq.connections import RedisSettings
from arq.worker import Worker

from benchmarks.peers.produce import loop_runner
from benchmarks.peers.record import run_counter
from benchmarks.peers.settings import CONCURRENCY, RESULTS, URL

ran = run_counter()


async def work(ctx: Any, index: int, data: str) -> int:
    ran(index)
    return index


async def main() -> None:
    worker = Worker(
        functions=[work],
        redis_settings=RedisSettings.from_dsn(URL),
        queue_name="arq:queue",
        max_jobs=CONCURRENCY,
        poll_delay=0.005,
        keep_result=86_400 if RESULTS else 0,
        log_results=False,
        handle_signals=False,
    )
    await worker.async_run()


if __name__ == "__main__":
    logging.disable(logging.INFO)
    asyncio.set_event_loop(asyncio.new_event_loop())
    loop_runner()(main())
