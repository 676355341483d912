"""`define_task`: a function becomes a task."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, Protocol, TypedDict, TypeVar, Unpack, overload

from concave.errors import ConfigurationError
from concave.store.records import Retention
from concave.tasks.codec import JsonCodec
from concave.tasks.context import TaskContext
from concave.tasks.handlers import shape_of
from concave.tasks.options import (
    DebounceConfig,
    Duration,
    Key,
    RetentionConfig,
    RetryConfig,
    at_least_one,
    micros,
    printable,
    priority_in_range,
)

__all__ = ["TaskDecorator", "TaskDefinition", "TaskOptions", "define_task"]

In = TypeVar("In")
Out = TypeVar("Out")
T = TypeVar("T")

MAX_INPUT_BYTES = 1024 * 1024
MAX_NAME = 200
"""Characters of a task's name; it is part of several keys in a store."""


class TaskOptions(TypedDict, total=False):
    """The options of `define_task` besides name, handler, input and output."""

    retry: RetryConfig | None
    """When a failed attempt is repeated; by default three attempts with exponential backoff."""
    timeout: Duration | None
    """How long a run may take (seconds); 300 by default, None for no limit."""
    priority: int
    """0 to 100, higher first; 50 by default."""
    max_concurrency: int | None
    """How many may run at once, over all workers."""
    max_crashes: int
    """How many times it may take its worker down before it is dead; 3 by default."""
    debounce: DebounceConfig | None
    idempotency_key: Callable[[Any], Key | None] | None
    """From the input to a key; tasks of this name with the same key are one task."""
    retention: RetentionConfig | Duration | None
    """How long ended tasks are kept; one duration stands for completed and cancelled ones."""
    max_input_bytes: int
    """The most that its input may take as JSON; 1 MiB by default."""


