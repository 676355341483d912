"""How fast a full queue is emptied, and what a task costs: CPU of the workers and of Redis, commands, lost and doubled runs."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial

from benchmarks.catalogue import OURS, Peer
from benchmarks.plan import Goal, Measure, Scale, Scenario, beside_fastest
from benchmarks.processes import Worker, produce, worker
from benchmarks.redis_probe import RedisProbe

__all__ = ["drain", "measures"]

COLUMNS = {
    "rate": "tasks/s",
    "worker_us": "worker µs",
    "redis_us": "Redis µs",
    "commands": "commands",
    "rss_mb": "RSS MB",
    "lost": "lost",
    "twice": "twice",
}

SETTLE = 0.03
"""Seconds after the last handler until CPU is read: long enough to settle the last tasks, too short for idling to count."""
LINGER = 0.5
"""Seconds more in which a task that runs twice would show."""


def measures(peers: Sequence[Peer], url: str, scale: Scale) -> list[Measure]:
    """Against the peers: as they are quickest, and with results kept, as ours always are."""
    workers = [peer for peer in peers if peer.drains]
    keepers = [peer for peer in workers if peer.results]
    ours = Scenario(OURS.name, lambda: drain(OURS, url, scale.tasks))
    return [
        Measure(
            "drain",
            f"Drain {scale.tasks:,} tasks of 100 bytes, one worker process, concurrency 100",
            ours,
            [Scenario(peer.name, partial(drain, peer, url, scale.tasks), not peer.limit) for peer in workers],
            [
                Goal("rate, beside the fastest peer", beside_fastest("rate"), 10, "at least", "×"),
                Goal("worker CPU a task", lambda result: result.ours("worker_us"), 35, "at most", " µs"),
                Goal("Redis CPU a task", lambda result: result.ours("redis_us"), 15, "at most", " µs"),
                Goal("lost", lambda result: result.ours("lost"), 0, "at most"),
                Goal("run twice", lambda result: result.ours("twice"), 0, "at most"),
            ],
            COLUMNS,
        ),
        Measure(
            "drain-results",
            "The same, with results kept by the peers too",
            ours,
            [
                Scenario(peer.name, partial(drain, peer, url, scale.tasks, env={"BENCH_RESULTS": "1"}))
                for peer in keepers
            ],
            [Goal("rate, beside the fastest peer", beside_fastest("rate"), 10, "at least", "×")],
            {**COLUMNS, "queued_bytes": "bytes queued", "finished_bytes": "bytes finished"},
        ),
    ]


def drain(
    peer: Peer,
    url: str,
    tasks: int,
    *,
    processes: int = 1,
    delayed: int = 0,
    env: Mapping[str, str] | None = None,
    timeout: float = 300.0,
) -> dict[str, float]:
    """Fill the queue, start the workers, and measure from the first handler's start to the last's."""
    probe = RedisProbe(url)
    probe.flush()
    empty = probe.read()
    produce(peer, url, "fill", tasks, env)
    if delayed:
        produce(peer, url, "fill_delayed", delayed, env)
    before = probe.read()
    with ExitStack() as stack:
        workers = [stack.enter_context(worker(peer, url, tasks=tasks, env=env)) for _ in range(processes)]
        _wait_for(workers, tasks, timeout)
        time.sleep(SETTLE)
        cpu = sum(each.cpu for each in workers)
        cost = probe.since(before)
        rss = max(each.rss for each in workers)
        time.sleep(LINGER)
        heads = [each.head for each in workers]
        runs = [sum(each) for each in zip(*(each.ran for each in workers), strict=True)]
    after = probe.read()
    seconds = (max(last for _, last, _, _ in heads) - min(first for first, *_ in heads if first)) / 1e9
    done = sum(count > 0 for count in runs)
    probe.close()
    return {
        "rate": done / seconds,
        "worker_us": (cpu - sum(at_first for _, _, at_first, _ in heads) / 1e9) / done * 1e6,
        "redis_us": cost.cpu / done * 1e6,
        "commands": cost.total / done,
        "scripts": (cost.commands.get("evalsha", 0) + cost.commands.get("eval", 0)) / done,
        "rss_mb": rss / 1e6,
        "queued_bytes": (before.memory - empty.memory) / (tasks + delayed),
        "finished_bytes": (after.memory - empty.memory) / done,
        "lost": float(tasks - done),
        "twice": float(sum(count - 1 for count in runs if count > 1)),
    }


def _wait_for(workers: list[Worker], tasks: int, timeout: float) -> None:
    """Until every task has run, or nothing has run for a while: what is missing by then is lost."""
    deadline = time.monotonic() + timeout
    patience = 20.0
    seen, changed = 0, time.monotonic()
    while time.monotonic() < deadline:
        time.sleep(0.005)
        count = sum(each.head[3] for each in workers)
        if count >= tasks:
            return
        if count != seen:
            seen, changed = count, time.monotonic()
        if time.monotonic() - changed > patience and seen:
            return
        for each in workers:
            if each.process.returncode is not None:
                raise each.process.error("ended while it was measured")
    raise TimeoutError(f"{seen} of {tasks} tasks ran in {timeout:g} s")
