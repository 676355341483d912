"""What the harness tells a peer's process, by its environment."""

import os

URL = os.environ.get("BENCH_URL", "redis://127.0.0.1:6379/0")
CONCURRENCY = int(os.environ.get("BENCH_CONCURRENCY", "100"))
RESULTS = bool(os.environ.get("BENCH_RESULTS"))
"""Whether results are kept. Ours always keeps them."""
DATA = "x" * 75
"""Makes an input of 100 bytes as JSON: {"index":12345,"data":"xxx…"}."""
THREADS = int(os.environ.get("BENCH_THREADS", "8"))
"""For peers that run synchronous jobs: more of them only fight over the interpreter's lock."""
