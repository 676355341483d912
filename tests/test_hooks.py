"""Hooks and triggers apart from any resource."""

from typing import Any

import pytest

from concave import (
    ConfigurationError,
    HookContext,
    ResourceHooks,
    TaskContext,
    TaskScheduler,
    TasksNotInitializedError,
    TaskTrigger,
    compose_hooks,
    create_task_trigger_hooks,
    define_task,
    get_task_registry,
    get_task_scheduler,
    initialize_tasks,
)
from concave.kv import MemoryKV


@define_task(name="note")
async def note(ctx: TaskContext, entry: Any) -> None: ...


async def test_before_hooks_chain_and_after_hooks_run_in_order() -> None:
    story: list[Any] = []

    async def add_b(ctx: HookContext, data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "b": 2}

    first = ResourceHooks(
        on_before_create=lambda ctx, data: {**data, "a": 1},
        on_before_update=lambda ctx, key, data: {**data, "key": key},
        on_after_delete=lambda ctx, row: story.append(("first", row)),
    )
    second = ResourceHooks(
        on_before_create=add_b,
        on_before_update=lambda ctx, key, data: story.append((key, data)),
        on_after_delete=lambda ctx, row: story.append(("second", row)),
    )
    hooks, ctx = compose_hooks(first, ResourceHooks(), second), HookContext()
    assert hooks.on_before_create is not None
    assert hooks.on_before_update is not None
    assert hooks.on_after_delete is not None
    assert await hooks.on_before_create(ctx, {}) == {"a": 1, "b": 2}
    assert await hooks.on_before_update(ctx, 7, {"x": 1}) == {"x": 1, "key": 7}
    await hooks.on_after_delete(ctx, "row")  # type: ignore[arg-type]
    assert story == [(7, {"x": 1, "key": 7}), ("first", "row"), ("second", "row")]
    assert (hooks.on_after_create, hooks.on_before_delete, hooks.on_after_update) == (None, None, None)


class Person:
    id = 9


@pytest.mark.parametrize("user,user_id", [({"id": 7}, 7), (Person(), 9), (None, None)])
async def test_a_trigger_enqueues_by_event(user: Any, user_id: Any) -> None:
    async with MemoryKV() as kv:
        scheduler = initialize_tasks(kv)
        hooks = create_task_trigger_hooks(
            on_create=[TaskTrigger(note), TaskTrigger(note, when=lambda row: row["x"] > 1)],
            on_update=[TaskTrigger(note, transform=lambda row: [row["x"]], delay=60)],
        )
        ctx = HookContext(user=user, resource="things")
        assert hooks.on_after_create is not None
        assert hooks.on_after_update is not None
        await hooks.on_after_create(ctx, {"x": 1})
        await hooks.on_after_update(ctx, {"x": 1})
        updated, created = await scheduler.get_tasks()
        assert created.input == {"event": "create", "resource": "things", "data": {"x": 1}, "userId": user_id}
        assert (updated.input, updated.status) == ([1], "scheduled")
        assert hooks.on_after_delete is None


async def test_a_trigger_takes_the_scheduler_it_is_given() -> None:
    async with MemoryKV() as kv, MemoryKV() as default:
        initialize_tasks(default)
        own = TaskScheduler(kv)
        hooks = create_task_trigger_hooks(on_delete=[TaskTrigger(note)], scheduler=own)
        assert hooks.on_after_delete is not None
        await hooks.on_after_delete(HookContext(), {})
        assert await own.get_queue_depth() == 1
        assert await get_task_scheduler().get_queue_depth() == 0
        initialize_tasks(kv)
        assert await get_task_scheduler().get_queue_depth() == 1
        assert get_task_registry().get("note") is None


async def test_without_a_default_the_error_names_the_fix() -> None:
    hooks = create_task_trigger_hooks(on_create=[TaskTrigger(note)])
    assert hooks.on_after_create is not None
    with pytest.raises(TasksNotInitializedError, match=r"initialize_tasks\(kv\).*task_lifespan"):
        await hooks.on_after_create(HookContext(), {})
    with pytest.raises(ConfigurationError, match="delay"):
        TaskTrigger(note, delay=-1)


async def test_what_waits_for_the_commit_is_kept_in_order() -> None:
    ctx, story = HookContext(user="ada", request="request", session="session", resource="things"), list[str]()
    ctx.on_commit(lambda: story.append("first"))
    ctx.on_commit(lambda: story.append("second"))
    for callback in ctx.after_commit:
        callback()
    assert story == ["first", "second"]
    assert (ctx.user, ctx.request, ctx.session, ctx.resource) == ("ada", "request", "session", "things")


async def test_a_hook_enqueues_now_or_later_where_it_says() -> None:
    async with MemoryKV() as kv, MemoryKV() as default:
        initialize_tasks(default)
        own, ctx = TaskScheduler(kv), HookContext()
        await ctx.enqueue(note, "now", scheduler=own)
        await ctx.enqueue(note, "later", delay=60, scheduler=own)
        await ctx.enqueue(note, "by default")
        assert [task.status for task in await own.get_tasks()] == ["scheduled", "pending"]
        assert [task.input for task in await get_task_scheduler().get_tasks()] == ["by default"]


async def test_whatever_a_hook_raises_ends_the_chain() -> None:
    story: list[str] = []

    def refuses(ctx: HookContext, *data: Any) -> None:
        story.append("refuses")
        raise PermissionError("no")

    def never(ctx: HookContext, *data: Any) -> None:
        story.append("never")

    hooks = compose_hooks(
        ResourceHooks(on_before_delete=refuses, on_after_update=refuses, on_before_update=refuses),
        ResourceHooks(on_before_delete=never, on_after_update=never, on_before_update=never),
    )
    calls: list[tuple[Any, Any]] = [
        (hooks.on_before_delete, (7,)),
        (hooks.on_after_update, ({},)),
        (hooks.on_before_update, (7, {})),
    ]
    for hook, arguments in calls:
        with pytest.raises(PermissionError):
            await hook(HookContext(), *arguments)
    assert story == ["refuses"] * 3


async def test_nothing_composed_is_nothing() -> None:
    assert compose_hooks() == compose_hooks(ResourceHooks(), ResourceHooks()) == ResourceHooks()
