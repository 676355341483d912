"""Resource events: what may happen before and after a row is created, updated or deleted."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeAlias

from concave.shown import shown
from concave.store.records import NewTask
from concave.tasks.define import TaskDefinition
from concave.tasks.options import Duration
from concave.tasks.scheduler import TaskScheduler
from concave.tasks.submission import submission

__all__ = ["HandOver", "HookContext", "PlainTriggers", "ResourceHooks", "Row", "TaskForm", "compose_hooks"]

Row: TypeAlias = dict[str, Any]
"""A row, by column name."""


class HandOver(Protocol):
    """Where the tasks of hooks go: to an outbox in a transaction, or to a scheduler, by default the process-wide one."""

    async def __call__(self, new: NewTask, scheduler: TaskScheduler | None) -> str:
        """Have it put there; its id."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class TaskForm:
    """A task but for its id and for the row that its input tells of: what those of many writes have in common."""

    task: NewTask
    """Of some id and of no row."""
    before: bytes
    """Its input, up to the row."""
    after: bytes
    check: Callable[[bytes], None]
    """Raises `TaskInputTooLargeError` for an input that is more than the task takes."""
    scheduler: TaskScheduler | None

    def filled(self, task_id: str, row: bytes) -> NewTask:
        """The task of a row, which is given as JSON. Raises `TaskInputTooLargeError`."""
        data = b"".join((self.before, row, self.after))
        self.check(data)
        return NewTask(task_id, self.task.name, data, *self.task[3:])


@dataclass(frozen=True, slots=True)
class PlainTriggers:
    """An after-hook that has tasks for a row, waits for nothing to know them, and does nothing else."""

    tasks: Callable[[HookContext, Row], Sequence[tuple[NewTask, TaskScheduler | None]]]
    """The tasks for a row, each with the scheduler that it is for."""
    forms: Callable[[str, Any], Sequence[TaskForm]] | None
    """Those of a resource and a user; None where not only their input depends on the row, or where that isn't simply it. Raises
    `TaskInputError`."""

    async def __call__(self, ctx: HookContext, row: Row) -> None:
        """Enqueue them."""
        for new, scheduler in self.tasks(ctx, row):
            await ctx.submit(new, scheduler)


class HookContext:
    """What a hook is told about the request it is part of.

    `session` is the transaction that the row is written in. `previous` is, for an after-update hook, the row as it was.
    `request_id` is what the client (X-Request-ID) or a middleware (``request.state.request_id``) calls the request.
    `shown` makes JSON of some of a row's values, as GET shows them. `in_thread` calls a function in a thread: how hooks that
    aren't asynchronous are called where `session` blocks.
    Outside a resource all of them are what the caller gave, and tasks go straight to a scheduler.
    """

    def __init__(
        self,
        *,
        user: Any = None,
        request: Any = None,
        session: Any = None,
        resource: str = "",
        request_id: str | None = None,
        previous: Row | None = None,
        submit: HandOver | None = None,
        on_commit: Callable[[Callable[[], Any]], None] | None = None,
        shown: Callable[[Row], Row] = shown,
        in_thread: Callable[..., Awaitable[Any]] | None = None,
    ) -> None:
        self.user = user
        self.request = request
        self.session = session
        self.resource = resource
        self.request_id = request_id
        self.previous = previous
        self._submit: HandOver = submit or _submit_now
        self.shown = shown
        self._in_thread = in_thread
        self._after_commit: list[Callable[[], Any]] = []
        self._on_commit = on_commit or self._after_commit.append

    def on_commit(self, callback: Callable[[], Any]) -> None:
        """Call `callback` (sync or async) once the transaction has committed; not at all if it rolls back, or the savepoint that this
        is called in.
        """
        self._on_commit(callback)

    async def enqueue(
        self,
        task: TaskDefinition[Any, Any],
        input: Any = None,
        *,
        delay: Duration | None = None,
        scheduler: TaskScheduler | None = None,
        key: str | None = None,
    ) -> str:
        """Enqueue a task; its id.

        In a resource it becomes an outbox row in the request's transaction, so that it runs if and only if the row
        commits. Elsewhere it goes to `scheduler`, or to the process-wide default. Tasks of one name that wait under the
        same `key` are one task, with the input of the latest to commit; see `TaskTrigger`.

        Raises `TaskInputError` for an input that isn't what the task takes.
        """
        return await self.submit(submission(task, input, delay=delay, coalesce=key), scheduler)

    async def submit(self, new: NewTask, scheduler: TaskScheduler | None = None) -> str:
        """`enqueue`, for a submission that is made and checked already."""
        return await self._submit(new, scheduler)

    def about(self, previous: Row | None) -> HookContext:
        """The same context for one updated row, which was `previous` before."""
        context = copy.copy(self)
        context.previous = previous
        return context

    @property
    def after_commit(self) -> Sequence[Callable[[], Any]]:
        """The callbacks that wait for a commit, in order, where no transaction took them."""
        return self._after_commit


