"""taskiq with taskiq-redis: by stream (acknowledged after the result is saved) or by list (never acknowledged)."""

import os

from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.peers.record import run_counter
from benchmarks.peers.settings import RESULTS, URL

ran = run_counter()

kind = ListQueueBroker if os.environ.get("BENCH_VARIANT") == "list" else RedisStreamBroker
broker = kind(URL)
if RESULTS:
    broker = broker.with_result_backend(RedisAsyncResultBackend(URL, result_ex_time=86_400))


@broker.task
async def work(index: int, data: str) -> int:
    ran(index)
    return index
