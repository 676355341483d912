import asyncio
from typing import Any

from benchmarks.peers.produce import main
from benchmarks.peers.settings import DATA
from benchmarks.peers.taskiq.broker import broker, work


class Producer:
    async def open(self) -> None:
        await broker.startup()

    async def close(self) -> None:
        await broker.shutdown()

    async def enqueue(self, index: int) -> Any:
        return await work.kiq(index=index, data=DATA)

    async def enqueue_many(self, indexes: range) -> None:
        for start in range(0, len(indexes), 100):
            await asyncio.gather(*(self.enqueue(index) for index in indexes[start : start + 100]))

    async def run(self, index: int) -> Any:
        handle = await self.enqueue(index)
        return await handle.wait_result(check_interval=0.001, timeout=30)


if __name__ == "__main__":
    main(Producer())
