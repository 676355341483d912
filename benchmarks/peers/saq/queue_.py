"""SAQ: a job is acknowledged when it is finished, and a sweeper gives stuck ones another of their retries."""

from saq import Queue

from benchmarks.peers.settings import RESULTS, URL

RETRIES = 3
TTL = 86_400 if RESULTS else -1
"""How long a finished job stays: -1 removes it at once."""


def new_queue() -> Queue:
    return Queue.from_url(URL, max_concurrent_ops=100)
