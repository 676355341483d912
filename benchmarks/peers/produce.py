"""What a producer process under measure does; each peer brings a `Producer`.

Runs in every peer's own environment, so it needs the standard library alone. It prints its figures as one line of JSON.
Synchronous clients block within their `async def`: here nothing else wants the loop.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

PICKUP_PAUSE = 0.02


class Producer(Protocol):
    """A client of a queue. Methods that a peer can't offer are not called: see the catalogue."""

    async def open(self) -> None: ...
    async def close(self) -> None: ...

    async def enqueue(self, index: int) -> Any:
        """Enqueue one task."""

    async def enqueue_many(self, indexes: range) -> Any:
        """The peer's bulk call, or the quickest way that it has."""

    async def run(self, index: int) -> Any:
        """Enqueue one task and wait for its result, with what the peer offers for that."""


Figures = dict[str, Any]


async def fill(producer: Producer, count: int) -> Figures:
    """Enqueue `count` tasks however that is done quickest."""
    start, cpu = time.perf_counter(), time.process_time()
    await producer.enqueue_many(range(count))
    return _timed(count, start, cpu)


async def fill_delayed(producer: Any, count: int) -> Figures:
    """Tasks that fall due in an hour: of ours alone."""
    start, cpu = time.perf_counter(), time.process_time()
    await producer.schedule_many(count)
    return _timed(count, start, cpu)


async def one_by_one(producer: Producer, count: int) -> Figures:
    """Enqueue, each after the last has been confirmed."""
    await producer.enqueue(0)
    start, cpu = time.perf_counter(), time.process_time()
    for index in range(count):
        await producer.enqueue(index)
    return _timed(count, start, cpu)


async def in_flight(producer: Producer, count: int, width: int = 100) -> Figures:
    """`width` coroutines that each enqueue one after the other."""

    async def client(first: int) -> None:
        for index in range(first, count, width):
            await producer.enqueue(index)

    await asyncio.gather(*(producer.enqueue(0) for _ in range(width)))
    start, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client(first) for first in range(width)))
    return _timed(count, start, cpu)


async def pickup(producer: Producer, count: int) -> Figures:
    """One task every 20 ms; when each call was made, for the harness to set against when it ran."""
    sent: list[int] = []
    for index in range(count):
        await asyncio.sleep(PICKUP_PAUSE)
        sent.append(time.monotonic_ns())
        await producer.enqueue(index)
    return {"sent": sent}


async def round_trip(producer: Producer, count: int) -> Figures:
    """Enqueue and wait for the result, one after the other; ns each."""
    for index in range(10):
        await producer.run(index)
    took: list[int] = []
    for index in range(count):
        start = time.monotonic_ns()
        await producer.run(index)
        took.append(time.monotonic_ns() - start)
    return {"took": took}


WAYS: dict[str, Callable[[Producer, int], Awaitable[Figures]]] = {
    "fill": fill,
    "fill_delayed": fill_delayed,
    "one_by_one": one_by_one,
    "in_flight": in_flight,
    "pickup": pickup,
    "round_trip": round_trip,
}


def main(producer: Producer) -> None:
    """`producer.py WAY COUNT`."""
    way, count = WAYS[sys.argv[1]], int(sys.argv[2])

    async def run() -> None:
        await producer.open()
        try:
            print(json.dumps(await way(producer, count)))
        finally:
            await producer.close()

    loop_runner()(run())


def loop_runner() -> Callable[[Any], Any]:
    """`asyncio.run`, or uvloop's where the peer's environment has it."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run
    return uvloop.run


def _timed(count: int, start: float, cpu: float) -> Figures:
    return {"count": count, "seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
