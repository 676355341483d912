"""Outbox rows whose tasks the store has, until they are deleted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, TypeAlias

__all__ = ["Relayed"]

log = logging.getLogger("concave.outbox")

LINGER: Final = 0.5
"""Seconds that rows gather before one DELETE takes them all: a transaction each would double what a write costs."""

SPARED: Final = 0.5
"""Seconds for which that is then left to a write, which has a connection and a transaction."""

ALONG: Final = 500
"""Rows that one write deletes, so that its request isn't the slower for it."""

Spawn: TypeAlias = Callable[[Coroutine[Any, Any, None]], object]


class Relayed:
    """The rows of one event loop: writes take them along, and what none of them takes is deleted in the background."""

    def __init__(self, delete: Callable[[Sequence[str]], Awaitable[None]], spawn: Spawn) -> None:
        self._delete = delete
        self._spawn = spawn
        self._loop = asyncio.get_running_loop()
        self._ids: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._left_to_writes = False

    def add(self, ids: Sequence[str]) -> None:
        """The store has taken these tasks."""
        self._ids += ids
        if self._timer is None:
            self._timer = self._loop.call_later(LINGER, self._leave_to_writes)

    def take(self) -> Sequence[str]:
        """Rows for a write to delete. They are its own from now on: where it fails, they are swept up."""
        if not self._left_to_writes:
            return ()
        taken, self._ids = self._ids[:ALONG], self._ids[ALONG:]
        if not self._ids:
            self._end()
        return taken

    def delete_now(self) -> None:
        """Delete what there is, in the background."""
        self._end()
        ids, self._ids = self._ids, []
        if ids:
            self._spawn(self._delete_rows(ids))

    def _leave_to_writes(self) -> None:
        self._left_to_writes = True
        self._timer = self._loop.call_later(SPARED, self.delete_now)

    def _end(self) -> None:
        self._left_to_writes = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _delete_rows(self, ids: Sequence[str]) -> None:
        try:
            await self._delete(ids)
        except Exception as error:  # noqa: BLE001  the rows stay, and are swept up: whatever is wrong with the database, nothing is lost
            log.warning("%d relayed rows could not be deleted yet: %s", len(ids), error)
