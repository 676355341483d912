"""How fast tasks get into the queue: one by one, a hundred at a time in one process, and in bulk."""

from collections.abc import Mapping, Sequence
from functools import partial

from benchmarks.catalogue import OURS, Peer
from benchmarks.plan import Goal, Measure, Scale, Scenario, beside_fastest
from benchmarks.processes import produce
from benchmarks.redis_probe import RedisProbe

__all__ = ["enqueue", "measures"]

COLUMNS = {"rate": "tasks/s", "producer_us": "producer µs", "redis_us": "Redis µs", "calls": "scripts a task"}


def measures(peers: Sequence[Peer], url: str, scale: Scale) -> list[Measure]:
    def beside(way: str, who: Sequence[Peer], tasks: int) -> tuple[Scenario, list[Scenario]]:
        ours = Scenario(OURS.name, partial(enqueue, OURS, url, way, tasks))
        return ours, [
            Scenario(peer.name, partial(enqueue, peer, url, way, tasks), not peer.limit) for peer in who
        ]

    asyncio_peers = [peer for peer in peers if peer.in_flight]
    one_by_one = beside("one_by_one", peers, scale.tasks // 5)
    in_flight = beside("in_flight", asyncio_peers, scale.tasks)
    bulk = beside("fill", [peer for peer in peers if peer.bulk], scale.tasks)
    rivals = {peer.name for peer in asyncio_peers if not peer.limit}
    return [
        Measure(
            "enqueue",
            f"Enqueue {scale.tasks // 5:,} tasks, one after the other",
            *one_by_one,
            [
                Goal("round trips a task", lambda result: result.ours("calls"), 1.01, "at most"),
                Goal(
                    "rate, beside the fastest asyncio peer",
                    beside_fastest("rate", among=rivals),
                    1,
                    "at least",
                    "×",
                ),
            ],
            COLUMNS,
        ),
        Measure(
            "enqueue-100",
            f"Enqueue {scale.tasks:,} tasks, 100 in flight in one process",
            *in_flight,
            [Goal("rate, beside the fastest peer", beside_fastest("rate"), 5, "at least", "×")],
            COLUMNS,
        ),
        Measure(
            "enqueue-many",
            f"Enqueue {scale.tasks:,} tasks with the bulk call",
            *bulk,
            [Goal("rate, beside the fastest peer", beside_fastest("rate"), 5, "at least", "×")],
            COLUMNS,
        ),
    ]


def enqueue(peer: Peer, url: str, way: str, tasks: int) -> Mapping[str, float]:
    """Run a producer on an empty server; rate and CPU are of the loop alone, without start and connection."""
    probe = RedisProbe(url)
    probe.flush()
    before = probe.read()
    figures = produce(peer, url, way, tasks)
    cost = probe.since(before)
    probe.close()
    return {
        "rate": tasks / figures["seconds"],
        "producer_us": figures["cpu"] / tasks * 1e6,
        "redis_us": cost.cpu / tasks * 1e6,
        "calls": (cost.commands.get("evalsha", 0) + cost.commands.get("eval", 0)) / tasks,
    }
