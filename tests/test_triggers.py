"""From a resource event to new tasks."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from pydantic_core import from_json

from concave import (
    ConfigurationError,
    DebounceConfig,
    HookContext,
    ResourceHooks,
    Task,
    TaskContext,
    TaskInputError,
    TaskScheduler,
    TaskTrigger,
    compose_hooks,
    create_task_trigger_hooks,
    define_task,
    initialize_tasks,
)
from concave.kv import MemoryKV
from concave.store.records import Debounce, NewTask
from concave.tasks.submission import submission
from concave.testing import FakeClock
from concave.triggers import _takes_event

ROW = {"id": 7, "email": "ada@example.org", "role": "user"}


@define_task(name="audit")
async def audit(ctx: TaskContext, entry: Any) -> None: ...


@define_task(name="welcome")
async def welcome(ctx: TaskContext, user_id: int) -> None: ...


@define_task(name="wake-up")
def wake_up() -> None: ...


async def fired(hooks: ResourceHooks, event: str, row: dict[str, Any], **context: Any) -> list[Task]:
    """The tasks that an event made, in their order."""
    clock = FakeClock()
    async with MemoryKV(clock=clock) as kv:
        scheduler = initialize_tasks(kv)
        hook = getattr(hooks, f"on_after_{event}")
        await hook(HookContext(**context), row)
        return (await scheduler.get_tasks())[::-1]


@dataclass
class Person:
    id: Any


class Nobody:
    pass


@pytest.mark.parametrize("event", ["create", "update", "delete"])
@pytest.mark.parametrize(
    "user,user_id",
    [
        ({"id": 1}, 1),
        ({"name": "no id"}, None),
        (Person(2), 2),
        (Person(UUID(int=3)), str(UUID(int=3))),
        (Nobody(), None),
        (None, None),
    ],
)
async def test_the_default_input_tells_what_happened_to_which_row_by_whom(
    event: str, user: Any, user_id: Any
) -> None:
    given: dict[str, Any] = {f"on_{event}": [TaskTrigger(audit)]}
    (task,) = await fired(create_task_trigger_hooks(**given), event, ROW, user=user, resource="users")
    assert task.name == "audit"
    assert task.input == {"event": event, "resource": "users", "data": ROW, "userId": user_id}


async def test_a_row_of_any_column_types_becomes_json() -> None:
    row = {"at": datetime(2026, 1, 1, tzinfo=UTC), "id": UUID(int=1), "none": None}
    (task,) = await fired(create_task_trigger_hooks(on_create=[TaskTrigger(audit)]), "create", row)
    assert task.input["data"] == {"at": "2026-01-01T00:00:00Z", "id": str(UUID(int=1)), "none": None}
    assert task.input["resource"] == ""


async def is_admin(row: dict[str, Any]) -> bool:
    return bool(row["role"] == "admin")


@pytest.mark.parametrize(
    "when,fires",
    [(None, True), (lambda row: row["role"] == "user", True), (lambda row: False, False), (is_admin, False)],
)
async def test_when_decides_by_the_row(when: Any, fires: bool) -> None:
    hooks = create_task_trigger_hooks(on_create=[TaskTrigger(audit, when=when)])
    assert len(await fired(hooks, "create", ROW)) == fires


async def transform(row: dict[str, Any]) -> int:
    return int(row["id"])


@pytest.mark.parametrize("make", [lambda row: row["id"], transform])
async def test_transform_makes_the_whole_input(make: Any) -> None:
    hooks = create_task_trigger_hooks(on_update=[TaskTrigger(welcome, transform=make)])
    (task,) = await fired(hooks, "update", ROW)
    assert task.input == 7


async def test_the_default_input_does_for_a_task_that_takes_none() -> None:
    (task,) = await fired(create_task_trigger_hooks(on_delete=[TaskTrigger(wake_up)]), "delete", ROW)
    assert task.input["event"] == "delete"


@pytest.mark.parametrize("delay,seconds", [(None, 0), (1.5, 1.5), (timedelta(minutes=1), 60)])
async def test_a_delay_is_in_seconds(delay: Any, seconds: float) -> None:
    (task,) = await fired(
        create_task_trigger_hooks(on_create=[TaskTrigger(audit, delay=delay)]), "create", ROW
    )
    assert task.status == ("scheduled" if seconds else "pending")
    if seconds:
        assert task.scheduled_for - task.created_at == timedelta(seconds=seconds)


def numbered(number: int, row: dict[str, Any]) -> int:
    return number


async def test_triggers_fire_in_their_order_and_each_event_has_its_own() -> None:
    hooks = create_task_trigger_hooks(
        on_create=[TaskTrigger(audit, transform=partial(numbered, number)) for number in range(3)],
        on_update=(TaskTrigger(audit),),
    )
    assert [task.input for task in await fired(hooks, "create", ROW)] == [0, 1, 2]
    assert hooks.on_after_update is not None
    assert hooks.on_after_delete is None
    assert (hooks.on_before_create, hooks.on_before_update, hooks.on_before_delete) == (None, None, None)


async def test_an_input_that_the_task_does_not_take_is_an_error_of_the_event() -> None:
    hooks = create_task_trigger_hooks(on_create=[TaskTrigger(audit), TaskTrigger(welcome)])
    with pytest.raises(TaskInputError, match="task 'welcome'"):
        await fired(hooks, "create", ROW)


async def test_triggers_only_hand_over_to_their_context() -> None:
    """In a resource that is the outbox of its transaction; the scheduler given goes along."""
    given: list[tuple[NewTask, TaskScheduler | None]] = []

    async def into_outbox(new: NewTask, scheduler: TaskScheduler | None) -> str:
        given.append((new, scheduler))
        return new.id

    own = TaskScheduler(MemoryKV())
    hooks = create_task_trigger_hooks(
        on_create=[TaskTrigger(welcome, transform=lambda row: row["id"], delay=2), TaskTrigger(audit)],
        scheduler=own,
    )
    assert hooks.on_after_create is not None
    await hooks.on_after_create(HookContext(submit=into_outbox), ROW)
    (first, its_scheduler), (second, another) = given
    assert (first.name, first.input, first.delay) == ("welcome", b"7", 2_000_000)
    assert (second.name, from_json(second.input)["data"]) == ("audit", ROW)
    assert its_scheduler is own
    assert another is own


async def test_a_scheduler_that_is_given_takes_the_defaults_place() -> None:
    async with MemoryKV() as kv, MemoryKV() as default:
        initialize_tasks(default)
        own = TaskScheduler(kv)
        hooks = create_task_trigger_hooks(on_create=[TaskTrigger(audit)], scheduler=own)
        assert hooks.on_after_create is not None
        await hooks.on_after_create(HookContext(), ROW)
        assert [await each.get_queue_depth() for each in (own, TaskScheduler(default))] == [1, 0]


async def test_they_compose_with_hooks_of_ones_own() -> None:
    story: list[Any] = []

    def stamp(ctx: HookContext, data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "stamped": True}

    def tell(ctx: HookContext, row: dict[str, Any]) -> None:
        story.append(row)

    hooks = compose_hooks(
        create_task_trigger_hooks(on_create=[TaskTrigger(audit)]),
        ResourceHooks(on_before_create=stamp, on_after_create=tell),
    )
    assert hooks.on_before_create is not None
    row = await hooks.on_before_create(HookContext(), dict(ROW))
    assert row == {**ROW, "stamped": True}
    (task,) = await fired(hooks, "create", row)
    assert task.input["data"] == row
    assert story == [row]


@pytest.mark.parametrize(
    "named,make",
    [
        ("delay", lambda: TaskTrigger(audit, delay=-1)),
        ("delay", lambda: TaskTrigger(audit, delay=float("nan"))),
        ("'audit'.*delay", lambda: TaskTrigger(audit, delay=1e300)),
        ("no task", lambda: TaskTrigger(audit.handler)),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        ("on_create", lambda: create_task_trigger_hooks(on_create=TaskTrigger(audit))),  # type: ignore[arg-type]
        ("on_update", lambda: create_task_trigger_hooks(on_update=[audit])),  # type: ignore[list-item]
        ("on_delete", lambda: create_task_trigger_hooks(on_delete=None)),  # type: ignore[arg-type]
    ],
)
def test_triggers_that_cannot_be_are_told_where_they_are_written(named: str, make: Any) -> None:
    with pytest.raises(ConfigurationError, match=named):
        make()


@pytest.mark.parametrize(
    "when,takes_event",
    [
        (lambda row: True, False),
        (lambda row, event: event.event == "create", True),
        (lambda row, event=None: event is not None, True),
        (lambda row, other=True: other is True, False),
        (lambda *args: len(args) == 1, False),
        (bool, False),
    ],
)
async def test_functions_take_the_row_or_the_row_and_the_event(when: Any, takes_event: bool) -> None:
    assert _takes_event(when) == takes_event
    hooks = create_task_trigger_hooks(on_create=[TaskTrigger(audit, when=when)])
    assert len(await fired(hooks, "create", ROW)) == 1


async def test_without_a_resource_an_update_has_changed_everything_that_is_not_known() -> None:
    changed = TaskTrigger(audit, transform=lambda row, event: sorted(event.changed))
    hooks = create_task_trigger_hooks(on_update=[changed])
    (task,) = await fired(hooks, "update", ROW)
    assert task.input == ["email", "id", "role"]
    (task,) = await fired(hooks, "update", ROW, previous={"id": 7, "email": "other"})
    assert task.input == ["email", "role"]


class Vector:
    """As an array of numbers does, it compares to no plain truth."""

    def __ne__(self, other: object) -> Any:
        raise ValueError("ambiguous")

    def __eq__(self, other: object) -> Any:
        raise ValueError("ambiguous")

    __hash__ = None  # type: ignore[assignment]


async def test_values_that_cannot_be_compared_count_as_changed() -> None:
    trigger = TaskTrigger(audit, fields={"vector"}, transform=lambda row: 1)
    hooks = create_task_trigger_hooks(on_update=[trigger])
    assert len(await fired(hooks, "update", {"vector": Vector()}, previous={"vector": Vector()})) == 1


@pytest.mark.parametrize("value", [1, UUID(int=1), ("a", 1), "x" * 600, "\ud800"])
async def test_a_key_may_be_of_any_type_and_length(value: Any) -> None:
    hooks = create_task_trigger_hooks(on_update=[TaskTrigger(audit, key=lambda row: value)])
    assert hooks.on_after_update is not None
    async with MemoryKV(clock=FakeClock()) as kv:
        scheduler = initialize_tasks(kv)
        for resource in ("users", "users", "orders"):
            await hooks.on_after_update(HookContext(resource=resource), ROW)
        assert await scheduler.get_queue_depth() == 2


async def test_without_a_key_a_task_stands_alone() -> None:
    hooks = create_task_trigger_hooks(on_update=[TaskTrigger(audit, key=lambda row: None)])
    assert hooks.on_after_update is not None
    async with MemoryKV(clock=FakeClock()) as kv:
        scheduler = initialize_tasks(kv)
        for _ in range(2):
            await hooks.on_after_update(HookContext(), ROW)
        assert await scheduler.get_queue_depth() == 2


@define_task(name="slow-index", debounce=DebounceConfig(window=5, key=str, max_wait=60))
async def slow_index(ctx: TaskContext, entry: Any) -> None: ...


async def test_a_tasks_own_debounce_says_when_and_the_triggers_key_what() -> None:
    new = submission(slow_index, 1, coalesce="k", delay=2)
    assert new.debounce == Debounce("k", 5_000_000, 60_000_000, 0)
    assert new.delay == 2_000_000
    assert submission(audit, 1, coalesce="k", delay=2).debounce == Debounce("k", 2_000_000, 2_000_000, 0)


@pytest.mark.parametrize("option", ["when", "transform", "key"])
def test_what_must_be_a_function_is_one(option: str) -> None:
    given: dict[str, Any] = {option: "email"}
    with pytest.raises(ConfigurationError, match=option):
        TaskTrigger(audit, **given)


@pytest.mark.parametrize("fields", ["email", [], [1]])
def test_fields_are_names(fields: Any) -> None:
    with pytest.raises(ConfigurationError, match="fields"):
        TaskTrigger(audit, fields=fields)
