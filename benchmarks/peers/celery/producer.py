from typing import Any

from benchmarks.peers.celery.tasks import work
from benchmarks.peers.produce import main
from benchmarks.peers.settings import DATA


class Producer:
    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def enqueue(self, index: int) -> Any:
        return work.delay(index, DATA)

    async def enqueue_many(self, indexes: range) -> None:
        for index in indexes:
            work.delay(index, DATA)

    async def run(self, index: int) -> Any:
        return work.delay(index, DATA).get(timeout=30, interval=0.001)


if __name__ == "__main__":
    main(Producer())
