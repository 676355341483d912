"""`python -m concave worker`, as a user starts it."""

import sys

from concave.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["worker", "benchmarks.peers.concave.app:lifespan", "--log-level", "warning"]))
