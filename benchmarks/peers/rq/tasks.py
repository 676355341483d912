"""RQ: one job at a time; jobs of a dead worker are found in its registry and put back."""

from redis import Redis
from rq import Queue

from benchmarks.peers.record import run_counter
from benchmarks.peers.settings import RESULTS, URL

TTL = 86_400 if RESULTS else 0
ran = run_counter()
connection = Redis.from_url(URL)
queue = Queue(connection=connection)


def work(index: int, data: str) -> int:
    ran(index)
    return index
