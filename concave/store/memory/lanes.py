"""What waits to be claimed, by bucket and name, and how a claim is shared out among names."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator

from concave.clock import Micros
from concave.store.memory.entry import Entry
from concave.store.records import BUCKETS, bucket_of

__all__ = ["Lanes"]

Lane = list[tuple[Micros, int, Entry]]
"""A heap: the oldest task first."""
LaneKey = tuple[str, bool]
"""A task's name, and whether the lane holds those that have crashed a worker."""


class Lanes:
    """Due tasks in lanes, one per bucket, name and suspicion; those not due yet in a heap by time for each name."""

    def __init__(self) -> None:
        # The order of a bucket's lanes is the order in which they are served: a lane that was, goes last.
        self._ready: list[dict[LaneKey, Lane]] = [{} for _ in range(BUCKETS)]
        self._later: dict[str, Lane] = {}
        self._places = itertools.count(1)
        self.waiting = 0

    def put(self, entry: Entry, *, later: bool) -> bool:
        """Let a task wait. True if idle workers should know: its lane was empty, or none of its name is due before it."""
        entry.place = next(self._places)
        self.waiting += 1
        if later:
            heap = self._later.setdefault(entry.new.name, [])
            heapq.heappush(heap, (entry.due_at, entry.place, entry))
            return _first(heap) is entry
        bucket = self._ready[bucket_of(entry.new.priority)]
        lane = bucket.setdefault((entry.new.name, entry.suspect), [])
        heapq.heappush(lane, (entry.created_at, entry.place, entry))
        return _first(lane) is entry

    def remove(self, entry: Entry) -> None:
        """Take out a task that waits. What the heap still holds of it is stale by its place."""
        entry.place = 0
        self.waiting -= 1

    def promote(self, now: Micros) -> None:
        """Move what has fallen due into its lane."""
        for name, heap in list(self._later.items()):
            while (entry := _first(heap)) and entry.due_at <= now:
                heapq.heappop(heap)
                entry.status = "pending"
                self.waiting -= 1
                self.put(entry, later=False)
            if not heap:
                del self._later[name]

    def next_due(self) -> Micros | None:
        """When the next task falls due."""
        return min((entry.due_at for heap in self._later.values() if (entry := _first(heap))), default=None)

    def has_ready(self, name: str) -> bool:
        """Whether tasks of this name wait to be claimed."""
        return any((name, suspect) in bucket for bucket in self._ready for suspect in (False, True))

    def take(self, limit: int, room: dict[str, int], suspects: int) -> Iterator[Entry]:
        """Take up to `limit` tasks: by bucket, names in turn, oldest first within a name.

        `room` says how many of each name may be taken, and is counted down; a name that isn't in it is passed over.
        """
        for bucket in reversed(self._ready):
            lanes = [key for key in bucket if key[0] in room and (suspects or not key[1])]
            while lanes and limit > 0:
                quota = -(-limit // len(lanes))
                again: list[LaneKey] = []
                for key in lanes:
                    name, suspect = key
                    wanted = min(quota, limit, room[name], suspects if suspect else limit)
                    taken = list(self._pop(bucket, key, wanted)) if wanted > 0 else []
                    limit -= len(taken)
                    room[name] -= len(taken)
                    suspects -= len(taken) if suspect else 0
                    if taken and len(taken) == quota:
                        again.append(key)
                    yield from taken
                lanes = [key for key in again if key in bucket]

    def _pop(self, bucket: dict[LaneKey, Lane], key: LaneKey, wanted: int) -> Iterator[Entry]:
        lane = bucket.pop(key)
        while lane and wanted > 0:
            _, place, entry = heapq.heappop(lane)
            if entry.place == place:
                self.remove(entry)
                wanted -= 1
                yield entry
        if _first(lane):
            bucket[key] = lane


def _first(heap: Lane) -> Entry | None:
    """The first that is still there; what has left since is dropped."""
    while heap and heap[0][2].place != heap[0][1]:
        heapq.heappop(heap)
    return heap[0][2] if heap else None
