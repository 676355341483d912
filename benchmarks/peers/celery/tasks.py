"""Celery: acknowledged late, that is when finished; what a dead worker held comes back after the visibility timeout."""

from celery import Celery

from benchmarks.peers.record import run_counter
from benchmarks.peers.settings import RESULTS, URL

ran = run_counter()
app = Celery("bench", broker=URL, backend=URL if RESULTS else None)
app.conf.update(
    task_acks_late=True,
    task_ignore_result=not RESULTS,
    worker_prefetch_multiplier=10,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)


@app.task(name="work")
def work(index: int, data: str) -> int:
    ran(index)
    return index
