"""The signal that says stop: set once, seen everywhere."""

import asyncio
import threading

import pytest

from concave import TaskAbortedError
from concave.tasks import AbortSignal


def test_it_is_not_set_until_it_is() -> None:
    signal = AbortSignal()
    assert (signal.aborted, signal.reason) == (False, None)
    assert not signal.wait_in_thread(0)
    signal.raise_if_aborted()


def test_the_first_reason_stands() -> None:
    signal = AbortSignal()
    assert signal.abort("first")
    assert not signal.abort("second")
    assert (signal.aborted, signal.reason) == (True, "first")
    assert signal.wait_in_thread()
    with pytest.raises(TaskAbortedError, match="first"):
        signal.raise_if_aborted()


async def test_it_wakes_whoever_waits_on_any_loop_and_in_any_thread() -> None:
    signal, ready = AbortSignal(), threading.Semaphore(0)
    heard: list[object] = []

    def in_thread() -> None:
        ready.release()
        heard.append(signal.wait_in_thread(60))

    async def on_another_loop() -> None:
        waiting = asyncio.create_task(signal.wait())
        await asyncio.sleep(0)
        ready.release()
        heard.append(await waiting)

    threads = [
        threading.Thread(target=in_thread),
        threading.Thread(target=in_thread),
        threading.Thread(target=lambda: asyncio.run(on_another_loop())),
    ]
    for thread in threads:
        thread.start()
        await asyncio.to_thread(ready.acquire)
    here = asyncio.create_task(signal.wait())
    await asyncio.sleep(0)
    await asyncio.to_thread(signal.abort, "now")
    assert await here == "now"
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert sorted(map(str, heard)) == ["True", "True", "now"]
    assert await signal.wait() == "now"


async def test_a_waiter_that_left_is_forgotten() -> None:
    signal = AbortSignal()
    leaving, staying = asyncio.create_task(signal.wait()), asyncio.create_task(signal.wait())
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.sleep(0)
    signal.abort("x")
    leaving_too = asyncio.create_task(signal.wait())
    assert await staying == "x"
    assert await leaving_too == "x"
    assert leaving.cancelled()
    assert signal._waiters == []


async def test_a_waiter_that_is_cancelled_as_it_is_set_hears_nothing_more() -> None:
    signal = AbortSignal()
    waiting = asyncio.create_task(signal.wait())
    await asyncio.sleep(0)
    signal.abort("x")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


def test_a_loop_that_has_ended_is_passed_over() -> None:
    signal = AbortSignal()
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(signal.wait())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert signal.abort("late")
    del waiting
