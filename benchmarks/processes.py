"""Worker and producer processes: started fresh for each measure, in their peer's environment."""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.catalogue import Peer
from benchmarks.environments import python_of
from benchmarks.peers.record import HEAD, align, size_of
from tests.servers import LoggedProcess, ServerError
from tests.servers.process import ROOT

__all__ = ["Worker", "environment_of", "produce", "worker"]


def cpu_of(pid: int) -> float:
    """CPU seconds, user and system, that a process has used so far: what its own getrusage would say."""
    # Linux: the id of another process' CPU clock is made of its pid; see clock_getcpuclockid(3).
    return time.clock_gettime((~pid << 3) | 2)


def produce(
    peer: Peer, url: str, way: str, count: int, env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run a producer to its end; the figures that it printed."""
    command = [str(python_of(peer)), str(_script(peer, "producer")), way, str(count)]
    done = subprocess.run(
        command,
        env=environment_of(peer, url, env),
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode != 0:
        raise ServerError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


class Worker:
    """A running worker process and its record."""

    def __init__(self, process: LoggedProcess, record: Path, tasks: int, *, times: bool) -> None:
        self.process = process
        self._record = record
        self._tasks = tasks
        self._timed = times

    @property
    def ran(self) -> bytes:
        """How often each task ran."""
        return self._bytes()[HEAD : HEAD + self._tasks]

    @property
    def head(self) -> tuple[int, int, int, int]:
        """The first run, the last, the CPU at the first, and how many; 0 before the first."""
        with self._record.open("rb") as file:
            first, last, cpu, count = memoryview(file.read(HEAD)).cast("q")
        return first, last, cpu, count

    @property
    def times(self) -> list[int]:
        """When each task ran last, in ns of the monotonic clock."""
        start = align(HEAD + self._tasks)
        return list(memoryview(self._bytes()[start : start + 8 * self._tasks]).cast("q"))

    @property
    def cpu(self) -> float:
        return cpu_of(self.process.pid)

    @property
    def rss(self) -> int:
        """Resident bytes, without the record, which is the harness' and not the worker's."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in text.splitlines())
        return (int(fields["RssAnon"].split()[0]) + int(fields["RssFile"].split()[0])) * 1024 - len(
            self._bytes()
        )

    def _bytes(self) -> bytes:
        return self._record.read_bytes()


@contextmanager
def worker(
    peer: Peer, url: str, *, tasks: int, times: bool = False, env: Mapping[str, str] | None = None
) -> Generator[Worker]:
    """A worker process that takes tasks numbered below `tasks`; it is killed at the end."""
    # Not on a disk: the worker writes to it at every task.
    shared = Path("/dev/shm")
    folder = shared if shared.is_dir() else None
    with tempfile.NamedTemporaryFile(prefix="concave-bench-", dir=folder) as file:
        file.truncate(size_of(tasks, times=times))
        settings = {"BENCH_RECORD": file.name, "BENCH_TASKS": str(tasks), "BENCH_TIMES": "1" if times else ""}
        process = LoggedProcess(
            [str(python_of(peer)), str(_script(peer, "worker"))],
            env=environment_of(peer, url, {**settings, **(env or {})}),
            cwd=ROOT,
        )
        try:
            yield Worker(process, Path(file.name), tasks, times=times)
            if process.returncode is not None:
                raise process.error("ended while it was measured")
        finally:
            process.kill()


def _script(peer: Peer, role: str) -> Path:
    return ROOT / "benchmarks" / "peers" / peer.folder / f"{role}.py"


def environment_of(peer: Peer, url: str, env: Mapping[str, str] | None) -> dict[str, str]:
    """The variables that a peer's process is told its work by."""
    own = {"BENCH_URL": url, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": ""}
    return {**os.environ, **own, **peer.env, **(env or {})}
