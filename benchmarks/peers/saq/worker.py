import logging
from typing import Any

from saq import Worker

from benchmarks.peers.produce import loop_runner
from benchmarks.peers.record import run_counter
from benchmarks.peers.saq.queue_ import new_queue
from benchmarks.peers.settings import CONCURRENCY

ran = run_counter()


async def work(ctx: Any, *, index: int, data: str) -> int:
    ran(index)
    return index


async def main() -> None:
    queue = new_queue()
    await queue.connect()
    worker = Worker(queue, functions=[work], concurrency=CONCURRENCY)
    await worker.start()


if __name__ == "__main__":
    logging.disable(logging.INFO)
    loop_runner()(main())
