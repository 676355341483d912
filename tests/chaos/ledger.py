"""What handlers did, as they did it: lines of a file that outlive the process which wrote them."""

import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Entry:
    """`event` of a task: its number, the process, the moment (seconds, the same clock in every process), and what else."""

    event: str
    number: int
    pid: int
    at: float
    more: str


class Ledger:
    """An append-only file. One line is one write, which no kill cuts in half and no other process mixes with its own."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def note(self, event: str, number: int, more: str = "") -> None:
        """Write one line."""
        os.write(self._file, f"{event}\t{number}\t{os.getpid()}\t{time.monotonic()}\t{more}\n".encode())

    def entries(self, *events: str) -> list[Entry]:
        """All lines so far, or those of some events."""
        found: list[Entry] = []
        # A line that is being written may be seen half: the one at the end, and only where it crosses a page.
        written, _, _ = self.path.read_text().rpartition("\n")
        for line in written.splitlines():
            event, number, pid, at, more = line.split("\t", 4)
            if not events or event in events:
                found.append(Entry(event, int(number), int(pid), float(at), more))
        return found

    def close(self) -> None:
        os.close(self._file)
