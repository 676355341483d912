"""What a worker process under measure writes down: which tasks ran, when the first and the last did, and its CPU then.

Runs in every peer's own environment, so it needs the standard library alone. The file is shared memory: the harness
looks into it while the worker runs, and the worker pays some 0.3 µs a task for it.
"""

import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path

HEAD = 4 * 8
"""Four integers: the first run and the last, in ns; the process' CPU at the first, in ns; how many runs."""


def size_of(tasks: int, *, times: bool) -> int:
    """Bytes of a record: a byte a task counts its runs; with `times`, eight more say when the last of them began."""
    return HEAD + tasks * (9 if times else 1) + 8


def align(offset: int) -> int:
    """The next multiple of eight, for integers to start at."""
    return (offset + 7) // 8 * 8


class Recorder:
    """Call `ran` first thing in the handler."""

    def __init__(self, path: str, tasks: int, *, times: bool) -> None:
        with Path(path).open("r+b") as file:
            view = memoryview(mmap.mmap(file.fileno(), 0))
        self._head = view[:HEAD].cast("q")
        self._runs = view[HEAD : HEAD + tasks]
        start = align(HEAD + tasks)
        self._times = view[start : start + 8 * tasks].cast("q") if times else None

    def ran(self, index: int) -> None:
        """Task number `index` runs now."""
        now = time.monotonic_ns()
        head = self._head
        if not head[0]:
            head[2] = time.process_time_ns()
            head[0] = now
        if self._times is not None:
            self._times[index] = now
        self._runs[index] += 1
        head[1] = now
        head[3] += 1


def run_counter() -> Callable[[int], None]:
    """What a handler calls with its task's number. A producer process, which runs no handlers, gets one that does nothing."""
    if "BENCH_RECORD" not in os.environ:
        return _nothing
    path, tasks = os.environ["BENCH_RECORD"], int(os.environ["BENCH_TASKS"])
    return Recorder(path, tasks, times=bool(os.environ.get("BENCH_TIMES"))).ran


def _nothing(index: int) -> None:
    pass
