"""What is to happen at a moment: leases that end, records and keys that are forgotten."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Generic, TypeVar

from concave.clock import Micros

__all__ = ["Moments"]

T = TypeVar("T")


class Moments(Generic[T]):
    """Things by moment. Those of one moment, as a batch has, share one place in the heap."""

    def __init__(self) -> None:
        self._heap: list[Micros] = []
        self._things: dict[Micros, list[T]] = {}

    def at(self, moment: Micros) -> list[T]:
        """The things of a moment, to add to."""
        things = self._things.get(moment)
        if things is None:
            things = self._things[moment] = []
            heapq.heappush(self._heap, moment)
        return things

    def take(self, now: Micros) -> Sequence[tuple[Micros, T]]:
        """Take out all whose moment has come, the earliest first."""
        if not self._heap or self._heap[0] > now:
            return ()
        taken: list[tuple[Micros, T]] = []
        while self._heap and self._heap[0] <= now:
            moment, things = self.take_first()
            taken += [(moment, thing) for thing in things]
        return taken

    def first(self) -> tuple[Micros, list[T]] | None:
        """The earliest moment and its things."""
        return (self._heap[0], self._things[self._heap[0]]) if self._heap else None

    def take_first(self) -> tuple[Micros, list[T]]:
        """Take out the earliest moment and its things."""
        moment = heapq.heappop(self._heap)
        return moment, self._things.pop(moment)
