"""huey: a job is popped and gone: it acknowledges nothing."""

from huey import RedisHuey

from benchmarks.peers.record import run_counter
from benchmarks.peers.settings import RESULTS, URL

ran = run_counter()
huey = RedisHuey("bench", url=URL, results=RESULTS, notify_result=RESULTS)


@huey.task()
def work(index: int, data: str) -> int:
    ran(index)
    return index
