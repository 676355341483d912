"""docket: Redis streams; acknowledged when finished, redelivered from the dead."""

from datetime import timedelta

from docket import Docket

from benchmarks.peers.record import run_counter
from benchmarks.peers.settings import RESULTS, URL

ran = run_counter()


async def work(index: int, data: str) -> int:
    ran(index)
    return index


def new_docket() -> Docket:
    ttl = timedelta(days=1) if RESULTS else timedelta(0)
    docket = Docket("bench", url=f"{URL}?max_connections=1000", execution_ttl=ttl)
    docket.register(work)
    return docket
