"""A web process' side: `create_kv` and a scheduler."""

from benchmarks.peers.concave.app import Work, named, work
from benchmarks.peers.produce import main
from benchmarks.peers.settings import DATA, URL
from concave.kv import create_kv
from concave.tasks import TaskScheduler
from concave.tasks.submission import submission


class Producer:
    async def open(self) -> None:
        self.kv = await create_kv(URL)
        self.scheduler = TaskScheduler(self.kv)

    async def close(self) -> None:
        await self.kv.close()

    async def enqueue(self, index: int) -> str:
        return await self.scheduler.enqueue(work, Work(index=index, data=DATA))

    async def enqueue_many(self, indexes: range) -> None:
        tasks = named or [work]
        for offset, task in enumerate(tasks):
            inputs = [Work(index=index, data=DATA) for index in indexes[offset :: len(tasks)]]
            await self.scheduler.enqueue_many(task, inputs)

    async def schedule_many(self, count: int) -> None:
        for start in range(0, count, 10_000):
            numbers = range(start, min(start + 10_000, count))
            await self.scheduler.submit(
                [submission(work, Work(index=number, data=DATA), delay=3600) for number in numbers]
            )

    async def run(self, index: int) -> object:
        return await self.scheduler.wait(await self.enqueue(index), timeout=30)


if __name__ == "__main__":
    main(Producer())
