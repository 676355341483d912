"""A limit of memory at which the kernel kills, for the processes that enter it: a control group."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


class NoMemoryLimitError(Exception):
    """This machine, or this user, can't make such a group; says why."""


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """A group below the one that this process is in."""

    folder: Path

    @property
    def entrance(self) -> Path:
        """Whoever writes its process id there is in it, with all that it starts from then on."""
        return self.folder / "cgroup.procs"

    @property
    def kills(self) -> int:
        """How many the kernel has killed in it for memory."""
        events = self.folder / "memory.events"  # version 2 of control groups
        text = (events if events.exists() else self.folder / "memory.oom_control").read_text()
        return int(dict(line.split() for line in text.splitlines())["oom_kill"])


@contextmanager
def memory_limit(megabytes: int) -> Generator[MemoryLimit]:
    """Make one, and remove it in the end, when nobody is in it any more. Raises `NoMemoryLimitError` where it can't be."""
    folder = _own_group() / f"concave-tests-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        raise NoMemoryLimitError(f"no control group can be made here: {error}") from error
    try:
        limits = [folder / name for name in ("memory.max", "memory.limit_in_bytes")]
        limit = next((each for each in limits if each.exists()), None)
        if limit is None:
            raise NoMemoryLimitError(f"memory is not limited by control groups in {folder.parent}")
        limit.write_text(str(megabytes * 1024 * 1024))
        yield MemoryLimit(folder)
    finally:
        folder.rmdir()


def _own_group() -> Path:
    """Where the control group is that this process is in, of those that account for memory."""
    own = Path("/proc/self/cgroup")
    if not own.exists():
        raise NoMemoryLimitError("control groups are Linux's")
    for line in own.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in {"memory", ""}:
            return CGROUPS / controllers / path.strip("/")
    raise NoMemoryLimitError("this process is in no control group that accounts for memory")
