"""What a worker process costs that has nothing to do."""

import time
from collections.abc import Mapping, Sequence
from functools import partial

from benchmarks.catalogue import OURS, Peer
from benchmarks.plan import Goal, Measure, Scale, Scenario
from benchmarks.processes import worker
from benchmarks.redis_probe import RedisProbe

__all__ = ["idle", "measures"]

SETTLE = 4.0
"""Seconds for a worker to start."""


def measures(peers: Sequence[Peer], url: str, scale: Scale) -> list[Measure]:
    workers = [peer for peer in peers if peer.drains]
    return [
        Measure(
            "idle",
            f"An idle worker process, {scale.seconds:g} s",
            Scenario(OURS.name, partial(idle, OURS, url, scale.seconds)),
            [
                Scenario(peer.name, partial(idle, peer, url, scale.seconds), not peer.limit)
                for peer in workers
            ],
            [
                Goal("requests a second", lambda result: result.ours("requests"), 2, "at most"),
                Goal("of a core", lambda result: result.ours("core"), 0.3, "at most", " %"),
            ],
            {
                "requests": "requests/s",
                "commands": "commands/s, scripts' own included",
                "core": "% of a core",
                "redis_core": "% of a core in Redis",
                "rss_mb": "RSS MB",
            },
        )
    ]


def idle(peer: Peer, url: str, seconds: float) -> Mapping[str, float]:
    probe = RedisProbe(url)
    probe.flush()
    with worker(peer, url, tasks=1) as running:
        time.sleep(SETTLE)
        before, cpu, start = probe.read(), running.cpu, time.monotonic()
        time.sleep(seconds)
        took, used, cost = time.monotonic() - start, running.cpu - cpu, probe.since(before)
        rss = running.rss
    probe.close()
    scripts = cost.commands.get("evalsha", 0) + cost.commands.get("eval", 0)
    return {
        # What a script calls is counted as well; of ours, everything that is no script runs within one.
        "requests": (scripts if peer.folder == OURS.folder else cost.total) / took,
        "commands": cost.total / took,
        "core": used / took * 100,
        "redis_core": cost.cpu / took * 100,
        "rss_mb": rss / 1e6,
    }
