"""`python -m concave worker package.module:lifespan`: a process that runs tasks and serves no web."""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import logging
import signal
import sys
from collections.abc import Callable, Sequence

from concave.errors import ConcaveError
from concave.lifespan import TaskLifespan

__all__ = ["main"]

MOST_YOUNG = 50_000
"""New objects after which the garbage collector looks at the latest, however many tasks may run at once."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m concave")
    commands = parser.add_subparsers(dest="command", required=True)
    worker = commands.add_parser("worker", help="run tasks, with no web server, until SIGTERM or Ctrl-C")
    worker.add_argument("lifespan", help="where the app's task_lifespan(...) is: package.module:name")
    worker.add_argument(
        "--workers", type=int, help="how many workers; by default as many as the lifespan says, at least 1"
    )
    worker.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    options = parser.parse_args(arguments)
    logging.basicConfig(
        level=options.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        lifespan = _load(options.lifespan)
        count = options.workers if options.workers is not None else max(1, lifespan.workers)
        with asyncio.Runner(loop_factory=_fastest_loop()) as runner:
            _spare_collector(count * lifespan.worker_options["concurrency"])
            runner.run(_run(lifespan.with_workers(count)))
    except ConcaveError as error:
        print(f"concave: {error}", file=sys.stderr)
        return 1
    return 0


def _fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes uvloop's where that is installed, as web servers do; None for asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _spare_collector(at_once: int) -> None:
    """Have the garbage collector look less often where many tasks run at once: what they hold is no garbage.

    By itself it looks after some 700 new objects, which a hundred tasks that begin together have by far. Here alone: in a web process
    it is the app's to say. One that the app has turned off, or made patient, stays so. `MOST_YOUNG` bounds what garbage may lie about.
    """
    young, *older = gc.get_threshold()
    if young:
        gc.set_threshold(max(young, min(100 * at_once, MOST_YOUNG)), *older)


async def _run(lifespan: TaskLifespan) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with lifespan():
        await stopped.wait()


def _load(path: str) -> TaskLifespan:
    module, _, name = path.partition(":")
    if not name:
        raise ConcaveError(f"{path!r} names no object: package.module:lifespan")
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise ConcaveError(f"no module {error.name!r} (looked from the current folder on)") from error
    except AttributeError as error:
        raise ConcaveError(f"{module} has no {name!r}") from error
    if not isinstance(found, TaskLifespan):
        raise ConcaveError(f"{path} is {type(found).__name__}, not what task_lifespan(...) returned")
    return found


if __name__ == "__main__":
    sys.exit(main())
