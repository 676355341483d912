"""From a resource event to new tasks."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias, cast
from uuid import UUID

from pydantic_core import to_json

from concave.errors import ConfigurationError, TaskInputError, TaskInputTooLargeError
from concave.hooks import HookContext, PlainTriggers, ResourceHooks, Row, TaskForm, call_hook
from concave.store.records import NewTask
from concave.tasks.codec import CodecError, JsonCodec
from concave.tasks.define import TaskDefinition
from concave.tasks.options import Duration, micros
from concave.tasks.scheduler import TaskScheduler
from concave.tasks.submission import MAX_KEY, SURROGATES, check_size, submission

__all__ = ["TaskTrigger", "TriggerEvent", "create_task_trigger_hooks"]

Event: TypeAlias = Literal["create", "update", "delete"]

ANYTHING: Final = JsonCodec[Any](Any, "a value")
OF_ROW: Final = b',"data":'
"""After which the default input tells of a row. Nothing comes before it in which a client has a say."""
EMPTY_ROW: Final = OF_ROW + b"{}"
USUAL_IDS: Final = frozenset({type(None), int, str, UUID})
"""Types of the ids of users that can be remembered: equal ones are written alike."""
MAY_HAVE_BYTES: Final = frozenset({bytes, bytearray, list, tuple})


@dataclass(frozen=True, slots=True)
class TriggerEvent:
    """What has happened to a row.

    `previous` is the row as it was before an update or a delete; None for a new row, and where nobody knows. `changed`
    are the columns whose value is another one now: all of them for a new row, a deleted one, and where `previous` is
    not known. `request_id` is what the client or a middleware calls the request, if it has a name.
    """

    event: Event
    resource: str
    previous: Row | None
    changed: frozenset[str]
    user: Any
    request_id: str | None


Asked: TypeAlias = Callable[[Row], Any] | Callable[[Row, TriggerEvent], Any]
"""A function of ``(data)`` or ``(data, event)``, sync or async."""


class Named(Protocol):
    """What has its name as its `key`: a mapped attribute (``User.email``) or a column."""

    @property
    def key(self) -> str:
        """The name."""
        ...


@dataclass(frozen=True, slots=True)
class TaskTrigger:
    """A task to enqueue for an event.

    `when` decides whether it fires; `transform` makes the task's input, in place of the default ``{"event", "resource",
    "data", "userId"}``, where ``data`` is the row: bytes are base64, and what JSON can't hold is what GET shows. `fields`: it
    fires only where one of these columns (``"email"`` or ``User.email``) changed. `delay` is in seconds.

    `key` makes one task of all that wait with the same key (and table): it gets the latest committed row as its input,
    in whatever order they arrive at the store, and runs `delay` after the first of them. A row that changes while its
    task runs gets another one, which replaces a retry of the first. Where several databases feed one store, put what
    tells them apart into the key. None as a key: this one stands alone.

    `when`, `transform` and `key` take ``(data)`` or ``(data, event)``, see `TriggerEvent`, and may be async.
    """

    task: TaskDefinition[Any, Any]
    when: Callable[[Row], bool | Awaitable[bool]] | Callable[[Row, TriggerEvent], Any] | None = None
    transform: Asked | None = None
    delay: Duration | None = None
    fields: Collection[str | Named] | None = None
    key: Asked | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.task, TaskDefinition):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"{self.task!r} is no task: make one of it with define_task")
        where = f"TaskTrigger({self.task.name!r})"
        if self.delay is not None:
            micros(self.delay, f"{where} delay")
        for option in ("when", "transform", "key"):
            function = getattr(self, option)
            if function is not None and not callable(function):
                raise ConfigurationError(f"{where} {option} is a function, not {function!r}")
        if self.fields is not None:
            object.__setattr__(self, "fields", _names(self.fields, where))


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
        triggers = [_prepared(each) for each in _checked(given, f"on_{event}")]
        if not triggers:
            return None
        if all(trigger.asks_nothing for trigger in triggers):
            return PlainTriggers(
                lambda ctx, row: [(trigger.told(event, row, ctx), scheduler) for trigger in triggers],
                forms=_forms(event, triggers, scheduler),
            )

        async def fire(ctx: HookContext, row: Row) -> None:
            happened: TriggerEvent | None = None
            for trigger in triggers:
                if trigger.asks_nothing:
                    # What an event is told of takes longer than all the rest of this.
                    await ctx.submit(trigger.told(event, row, ctx), scheduler)
                    continue
                happened = happened or _event(event, ctx, row)
                if not await trigger.fires(row, happened):
                    continue
                if trigger.transform is None:
                    new = trigger.told(event, row, ctx, key=await trigger.key_of(row, happened))
                    await ctx.submit(new, scheduler)
                    continue
                await ctx.enqueue(
                    trigger.task,
                    await call_hook(trigger.transform, row, happened),
                    delay=trigger.delay,
                    scheduler=scheduler,
                    key=await trigger.key_of(row, happened),
                )

        return fire

    return ResourceHooks(
        on_after_create=after("create", on_create),
        on_after_update=after("update", on_update),
        on_after_delete=after("delete", on_delete),
        uses_session=False,
        schedulers=() if scheduler is None else (scheduler,),
    )


class _Prepared(NamedTuple):
    """A trigger whose functions all take a row and an event."""

    task: TaskDefinition[Any, Any]
    delay: Duration | None
    fields: frozenset[str] | None
    when: Callable[[Row, TriggerEvent], Any] | None
    transform: Callable[[Row, TriggerEvent], Any] | None
    key: Callable[[Row, TriggerEvent], Any] | None

    @property
    def asks_nothing(self) -> bool:
        """Whether it fires for every event, with the default input."""
        return not (self.when or self.transform or self.key or self.fields)

    @property
    def only_tells(self) -> bool:
        """Whether its task is the same for every row but for what it is told, which nobody's code looks at before it runs."""
        task = self.task
        return task.input.takes_anything and task.debounce is None and task.idempotency_key is None

    async def fires(self, row: Row, event: TriggerEvent) -> bool:
        if self.fields is not None:
            if unknown := sorted(self.fields - row.keys()):
                raise ConfigurationError(
                    f"TaskTrigger({self.task.name!r}) fields: {event.resource!r} has no column {unknown[0]!r}"
                )
            if not self.fields & event.changed:
                return False
        return self.when is None or bool(await call_hook(self.when, row, event))

    def told(self, event: Event, row: Row, ctx: HookContext, *, key: str | None = None) -> NewTask:
        """The task with the default input. What JSON has nothing for is told of as the resource shows it."""
        data = _without_bytes(ctx, row)
        given = _default_input(event, ctx.resource, data, _user_id(ctx.user))
        try:
            return submission(self.task, given, delay=self.delay, coalesce=key)
        except TaskInputTooLargeError:
            raise
        except TaskInputError:
            # Only now is looked for what may be to blame: nearly no row has any of it.
            odd = {name: value for name, value in data.items() if not _is_json(value)}
            if not odd:
                raise
        given["data"] = {**data, **ctx.shown(odd)}
        return submission(self.task, given, delay=self.delay, coalesce=key)

    def form(self, event: Event, resource: str, user_id: Any, scheduler: TaskScheduler | None) -> TaskForm:
        """What its tasks for this user have in common. Raises `TaskInputError`."""
        task = submission(self.task, _default_input(event, resource, {}, user_id), delay=self.delay)
        before, _, after = task.input.partition(EMPTY_ROW)
        return TaskForm(task, before + OF_ROW, after, partial(check_size, self.task), scheduler)

    async def key_of(self, row: Row, event: TriggerEvent) -> str | None:
        value = None if self.key is None else await call_hook(self.key, row, event)
        return None if value is None else _text_of(event.resource, value)


