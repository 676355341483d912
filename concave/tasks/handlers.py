"""What a handler takes and returns, from its signature."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, cast, get_args, get_origin, get_type_hints

from concave.errors import ConfigurationError
from concave.tasks.context import TaskContext

__all__ = ["HandlerShape", "shape_of"]


class HandlerShape(NamedTuple):
    """How a handler is called: with `arity` of (ctx, input), and as what it is annotated."""

    input: Any
    output: Any
    arity: int
    is_async: bool


def shape_of(handler: Callable[..., Any], name: str, *, hinted: bool) -> HandlerShape:
    """The shape of a handler; without `hinted` its annotations are passed over. `ConfigurationError` if it has none."""
    try:
        parameters = list(inspect.signature(handler).parameters.values())
    except (NameError, TypeError, ValueError) as error:
        raise ConfigurationError(f"task {name!r}: {handler!r} has no signature to go by: {error}") from error
    positional = [each for each in parameters if each.kind in _POSITIONAL]
    needed = [each for each in parameters if each.default is each.empty and each.kind not in _VARIADIC]
    if len(needed) > 2 or any(each.kind is each.KEYWORD_ONLY for each in needed):
        raise ConfigurationError(
            f"task {name!r}: a handler takes (ctx, input), (ctx) or nothing, not {', '.join(map(str, needed))}"
        )
    # `*args` take what there is: a decorator's wrapper, most likely.
    takes_any = any(each.kind is each.VAR_POSITIONAL for each in parameters)
    arity = 2 if takes_any else min(2, len(positional))
    function = _function_of(handler)
    hints = _hints_of(function, name) if hinted else {}
    return HandlerShape(
        input=hints.get(positional[1].name, Any) if len(positional) > 1 else Any,
        output=_awaited(hints.get("return", Any)),
        arity=arity,
        is_async=inspect.iscoroutinefunction(function),
    )


_POSITIONAL = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
_VARIADIC = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}


def _function_of(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The function behind a handler, which may be a partial or an object with `__call__`."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    return handler if inspect.isroutine(handler) else cast("Any", handler).__call__


def _hints_of(function: Callable[..., Any], name: str) -> dict[str, Any]:
    # Known even where a module imports it for type checkers only, as linters would have it.
    names = {"TaskContext": TaskContext} | getattr(inspect.unwrap(function), "__globals__", {})
    try:
        return get_type_hints(function, localns=names, include_extras=True)
    except (AttributeError, NameError, SyntaxError, TypeError) as error:
        raise ConfigurationError(
            f"task {name!r}: an annotation can't be resolved: {error}. Make its types known at run time, or give "
            "input= and output="
        ) from error


def _awaited(hint: Any) -> Any:
    """What a plain function returns in the end that is annotated to return an awaitable."""
    origin = get_origin(hint)
    if isinstance(origin, type) and issubclass(origin, Awaitable):
        return get_args(hint)[-1]
    return hint
