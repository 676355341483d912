"""Reading from the private Redis what a run cost it. Each reading is one INFO, which is left out of its own counts."""

from dataclasses import dataclass
from typing import Any

import redis

__all__ = ["Cost", "Reading", "RedisProbe"]

OWN = {"info", "config|resetstat", "flushall", "client|setinfo", "client|setname", "hello", "ping"}
"""Commands of the probe itself, and those that greet a connection."""


@dataclass(frozen=True, slots=True)
class Reading:
    cpu: float
    commands: dict[str, int]
    memory: int
    calls: int
    """Requests that clients sent, as far as Redis counts them apart from what a script calls."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Between two readings: CPU seconds, commands by name, bytes."""

    cpu: float
    commands: dict[str, int]
    memory: int

    @property
    def total(self) -> int:
        return sum(self.commands.values())


class RedisProbe:
    """Another client of the server under measure."""

    def __init__(self, url: str) -> None:
        self._client: Any = redis.Redis.from_url(url)

    def close(self) -> None:
        self._client.close()

    def flush(self) -> None:
        """Empty the server, for the next measure."""
        self._client.flushall()
        self._client.execute_command("MEMORY", "PURGE")

    def read(self) -> Reading:
        info = self._client.info("everything")
        commands = {
            name.removeprefix("cmdstat_"): values["calls"]
            for name, values in info.items()
            if name.startswith("cmdstat_")
        }
        return Reading(
            cpu=info["used_cpu_sys"] + info["used_cpu_user"],
            commands={name: calls for name, calls in commands.items() if name not in OWN},
            memory=info["used_memory"],
            calls=info["total_commands_processed"],
        )

    def since(self, before: Reading) -> Cost:
        now = self.read()
        commands = {name: calls - before.commands.get(name, 0) for name, calls in now.commands.items()}
        return Cost(
            cpu=now.cpu - before.cpu,
            commands={name: calls for name, calls in commands.items() if calls},
            memory=now.memory - before.memory,
        )