def _forms(
    event: Event, triggers: Sequence[_Prepared], scheduler: TaskScheduler | None
) -> Callable[[str, Any], Sequence[TaskForm]] | None:
    if not all(trigger.only_tells for trigger in triggers):
        return None

    def of_id(resource: str, user_id: Any) -> Sequence[TaskForm]:
        return [trigger.form(event, resource, user_id, scheduler) for trigger in triggers]

    known = lru_cache(maxsize=256, typed=True)(of_id)

    def forms(resource: str, user: Any) -> Sequence[TaskForm]:
        user_id = _user_id(user)
        return known(resource, user_id) if type(user_id) in USUAL_IDS else of_id(resource, user_id)

    return forms


def _prepared(trigger: TaskTrigger) -> _Prepared:
    return _Prepared(
        task=trigger.task,
        delay=trigger.delay,
        fields=cast("frozenset[str] | None", trigger.fields),
        when=_of_both(trigger.when),
        transform=_of_both(trigger.transform),
        key=_of_both(trigger.key),
    )


def _names(given: Any, where: str) -> frozenset[str]:
    is_several = isinstance(given, Collection) and not isinstance(given, str)
    names: list[Any] = [
        each if isinstance(each, str) else getattr(each, "key", None)
        for each in (cast("Collection[Any]", given) if is_several else ())
    ]
    if not names or not all(isinstance(name, str) for name in names):
        raise ConfigurationError(f"{where} fields are names of columns, not {given!r}")
    return frozenset(names)


