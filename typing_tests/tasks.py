"""What type checkers infer of `define_task` and `enqueue`: read by mypy and pyright, never run.

Where a line must be an error, it carries an ignore of its own; an ignore that ignores nothing fails the check.
"""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, assert_type

from pydantic import BaseModel

from concave import (
    DebounceConfig,
    HookContext,
    ResourceHooks,
    RetryConfig,
    Task,
    TaskContext,
    TaskDefinition,
    TaskScheduler,
    TaskTrigger,
    create_task_trigger_hooks,
    define_task,
)


class Email(BaseModel):
    to: str


# Handlers of every shape, given directly -----------------------------------------------------------------------------


async def takes_both(ctx: TaskContext, email: Email) -> bool:
    return bool(email.to)


def takes_both_in_thread(ctx: TaskContext, email: Email) -> bool:
    return bool(email.to)


async def takes_context(ctx: TaskContext) -> list[int]:
    return [ctx.attempt]


def takes_context_in_thread(ctx: TaskContext) -> list[int]:
    return [ctx.attempt]


async def takes_nothing() -> None: ...


def takes_nothing_in_thread() -> None: ...


async def takes_optional(ctx: TaskContext, email: Email | None = None) -> str:
    return email.to if email else ""


class Callee:
    async def __call__(self, ctx: TaskContext, email: Email) -> bool:
        return True


def returns_awaitable(ctx: TaskContext, email: Email) -> Awaitable[bool]:
    return takes_both(ctx, email)


assert_type(define_task("t", takes_both), TaskDefinition[Email, bool])
assert_type(define_task(name="t", handler=takes_both), TaskDefinition[Email, bool])
assert_type(define_task("t", takes_both_in_thread), TaskDefinition[Email, bool])
assert_type(define_task("t", takes_context), TaskDefinition[None, list[int]])
assert_type(define_task("t", takes_context_in_thread), TaskDefinition[None, list[int]])
assert_type(define_task("t", takes_nothing), TaskDefinition[None, None])
assert_type(define_task("t", takes_nothing_in_thread), TaskDefinition[None, None])
assert_type(define_task("t", takes_optional), TaskDefinition[Email | None, str])
assert_type(define_task("t", Callee()), TaskDefinition[Email, bool])
assert_type(define_task("t", returns_awaitable), TaskDefinition[Email, bool])
assert_type(
    define_task(
        name="t",
        handler=takes_both,
        input=Email,
        output=bool,
        retry=RetryConfig(3, backoff="linear", retry_on=(ValueError, TimeoutError)),
        timeout=timedelta(minutes=5),
        priority=75,
        max_concurrency=10,
        max_crashes=1,
        debounce=DebounceConfig(5, key=lambda email: email.to),
        idempotency_key=lambda email: f"mail-{email.to}",
        retention=3600,
    ),
    TaskDefinition[Email, bool],
)

# As a decorator, with and without arguments --------------------------------------------------------------------------


@define_task(name="t", priority=10)
async def decorated(ctx: TaskContext, email: Email) -> bool:
    return True


@define_task()
def decorated_in_thread(ctx: TaskContext, email: Email) -> bool:
    return True


@define_task("t", input=Email)
async def decorated_with_context(ctx: TaskContext) -> int:
    return 1


@define_task
async def bare(ctx: TaskContext, email: Email) -> bool:
    return True


@define_task
def bare_in_thread(ctx: TaskContext, number: int) -> str:
    return "x" * number


@define_task
async def bare_with_context(ctx: TaskContext) -> int:
    return 1


@define_task
def bare_with_nothing() -> dict[str, int]:
    return {}


@define_task
async def untyped(ctx: TaskContext, value: Any) -> Any:
    return value


assert_type(decorated, TaskDefinition[Email, bool])
assert_type(decorated_in_thread, TaskDefinition[Email, bool])
assert_type(decorated_with_context, TaskDefinition[None, int])
assert_type(bare, TaskDefinition[Email, bool])
assert_type(bare_in_thread, TaskDefinition[int, str])
assert_type(bare_with_context, TaskDefinition[None, int])
assert_type(bare_with_nothing, TaskDefinition[None, dict[str, int]])
assert_type(untyped, TaskDefinition[Any, Any])
assert_type(bare.name, str)

