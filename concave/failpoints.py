"""Places in the code at which a test can make things go wrong; `concave.testing.fail_at` arms them.

The code passes one like this, which costs a look at an empty dict as long as nothing is armed::

    if armed:
        await reach("outbox.sent")

Nothing but a call from a test arms a fail-point: no option, and no environment variable by itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

__all__ = ["FailPoint", "armed", "reach"]

FailPoint = Literal[
    # A request that writes a row, in `concave_sqlalchemy`, in the order in which it passes them.
    "write.begun",  # BEGIN was sent
    "write.row",  # the row is written, its after-hooks have not run
    "write.hooked",  # they have, and what they enqueued is not written yet
    "write.flushed",  # the outbox rows are written too, and nothing is committed
    "write.committed",  # COMMIT was answered, nothing is sent to the store
    "outbox.sent",  # the store has a task, and its outbox row is still there
    "outbox.deleting",  # the row's DELETE is not committed
    "outbox.deleted",  # the row is gone
    # A sweep of what was left behind; it passes outbox.deleting and outbox.deleted too.
    "sweep.read",  # rows were read, and none is sent
    "sweep.sent",  # the store has their tasks
    # A worker.
    "worker.claimed",  # tasks are leased, and none has begun
    "worker.ran",  # a handler has returned, and the store doesn't know
    "worker.settled",  # the store knows, and its answer is not heard yet
    # A recurring scheduler.
    "schedule.due",  # a schedule was found due, and isn't fired
    "schedule.fired",  # its slot is enqueued and it has moved on
]

armed: dict[FailPoint, Callable[[], Awaitable[None]]] = {}
"""What happens at which fail-point. Empty outside tests."""


async def reach(point: FailPoint) -> None:
    """Pass a fail-point: have happen there what a test wants."""
    if point in armed:
        await armed[point]()
