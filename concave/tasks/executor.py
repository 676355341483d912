"""One run of one task: decode the input, call the handler, encode the result, decide.

The outcome is a value (a `Decision`, or None where the lease was lost and there is nothing left to decide), never an
exception: whatever a handler raises, SystemExit and KeyboardInterrupt included, ends its own attempt and nothing else.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import random
from collections.abc import Callable
from typing import Any, Literal

from concave.clock import Timer
from concave.errors import TaskInputError, TaskOutputError, TaskTimeoutError
from concave.failpoints import armed, reach
from concave.store.records import Cancel, Complete, Decision, Die, Lease, Release
from concave.tasks.codec import CodecError
from concave.tasks.context import TaskContext
from concave.tasks.define import TaskDefinition
from concave.tasks.retry import decide
from concave.tasks.threads import HandlerThreads

__all__ = ["MAX_RESULT_BYTES", "Run", "StopCause", "abandoned", "execute"]

MAX_RESULT_BYTES = 16 * 1024 * 1024
"""Larger ones belong elsewhere: a store that chokes on one result would keep all others from being settled."""

StopCause = Literal["timeout", "shutdown", "cancelled", "lease lost"]


class Run:
    """A claimed task while its handler runs, as its worker holds it."""

    __slots__ = (
        "cause",
        "context",
        "deadline",
        "definition",
        "interruptible",
        "lease",
        "lost",
        "started",
        "task",
        "timer",
    )

    def __init__(
        self, lease: Lease, definition: TaskDefinition[Any, Any], context: TaskContext, started: float
    ) -> None:
        self.lease = lease
        self.definition = definition
        self.context = context
        self.started = started
        self.deadline = started + (definition.timeout or math.inf)
        self.task: asyncio.Task[None] | None = None
        self.timer: Timer | None = None
        self.cause: StopCause | None = None
        self.lost = False
        self.interruptible = False

    @property
    def told_to_stop(self) -> bool:
        """Whether the handler was asked to end."""
        return self.cause is not None

    def stop(self, cause: StopCause, reason: str) -> bool:
        """Ask the handler to end: its signal first, then its cancellation. False if it was asked before."""
        if self.cause is not None:
            if self.cause in {"shutdown", "timeout"} and cause == "cancelled":
                self.cause = cause  # for good, where the others would have it run again
            return False
        self.cause = cause
        self.context.signal.abort(reason)
        if self.task is not None:
            # In the next turn of the loop: a handler that waits for the signal is to hear it first.
            self.task.get_loop().call_soon(self._interrupt)
        return True

    def _interrupt(self) -> None:
        # A thread can't be cancelled: its handler sees the signal, and holds its slot until it returns.
        if self.task is not None and self.interruptible:
            self.task.cancel()


async def execute(
    run: Run, threads: HandlerThreads, chance: Callable[[], float] = random.random
) -> Decision | None:
    """Run a task's handler and decide what becomes of the task."""
    definition = run.definition
    try:
        if run.told_to_stop:
            raise asyncio.CancelledError  # before it began
        value = _decoded(run) if definition.arity == 2 else None
        result = await _call(run, threads, value)
        if armed:
            await reach("worker.ran")
        if run.cause == "timeout":
            raise _timed_out(run)
        return Complete(_encoded(definition, result))
    except BaseException as error:
        return _after(error, run, chance())


def abandoned(run: Run, chance: float) -> Decision | None:
    """The decision about a run that doesn't end, whose worker has to: what it was told to stop for still holds."""
    return Release() if run.cause is None else _after(asyncio.CancelledError(), run, chance)


def _after(error: BaseException, run: Run, chance: float) -> Decision | None:
    """The decision after a run that didn't return."""
    match run.cause:
        case "lease lost":
            return None
        case "shutdown":
            return Release()
        case "cancelled":
            return Cancel(run.context.signal.reason or "cancelled")
        case "timeout":
            error = error if isinstance(error, TaskTimeoutError) else _timed_out(run, error)
        case None:
            pass
    try:
        return decide(error, run.lease.task.attempt, run.definition.retry, chance)
    except BaseException as broken:  # a subclass of Discard, say, that doesn't call its base
        name = type(error).__name__
        return Die(f"{name}, and what to do about it could not be told: {type(broken).__name__}", None)


async def _call(run: Run, threads: HandlerThreads, value: Any) -> Any:
    definition = run.definition
    args = (run.context, value)[: definition.arity]
    if definition.is_async:
        result = definition.handler(*args)
    else:
        result = await threads.run(definition.handler, *args)
        # A plain function may return an awaitable: the wrapper that some decorator puts around an async handler.
        if not inspect.isawaitable(result):
            return result
    # A handler may be cancelled while it is awaited, but neither a thread nor our own steps around it.
    run.interruptible = True
    try:
        if run.told_to_stop and run.task is not None:
            run.task.cancel()
        return await result
    finally:
        run.interruptible = False


def _decoded(run: Run) -> Any:
    try:
        return run.definition.input.decode(run.lease.task.input)
    except CodecError as error:
        raise TaskInputError(f"this version of the code can't take the input: {error}") from error


def _encoded(definition: TaskDefinition[Any, Any], result: Any) -> bytes:
    try:
        data = definition.output.encode(result)[1]
    except CodecError as error:
        raise TaskOutputError(f"the handler's result: {error}") from error
    if len(data) > MAX_RESULT_BYTES:
        raise TaskOutputError(f"the handler's result: {len(data)} bytes; the limit is {MAX_RESULT_BYTES}")
    return data


def _timed_out(run: Run, cause: BaseException | None = None) -> TaskTimeoutError:
    error = TaskTimeoutError(f"ran longer than its timeout of {run.definition.timeout:g} s")
    error.__cause__ = cause
    return error
