"""Calls are cancelled while their answers are on the way: no other call ever gets such an answer."""

import asyncio
import random
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager

import pytest

from concave.kv import RedisKV
from concave.store.records import NewTask
from tests.chaos.tally import Tally, sized
from tests.servers import ClusterServers, Fault, RedisProxy, RedisServer
from tests.stores.leaks import drop_namespace

PREFIX = "chaos"
CANCELLED = sized(200, 1000)
TASKS = 50
SLOW = 0.01
"""Seconds that each answer takes, so that there is a while in which to cancel."""


@contextmanager
def one_server() -> Generator[str]:
    with RedisServer() as server, RedisProxy(server.port, lambda _: Fault.STALL, stall=SLOW) as proxy:
        yield proxy.url


@contextmanager
def a_cluster() -> Generator[str]:
    with ClusterServers(masters=3) as servers:
        yield servers.url


@pytest.mark.timeout(300)
@pytest.mark.parametrize("servers", [one_server, a_cluster])
async def test_no_call_reads_the_answer_to_one_that_was_cancelled(
    servers: Callable[[], AbstractContextManager[str]], report: Callable[[Tally], None]
) -> None:
    with servers() as url:
        async with RedisKV(url, prefix=PREFIX) as kv:
            names = [f"task-{number}" for number in range(TASKS)]
            await kv.store.add([NewTask(name, "job", f'"{name}"'.encode()) for name in names])
            cancelled = answered = wrong = 0
            while cancelled < CANCELLED:
                asked = random.choices(names, k=16)
                calls = [asyncio.create_task(kv.store.get(name)) for name in asked]
                # Half of them, at some instant between the first step of the calls and their answers.
                for call in random.sample(calls, k=8):
                    for _ in range(random.randrange(12)):
                        await asyncio.sleep(0)
                    call.cancel()
                answers = await asyncio.gather(*calls, return_exceptions=True)
                for name, answer in zip(asked, answers, strict=True):
                    if isinstance(answer, asyncio.CancelledError):
                        cancelled += 1
                    else:
                        assert not isinstance(answer, BaseException | None), answer
                        answered += 1
                        wrong += (answer.id, answer.input) != (name, f'"{name}"'.encode())
        if servers is one_server:
            await drop_namespace(url, PREFIX)
    report(
        Tally(
            f"calls cancelled in flight, {servers.__name__.replace('_', ' ')}",
            f"{cancelled} cancelled among {cancelled + answered}",
            overwritten=wrong,
            figures={"answers read by another call": wrong},
        )
    )
