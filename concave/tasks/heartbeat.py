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
from collections.abc import Callable

from concave.clock import Clock, sleep
from concave.errors import StoreError
from concave.kv.protocol import KV
from concave.tasks.executor import Run
from concave.tasks.runs import Runs
from concave.tasks.threads import call_on

__all__ = ["BLOCKED_GRACE", "Heartbeat"]

log = logging.getLogger("concave.worker")

NAMED = 10
"""Tasks that a warning names: first the one that blocks, where it is one of them."""
BLOCKED_GRACE = 10.0
"""Seconds past a task's timeout for which its lease is held while the loop is blocked."""


class Heartbeat:
    """Renews the leases of `runs`, which the worker's loop alone changes."""

    def __init__(self, kv: KV, runs: Runs, *, every: float, lease: float) -> None:
        self._kv = kv.twin()
        self._clock: Clock = kv.clock
        self._runs = runs
        self._every = every
        self._lease = lease
        self._loop = asyncio.get_running_loop()
        self._answered = True
        self._stopping = False
        self._stop: Callable[[], None] = lambda: None
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._main, name="concave-heartbeat", daemon=True)

    async def start(self) -> None:
        """Start the thread; returns when it can be stopped."""
        self._thread.start()
        await self._started

    async def stop(self) -> None:
        """Stop the thread and wait for its end."""
        self._stopping = True
        self._stop()
        while self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def _main(self) -> None:
        try:
            asyncio.run(self._beat_until_stopped())
        except BaseException as error:  # no loop to be had, say: too many files are open
            call_on(self._loop, self._has_started, error)

    def _has_started(self, error: BaseException | None = None) -> None:
        if self._started.done():
            return
        if error is None:
            self._started.set_result(None)
        else:
            self._started.set_exception(error)

    async def _beat_until_stopped(self) -> None:
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()
        self._stop = lambda: call_on(loop, stopped.set)
        # A start that was called off: `stop` may have come before there was anything to call.
        if self._stopping:
            stopped.set()
        beating = asyncio.create_task(self._beat(stopped))
        call_on(self._loop, self._has_started)
        await stopped.wait()
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        await self._kv.close()

    async def _beat(self, stopped: asyncio.Event) -> None:
        pause = self._every
        # Being cancelled is not enough: `asyncio.wait_for`, somewhere in a driver, can swallow it before Python 3.12.
        while not stopped.is_set():
            await sleep(self._clock, pause)
            try:
                await self._renew(self._to_renew())
                pause = self._every
            except Exception as error:
                # Sooner than the next beat: a lease is long enough for a few tries, not for a few beats.
                pause = min(self._every, 1.0)
                unexpected = error if not isinstance(error, StoreError) else None
                log.warning("heartbeat: could not renew leases: %s", error, exc_info=unexpected)

    async def _renew(self, runs: list[Run]) -> None:
        if not runs:
            return
        await self._kv.connect()
        extended = await self._kv.store.extend([run.lease for run in runs], round(self._lease * 1_000_000))
        for run, outcome in zip(runs, extended, strict=True):
            if outcome == "lost":
                call_on(self._loop, self._runs.lose, run)
            elif outcome == "aborted":  # the message that says so at once may have been lost
                call_on(self._loop, run.stop, "cancelled", "cancelled")

    def _to_renew(self) -> list[Run]:
        """The runs whose leases go on, by whether the worker's loop has answered since the last beat."""
        runs = self._runs.to_renew
        blocked, self._answered = not self._answered, False
        call_on(self._loop, self._answer)
        if not blocked or not runs:
            return runs
        # Seen from this thread: the task that its loop is at just now.
        at = asyncio.current_task(self._loop)
        runs.sort(key=lambda run: run.task is not at)
        named = ", ".join(f"{run.definition.name} ({run.lease.task.id})" for run in runs[:NAMED])
        more = f" and {len(runs) - NAMED} more" if len(runs) > NAMED else ""
        log.warning(
            "the event loop has been blocked for at least %.1f s, now by %s; running: %s%s",
            self._every, "a callback" if at is None else at.get_name(), named, more,
        )  # fmt: skip
        now = self._clock.monotonic()
        return [
            run
            for run in runs
            if now < run.started + (run.definition.timeout or float("inf")) + BLOCKED_GRACE
        ]

    def _answer(self) -> None:
        self._answered = True
