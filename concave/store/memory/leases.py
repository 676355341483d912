"""Which tasks run, how many of each name, and until when each may."""

from __future__ import annotations

from concave.clock import Micros
from concave.store.memory.entry import Entry, Hold
from concave.store.memory.moments import Moments

__all__ = ["Leases"]


class Leases:
    """The leases of the tasks that run."""

    def __init__(self) -> None:
        self._running: dict[str, int] = {}
        self._ends = Moments[Entry]()

    def running(self, name: str) -> int:
        """How many tasks of this name run."""
        return self._running.get(name, 0)

    def begin(self, entries: list[Entry], hold: Hold, end: Micros) -> None:
        """Let tasks run, under leases until `end`."""
        running = self._running
        for entry in entries:
            entry.status, entry.hold, entry.claimed_once = "running", hold, True
            entry.lease_end = end
            running[entry.new.name] = running.get(entry.new.name, 0) + 1
        self._ends.at(end).extend(entries)

    def renew(self, entry: Entry, end: Micros) -> None:
        """Let a lease go on until `end`. What the moments still hold of its earlier end is stale."""
        entry.lease_end = end
        self._ends.at(end).append(entry)

    def end(self, entry: Entry) -> None:
        """A task doesn't run any more. Its status is the caller's to change; its lease is over at once."""
        entry.lease_end, entry.progress, entry.abort = 0, None, False
        left = self._running[entry.new.name] - 1
        if left:
            self._running[entry.new.name] = left
        else:
            del self._running[entry.new.name]

    def next_end(self) -> Micros | None:
        """When the next lease runs out."""
        while (first := self._ends.first()) is not None:
            moment, entries = first
            while entries and entries[-1].lease_end != moment:
                entries.pop()
            if entries:
                return moment
            self._ends.take_first()
        return None

    def run_out(self, now: Micros) -> list[Entry]:
        """Those that run still, though their leases have run out; each once."""
        if (first := self.next_end()) is None or first > now:
            return []
        return list(dict.fromkeys(entry for end, entry in self._ends.take(now) if entry.lease_end == end))
