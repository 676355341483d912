import logging
import threading

from dramatiq.worker import Worker

from benchmarks.peers.dramatiq.tasks import broker
from benchmarks.peers.settings import THREADS

if __name__ == "__main__":
    logging.disable(logging.INFO)
    Worker(broker, worker_threads=THREADS, worker_timeout=100).start()
    threading.Event().wait()
