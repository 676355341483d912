"""Processes to be broken: started in milliseconds, killed, stopped and continued by a test."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.servers.process import ROOT, ServerError

Program = Callable[..., Coroutine[Any, Any, None]]


class Member:
    """One process of a fleet, running one program."""

    def __init__(self, fleet: "Fleet", pid: int, program: Program, options: dict[str, Any]) -> None:
        self._fleet = fleet
        self.pid = pid
        self.program = program
        self.options = options
        self.returncode: int | None = None

    @property
    def alive(self) -> bool:
        """Whether it hasn't ended yet."""
        if self.returncode is None:
            self.returncode = self._fleet.order({"poll": self.pid})
        return self.returncode is None

    def send(self, number: signal.Signals) -> None:
        """A signal, unless it has ended."""
        if self.alive:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.send(signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        """SIGTERM, and wait until it has ended; its exit status."""
        self.send(signal.SIGTERM)
        return self.wait()

    def wait(self, timeout: float = 60.0) -> int:
        """Wait until it has ended by itself; its exit status, negative for a signal."""
        deadline = time.monotonic() + timeout
        while self.alive:
            if time.monotonic() > deadline:
                raise ServerError(f"{self.program.__name__} {self.pid} did not end within {timeout:g} s")
            time.sleep(0.002)
        assert self.returncode is not None
        return self.returncode


class Fleet:
    """Processes that run programs of `tests.chaos.programs`; what is left of them is killed at the end."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "fleet.log"
        self.members: list[Member] = []
        self._lock = threading.Lock()
        # Without coverage: most are killed before they could write it, and it would slow them.
        env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
        self._zygote = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=env,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zygote.communicate()  # its pipe breaks, and it kills what is left

    def start(self, program: Program, **options: Any) -> Member:
        """A new process; returns when it is there, which is before it has started to work."""
        order = {"fork": program.__name__, "options": options, "log": str(self.log)}
        member = Member(self, self.order(order), program, options)
        self.members.append(member)
        return member

    def replace(self, member: Member) -> Member:
        """Kill one and start another with the same program and options."""
        member.kill()
        self.members.remove(member)
        return self.start(member.program, **member.options)

    def kill_at_random(self, kills: int, members: list[Member], pause: tuple[float, float]) -> None:
        """SIGKILL and replace one of `members` again and again, with random pauses of so many seconds before each."""
        for _ in range(kills):
            time.sleep(random.uniform(*pause))  # the random instant is the point
            index = random.randrange(len(members))
            members[index] = self.replace(members[index])

    def logged(self) -> list[str]:
        """The lines that its processes have logged."""
        return self.log.read_text(errors="replace").splitlines() if self.log.exists() else []

    def order(self, order: dict[str, Any]) -> Any:
        """Tell the process that forks; its answer."""
        assert self._zygote.stdin is not None
        assert self._zygote.stdout is not None
        with self._lock:
            self._zygote.stdin.write(json.dumps(order) + "\n")
            self._zygote.stdin.flush()
            return json.loads(self._zygote.stdout.readline())