async def _submit_now(new: NewTask, scheduler: TaskScheduler | None) -> str:
    # Looked up at the call: hooks are declared at import, long before there is a scheduler.
    from concave.tasks.defaults import get_task_scheduler

    return await (scheduler or get_task_scheduler()).submit_one(new)


@dataclass(frozen=True, slots=True)
class ResourceHooks:
    """Functions, sync or async, around a resource's writes.

    Before-hooks may return replacement data (None leaves it as it is); whatever raises rolls everything back. An
    update's `data` holds the columns that are to change; a delete's after-hook gets the row as it was.

    `schedulers` are those that they give tasks to besides the default one: what a crash left in an outbox for one of them is relayed
    from the process's start on. Those of `create_task_trigger_hooks` are there by themselves.

    `uses_session`: False says that none of them uses ``ctx.session``, which is then None in a resource. Its requests are faster
    for it; the hooks of triggers alone are so by themselves.
    """

    on_before_create: Callable[[HookContext, Row], Any] | None = None
    on_after_create: Callable[[HookContext, Row], Any] | None = None
    on_before_update: Callable[[HookContext, Any, Row], Any] | None = None
    on_after_update: Callable[[HookContext, Row], Any] | None = None
    on_before_delete: Callable[[HookContext, Any], Any] | None = None
    on_after_delete: Callable[[HookContext, Row], Any] | None = None
    uses_session: bool = True
    schedulers: Collection[TaskScheduler] = ()


def compose_hooks(*hooks: ResourceHooks) -> ResourceHooks:
    """One set of hooks out of several: before-hooks chain (each gets what the one before it returned), after-hooks
    run in order.
    """
    chains = {
        field.name: [hook for each in hooks if (hook := getattr(each, field.name))]
        for field in fields(ResourceHooks)
        if field.name.startswith("on_")
    }
    return ResourceHooks(
        on_before_create=_chain(chains["on_before_create"]),
        on_after_create=_each(chains["on_after_create"]),
        on_before_update=_chain(chains["on_before_update"]),
        on_after_update=_each(chains["on_after_update"]),
        on_before_delete=_each(chains["on_before_delete"]),
        on_after_delete=_each(chains["on_after_delete"]),
        uses_session=not hooks or any(each.uses_session for each in hooks),
        schedulers=tuple(scheduler for each in hooks for scheduler in each.schedulers),
    )


async def call_hook(hook: Callable[..., Any], *args: Any) -> Any:
    """Call a hook that may be sync or async; in a thread a sync one whose context says so, because its session blocks."""
    context = args[0] if args else None
    if (
        isinstance(context, HookContext)
        and context._in_thread is not None  # noqa: SLF001  (this module's own)
        and not (inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(type(hook).__call__))
    ):
        result = await context._in_thread(hook, *args)  # noqa: SLF001
    else:
        result = hook(*args)
    return await result if inspect.isawaitable(result) else result


def _chain(hooks: Sequence[Callable[..., Any]]) -> Callable[..., Any] | None:
    """Before-hooks whose last argument is data: each sees what the one before it made of it."""
    if not hooks:
        return None

    async def run(*args: Any) -> Any:
        *context, data = args
        for hook in hooks:
            replacement = await call_hook(hook, *context, data)
            data = data if replacement is None else replacement
        return data

    return run


def _each(hooks: Sequence[Callable[..., Any]]) -> Callable[..., Any] | None:
    """Hooks that are called one after the other with the same arguments."""
    if not hooks:
        return None
    if len(hooks) == 1 and isinstance(hooks[0], PlainTriggers):
        return hooks[0]  # as it is, for who has a shorter way with it

    async def run(*args: Any) -> None:
        for hook in hooks:
            await call_hook(hook, *args)

    return run
