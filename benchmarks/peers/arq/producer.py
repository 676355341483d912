import asyncio
from typing import Any

from arq.connections import RedisSettings, create_pool

from benchmarks.peers.produce import main
from benchmarks.peers.settings import DATA, URL


class Producer:
    async def open(self) -> None:
        self.pool = await create_pool(RedisSettings.from_dsn(URL))

    async def close(self) -> None:
        await self.pool.aclose()

    async def enqueue(self, index: int) -> Any:
        return await self.pool.enqueue_job("work", index, DATA)

    async def enqueue_many(self, indexes: range) -> None:
        for start in range(0, len(indexes), 100):
            await asyncio.gather(*(self.enqueue(index) for index in indexes[start : start + 100]))

    async def run(self, index: int) -> Any:
        job = await self.enqueue(index)
        return await job.result(timeout=30, poll_delay=0.001)


if __name__ == "__main__":
    main(Producer())
