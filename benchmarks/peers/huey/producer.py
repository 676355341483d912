from typing import Any

from benchmarks.peers.huey.tasks import work
from benchmarks.peers.produce import main
from benchmarks.peers.settings import DATA


class Producer:
    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def enqueue(self, index: int) -> Any:
        return work(index, DATA)

    async def enqueue_many(self, indexes: range) -> None:
        for index in indexes:
            work(index, DATA)

    async def run(self, index: int) -> Any:
        return work(index, DATA).get(blocking=True, timeout=30)


if __name__ == "__main__":
    main(Producer())
