"""What the memory store remembers for a time: idempotency keys, debounce keys, submissions, ended tasks."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Hashable
from typing import Any

from concave.clock import Micros

__all__ = ["Expiries"]


class Expiries:
    """Things to be done when their time has come; how the store forgets."""

    def __init__(self) -> None:
        self._heap: list[tuple[Micros, int, Callable[..., object], tuple[Any, ...]]] = []
        self._order = itertools.count()

    def at(self, moment: Micros, action: Callable[..., object], *args: Hashable) -> None:
        """Call `action(*args)` once it is `moment`."""
        heapq.heappush(self._heap, (moment, next(self._order), action, args))

    def run(self, now: Micros) -> None:
        """Do what is due."""
        while self._heap and self._heap[0][0] <= now:
            _, _, action, args = heapq.heappop(self._heap)
            action(*args)