@dataclass(frozen=True, slots=True, eq=False)
class TaskDefinition(Generic[In, Out]):
    """A task: a name, a handler and how to run it. Calling it calls the handler, which makes it easy to unit-test."""

    name: str
    handler: Callable[..., Any]
    input: JsonCodec[In]
    output: JsonCodec[Out]
    arity: int
    is_async: bool
    retry: RetryConfig
    timeout: float | None
    priority: int
    max_concurrency: int | None
    max_crashes: int
    debounce: DebounceConfig | None
    idempotency_key: Callable[[In], Key | None] | None
    retention: Retention
    max_input_bytes: int

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the handler as it is: no queue, no validation, no retry."""
        return self.handler(*args, **kwargs)

    def __repr__(self) -> str:
        return f"TaskDefinition({self.name!r})"


class TaskDecorator(Protocol):
    """What `define_task(...)` without a handler returns."""

    @overload
    def __call__(
        self, handler: Callable[[TaskContext, In], Awaitable[Out]], /
    ) -> TaskDefinition[In, Out]: ...
    @overload
    def __call__(self, handler: Callable[[TaskContext, In], Out], /) -> TaskDefinition[In, Out]: ...
    @overload
    def __call__(self, handler: Callable[[TaskContext], Awaitable[Out]], /) -> TaskDefinition[None, Out]: ...
    @overload
    def __call__(self, handler: Callable[[TaskContext], Out], /) -> TaskDefinition[None, Out]: ...
    @overload
    def __call__(self, handler: Callable[[], Awaitable[Out]], /) -> TaskDefinition[None, Out]: ...
    @overload
    def __call__(self, handler: Callable[[], Out], /) -> TaskDefinition[None, Out]: ...


# With a handler, by keyword or as a bare decorator.
@overload
def define_task(
    name: str | None = None,
    handler: None = None,
    *,
    input: Any = None,
    output: Any = None,
    **options: Unpack[TaskOptions],
) -> TaskDecorator: ...
@overload
def define_task(
    name: str,
    handler: Callable[[TaskContext, In], Awaitable[Out]],
    *,
    input: Any = None,
    output: Any = None,
    **options: Unpack[TaskOptions],
) -> TaskDefinition[In, Out]: ...
@overload
def define_task(
    name: str,
    handler: Callable[[TaskContext, In], Out],
    *,
    input: Any = None,
    output: Any = None,
    **options: Unpack[TaskOptions],
) -> TaskDefinition[In, Out]: ...
@overload
def define_task(
    name: str,
    handler: Callable[[TaskContext], Awaitable[Out]],
    *,
    output: Any = None,
    **options: Unpack[TaskOptions],
) -> TaskDefinition[None, Out]: ...
@overload
def define_task(
    name: str,
    handler: Callable[[TaskContext], Out],
    *,
    output: Any = None,
    **options: Unpack[TaskOptions],
) -> TaskDefinition[None, Out]: ...
@overload
def define_task(
    name: str, handler: Callable[[], Awaitable[Out]], *, output: Any = None, **options: Unpack[TaskOptions]
) -> TaskDefinition[None, Out]: ...
@overload
def define_task(
    name: str, handler: Callable[[], Out], *, output: Any = None, **options: Unpack[TaskOptions]
) -> TaskDefinition[None, Out]: ...
@overload
def define_task(name: Callable[[TaskContext, In], Awaitable[Out]], /) -> TaskDefinition[In, Out]: ...
@overload
def define_task(name: Callable[[TaskContext, In], Out], /) -> TaskDefinition[In, Out]: ...
@overload
def define_task(name: Callable[[TaskContext], Awaitable[Out]], /) -> TaskDefinition[None, Out]: ...
@overload
def define_task(name: Callable[[TaskContext], Out], /) -> TaskDefinition[None, Out]: ...
@overload
def define_task(name: Callable[[], Awaitable[Out]], /) -> TaskDefinition[None, Out]: ...
@overload
def define_task(name: Callable[[], Out], /) -> TaskDefinition[None, Out]: ...
def define_task(
    name: str | Callable[..., Any] | None = None,
    handler: Callable[..., Any] | None = None,
    *,
    input: Any = None,
    output: Any = None,
    **options: Unpack[TaskOptions],
) -> Any:
    """Make a task of a handler.

    Handlers are ``async def`` or plain ``def`` (which run in a thread), and take ``(ctx, input)``, ``(ctx)`` or
    nothing. Without `handler` this is a decorator; `name` defaults to the function's name, `input` and `output` to
    its annotations (any type that Pydantic can check; unannotated means any JSON value).

    Raises `ConfigurationError` for an option that can't be.
    """
    if callable(name):
        return _define(None, name, input, output, options)
    if handler is not None:
        return _define(name, handler, input, output, options)
    _known(options)

    def decorate(function: Callable[..., Any]) -> TaskDefinition[Any, Any]:
        return _define(name, function, input, output, options)

    return decorate


def _define(
    name: str | None, handler: Callable[..., Any], input_: Any, output: Any, options: TaskOptions
) -> TaskDefinition[Any, Any]:
    _known(options)
    if not callable(handler):
        raise ConfigurationError(f"a task's handler is a function, not {handler!r}")
    name = _checked_name(getattr(handler, "__name__", "") if name is None else name)
    shape = shape_of(handler, name, hinted=input_ is None or output is None)
    timeout = options.get("timeout", 300.0)
    cap = options.get("max_concurrency")
    debounce = options.get("debounce")
    if debounce is not None:
        _must_be(DebounceConfig, debounce, "debounce")
    key = options.get("idempotency_key")
    if key is not None and not callable(key):
        raise ConfigurationError(f"idempotency_key must be a function of the input, not {key!r}")
    retry = options.get("retry")
    return TaskDefinition(
        name=name,
        handler=handler,
        input=JsonCodec(shape.input if input_ is None else input_, f"task {name!r}: input"),
        output=JsonCodec(shape.output if output is None else output, f"task {name!r}: output"),
        arity=shape.arity,
        is_async=shape.is_async,
        retry=RetryConfig() if retry is None else _must_be(RetryConfig, retry, "retry"),
        timeout=None if timeout is None else micros(timeout, "timeout", minimum=0.001) / 1_000_000,
        priority=priority_in_range(options.get("priority", 50)),
        max_concurrency=None if cap is None else at_least_one(cap, "max_concurrency"),
        max_crashes=at_least_one(options.get("max_crashes", 3), "max_crashes"),
        debounce=debounce,
        idempotency_key=key,
        retention=_retention(options.get("retention")).in_micros(),
        max_input_bytes=at_least_one(options.get("max_input_bytes", MAX_INPUT_BYTES), "max_input_bytes"),
    )


def _known(options: Mapping[str, Any]) -> None:
    unknown = sorted(set(options) - set(TaskOptions.__annotations__))
    if unknown:
        known = ", ".join(sorted(TaskOptions.__annotations__))
        raise ConfigurationError(f"define_task() has no option {unknown[0]!r}; it has {known}")


def _must_be(type_: type[T], value: T, option: str) -> T:
    if not isinstance(value, type_):
        raise ConfigurationError(f"{option} must be a {type_.__name__}, not {value!r}")
    return value


def _checked_name(name: object) -> str:
    if not name or name == "<lambda>":
        raise ConfigurationError("a task needs a name: define_task(name='send-email', ...)")
    return printable(name, "a task's name", MAX_NAME)


def _retention(option: RetentionConfig | float | timedelta | None) -> RetentionConfig:
    if option is None:
        return RetentionConfig()
    if isinstance(option, RetentionConfig):
        return option
    return RetentionConfig(completed=option, cancelled=option)
