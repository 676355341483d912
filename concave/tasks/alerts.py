"""Alerts: a callback for each task that dies, once, from whichever process hears of it first."""

from __future__ import annotations

import asyncio
import inspect
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable

from concave.clock import Micros, Timer
from concave.errors import ConfigurationError, StoreError
from concave.kv.protocol import KV
from concave.store.protocol import DEAD, Listener
from concave.store.records import TaskRecord
from concave.tasks.model import DeadLetterEntry
from concave.tasks.threads import HandlerThreads

__all__ = ["DeadLetterAlerts", "OnDeadLetter", "checked_callback"]

log = logging.getLogger("concave.dead_letters")

OnDeadLetter = Callable[[DeadLetterEntry], Awaitable[object] | object]
"""Called with each new dead letter; a plain function in a thread."""

PAGE = 100
"""Dead letters per look into the store."""
PATIENCE = 60.0
"""Seconds that one callback may take. The alerts behind it wait meanwhile."""
LAST_CALLS = 5.0
"""Seconds that the alerts of what died in the end may take while the process stops."""
CHECK_INTERVAL = 10.0
"""Seconds between looks, should a message be lost."""
OVERLAP: Micros = 60_000_000
"""A look goes this far behind the one before it: a store's clock may have been set back."""
ALERTED_FOR: Micros = 3_600_000_000
"""How long a store remembers who called for a dead letter: longer than any other process takes to hear of it."""


def checked_callback(callback: OnDeadLetter | None) -> OnDeadLetter | None:
    """The callback; raises `ConfigurationError` for what can't be called."""
    if callback is not None and not callable(callback):
        raise ConfigurationError(f"on_dead_letter must be a function, not {callback!r}")
    return callback


class DeadLetterAlerts:
    """Calls `callback` for what dies from `start` to `stop`.

    Of all processes with a callback one calls it: the first to take a lock on the dead letter's id. A process that is
    killed between that and the call takes the alert with it; the dead letter stays.
    """

    def __init__(self, kv: KV, callback: OnDeadLetter) -> None:
        self._kv = kv
        self._callback = callback
        self._threads = HandlerThreads(1, "concave-alerts")
        self._news = asyncio.Event()
        self._stopping = False
        self._start: Micros = 0
        self._since: Micros = 0
        self._seen: dict[str, Micros] = {}
        self._listener: Listener | None = None
        self._main: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin. What died before is nobody's news."""
        self._listener = await self._kv.store.listen(DEAD, lambda _: self._news.set())
        self._start = self._since = await self._kv.store.now()
        self._main = asyncio.create_task(self._run(), name="concave-alerts")

    async def stop(self) -> None:
        """Call for what has died up to now, within some seconds, and end."""
        self._stopping = True
        self._news.set()
        if self._main is not None:
            await asyncio.wait({self._main}, timeout=LAST_CALLS)
            self._main.cancel()
            await asyncio.gather(self._main, return_exceptions=True)
        if self._listener is not None:
            await self._listener.close()
        self._threads.close()

    async def _run(self) -> None:
        while True:
            last = self._stopping
            self._news.clear()
            try:
                await self._look()
            except StoreError as error:
                log.warning("could not look for new dead letters: %s; trying again", error)
            except Exception:  # a watch that has ended without a word is worse than none
                log.exception("could not look for new dead letters; trying again")
            if last:
                return
            await self._wait_for_news()

    async def _wait_for_news(self) -> None:
        timer: Timer = self._kv.clock.call_later(CHECK_INTERVAL, self._news.set)
        try:
            await self._news.wait()
        finally:
            timer.cancel()

    async def _look(self) -> None:
        """Call for what has died since the last look, and forget what no later look will see."""
        latest = self._since
        async for record in self._new():
            died = record.ended_at or 0
            latest = max(latest, died)
            owner = secrets.token_hex(8)  # a new one each time: an owner gets its own lock again
            if await self._kv.store.locks.acquire(f"dead-letter-alert:{record.id}", owner, ALERTED_FOR):
                await self._call(DeadLetterEntry.from_record(record))
            self._seen[record.id] = died
        self._since = latest
        self._seen = {known: died for known, died in self._seen.items() if died >= latest - OVERLAP}

    async def _new(self) -> AsyncIterator[TaskRecord]:
        """What has died since the last look and wasn't called for, the latest first."""
        oldest, offset = max(self._start, self._since - OVERLAP), 0
        while True:
            page = await self._kv.store.dead(PAGE, offset)
            for record in page:
                if (record.ended_at or 0) < oldest:
                    return
                if record.id not in self._seen:
                    yield record
            if len(page) < PAGE:
                return
            offset += PAGE

    async def _call(self, entry: DeadLetterEntry) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                if inspect.iscoroutinefunction(self._callback):
                    await self._callback(entry)
                else:
                    result = await self._threads.run(self._callback, entry)
                    if inspect.isawaitable(result):
                        await result
        except Exception:
            log.exception("on_dead_letter failed for task %s (%s)", entry.task_id, entry.task.name)
