from benchmarks.peers.celery.tasks import app
from benchmarks.peers.settings import THREADS

if __name__ == "__main__":
    app.worker_main(
        [
            "worker",
            "--pool=threads",
            f"--concurrency={THREADS}",
            "--loglevel=ERROR",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
        ]
    )
