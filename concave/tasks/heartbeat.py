"""Leases are renewed from a thread with an event loop and a connection of its own.

A handler that blocks the worker's loop would otherwise lose its lease and be run a second time while it still runs.
While the worker's loop answers, every lease it holds is renewed. While it doesn't, the thread holds each lease to its
task's timeout plus a grace, and says which tasks were running; no longer, since a loop that never comes back is a
worker that has died.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping

from concave.clock import Clock, sleep
from concave.errors import StoreError
from concave.kv.protocol import KV
from concave.tasks.executor import Run

__all__ = ["Heartbeat"]

log = logging.getLogger("concave.worker")

BLOCKED_GRACE = 10.0
"""Seconds past a task's timeout for which its lease is held while the loop is blocked."""


class Heartbeat:
    """Renews the leases of `runs`, a mapping that the worker's loop alone changes."""

    def __init__(
        self, kv: KV, runs: Mapping[str, Run], *, every: float, lease: float, on_lost: Callable[[str], None]
    ) -> None:
        self._kv = kv
        self._clock: Clock = kv.clock
        self._runs = runs
        self._every = every
        self._lease = lease
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._answered = True
        self._stop: Callable[[], None] = _nothing
        self._on_ready: Callable[[], object] = _nothing
        self._thread = threading.Thread(target=self._main, name="concave-heartbeat", daemon=True)

    async def start(self) -> None:
        """Start the thread; returns when it can be stopped."""
        ready: asyncio.Future[None] = self._loop.create_future()
        self._on_ready = lambda: self._loop.call_soon_threadsafe(ready.set_result, None)
        self._thread.start()
        await ready

    async def stop(self) -> None:
        """Stop the thread and wait for its end."""
        self._stop()
        while self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def _main(self) -> None:
        asyncio.run(self._beat_until_stopped())

    async def _beat_until_stopped(self) -> None:
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()
        self._stop = lambda: None if loop.is_closed() else _quietly(loop, stopped.set)
        beating = asyncio.create_task(self._beat())
        self._on_ready()
        await stopped.wait()
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)

    async def _beat(self) -> None:
        kv = self._kv.twin()
        pause = self._every
        try:
            while True:
                await sleep(self._clock, pause)
                pause = self._every
                runs = self._to_renew()
                try:
                    await self._renew(kv, runs)
                except StoreError as error:
                    # Sooner than the next beat: a lease is long enough for a few tries, not for a few beats.
                    pause = min(self._every, 1.0)
                    log.warning("heartbeat: could not renew %d leases: %s", len(runs), error)
        finally:
            await kv.close()

    async def _renew(self, kv: KV, runs: list[Run]) -> None:
        if not runs:
            return
        await kv.connect()
        held = await kv.store.extend([run.lease for run in runs], round(self._lease * 1_000_000))
        for run, still_held in zip(runs, held, strict=True):
            if not still_held:
                _quietly(self._loop, self._on_lost, run.lease.task.id)

    def _to_renew(self) -> list[Run]:
        """The runs whose leases go on, by whether the worker's loop has answered since the last beat."""
        runs = list(self._runs.values())
        blocked, self._answered = not self._answered, False
        _quietly(self._loop, self._answer)
        if not blocked or not runs:
            return runs
        log.warning(
            "the event loop has been blocked for at least %.1f s; running: %s",
            self._every,
            ", ".join(sorted({f"{run.definition.name} ({run.lease.task.id})" for run in runs})),
        )
        now = self._clock.monotonic()
        return [
            run
            for run in runs
            if now < run.started + (run.definition.timeout or float("inf")) + BLOCKED_GRACE
        ]

    def _answer(self) -> None:
        self._answered = True


def _nothing() -> None:
    pass


def _quietly(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: object) -> None:
    """Call on another thread's loop, unless that loop has ended in the meantime."""
    try:
        loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:
        if not loop.is_closed():
            raise
