"""Relays what outboxes still hold, again and again: what a crash, or a store out of reach, left behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from concave.clock import Clock
from concave.tasks.outbox import Outbox, Submit

__all__ = ["Sweeper"]

log = logging.getLogger("concave.outbox")


class Sweeper:
    """Sweeps outboxes at its start and every `interval` seconds from then on, until it is stopped."""

    def __init__(
        self, outboxes: Callable[[], Iterable[Outbox]], submit: Submit, *, interval: float, clock: Clock
    ) -> None:
        self._outboxes = outboxes
        self._submit = submit
        self._interval = interval
        self._clock = clock
        self._stopping = False
        self._wake = asyncio.Event()
        self._main = asyncio.create_task(self._run(), name="concave-sweeper")

    async def stop(self) -> None:
        """Stop; a sweep that is under way is finished. Twice is harmless."""
        self._stopping = True
        self._wake.set()
        await self._main
        for outbox in self._outboxes():
            await outbox.drain()

    async def _run(self) -> None:
        while not self._stopping:
            for outbox in self._outboxes():
                await self._sweep(outbox)
            timer = self._clock.call_later(self._interval, self._wake.set)
            await self._wake.wait()
            timer.cancel()
            self._wake.clear()

    async def _sweep(self, outbox: Outbox) -> None:
        try:
            relayed = await outbox.sweep(self._submit)
        except (
            Exception
        ) as error:  # a database may fail in any way; the other outboxes, and the next try, must not care
            log.warning("could not sweep %r: %s; trying again in %g s", outbox, error, self._interval)
            log.debug("the failed sweep", exc_info=error)
        else:
            if relayed:
                log.info("relayed %d tasks that had been left in %r", relayed, outbox)
