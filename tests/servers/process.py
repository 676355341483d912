"""A program under test: its process, its log lines, its end."""

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.servers import reaper

ROOT = Path(__file__).resolve().parents[2]


class ServerError(Exception):
    """A program didn't start, didn't say what a test waits for, or didn't stop. Carries its last log lines."""


class LoggedProcess:
    """A subprocess whose output (stdout and stderr, in order) is read by a thread, line by line, as it comes.

    Reading all the time keeps the program from blocking on a full pipe, and lets a test wait for a line instead of
    sleeping. The program leads a session of its own, so a Ctrl-C at the terminal reaches the tests alone.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        user: str | int | None = None,
        group: str | int | None = None,
    ) -> None:
        """Start it. `env` is laid over this process's environment; `user` and `group` need root."""
        self.argv = list(argv)
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            self.argv,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
        )
        self.pid = self._process.pid
        reaper.watch(self.pid)
        self._reader = threading.Thread(target=self._read, name=f"log of {self.argv[0]}", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative for the signal that ended it."""
        return self._process.poll()

    @property
    def log(self) -> str:
        """Everything it has written so far."""
        return "\n".join(self.lines)

    def wait_for_log(self, pattern: str, timeout: float = 30.0, *, start: int = 0) -> re.Match[str]:
        """The first match of `pattern` in a line from number `start` on; raises when it ends or `timeout` passes."""
        found: re.Match[str] | None = None
        seen = start

        def matches() -> bool:
            nonlocal found, seen
            while seen < len(self.lines):
                found = re.search(pattern, self.lines[seen])
                seen += 1
                if found:
                    return True
            return False

        deadline = time.monotonic() + timeout
        with self._changed:
            while not matches():
                if not self._reader.is_alive() and self.returncode is not None:
                    raise self.error(f"ended before it wrote {pattern!r}")
                left = deadline - time.monotonic()
                if left <= 0:
                    raise self.error(f"did not write {pattern!r} within {timeout:g} s")
                self._changed.wait(min(1.0, left))
        assert found is not None
        return found

    def wait_until(self, ready: Callable[[], bool], what: str, timeout: float = 30.0) -> None:
        """Poll `ready` until it holds; raises when the program ends or `timeout` passes."""
        deadline = time.monotonic() + timeout
        while not ready():
            if self.returncode is not None:
                self._reader.join(5)
                raise self.error(f"ended before it was {what}")
            if time.monotonic() >= deadline:
                raise self.error(f"was not {what} within {timeout:g} s")
            time.sleep(0.01)

    def wait(self, timeout: float = 30.0) -> int:
        """Wait until it ends by itself, and give its exit code."""
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise self.error(f"was still running after {timeout:g} s") from None
        reaper.unwatch(self.pid)
        self._reader.join(5)
        return code

    def stop(self, timeout: float = 30.0, *, sig: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end and wait until it has; when it doesn't, kill it and raise. Harmless when it has ended."""
        if self.returncode is None:
            self._process.send_signal(sig)
        try:
            return self.wait(timeout)
        except ServerError:
            self.kill()
            raise

    def kill(self) -> int:
        """SIGKILL: it gets no chance to clean up. Harmless when it has ended."""
        if self.returncode is None:
            self._process.kill()
        return self.wait()

    def error(self, what: str) -> ServerError:
        """An error about this program, with the end of its log."""
        code = self.returncode
        state = "running" if code is None else f"exit code {code}"
        tail = "\n".join(f"    {line}" for line in self.lines[-30:]) or "    (it wrote nothing)"
        return ServerError(f"{' '.join(self.argv)}\n  {what} ({state}); the end of its log:\n{tail}")

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                with self._changed:
                    self.lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()
