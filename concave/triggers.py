"""From a resource event to new tasks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from concave.errors import ConfigurationError
from concave.hooks import HookContext, ResourceHooks, Row, call_hook
from concave.tasks.define import TaskDefinition
from concave.tasks.options import Duration, micros
from concave.tasks.scheduler import TaskScheduler

__all__ = ["TaskTrigger", "create_task_trigger_hooks"]

Event = Literal["create", "update", "delete"]


@dataclass(frozen=True, slots=True)
class TaskTrigger:
    """A task to enqueue for an event.

    `when` decides by the row whether it fires; `transform` makes the task's input of the row, in place of the
    default ``{"event", "resource", "data", "userId"}``; both may be async. `delay` is in seconds.
    """

    task: TaskDefinition[Any, Any]
    when: Callable[[Row], bool | Awaitable[bool]] | None = None
    transform: Callable[[Row], Any] | None = None
    delay: Duration | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.task, TaskDefinition):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"{self.task!r} is no task: make one of it with define_task")
        if self.delay is not None:
            micros(self.delay, f"TaskTrigger({self.task.name!r}) delay")


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

    def after(event: Event, given: Sequence[TaskTrigger]) -> Callable[[HookContext, Row], Any] | None:
        triggers = _checked(given, f"on_{event}")
        if not triggers:
            return None

        async def fire(ctx: HookContext, row: Row) -> None:
            for trigger in triggers:
                if trigger.when is None or await call_hook(trigger.when, row):
                    await ctx.enqueue(
                        trigger.task,
                        await _input_of(trigger, event, ctx, row),
                        delay=trigger.delay,
                        scheduler=scheduler,
                    )

        return fire

    return ResourceHooks(
        on_after_create=after("create", on_create),
        on_after_update=after("update", on_update),
        on_after_delete=after("delete", on_delete),
    )


def _checked(triggers: object, option: str) -> tuple[TaskTrigger, ...]:
    """The triggers, fixed: what is wrong is noticed where they are written, not at the first row."""
    listed = tuple(cast("Iterable[object]", triggers)) if isinstance(triggers, Iterable) else (triggers,)
    fixed = tuple(each for each in listed if isinstance(each, TaskTrigger))
    if fixed != listed or not isinstance(triggers, Iterable):
        raise ConfigurationError(f"{option} is a list of TaskTriggers, not {triggers!r}")
    return fixed


async def _input_of(trigger: TaskTrigger, event: Event, ctx: HookContext, row: Row) -> Any:
    if trigger.transform is not None:
        return await call_hook(trigger.transform, row)
    return {"event": event, "resource": ctx.resource, "data": row, "userId": _user_id(ctx.user)}


def _user_id(user: Any) -> Any:
    if isinstance(user, Mapping):
        return user.get("id")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return getattr(user, "id", None)
