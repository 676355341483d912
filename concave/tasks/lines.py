"""A line from a worker to the store: one exchange at a time, and a claim that is made again until it is answered."""

from __future__ import annotations

import asyncio
import random

from concave.failpoints import armed, reach
from concave.kv.protocol import KV
from concave.store.records import NOTHING_CLAIMED, Claim, Claimed
from concave.tasks.outcomes import Outcome, Outcomes

__all__ = ["Line"]

LONGEST_BACKOFF = 5.0


class Line:
    """Settles and claims, together. The store remembers the last claim of each line of a worker, by its number."""

    __slots__ = ("_kv", "_outcomes", "aborted", "failures", "number", "talks", "unanswered", "wake")

    def __init__(self, number: int, kv: KV, outcomes: Outcomes) -> None:
        self.number = number
        self._kv = kv
        self._outcomes = outcomes
        self.wake = asyncio.Event()
        self.talks = False
        self.unanswered: Claim | None = None
        """Under way, or without an answer: it may have been carried out."""
        self.aborted: set[str] = set()
        """Tasks that were told to stop before the claim was answered that may have leased them."""
        self.failures = 0

    async def exchange(self, batch: list[Outcome], claim: Claim | None) -> Claimed:
        """Settle a batch and carry out a claim, in one step of the store. What fails is to be sent again."""
        self.unanswered = claim or self.unanswered
        self.talks = True
        try:
            claimed = await self._settle_and_claim(batch, claim)
            self.failures = 0
        except Exception as error:
            self.failures += 1
            self._outcomes.failed(batch, error)
            raise
        finally:
            self.talks = False
        if claim is not None:
            if armed and claimed.leases:
                await reach("worker.claimed")
            self.unanswered = None
        return claimed

    async def _settle_and_claim(self, batch: list[Outcome], claim: Claim | None) -> Claimed:
        if not batch:
            return NOTHING_CLAIMED if claim is None else await self._kv.store.claim(claim)
        settlements = [outcome.settlement for outcome in batch]
        accepted, claimed = await self._kv.store.settle(settlements, claim)
        if armed:
            await reach("worker.settled")
        self._outcomes.answered(batch, accepted)
        return claimed

    @property
    def pause(self) -> float:
        """Seconds to wait after a failure: the longer, the more there were in a row."""
        return min(LONGEST_BACKOFF, 0.05 * 2.0 ** min(self.failures, 10)) * random.uniform(0.5, 1.0)
