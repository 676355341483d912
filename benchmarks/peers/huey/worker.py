import logging

from benchmarks.peers.huey.tasks import huey
from benchmarks.peers.settings import THREADS

if __name__ == "__main__":
    logging.disable(logging.INFO)
    huey.create_consumer(workers=THREADS, worker_type="thread", periodic=False).run()
