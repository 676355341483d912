"""Outcomes on their way to the store. None is dropped that the store may yet take, and none holds up the others."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from concave.errors import NO_FAULT_OF_TASKS, ConcaveError, StoreUnavailableError
from concave.store.records import Decision, Lease, Settlement
from concave.tasks.executor import Run

__all__ = ["Outcome", "Outcomes"]

log = logging.getLogger("concave.worker")


@dataclass(slots=True, eq=False)
class Outcome:
    """What became of a run, until the store has answered."""

    settlement: Settlement
    run: Run | None
    sent: bool = False
    """Whether it was sent before, without an answer: the store may have carried it out."""


class Outcomes:
    """A queue of settlements: sent in batches, unless the store stumbles over one of them."""

    def __init__(self) -> None:
        self._waiting: list[Outcome] = []
        self._sent: list[list[Outcome]] = []
        self._one_by_one = False
        self.refused = 0

    def __len__(self) -> int:
        """How many wait to be sent."""
        return len(self._waiting)

    def add(self, lease: Lease, decision: Decision, run: Run | None = None) -> None:
        """Keep an outcome until the store has answered."""
        self._waiting.append(Outcome(Settlement(lease, decision), run))

    def take(self, most: int) -> list[Outcome]:
        """What to send next. A batch that isn't empty is to be `answered` or to have `failed`."""
        batch = self._waiting[: 1 if self._one_by_one else most]
        if not batch:
            return batch
        # First in, then out: `runs` is read from another thread, and must miss none.
        self._sent.append(batch)
        self._waiting = self._waiting[len(batch) :]
        return batch

    @property
    def one_by_one(self) -> bool:
        """Whether each is sent alone, and nothing else with it."""
        return self._one_by_one

    @property
    def runs(self) -> list[Run]:
        """The runs that have ended and hold their leases until the store knows. May be called from any thread."""
        sent = [outcome for batch in list(self._sent) for outcome in batch]
        return [outcome.run for outcome in (*sent, *self._waiting) if outcome.run is not None]

    def answered(self, batch: list[Outcome], accepted: list[bool]) -> None:
        """The store's answer to a batch."""
        self._sent.remove(batch)
        self._one_by_one = self._one_by_one and bool(self._waiting)
        for outcome, carried_out in zip(batch, accepted, strict=True):
            if not carried_out and not outcome.sent:
                self._refused(outcome)

    def failed(self, batch: list[Outcome], error: Exception) -> None:
        """A batch got no answer but an error: it is the next to be sent again."""
        if not batch:
            return
        unavailable = isinstance(error, StoreUnavailableError)
        for outcome in batch:
            outcome.sent = outcome.sent or unavailable
        self._waiting = batch + self._waiting
        self._sent.remove(batch)
        if isinstance(error, NO_FAULT_OF_TASKS):
            return
        if not self._one_by_one or len(batch) > 1:
            self._one_by_one = True
            return
        (first, *self._waiting) = self._waiting
        if isinstance(error, ConcaveError):
            self._waiting.append(first)  # it may be the store's fault; meanwhile the others have their turn
            return
        task = first.settlement.lease.task
        log.error(
            "task %s (%s): its outcome can't be sent and is dropped", task.id, task.name, exc_info=error
        )

    def _refused(self, outcome: Outcome) -> None:
        self.refused += 1
        task = outcome.settlement.lease.task
        log.warning(
            "task %s (%s): the outcome of attempt %d came too late and was refused; the lease had run out",
            task.id, task.name, task.attempt,
        )  # fmt: skip
