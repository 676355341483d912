import json
from typing import Any

import redis.asyncio as redis

from benchmarks.peers.produce import main
from benchmarks.peers.settings import DATA, URL


class Producer:
    async def open(self) -> None:
        self.client = redis.Redis.from_url(URL)

    async def close(self) -> None:
        await self.client.aclose()

    async def enqueue(self, index: int) -> Any:
        return await self.client.xadd("bench", {"data": json.dumps({"index": index, "data": DATA})})

    async def enqueue_many(self, indexes: range) -> None:
        for start in range(0, len(indexes), 500):
            async with self.client.pipeline(transaction=False) as pipe:
                for index in indexes[start : start + 500]:
                    pipe.xadd("bench", {"data": json.dumps({"index": index, "data": DATA})})
                await pipe.execute()

    async def run(self, index: int) -> Any:
        raise NotImplementedError


if __name__ == "__main__":
    main(Producer())
