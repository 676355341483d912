import logging

from rq.worker import SimpleWorker

from benchmarks.peers.rq.tasks import connection, queue

if __name__ == "__main__":
    logging.disable(logging.INFO)
    SimpleWorker([queue], connection=connection).work(logging_level="ERROR")
