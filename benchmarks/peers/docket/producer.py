from typing import Any

from benchmarks.peers.docket.tasks import new_docket, work
from benchmarks.peers.produce import main
from benchmarks.peers.settings import DATA


class Producer:
    async def open(self) -> None:
        self.docket = new_docket()
        await self.docket.__aenter__()

    async def close(self) -> None:
        await self.docket.__aexit__(None, None, None)

    async def enqueue(self, index: int) -> Any:
        return await self.docket.add(work)(index=index, data=DATA)

    async def enqueue_many(self, indexes: range) -> None:
        await self.docket.add_many(self.docket.call(work)(index=index, data=DATA) for index in indexes)

    async def run(self, index: int) -> Any:
        execution = await self.enqueue(index)
        return await execution.get_result()


if __name__ == "__main__":
    main(Producer())
