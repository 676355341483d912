"""From a resource event to new tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from concave.clock import seconds
from concave.hooks import HookContext, ResourceHooks, Row
from concave.tasks.define import TaskDefinition
from concave.tasks.options import Duration
from concave.tasks.scheduler import TaskScheduler

__all__ = ["TaskTrigger", "create_task_trigger_hooks"]

Event = Literal["create", "update", "delete"]


@dataclass(frozen=True, slots=True)
class TaskTrigger:
    """A task to enqueue for an event.

    `when` decides by the row whether it fires; `transform` makes the task's input of the row, in place of the
    default ``{"event", "resource", "data", "userId"}``; `delay` is in seconds.
    """

    task: TaskDefinition[Any, Any]
    when: Callable[[Row], bool] | None = None
    transform: Callable[[Row], Any] | None = None
    delay: Duration | None = None

    def __post_init__(self) -> None:
        if self.delay is not None:
            seconds(self.delay, f"TaskTrigger({self.task.name!r}) delay")


def create_task_trigger_hooks(
    *,
    on_create: Sequence[TaskTrigger] = (),
    on_update: Sequence[TaskTrigger] = (),
    on_delete: Sequence[TaskTrigger] = (),
    scheduler: TaskScheduler | None = None,
) -> ResourceHooks:
    """After-hooks that enqueue tasks.

    In a resource the tasks commit with the row. `scheduler` takes the place of the process-wide default, which is
    looked up when an event fires, never at import.
    """

    def after(event: Event, triggers: Sequence[TaskTrigger]) -> Callable[[HookContext, Row], Any] | None:
        if not triggers:
            return None

        async def fire(ctx: HookContext, row: Row) -> None:
            for trigger in triggers:
                if trigger.when is None or trigger.when(row):
                    await ctx.enqueue(
                        trigger.task,
                        _input_of(trigger, event, ctx, row),
                        delay=trigger.delay,
                        scheduler=scheduler,
                    )

        return fire

    return ResourceHooks(
        on_after_create=after("create", on_create),
        on_after_update=after("update", on_update),
        on_after_delete=after("delete", on_delete),
    )


def _input_of(trigger: TaskTrigger, event: Event, ctx: HookContext, row: Row) -> Any:
    if trigger.transform is not None:
        return trigger.transform(row)
    return {"event": event, "resource": ctx.resource, "data": row, "userId": _user_id(ctx.user)}


def _user_id(user: Any) -> Any:
    if isinstance(user, Mapping):
        return user.get("id")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return getattr(user, "id", None)
