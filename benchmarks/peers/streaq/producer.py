from typing import Any

from benchmarks.peers.produce import main
from benchmarks.peers.settings import DATA
from benchmarks.peers.streaq.tasks import work, worker


class Producer:
    async def open(self) -> None:
        await worker.__aenter__()

    async def close(self) -> None:
        await worker.__aexit__(None, None, None)

    async def enqueue(self, index: int) -> Any:
        return await work.enqueue(index, DATA)

    async def enqueue_many(self, indexes: range) -> None:
        await worker.enqueue_many([work.enqueue(index, DATA) for index in indexes])

    async def run(self, index: int) -> Any:
        task = await self.enqueue(index)
        return await task.result(30)


if __name__ == "__main__":
    main(Producer())
