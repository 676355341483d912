from typing import Any

from rq import Queue

from benchmarks.peers.produce import main
from benchmarks.peers.rq.tasks import TTL, queue, work
from benchmarks.peers.settings import DATA


class Producer:
    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def enqueue(self, index: int) -> Any:
        return queue.enqueue(work, index, DATA, result_ttl=TTL)

    async def enqueue_many(self, indexes: range) -> None:
        for start in range(0, len(indexes), 1000):
            queue.enqueue_many(
                [
                    Queue.prepare_data(work, (index, DATA), result_ttl=TTL)
                    for index in indexes[start : start + 1000]
                ]
            )

    async def run(self, index: int) -> Any:
        return queue.enqueue(work, index, DATA, result_ttl=TTL).latest_result(timeout=30)


if __name__ == "__main__":
    main(Producer())
