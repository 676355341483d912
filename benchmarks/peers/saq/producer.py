import asyncio
from typing import Any

from benchmarks.peers.produce import main
from benchmarks.peers.saq.queue_ import RETRIES, TTL, new_queue
from benchmarks.peers.settings import DATA


class Producer:
    async def open(self) -> None:
        self.queue = new_queue()
        await self.queue.connect()

    async def close(self) -> None:
        await self.queue.disconnect()

    async def enqueue(self, index: int) -> Any:
        return await self.queue.enqueue("work", index=index, data=DATA, retries=RETRIES, ttl=TTL)

    async def enqueue_many(self, indexes: range) -> None:
        for start in range(0, len(indexes), 100):
            await asyncio.gather(*(self.enqueue(index) for index in indexes[start : start + 100]))

    async def run(self, index: int) -> Any:
        # Of its own ways, `apply` looks every 0.5 s, and `refresh(until_complete)` misses an end between its look and its
        # listening.
        job = await self.enqueue(index)
        while not job.completed:
            await asyncio.sleep(0.001)
            await job.refresh()
        return job.result


if __name__ == "__main__":
    main(Producer())