def _of_both(function: Callable[..., Any] | None) -> Callable[[Row, TriggerEvent], Any] | None:
    if function is None or _takes_event(function):
        return function
    return lambda row, _event: function(row)


def _takes_event(function: Callable[..., Any]) -> bool:
    """Whether it takes ``(data, event)``: a second argument that it needs, or that is called so."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False  # a builtin without a signature
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [each for each in parameters if each.kind in kinds]
    return len(positional) > 1 and (
        positional[1].default is inspect.Parameter.empty or positional[1].name == "event"
    )


def _default_input(event: Event, resource: str, row: Row, user_id: Any) -> dict[str, Any]:
    return {"event": event, "resource": resource, "data": row, "userId": user_id}


def _without_bytes(ctx: HookContext, row: Row) -> Row:
    """Bytes are shown whatever is in them: some would pass for text, and a task couldn't tell."""
    if MAY_HAVE_BYTES.isdisjoint(map(type, row.values())):
        return row
    binary = {name: value for name, value in row.items() if _is_binary(value)}
    return {**row, **ctx.shown(binary)} if binary else row


def _is_binary(value: Any) -> bool:
    # The items of an array are of one type. JSON has no bytes, and is not searched.
    while isinstance(value, list | tuple):
        value = next((each for each in cast("Sequence[Any]", value) if each is not None), None)
    return isinstance(value, bytes | bytearray)


def _is_json(value: Any) -> bool:
    try:
        ANYTHING.encode(value)
    except CodecError:
        return False
    return True


def _event(event: Event, ctx: HookContext, row: Row) -> TriggerEvent:
    previous = row if event == "delete" else ctx.previous
    return TriggerEvent(
        event=event,
        resource=ctx.resource,
        previous=previous,
        changed=changed_columns(previous if event == "update" else None, row),
        user=ctx.user,
        request_id=ctx.request_id,
    )


def changed_columns(previous: Row | None, row: Row) -> frozenset[str]:
    """The columns whose value is another one than before: all of them where that isn't known."""
    if previous is None:
        return frozenset(row)
    return frozenset(name for name in row if name not in previous or _differ(previous[name], row[name]))


def _differ(one: Any, other: Any) -> bool:
    try:
        return bool(one != other)
    except (TypeError, ValueError):
        return True  # values of a column's own type that can't tell: an array of numbers, say


def _text_of(resource: str, value: Any) -> str:
    """A key as text, of the table's own: two tables that trigger one task don't meet."""
    text = value if isinstance(value, str) else to_json(value).decode()
    key = f"{resource}:{text}"
    if len(key) > MAX_KEY or SURROGATES.search(key):
        return f"{resource[:100]}:sha256:{hashlib.sha256(key.encode(errors='surrogatepass')).hexdigest()}"
    return key


def _checked(triggers: object, option: str) -> tuple[TaskTrigger, ...]:
    """The triggers, fixed: what is wrong is noticed where they are written, not at the first row."""
    listed = tuple(cast("Iterable[object]", triggers)) if isinstance(triggers, Iterable) else (triggers,)
    fixed = tuple(each for each in listed if isinstance(each, TaskTrigger))
    if fixed != listed or not isinstance(triggers, Iterable):
        raise ConfigurationError(f"{option} is a list of TaskTriggers, not {triggers!r}")
    return fixed


def _user_id(user: Any) -> Any:
    if user is None:
        return None
    if isinstance(user, Mapping):
        return user.get("id")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return getattr(user, "id", None)
