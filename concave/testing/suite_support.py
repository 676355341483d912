"""What the store suite's tests have in common: submissions, claims and decisions in few words."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from concave.store.protocol import Store
from concave.store.records import (
    Claim,
    Claimed,
    Decision,
    Die,
    Failure,
    Lease,
    NewTask,
    Query,
    Settlement,
    TaskRecord,
    TaskStatus,
)
from concave.testing.clock import FakeClock

__all__ = [
    "HOUR",
    "LEASE",
    "SECOND",
    "Heard",
    "add",
    "add_in_turn",
    "claim_of",
    "claim_some",
    "complete_all",
    "die",
    "found",
    "ids_of",
    "new_task",
    "new_tasks",
    "record_of",
    "settle",
    "status_of",
    "take",
    "take_one",
]

SECOND = 1_000_000
HOUR = 3600 * SECOND
LEASE = 30 * SECOND
_numbers = itertools.count(1)


def new_task(name: str = "job", **fields: Any) -> NewTask:
    """A submission with an id of its own."""
    given: dict[str, Any] = {"id": f"task-{next(_numbers):08d}", "name": name, "input": b"null", **fields}
    return NewTask(**given)


def new_tasks(count: int, name: str = "job", **fields: Any) -> list[NewTask]:
    """So many submissions that are alike but for their ids."""
    return [new_task(name, **fields) for _ in range(count)]


async def add(store: Store, name: str = "job", **fields: Any) -> str:
    """Add one task; the id that stands for it."""
    (task_id,) = await store.add([new_task(name, **fields)])
    return task_id


async def add_in_turn(
    store: Store, clock: FakeClock, count: int, name: str = "job", **fields: Any
) -> list[str]:
    """Add tasks one after the other, some time apart."""
    ids: list[str] = []
    for _ in range(count):
        clock.advance_micros(1000)
        ids.append(await add(store, name, **fields))
    return ids


def claim_of(names: str = "job", limit: int = 10, **fields: Any) -> Claim:
    """A claim by names, each with its cap behind a colon where it has one: ``"a b:2"``."""
    wanted = tuple((name, int(cap or 0)) for name, _, cap in (each.partition(":") for each in names.split()))
    return Claim("worker-1", wanted, limit, LEASE, f"{next(_numbers):016d}")._replace(**fields)


async def claim_some(store: Store, names: str = "job", limit: int = 10, **fields: Any) -> Claimed:
    """Claim; see `claim_of`."""
    return await store.claim(claim_of(names, limit, **fields))


async def take(store: Store, names: str = "job", limit: int = 10, **fields: Any) -> list[Lease]:
    """Claim; the leases."""
    return (await claim_some(store, names, limit, **fields)).leases


async def take_one(store: Store, names: str = "job", **fields: Any) -> Lease:
    """Claim the one task that there is to claim."""
    (lease,) = await take(store, names, **fields)
    return lease


async def settle(store: Store, lease: Lease, decision: Decision) -> bool:
    """Settle one lease; whether it was accepted."""
    return (await store.settle([Settlement(lease, decision)])).accepted[0]


async def complete_all(store: Store, leases: list[Lease], decision: Decision) -> None:
    """Settle all of these leases alike."""
    settled = await store.settle([Settlement(lease, decision) for lease in leases])
    assert all(settled.accepted)


async def die(store: Store, clock: FakeClock, count: int, **fields: Any) -> list[str]:
    """Add tasks of which each dies a second after the one before; their ids."""
    ids: list[str] = []
    for _ in range(count):
        ids.append(await add(store, **fields))
        await settle(store, await take_one(store), Die("boom", Failure("boom")))
        clock.advance(1)
    return ids


async def record_of(store: Store, task_id: str) -> TaskRecord:
    """A task that there is."""
    task = await store.get(task_id)
    assert task is not None
    return task


async def status_of(store: Store, task_id: str) -> TaskStatus | None:
    """A task's status; None where there is no such task."""
    task = await store.get(task_id)
    return task.status if task else None


async def found(store: Store, **query: Any) -> list[str]:
    """The ids that a query finds."""
    return [record.id for record in await store.find(Query(**query))]


def ids_of(leases: list[Lease]) -> list[str]:
    """Which tasks were leased."""
    return [lease.task.id for lease in leases]


class Heard:
    """What came over a topic. A hint may be repeated, so tests wait for a message and don't count them."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[str | None] = asyncio.Queue()

    def __call__(self, message: str | None) -> None:
        """Take a message."""
        self._messages.put_nowait(message)

    async def until(self, message: str | None) -> None:
        """Wait until this message has come."""
        while await self._messages.get() != message:
            pass

    def forget(self) -> None:
        """Drop what has come so far."""
        while not self._messages.empty():
            self._messages.get_nowait()
