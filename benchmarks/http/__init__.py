"""The resource router beside a hand-written endpoint and other routers: `python -m benchmarks.http`."""
