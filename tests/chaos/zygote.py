"""A process that has imported everything and forks programs of `tests.chaos.programs` on order, in milliseconds each.

A fault that kills hundreds of processes would otherwise spend its time on imports. What is forked is a process like any other,
in a session of its own; when the test run ends, however it ends, its pipe breaks, and this one kills what is left.

Orders come as JSON, one a line: `{"fork": name, "options": {…}, "log": path}` is answered with a pid, `{"poll": pid}` with
null while it runs and with its exit status (negative for a signal) once it has ended.
"""

import asyncio
import json
import logging
import os
import signal
import sys
from contextlib import suppress
from typing import Any, NoReturn

from tests.chaos import programs

alive: dict[int, int | None] = {}


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(_fork(**order) if "fork" in order else _poll(order["poll"])), flush=True)
    for pid in [pid for pid in alive if _poll(pid) is None]:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _fork(fork: str, options: dict[str, Any], log: str) -> int:
    # Who is told to end before he listens for it ends when he does: a test would take a signal's death for a crash.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    pid = os.fork()
    if pid != 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    else:
        _become(fork, options, log)
    alive[pid] = None
    return pid


def _poll(pid: int) -> int | None:
    if alive[pid] is None:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            alive[pid] = os.waitstatus_to_exitcode(status)
    return alive[pid]


def _become(name: str, options: dict[str, Any], log: str) -> NoReturn:
    """Be that program, and never come back."""
    status = 1
    try:
        os.setsid()
        null, output = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number, source in enumerate((null, output, output)):
            os.dup2(source, number)
        logging.basicConfig(
            level=logging.INFO, format=f"%(asctime)s {name} {os.getpid()} %(levelname)s %(name)s: %(message)s"
        )
        asyncio.run(getattr(programs, name)(**options))
        status = 0
    except BaseException:
        logging.exception("the program ended")  # noqa: LOG015  whatever it was, it belongs in the log
    finally:
        logging.shutdown()
        os._exit(status)


if __name__ == "__main__":
    main()
