"""Who is measured, and how each is set up. The settings themselves stand in `peers/<folder>/`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["OURS", "PEERS", "Peer"]


@dataclass(frozen=True, slots=True)
class Peer:
    """A queue under measure."""

    name: str
    folder: str
    """Its scripts and its pinned requirements, under `peers/`, and its environment."""
    note: str
    """Its configuration, and what it promises in it."""
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    drains: bool = True
    """Whether it has workers at all."""
    in_flight: bool = True
    """Whether many enqueues can be under way in one thread: an asyncio client."""
    bulk: bool = False
    """Whether it has a bulk call."""
    results: bool = True
    """Whether it can keep results."""


OURS = Peer(
    "concave",
    "concave",
    "defaults: Pydantic input, result kept 24 h, claims fenced, leases renewed; at least once",
    bulk=True,
)

PEERS = (
    Peer(
        "taskiq (stream)",
        "taskiq",
        "RedisStreamBroker, 100 async tasks, max_prefetch=200, validate_params off; at least once",
    ),
    Peer(
        "SAQ", "saq", "concurrency 100, max_concurrent_ops=100, retries=3; at least once (a sweeper retries)"
    ),
)
