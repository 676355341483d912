"""An ASGI app under a real uvicorn, in a process of its own."""

import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.servers.process import ROOT, LoggedProcess, ServerError


class UvicornServer:
    """`module:attribute` served on loopback. The port is chosen at the first start and kept for the next ones."""

    def __init__(
        self,
        app: str,
        *,
        env: Mapping[str, str] | None = None,
        args: Sequence[str] = (),
        cwd: Path = ROOT,
        port: int = 0,
    ) -> None:
        """Prepare, without starting. `env` is laid over this process's; `args` go to uvicorn's command line."""
        self.app = app
        self.port = port
        self._env = dict(env or {})
        self._args = list(args)
        self._cwd = cwd
        self._process: LoggedProcess | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def process(self) -> LoggedProcess:
        """The current process, or the last one."""
        if self._process is None:
            raise ServerError("this UvicornServer was never started")
        return self._process

    @property
    def lines(self) -> list[str]:
        """What the current process has logged so far, stdout and stderr."""
        return self.process.lines

    def start(self, timeout: float = 60.0) -> None:
        """Start it and wait until its lifespan has started and it accepts connections."""
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--no-use-colors"]
        # uvicorn's default takes a lifespan that raises for an app that has none, and serves on.
        options += ["--lifespan", "on", *self._args]
        command = [sys.executable, "-m", "uvicorn", self.app, *options]
        self._process = LoggedProcess(command, env=self._env, cwd=self._cwd)
        try:
            # With port 0 the system picks a free one at bind, so no other process can take it in between.
            running = self._process.wait_for_log(r"Uvicorn running on http://127\.0\.0\.1:(\d+)", timeout)
        except ServerError:
            self._process.kill()
            raise
        self.port = int(running[1])

    def stop(self, timeout: float = 60.0) -> int:
        """SIGTERM, as a deploy sends it, and wait for the end. Harmless when it has ended."""
        return self.process.stop(timeout, sig=signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: a crash."""
        self.process.kill()

    def wait_for_log(self, pattern: str, timeout: float = 30.0, *, start: int = 0) -> re.Match[str]:
        """Wait until the current process has logged a line that matches; see `LoggedProcess.wait_for_log`."""
        return self.process.wait_for_log(pattern, timeout, start=start)
