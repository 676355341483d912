"""A line from a worker to the store: one exchange at a time, and a claim that is made again until it is answered.

A claim that found nothing may stand: the store answers it later, at the worker's desk, with what comes along.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from concave.failpoints import armed, reach
from concave.kv.protocol import KV
from concave.store.records import NOTHING_CLAIMED, Claim, Claimed, Lease
from concave.tasks.outcomes import Outcome, Outcomes

__all__ = ["Line"]

LONGEST_BACKOFF = 5.0


class Line:
    """Settles and claims, together. The store remembers the last claim of each line of a worker, by its number."""

    __slots__ = (
        "_answer",
        "_kv",
        "_outcomes",
        "_since",
        "aborted",
        "failures",
        "number",
        "standing",
        "talks",
        "unanswered",
        "wake",
    )

    def __init__(self, number: int, kv: KV, outcomes: Outcomes) -> None:
        self.number = number
        self._kv = kv
        self._outcomes = outcomes
        self.wake = asyncio.Event()
        self.talks = False
        self.unanswered: Claim | None = None
        """Under way, or without an answer: it may have been carried out."""
        self.standing: Claim | None = None
        """It found nothing, and the store may answer it yet: made again, it is to be the same, nonce and all."""
        self._since = 0.0
        """What the open claim leases, it leases after this, by the monotonic clock."""
        self._answer: tuple[str, Sequence[Lease]] | None = None
        self.aborted: set[str] = set()
        """Tasks that were told to stop before the claim was answered that may have leased them."""
        self.failures = 0

    @property
    def open(self) -> Claim | None:
        """The claim that may lease something yet."""
        return self.unanswered or self.standing

    async def exchange(self, batch: list[Outcome], claim: Claim | None) -> Claimed:
        """Settle a batch and carry out a claim, in one step of the store. What fails is to be sent again."""
        sent = self._kv.clock.monotonic()
        if self.open is None:
            self._since = sent
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
            answer, self._answer = self._answer, None
        if claim is not None:
            if armed and claimed.leases:
                await reach("worker.claimed")
            self.unanswered, self._since = None, sent
            # For the store to say: a claim that leased what nobody can read is answered, and would be so again and again.
            self.standing = claim if claimed.stands else None
        # Where both tell of leases, they are the same ones: a nonce leases once.
        late = () if answer is None or claimed.leases else self.take(*answer)
        return Claimed(list(late)) if late else claimed

    def take(self, nonce: str, leases: Sequence[Lease]) -> Sequence[Lease]:
        """What the store answered at the desk; empty for an answer to another claim, or one that is known already.

        During an exchange it is put aside: that one may be about the same claim, and tell the same. One that a loop hears
        late, since it was blocked or its process frozen, may be of leases that are over: the claim made again says which aren't.
        """
        if self.talks:
            self._answer = nonce, leases
            return ()
        claim = self.open
        if claim is None or claim.nonce != nonce:
            return ()
        if self._kv.clock.monotonic() - self._since > claim.lease / 2_000_000:
            self.wake.set()
            return ()
        self.unanswered = self.standing = None
        return leases

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
