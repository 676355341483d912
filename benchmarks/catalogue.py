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
    limit: bool = False
    """No queue, but what the transport allows: shown, and never the fastest peer."""
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

SYNC = "synchronous jobs in 8 threads"

PEERS = (
    Peer(
        "taskiq (stream)",
        "taskiq",
        "RedisStreamBroker, 100 async tasks, max_prefetch=200, validate_params off; at least once",
    ),
    Peer(
        "taskiq (list)",
        "taskiq",
        "ListQueueBroker, else the same; acknowledges nothing: at most once",
        env={"BENCH_VARIANT": "list"},
    ),
    Peer(
        "SAQ", "saq", "concurrency 100, max_concurrent_ops=100, retries=3; at least once (a sweeper retries)"
    ),
    Peer("arq", "arq", "max_jobs=100, poll_delay=5 ms; at least once"),
    Peer(
        "streaQ",
        "streaq",
        "concurrency 100, prefetch=400, silent, max_tries=3; at least once",
        bulk=True,
    ),
    Peer(
        "docket",
        "docket",
        "concurrency 100, max_connections=1000, minimum_check_interval=2 ms; at least once",
        bulk=True,
    ),
    Peer("dramatiq", "dramatiq", f"{SYNC}; at least once", in_flight=False),
    Peer("RQ", "rq", "SimpleWorker: one job at a time, no fork; at least once", in_flight=False, bulk=True),
    Peer("huey", "huey", f"RedisHuey, {SYNC}; acknowledges nothing: at most once", in_flight=False),
    Peer(
        "Celery",
        "celery",
        f"acks_late, prefetch multiplier 10, no gossip, mingle or heartbeat, {SYNC}; at least once",
        in_flight=False,
    ),
    Peer(
        "redis-py alone",
        "raw",
        "no queue: a stream read and acknowledged 100 at a time, an asyncio task a job",
        bulk=True,
        results=False,
        limit=True,
    ),
)
