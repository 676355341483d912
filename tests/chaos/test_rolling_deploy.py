"""Old and new code at once: names that the old doesn't know wait, inputs that it can't read are taken by the new."""

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from concave import Task, TaskScheduler
from concave.kv import RedisKV
from concave.tasks import create_dead_letter_queue
from tests.chaos import programs
from tests.chaos.counting import all_tasks, none_waits
from tests.chaos.fleet import Fleet, Member
from tests.chaos.ledger import Ledger
from tests.chaos.tally import Tally, sized
from tests.chaos.versions import New, Odd, Old, Version, tasks_of
from tests.chaos.waiting import eventually
from tests.servers import RedisServer
from tests.stores.leaks import check_for_leaks

DEPLOYS = sized(1, 20)
EACH = sized(10, 50)
PROCESSES = sized(3, 6)
NAMES: dict[Any, tuple[Version, dict[str, Any]]] = {
    Old: ("old", {"name": "Ada L."}),
    New: ("new", {"first": "Ada", "last": "L."}),
    Odd: ("mended", {"names": ["Ada", "L."]}),
}
"""By the model of an input: who sends such, and what is in it."""


class Web:
    """Enqueues as the web processes of every version would, and looks at what became of that."""

    def __init__(self, scheduler: TaskScheduler) -> None:
        self.tried = 0
        self._scheduler = scheduler

    async def send(self, model: type[Old | New | Odd], name: str) -> list[str]:
        """Some tasks of that name with such inputs; their ids."""
        numbers = range(self.tried, self.tried + EACH)
        self.tried += EACH
        version, names = NAMES[model]
        task = tasks_of(version)[name]
        return await self._scheduler.enqueue_many(task, [model(number=each, **names) for each in numbers])

    async def tasks(self, ids: list[str]) -> list[Task]:
        return [
            task for task in await asyncio.gather(*map(self._scheduler.get_task, ids)) if task is not None
        ]

    async def until(self, status: str, ids: list[str]) -> None:
        async def all_are() -> bool:
            return [task.status for task in await self.tasks(ids)] == [status] * len(ids)

        await eventually(all_are, f"all of these are {status}")

    async def until_tried(self, ids: list[str]) -> None:
        async def all_are() -> bool:
            return all(task.errors for task in await self.tasks(ids))

        await eventually(all_are, "each of these has failed")


@pytest.mark.timeout(900)
async def test_old_and_new_code_at_once_lose_nothing(
    tmp_path: Path, redis: RedisServer, fleet: Fleet, report: Callable[[Tally], None]
) -> None:
    ledger = Ledger(tmp_path / "ledger")

    def start(version: Version) -> Member:
        return fleet.start(programs.greeter, url=redis.url, ledger=str(ledger.path), version=version)

    waited = taken_over = replayed = 0
    async with RedisKV(redis.url, prefix=programs.PREFIX) as kv:
        scheduler, dead = TaskScheduler(kv), create_dead_letter_queue(kv)
        web = Web(scheduler)
        for _ in range(DEPLOYS):
            # The web is new already, the workers are old: they try what they can't read, and leave what they don't know.
            members = [start("old") for _ in range(PROCESSES)]
            unknown, unreadable = await web.send(New, "wave"), await web.send(New, "greet")
            odd, readable = await web.send(Odd, "settle"), await web.send(Old, "greet")
            await web.until("completed", readable)
            await web.until("dead", odd)
            await web.until_tried(unreadable)
            for task in await web.tasks(unreadable):
                assert "TaskInputError: this version of the code can't take the input" in str(task.last_error)
            for task in await web.tasks(unknown):
                assert (task.status, task.attempt, task.errors) == ("pending", 0, ()), task
            waited += len(unknown)

            # All but one of them are replaced, and what both versions send is run: by whichever can.
            sent = [*unknown, *unreadable]
            for index in range(PROCESSES - 1):
                members[index], replaced = start("new"), members[index]
                sent += [
                    *await web.send(Old, "greet"),
                    *await web.send(New, "greet"),
                    *await web.send(New, "wave"),
                ]
                assert await asyncio.to_thread(replaced.stop) == 0
            await web.until("completed", sent)
            taken_over += sum(bool(task.errors) for task in await web.tasks(sent))
            members[-1], replaced = start("new"), members[-1]
            assert await asyncio.to_thread(replaced.stop) == 0

            # What neither could read is in the dead letters, and runs once the code is mended.
            letters = await dead.list(limit=1000)
            assert {entry.task_id for entry in letters} == set(odd)
            assert all("TaskInputError" in entry.reason for entry in letters)
            for index in range(PROCESSES):
                members[index], replaced = start("mended"), members[index]
                assert await asyncio.to_thread(replaced.stop) == 0
            replayed += await dead.retry_all()
            await eventually(lambda: none_waits(scheduler), "what was replayed has run")
            for member in members:
                assert await asyncio.to_thread(member.stop) == 0
        tasks = await all_tasks(scheduler)
    await check_for_leaks(redis.url, programs.PREFIX)
    runs = Counter(entry.number for entry in ledger.entries("greeted"))
    completed = {task.input["number"]: task for task in tasks if task.status == "completed"}
    assert [task for task in tasks if task.name == "wave" and (task.attempt, task.errors) != (1, ())] == []
    report(
        Tally(
            "rolling deploy, old and new code at once",
            f"{DEPLOYS} deploys of {PROCESSES} processes, {web.tried} tasks",
            lost=web.tried - len(completed) + sum(number not in runs for number in range(web.tried)),
            duplicated=len(tasks) - web.tried + sum(count - 1 for count in runs.values()),
            overwritten=sum(task.result != number for number, task in completed.items()),
            figures={
                "of an unknown name waited": waited,
                "tried by those who cannot read them and taken by those who can": taken_over,
                "replayed from the dead letters": replayed,
            },
        )
    )
