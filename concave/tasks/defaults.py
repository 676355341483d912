"""The process-wide default, and the only globals in the code.

`initialize_tasks(kv)`, or a running `task_lifespan`, makes a scheduler and a registry that hooks, triggers and
handlers reach without being handed them. The outboxes that resources announce are known here too, weakly, so that
every lifespan and worker process relays them without being told.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

from concave.errors import TasksNotInitializedError
from concave.tasks.registry import TaskRegistry
from concave.tasks.scheduler import TaskScheduler

if TYPE_CHECKING:
    from concave.kv import KV
    from concave.tasks.outbox import Outbox

__all__ = [
    "Defaults",
    "Occupied",
    "announce_outbox",
    "announced_outboxes",
    "delivered",
    "end_suspect_turn",
    "get_task_registry",
    "get_task_scheduler",
    "initialize_tasks",
    "join_loop",
    "leave_suspect_turn",
    "restore_defaults",
    "take_suspect_turn",
    "use_defaults",
]


class Defaults(NamedTuple):
    """A scheduler and a registry that belong together."""

    scheduler: TaskScheduler
    registry: TaskRegistry


class Occupied(Protocol):
    """A worker's claims, as the others of its loop see them."""

    @property
    def occupied(self) -> bool:
        """Whether it runs something, or may be handed something."""
        ...


_stack: list[Defaults] = []
_outboxes: WeakSet[Outbox] = WeakSet()
# Workers of one process may have loops in several threads: two of them must not both find the turn free.
_turning = threading.Lock()
_suspect_turn: WeakValueDictionary[str, object] = WeakValueDictionary()
_kept_waiting: WeakKeyDictionary[object, Callable[[], object]] = WeakKeyDictionary()
_on_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, WeakSet[Occupied]] = WeakKeyDictionary()


def initialize_tasks(kv: KV) -> TaskScheduler:
    """Make a scheduler on `kv` and a fresh registry the process-wide default; a second call replaces the first."""
    defaults = Defaults(TaskScheduler(kv), TaskRegistry())
    _stack[:] = [defaults]
    return defaults.scheduler


def get_task_scheduler() -> TaskScheduler:
    """The default scheduler. Raises `TasksNotInitializedError` where there is none."""
    return _current().scheduler


def get_task_registry() -> TaskRegistry:
    """The default registry. Raises `TasksNotInitializedError` where there is none."""
    return _current().registry


def use_defaults(defaults: Defaults) -> None:
    """Make these the default until `restore_defaults` takes them away: what a running lifespan does."""
    _stack.append(defaults)


def restore_defaults(defaults: Defaults) -> None:
    """Take these away again; whatever was the default before them, or came after them, stays."""
    _stack[:] = [each for each in _stack if each is not defaults]


def announce_outbox(outbox: Outbox) -> None:
    """Have every lifespan and worker of this process relay an outbox, as long as someone else holds it."""
    _outboxes.add(outbox)


def announced_outboxes() -> list[Outbox]:
    """The outboxes announced in this process that are still in use."""
    return list(_outboxes)


async def delivered(destination: str) -> bool:
    """Wait until the tasks that outboxes of this process are sending to a store have reached it, for a moment at most; whether there
    may have been any.
    """
    return any(await asyncio.gather(*(outbox.delivered(destination) for outbox in announced_outboxes())))


def take_suspect_turn(worker: object, tell: Callable[[], object]) -> bool:
    """Whether a worker is the one of this process that may run a task which has crashed before; it is until it ends its turn.

    One per process, not per worker: it is the process that such a task takes down, with all that runs in it. A worker that
    isn't is told, by `tell` and on the thread of the one that had the turn, when the turn has come free.
    """
    with _turning:
        if _suspect_turn.setdefault("turn", worker) is worker:
            _kept_waiting.pop(worker, None)
            return True
        _kept_waiting[worker] = tell
        return False


def end_suspect_turn(worker: object, *, used: bool) -> None:
    """Let another worker have the turn, if this one has it; if it was `used` to run a task, tell those whom it kept waiting."""
    with _turning:
        if _suspect_turn.get("turn") is not worker:
            return
        del _suspect_turn["turn"]
        told = list(_kept_waiting.values()) if used else []
        if used:
            _kept_waiting.clear()
    for tell in told:
        tell()


def leave_suspect_turn(worker: object, *, used: bool) -> None:
    """A worker stops: it neither has the turn any longer nor waits for it, which would keep the worker in memory."""
    with _turning:
        _kept_waiting.pop(worker, None)
    end_suspect_turn(worker, used=used)


def join_loop(worker: Occupied) -> WeakSet[Occupied]:
    """All workers of the running loop from now on, this one among them: what blocks the loop blocks all of them."""
    with _turning:
        known = _on_loops.setdefault(asyncio.get_running_loop(), WeakSet())
    known.add(worker)
    return known


def _current() -> Defaults:
    if not _stack:
        raise TasksNotInitializedError(
            "no tasks in this process yet: call initialize_tasks(kv), or run the app with task_lifespan(...)"
        )
    return _stack[-1]
