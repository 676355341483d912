"""Outcomes on their way to the store. None is dropped that the store may yet take, and none holds up the others."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from concave.errors import ConcaveError, StoreFullError, StoreUnavailableError
from concave.store.records import Decision, Lease, Settlement
from concave.tasks.executor import Run

__all__ = ["Outcomes"]

log = logging.getLogger("concave.worker")


@dataclass(slots=True, eq=False)
class _Outcome:
    settlement: Settlement
    run: Run | None
    sent: bool = False
    """Whether it was sent before, without an answer: the store may have carried it out."""


class Outcomes:
    """A queue of settlements: all of it is sent at once, unless the store stumbles over one of them."""

    def __init__(self) -> None:
        self._waiting: list[_Outcome] = []
        self._one_by_one = False
        self.refused = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, lease: Lease, decision: Decision, run: Run | None = None) -> None:
        """Keep an outcome until the store has answered."""
        self._waiting.append(_Outcome(Settlement(lease, decision), run))

    def batch(self) -> list[Settlement]:
        """What to send next."""
        return [outcome.settlement for outcome in self._waiting[: 1 if self._one_by_one else None]]

    @property
    def one_by_one(self) -> bool:
        """Whether each is sent alone, and nothing else with it."""
        return self._one_by_one

    @property
    def runs(self) -> list[Run]:
        """The runs that have ended and hold their leases until the store knows. May be called from any thread."""
        return [outcome.run for outcome in list(self._waiting) if outcome.run is not None]

    def answered(self, accepted: list[bool]) -> None:
        """The store's answer to the batch."""
        done, self._waiting = self._waiting[: len(accepted)], self._waiting[len(accepted) :]
        self._one_by_one = self._one_by_one and bool(self._waiting)
        for outcome, carried_out in zip(done, accepted, strict=True):
            if not carried_out and not outcome.sent:
                self._refused(outcome)

    def failed(self, count: int, error: Exception) -> None:
        """The batch, of `count` outcomes, got no answer but an error."""
        if isinstance(error, StoreUnavailableError):
            for outcome in self._waiting[:count]:
                outcome.sent = True
        if count == 0 or isinstance(error, StoreUnavailableError | StoreFullError):
            return
        if not self._one_by_one:
            self._one_by_one = True
            return
        first = self._waiting.pop(0)
        if isinstance(error, ConcaveError):
            self._waiting.append(first)  # it may be the store's fault; meanwhile the others have their turn
            return
        task = first.settlement.lease.task
        log.error(
            "task %s (%s): its outcome can't be sent and is dropped", task.id, task.name, exc_info=error
        )

    def _refused(self, outcome: _Outcome) -> None:
        self.refused += 1
        task = outcome.settlement.lease.task
        log.warning(
            "task %s (%s): the outcome of attempt %d came too late and was refused; the lease had run out",
            task.id, task.name, task.attempt,
        )  # fmt: skip
