"""The process-wide default, and the only globals in the code.

`initialize_tasks(kv)`, or a running `task_lifespan`, makes a scheduler and a registry that hooks, triggers and
handlers reach without being handed them. The outboxes that resources announce are known here too, weakly, so that
every lifespan and worker process relays them without being told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakSet

from concave.errors import TasksNotInitializedError
from concave.tasks.registry import TaskRegistry
from concave.tasks.scheduler import TaskScheduler

if TYPE_CHECKING:
    from concave.kv import KV
    from concave.tasks.outbox import Outbox

__all__ = [
    "Defaults",
    "announce_outbox",
    "announced_outboxes",
    "get_task_registry",
    "get_task_scheduler",
    "initialize_tasks",
    "restore_defaults",
    "use_defaults",
]


@dataclass(frozen=True, slots=True)
class Defaults:
    """A scheduler and a registry that belong together."""

    scheduler: TaskScheduler
    registry: TaskRegistry


_stack: list[Defaults] = []
_outboxes: WeakSet[Outbox] = WeakSet()


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


def _current() -> Defaults:
    if not _stack:
        raise TasksNotInitializedError(
            "no tasks in this process yet: call initialize_tasks(kv), or run the app with task_lifespan(...)"
        )
    return _stack[-1]
