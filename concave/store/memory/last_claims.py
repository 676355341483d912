"""What was claimed last on each line of each start of a worker: that claim may be sent again, and those before it may come late."""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

from concave.clock import Micros
from concave.store.memory.entry import Entry
from concave.store.records import Claim

__all__ = ["LastClaim", "LastClaims"]

LATEST: Final = 900_000_000
"""Microseconds for which a claim is known at least, as in the other stores. Nothing holds back what is on its way to this one."""


_Line: TypeAlias = tuple[str, str, int]


class LastClaim(NamedTuple):
    """A claim that was carried out, and what it leased."""

    nonce: str
    number: int
    entries: list[Entry]
    until: Micros

    def has_overtaken(self, claim: Claim) -> bool:
        """Whether a claim on the same line comes too late: nobody waits for it any more."""
        return claim.number < self.number

    def is_repeated_by(self, claim: Claim) -> bool:
        """Whether it is this one again. Under its nonce something else may be asked, as long as it leased nothing."""
        return claim.nonce == self.nonce and (claim.number == self.number or bool(self.entries))


class LastClaims:
    """By worker, start and line; who is gone is forgotten."""

    def __init__(self) -> None:
        self._known: dict[_Line, LastClaim] = {}

    def before(self, claim: Claim) -> LastClaim | None:
        """What was claimed on this claim's line before it, or is claimed by it once more."""
        return self._known.get(_line_of(claim))

    def remember(self, claim: Claim, taken: list[Entry], now: Micros) -> None:
        """Know a claim. One that isn't counted and leased nothing need not be."""
        if not taken and claim.number == 0:
            return
        line = _line_of(claim)
        if line not in self._known:
            for gone in [known for known, last in self._known.items() if last.until <= now]:
                del self._known[gone]
        self._known[line] = LastClaim(claim.nonce, claim.number, taken, now + max(claim.lease, LATEST))


def _line_of(claim: Claim) -> _Line:
    # Workers may share an id: replicas of one deployment, say. What the nonces of counted claims begin with is of one start alone.
    return claim.worker_id, claim.nonce[:8] if claim.number else "", claim.line
