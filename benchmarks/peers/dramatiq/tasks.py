"""dramatiq: acknowledged when finished; a dead worker's messages go back after its heartbeat timeout."""

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.peers.record import run_counter
from benchmarks.peers.settings import RESULTS, URL

ran = run_counter()
broker = RedisBroker(url=URL)
if RESULTS:
    broker.add_middleware(Results(backend=RedisBackend(url=URL), result_ttl=86_400_000))
dramatiq.set_broker(broker)


@dramatiq.actor(**({"store_results": True} if RESULTS else {}))
def work(index: int, data: str) -> int:
    ran(index)
    return index
