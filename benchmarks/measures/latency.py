"""How soon a task runs on an idle worker, and how soon its result is back."""

import time
from collections.abc import Mapping, Sequence
from functools import partial

from benchmarks.catalogue import OURS, Peer
from benchmarks.plan import Goal, Measure, Scale, Scenario, beside_fastest
from benchmarks.processes import Worker, produce, worker
from benchmarks.redis_probe import RedisProbe
from benchmarks.statistics import percentile

__all__ = ["measures", "pickup", "round_trip"]

RESULTS = {"BENCH_RESULTS": "1"}
COLUMNS = {"p50": "p50 ms", "p99": "p99 ms", "max": "max ms"}


def measures(peers: Sequence[Peer], url: str, scale: Scale) -> list[Measure]:
    workers = [peer for peer in peers if peer.drains]
    return [
        Measure(
            "pickup",
            "Pickup: idle worker, one task every 20 ms, from the call of enqueue to the handler",
            Scenario(OURS.name, partial(pickup, OURS, url, scale.samples)),
            [
                Scenario(peer.name, partial(pickup, peer, url, scale.samples), not peer.limit)
                for peer in workers
            ],
            [
                Goal("p50, beside the fastest peer", beside_fastest("p50", highest=False), 1, "at most", "×"),
                Goal("p99, beside the fastest peer", beside_fastest("p99", highest=False), 1, "at most", "×"),
            ],
            COLUMNS,
        ),
        Measure(
            "round-trip",
            "Round trip: enqueue and wait for the result, one after the other",
            Scenario(OURS.name, partial(round_trip, OURS, url, scale.samples)),
            [
                Scenario(peer.name, partial(round_trip, peer, url, scale.samples))
                for peer in workers
                if peer.results
            ],
            [Goal("p50, beside the fastest peer", beside_fastest("p50", highest=False), 1, "at most", "×")],
            COLUMNS,
        ),
    ]


def pickup(peer: Peer, url: str, count: int) -> Mapping[str, float]:
    probe = RedisProbe(url)
    probe.flush()
    with worker(peer, url, tasks=count, times=True) as running:
        _wake(peer, url, running)
        sent = produce(peer, url, "pickup", count)["sent"]
        _wait_for(running, count + 1)
        began = running.times
    probe.close()
    # The first ones meet a connection that is yet to be made.
    return _shown([(start - call) / 1e6 for start, call in zip(began, sent, strict=True)][10:])


def round_trip(peer: Peer, url: str, count: int) -> Mapping[str, float]:
    probe = RedisProbe(url)
    probe.flush()
    with worker(peer, url, tasks=max(count, 10), env=RESULTS) as running:
        _wake(peer, url, running)
        took = produce(peer, url, "round_trip", count, RESULTS)["took"]
    probe.close()
    return _shown([each / 1e6 for each in took])


def _wake(peer: Peer, url: str, running: Worker) -> None:
    """Wait until the worker has run a first task and is idle again."""
    produce(peer, url, "fill", 1, RESULTS)
    _wait_for(running, 1)
    time.sleep(0.5)


def _wait_for(running: Worker, count: int, timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while running.head[3] < count:
        if time.monotonic() > deadline:
            raise running.process.error(f"ran {running.head[3]} of {count} tasks within {timeout:g} s")
        time.sleep(0.01)


def _shown(values: Sequence[float]) -> Mapping[str, float]:
    return {"p50": percentile(values, 50), "p99": percentile(values, 99), "max": max(values)}
