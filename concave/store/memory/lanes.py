"""What waits to be claimed, by bucket and name, and how a claim is shared out among names."""

from __future__ import annotations

import itertools

from concave.clock import Micros
from concave.store.memory.entry import Entry
from concave.store.memory.lane import Lane
from concave.store.records import BUCKETS, bucket_of

__all__ = ["Lanes"]

LaneKey = tuple[str, bool]
"""A task's name, and whether the lane holds those that have crashed a worker."""


class Lanes:
    """Due tasks in lanes, one per bucket, name and suspicion; those not due yet in a lane by time for each name."""

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
        name = entry.new.name
        if later:
            lane = self._later.get(name)
            if lane is None:
                lane = self._later[name] = Lane()
            return lane.put(entry.due_at, entry)
        bucket = self._ready[bucket_of(entry.new.priority)]
        key = (name, entry.suspect)
        lane = bucket.get(key)
        if lane is None:
            lane = bucket[key] = Lane()
        return lane.put(entry.created_at, entry)

    def remove(self, entry: Entry) -> None:
        """Take out a task that waits. What the lane still holds of it is stale by its place."""
        entry.place = 0
        self.waiting -= 1

    def promote(self, now: Micros) -> None:
        """Move what has fallen due into its lane."""
        for name, lane in list(self._later.items()):
            while (entry := lane.first()) and entry.due_at <= now:
                self.remove(entry)
                entry.status = "pending"
                self.put(entry, later=False)
            if entry is None:
                del self._later[name]

    def next_due(self) -> Micros | None:
        """When the next task falls due."""
        return min((entry.due_at for lane in self._later.values() if (entry := lane.first())), default=None)

    def has_ready(self, name: str) -> bool:
        """Whether tasks of this name wait to be claimed."""
        return any((name, suspect) in bucket for bucket in self._ready for suspect in (False, True))

    def take(self, limit: int, room: dict[str, int], suspects: int) -> list[Entry]:
        """Take up to `limit` tasks: by bucket, names in turn, oldest first within a name.

        `room` says how many of each name may be taken, and is counted down; a name that isn't in it is passed over.
        """
        taken: list[Entry] = []
        for bucket in reversed(self._ready):
            lanes = [key for key in bucket if key[0] in room and (suspects or not key[1])]
            while lanes and limit > 0:
                quota = -(-limit // len(lanes))
                again: list[LaneKey] = []
                for key in lanes:
                    name, suspect = key
                    wanted = min(quota, limit, room[name], suspects if suspect else limit)
                    found = self._serve(bucket, key, wanted) if wanted > 0 else []
                    limit -= len(found)
                    room[name] -= len(found)
                    suspects -= len(found) if suspect else 0
                    if found and len(found) == quota:
                        again.append(key)
                    taken += found
                lanes = [key for key in again if key in bucket]
        return taken

    def _serve(self, bucket: dict[LaneKey, Lane], key: LaneKey, wanted: int) -> list[Entry]:
        lane = bucket.pop(key)
        found: list[Entry] = []
        while len(found) < wanted and (entry := lane.first()):
            self.remove(entry)
            found.append(entry)
        if lane.first():
            bucket[key] = lane
        return found
