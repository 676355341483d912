"""Make things go wrong at a chosen step, in a test.

with fail_at("outbox.sent", kill_process):   # or an exception to raise, or a function to call there
    …
"""

from __future__ import annotations

import inspect
import os
import signal
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast, get_args

from concave.errors import ConfigurationError
from concave.failpoints import FailPoint, armed

__all__ = ["FAIL_POINTS", "Action", "Armed", "FailPoint", "arm_from_environment", "fail_at", "kill_process"]

FAIL_POINTS: tuple[FailPoint, ...] = get_args(FailPoint)
"""All there are; what each stands for is told in `concave/failpoints.py`."""

Action = BaseException | type[BaseException] | Callable[[], Awaitable[object] | object]
"""An exception to raise, or a function to call; what it returns is awaited if it can be, so that it may also hold things up."""

VARIABLE = "CONCAVE_FAIL_AT"


@dataclass(slots=True)
class Armed:
    """A fail-point in the hands of a test."""

    point: FailPoint
    reached: int = 0
    """How often it was passed while it was armed."""


@contextmanager
def fail_at(
    point: FailPoint, action: Action, *, after: int = 0, times: int | None = None
) -> Generator[Armed]:
    """Have `action` happen whenever this process passes `point`, in any thread, until the block ends.

    The first `after` passages are let through, and only `times` are acted upon, where that is given. Raises
    `ConfigurationError` for a fail-point that there isn't, and for one that is armed already.
    """
    arm = _arm(point, action, after, times)
    try:
        yield arm
    finally:
        del armed[point]


def kill_process() -> None:
    """An action: SIGKILL to this process, which gets no chance to clean up, as in a crash."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm_from_environment() -> list[Armed]:
    """Kill this process at the fail-points that ``CONCAVE_FAIL_AT`` names, separated by commas; they stay armed.

    For a process that a test starts, say an app under uvicorn: a module of the test's own calls this and then imports
    the app. The variable does nothing where nobody calls this, and it can name fail-points and nothing else.
    """
    names = [name.strip() for name in os.environ.get(VARIABLE, "").split(",")]
    return [_arm(cast("FailPoint", name), kill_process, 0, None) for name in names if name]


def _arm(point: FailPoint, action: Action, after: int, times: int | None) -> Armed:
    if point not in FAIL_POINTS:
        raise ConfigurationError(f"there is no fail-point {point!r}; there are {', '.join(FAIL_POINTS)}")
    if point in armed:
        raise ConfigurationError(f"the fail-point {point!r} is armed already")
    arm = Armed(point)

    async def reached() -> None:
        arm.reached += 1
        acts = arm.reached > after and (times is None or arm.reached <= after + times)
        if acts:
            await _act(action)

    armed[point] = reached
    return arm


async def _act(action: Action) -> None:
    if isinstance(action, BaseException) or (
        isinstance(action, type) and issubclass(action, BaseException)  # pyright: ignore[reportUnnecessaryIsInstance]
    ):
        raise action
    result = action()
    if inspect.isawaitable(result):
        await result
