"""Tasks that wait for one and the same thing, in order."""

from __future__ import annotations

import heapq
from collections import deque

from concave.clock import Micros
from concave.store.memory.entry import Entry

__all__ = ["Lane"]


class Lane:
    """Tasks by moment, those of one moment by place. Nearly all come in order and only queue; a heap has the others."""

    __slots__ = ("_heap", "_queue")

    def __init__(self) -> None:
        self._queue: deque[tuple[Micros, int, Entry]] = deque()
        self._heap: list[tuple[Micros, int, Entry]] = []

    def put(self, moment: Micros, entry: Entry) -> bool:
        """Let a task wait at its place. Whether it is the first."""
        queue = self._queue
        if queue and moment < queue[-1][0]:
            heapq.heappush(self._heap, (moment, entry.place, entry))
        else:
            queue.append((moment, entry.place, entry))
        return self.first() is entry

    def first(self) -> Entry | None:
        """The first that is still there; what has left since is dropped."""
        queue, heap = self._queue, self._heap
        while queue and queue[0][2].place != queue[0][1]:
            queue.popleft()
        while heap and heap[0][2].place != heap[0][1]:
            heapq.heappop(heap)
        if heap and not (queue and queue[0] < heap[0]):
            return heap[0][2]
        return queue[0][2] if queue else None
