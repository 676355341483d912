import logging
from datetime import timedelta

from docket import Worker

from benchmarks.peers.docket.tasks import new_docket
from benchmarks.peers.produce import loop_runner
from benchmarks.peers.settings import CONCURRENCY


async def main() -> None:
    interval = timedelta(milliseconds=2)
    async with (
        new_docket() as docket,
        Worker(docket, concurrency=CONCURRENCY, minimum_check_interval=interval) as worker,
    ):
        await worker.run_forever()


if __name__ == "__main__":
    logging.disable(logging.INFO)
    loop_runner()(main())
