"""Ends the servers of a test run that was itself killed.

Fixtures and `atexit` don't run in a process that dies of SIGKILL or SIGTERM, and a `redis-server` left behind by each
such run would fill the machine. So one helper process reads, from a pipe, which servers are alive; when the pipe breaks,
the test run is gone, and it kills what is left.

Run as a script, this file is that helper process; imported, it offers `watch` and `unwatch`.
"""

import atexit
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

_lock = threading.Lock()
_helper: "subprocess.Popen[bytes] | None" = None


def watch(pid: int) -> None:
    """Kill `pid` (and its group, if it leads one) should this process die before `unwatch`."""
    _tell(f"+{pid}\n")


def unwatch(pid: int) -> None:
    """`pid` has ended: its number may soon belong to a stranger."""
    _tell(f"-{pid}\n")


def _tell(line: str) -> None:
    global _helper  # noqa: PLW0603 - one helper per test run is the point
    with _lock:
        if _helper is None or _helper.poll() is not None:
            _helper = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__],  # -S: no coverage in it
                stdin=subprocess.PIPE,
                start_new_session=True,  # a Ctrl-C at the terminal must not end it before its servers
            )
            atexit.register(_close, _helper)
        assert _helper.stdin is not None
        _helper.stdin.write(line.encode())
        _helper.stdin.flush()


def _close(helper: "subprocess.Popen[bytes]") -> None:
    """The test run ends as it should: so does the helper, killing what a test has forgotten."""
    helper.communicate()


def _main() -> None:
    alive: set[int] = set()
    for line in sys.stdin:
        pid = int(line[1:])
        if line[0] == "+":
            alive.add(pid)
        else:
            alive.discard(pid)
    for pid in alive:
        with suppress(OSError):
            os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    _main()
