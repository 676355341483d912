import logging

from taskiq.api import run_receiver_task

from benchmarks.peers.produce import loop_runner
from benchmarks.peers.settings import CONCURRENCY
from benchmarks.peers.taskiq.broker import broker


async def main() -> None:
    await broker.startup()
    await run_receiver_task(
        broker, max_async_tasks=CONCURRENCY, max_prefetch=2 * CONCURRENCY, validate_params=False
    )


if __name__ == "__main__":
    logging.disable(logging.INFO)
    loop_runner()(main())
