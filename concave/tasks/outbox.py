"""What an outbox is to those who relay it: a place in a database where submissions wait for the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from concave.store.records import NewTask

__all__ = ["Outbox", "Submit"]

Submit = Callable[[Sequence[NewTask]], Awaitable[list[str]]]
"""Hands submissions to a store. Idempotent by their ids, so that relaying a row twice enqueues once."""


class Outbox(Protocol):
    """Submissions that were committed with a row and may not have reached the store yet."""

    async def sweep(self, submit: Submit) -> int:
        """Relay what a crash, or a store out of reach, left behind; how many rows.

        Rows so young that the process which wrote them is likely to relay them itself may be left to it.
        Any number of sweepers may run at once.
        """
        ...

    async def delivered(self, destination: str) -> bool:
        """Wait until what is being relayed to a store (`TaskScheduler.destination`) right now has reached it, for a moment at most;
        whether there may have been any.
        """
        ...

    async def drain(self) -> None:
        """Wait for what is being relayed right now; called when a process ends."""
        ...
