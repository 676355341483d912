import logging

from benchmarks.peers.produce import loop_runner
from benchmarks.peers.streaq.tasks import worker

if __name__ == "__main__":
    logging.disable(logging.INFO)
    loop_runner()(worker.run_async())