# What can't be a handler, or an option ---------------------------------------------------------------------------------


def takes_three(ctx: TaskContext, a: int, b: int) -> None: ...


define_task("t", takes_three)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
define_task("t", takes_both, priority="high")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
define_task("t", takes_both, retries=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
define_task("t", takes_both, retry={"max_attempts": 3})  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
define_task(3, takes_both)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
RetryConfig(backoff="fibonacci")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

# Enqueueing ------------------------------------------------------------------------------------------------------------


async def enqueues(scheduler: TaskScheduler) -> None:
    assert_type(await scheduler.enqueue(bare, Email(to="a")), str)
    assert_type(await scheduler.enqueue(bare, {"to": "a"}), str)
    assert_type(await scheduler.enqueue(bare_in_thread, 3, priority=100, idempotency_key="k"), str)
    assert_type(await scheduler.enqueue(bare_with_nothing), str)
    assert_type(await scheduler.enqueue(untyped, object()), str)
    assert_type(await scheduler.schedule(bare, Email(to="a"), delay=60), str)
    assert_type(await scheduler.schedule(bare_with_context, delay=timedelta(minutes=1)), str)
    assert_type(await scheduler.enqueue_many(bare, [Email(to="a"), Email(to="b")]), list[str])
    assert_type(await scheduler.enqueue_many(bare, [{"to": "a"}, {"to": "b", "n": 1}]), list[str])
    assert_type(await scheduler.enqueue_many(bare, ({"to": str(n)} for n in range(3))), list[str])
    assert_type(await scheduler.enqueue_many(bare_in_thread, range(3)), list[str])
    assert_type(await scheduler.enqueue_many(bare_with_nothing, [None] * 3), list[str])
    assert_type(scheduler.enqueue_from_thread(bare, Email(to="a")), str)
    assert_type(await scheduler.schedule_recurring(bare, Email(to="a"), cron="@daily"), str)
    assert_type(await scheduler.wait("id", timeout=3), Task | None)
    assert_type(await scheduler.get_tasks(status=["dead", "failed"], name="t"), list[Task])

    await scheduler.enqueue(bare, 3)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]
    await scheduler.enqueue(bare_in_thread, "x")  # type: ignore[misc]  # pyright: ignore[reportArgumentType]
    await scheduler.enqueue(bare_with_nothing, 3)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]
    await scheduler.schedule(bare, "x", delay=1)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]
    await scheduler.enqueue_many(bare, [3])  # type: ignore[misc]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await scheduler.schedule_recurring(bare, 3, interval=1)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]
    scheduler.enqueue_from_thread(bare, 3)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]
    await scheduler.enqueue(takes_both, Email(to="a"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await scheduler.get_tasks(status="done")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# Hooks and triggers ------------------------------------------------------------------------------------------------------


async def is_admin(row: dict[str, Any]) -> bool:
    return bool(row["role"] == "admin")


def stamps(ctx: HookContext, data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "by": ctx.user}


assert_type(
    create_task_trigger_hooks(
        on_create=[
            TaskTrigger(
                bare, when=lambda row: row["role"] == "user", transform=lambda row: Email(to=row["email"])
            ),
            TaskTrigger(bare, when=is_admin, delay=timedelta(seconds=1)),
        ],
        on_delete=(TaskTrigger(untyped, delay=1.5),),
    ),
    ResourceHooks,
)
ResourceHooks(on_before_create=stamps)
ResourceHooks(on_before_create=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
TaskTrigger(takes_both)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# A task's own type can be named ------------------------------------------------------------------------------------------


async def send_to_all(
    scheduler: TaskScheduler, task: TaskDefinition[Email, Any], make: Callable[[str], Email]
) -> list[str]:
    return [await scheduler.enqueue(task, make(to)) for to in ("a", "b")]
