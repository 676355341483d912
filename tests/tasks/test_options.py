"""Options that can't be, wherever they are written: an error there and then, which names the option."""

import functools
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest

from concave import (
    ConfigurationError,
    DebounceConfig,
    RetentionConfig,
    RetryConfig,
    TaskContext,
    TaskInputError,
    TaskInputTooLargeError,
    TaskRegistry,
    define_task,
)
from concave.clock import from_micros
from concave.tasks.define import MAX_INPUT_BYTES
from concave.tasks.submission import MAX_KEY, submission
from concave.tasks.workers import create_task_worker

if TYPE_CHECKING:
    from concave import TaskContext as Ctx

CENTURIES = timedelta(days=365 * 300)


async def handler(ctx: TaskContext, value: int) -> int:
    return value


BAD_OPTIONS: list[tuple[str, Any]] = [
    ("priority", -1),
    ("priority", 101),
    ("priority", True),
    ("priority", 50.0),
    ("priority", "high"),
    ("timeout", 0),
    ("timeout", -1),
    ("timeout", "soon"),
    ("timeout", float("nan")),
    ("timeout", float("inf")),
    ("timeout", CENTURIES),
    ("max_concurrency", 0),
    ("max_concurrency", 1.5),
    ("max_concurrency", True),
    ("max_crashes", 0),
    ("max_crashes", None),
    ("retry", {"max_attempts": 3}),
    ("retry", 3),
    ("debounce", {"window": 5}),
    ("debounce", 5),
    ("idempotency_key", "order-1"),
    ("retention", -1),
    ("retention", "a day"),
    ("retention", CENTURIES),
]


@pytest.mark.parametrize("option,value", BAD_OPTIONS)
def test_an_option_that_cannot_be_is_named(option: str, value: Any) -> None:
    given: dict[str, Any] = {option: value}
    with pytest.raises(ConfigurationError, match=option):
        define_task("t", handler, **given)
    with pytest.raises(ConfigurationError, match=option):
        define_task("t", **given)(handler)


@pytest.mark.parametrize("option", ["max_attempts", "retries", "max_concurency", "delay"])
def test_an_unknown_option_is_named_with_those_there_are(option: str) -> None:
    given: dict[str, Any] = {option: 1}
    for call in (lambda: define_task("t", handler, **given), lambda: define_task("t", **given)):
        with pytest.raises(
            ConfigurationError, match=f"no option '{option}'; it has debounce, idempotency_key"
        ):
            call()


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", "\udcff", 7, "<lambda>"])
def test_a_name_that_cannot_be(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="name"):
        define_task(name, handler)


@pytest.mark.parametrize("bad", [5, "handler", ["handler"]])
def test_a_handler_is_a_function(bad: Any) -> None:
    with pytest.raises(ConfigurationError, match="handler is a function"):
        define_task("t", bad)
    with pytest.raises(ConfigurationError, match="handler is a function"):
        define_task("t")(bad)


def test_a_handler_without_a_name_needs_one() -> None:
    for nameless in (lambda: None, functools.partial(handler)):
        made: Any = nameless
        with pytest.raises(ConfigurationError, match="a task needs a name"):
            define_task(made)
        named: Any = define_task("named", made)
        assert named.name == "named"


def needs_three(a: Any, b: Any, c: Any) -> None: ...
def needs_a_keyword(ctx: Any, *, input: Any) -> None: ...


@pytest.mark.parametrize("bad", [needs_three, needs_a_keyword, max])
def test_a_handler_that_could_not_be_called(bad: Any) -> None:
    with pytest.raises(ConfigurationError, match="task 't'"):
        define_task("t", bad)


def test_arity_and_types_come_from_the_signature() -> None:
    def optional(ctx: TaskContext, value: int = 1, extra: str = "") -> str:
        return extra * value

    def anything(*args: Any, **kwargs: Any) -> None: ...

    def keywords(ctx: TaskContext, *, extra: str = "") -> None: ...

    task: Any = define_task("t", optional)
    assert (task.arity, task.is_async) == (2, False)
    assert task.input.encode("7")[0] == 7
    assert define_task("t", anything).arity == 2
    keyworded: Any = define_task("t", keywords)
    assert keyworded.arity == 1
    partial: Any = define_task("t", functools.partial(handler))
    assert (partial.arity, partial.is_async, partial.input.encode("7")[0]) == (2, True, 7)


def test_a_context_that_is_imported_for_type_checkers_only_will_do() -> None:
    namespace: dict[str, Any] = {}
    exec("async def bare(ctx: 'TaskContext', value: int) -> int: return value", namespace)
    task: Any = define_task("t", namespace["bare"])
    assert task.input.encode("7")[0] == 7


def test_an_annotation_that_cannot_be_resolved_is_told_with_the_ways_out() -> None:
    def unresolved(ctx: "Ctx", value: int) -> int:
        return value

    with pytest.raises(ConfigurationError, match=r"task 't': .*'Ctx'.*input= and output="):
        define_task("t", unresolved)
    task: Any = define_task("t", unresolved, input=int, output=int)
    assert task.input.encode("7")[0] == 7


def test_given_types_take_the_place_of_annotations() -> None:
    task: Any = define_task("t", handler, input=str, output=list[int])
    assert task.input.encode("x")[1] == b'"x"'
    assert task.output.encode([1])[1] == b"[1]"
    bad: list[dict[str, Any]] = [{"input": object()}, {"output": object()}]
    for given in bad:
        with pytest.raises(ConfigurationError, match=f"{next(iter(given))}: .* is not a type"):
            define_task("t", handler, **given)


@pytest.mark.parametrize(
    "option,options",
    [
        ("max_attempts", {"max_attempts": 0}),
        ("max_attempts", {"max_attempts": 2.5}),
        ("backoff", {"backoff": "fibonacci"}),
        ("initial_delay", {"initial_delay": -1}),
        ("max_delay", {"max_delay": "long"}),
        ("retry_on", {"retry_on": "ValueError"}),
        ("retry_on", {"retry_on": int}),
        ("retry_on", {"retry_on": (ValueError, "x")}),
        ("retry_on", {"retry_on": [ValueError]}),
    ],
)
def test_a_retry_that_cannot_be(option: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=option):
        RetryConfig(**options)


def test_a_debounce_that_cannot_be() -> None:
    bad: list[tuple[str, dict[str, Any]]] = [
        ("debounce window", {"window": -1, "key": str}),
        ("debounce window", {"window": CENTURIES, "key": str}),
        ("debounce key", {"window": 1, "key": "user"}),
        ("debounce max_wait", {"window": 1, "key": str, "max_wait": "x"}),
    ]
    for option, options in bad:
        with pytest.raises(ConfigurationError, match=option):
            DebounceConfig(**options)


@pytest.mark.parametrize("option", ["completed", "cancelled", "dead", "idempotency_key"])
def test_a_retention_that_cannot_be_is_told_where_it_is_written(option: str) -> None:
    given: dict[str, Any] = {option: -1}
    with pytest.raises(ConfigurationError, match=f"retention.{option}"):
        RetentionConfig(**given)


def test_a_registry_takes_tasks_only() -> None:
    bad: Any = handler
    with pytest.raises(ConfigurationError, match="is no task: make one of it with define_task"):
        TaskRegistry([bad])


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 0},
        {"concurrency": 2.0},
        {"poll_interval": 0},
        {"lock_ttl": 0.001},
        {"lock_ttl": CENTURIES},
        {"heartbeat": 0},
        {"heartbeat": 16},
        {"lock_ttl": 19, "heartbeat": 10},
        {"task_types": "a-name"},
    ],
)
def test_a_worker_that_cannot_be(options: dict[str, Any]) -> None:
    kv: Any = None
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        create_task_worker(kv, TaskRegistry(), **options)


def test_a_worker_takes_a_registry() -> None:
    nothing: Any = None
    with pytest.raises(ConfigurationError, match=r"TaskRegistry\(\[task, …\]\), not \[\]"):
        create_task_worker(nothing, cast("Any", []))


# Submissions ------------------------------------------------------------------------------------------------------

task: Any = define_task("t", handler)


@pytest.mark.parametrize(
    "named,options",
    [
        ("priority", {"priority": 101}),
        ("priority", {"priority": -1}),
        ("priority", {"priority": True}),
        ("delay", {"delay": -0.001}),
        ("delay", {"delay": float("nan")}),
        ("delay", {"delay": 1e300}),
        ("delay", {"delay": "soon"}),
        ("at", {"at": datetime(2030, 1, 1)}),  # noqa: DTZ001
        ("at", {"at": date(2030, 1, 1)}),
        ("at", {"at": "2030-01-01"}),
        ("delay or at", {"at": datetime(2030, 1, 1, tzinfo=UTC), "delay": 1}),
        ("idempotency_key", {"idempotency_key": ""}),
        ("idempotency_key", {"idempotency_key": 7.5}),
        ("idempotency_key", {"idempotency_key": "x" * (MAX_KEY + 1)}),
        ("idempotency_key", {"idempotency_key": "\udcff"}),
    ],
)
def test_a_submission_that_cannot_be(named: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=named):
        submission(task, 1, **options)


@pytest.mark.parametrize("key", [None, "", 7.5, True, "x" * (MAX_KEY + 1), "\udcff"])
def test_keys_that_cannot_be(key: Any) -> None:
    debounced = define_task("t", handler, debounce=DebounceConfig(1, key=lambda value: key))
    with pytest.raises(ConfigurationError, match="debounce key"):
        submission(debounced, 1)
    keyed = define_task("t", handler, idempotency_key=lambda value: key)
    if key is None:
        assert submission(keyed, 1).idempotency_key is None
    else:
        with pytest.raises(ConfigurationError, match="idempotency_key"):
            submission(keyed, 1)


def test_keys_see_the_checked_input() -> None:
    keyed = define_task(
        "t",
        handler,
        idempotency_key=lambda value: f"k{value + 1}",
        debounce=DebounceConfig(1, lambda value: f"d{value + 1}"),
    )
    new = submission(keyed, "7")
    assert new.idempotency_key == "k8"
    assert new.debounce is not None
    assert new.debounce.key == "d8"
    assert submission(keyed, 7, idempotency_key="ümläut ☃").idempotency_key == "ümläut ☃"


def test_the_largest_input_and_one_more_byte() -> None:
    untyped: Any = define_task("t", lambda ctx, value: None)
    assert len(submission(untyped, "x" * (MAX_INPUT_BYTES - 2)).input) == MAX_INPUT_BYTES
    with pytest.raises(TaskInputError, match=f"{MAX_INPUT_BYTES + 1} bytes; the limit is {MAX_INPUT_BYTES}"):
        submission(untyped, "x" * (MAX_INPUT_BYTES - 1))


def test_what_is_no_task_is_told() -> None:
    bad: Any = handler
    with pytest.raises(ConfigurationError, match="is no task"):
        submission(bad, 1)


def test_a_task_with_nothing_to_take_takes_what_triggers_send() -> None:
    bare: Any = define_task("t", lambda: None)
    assert submission(bare, {"event": "create"}).input == b'{"event":"create"}'
    assert submission(bare).input == b"null"


def test_times_are_kept_to_the_microsecond() -> None:
    assert submission(task, 1, delay=timedelta(microseconds=1)).delay == 1
    assert submission(task, 1, delay=1.5).delay == 1_500_000
    assert submission(task, 1, at=datetime(1970, 1, 1, 0, 0, 1, 5, tzinfo=UTC)).at == 1_000_005
    assert submission(task, 1, at=datetime(1969, 12, 31, tzinfo=UTC)).at == -86_400_000_000
    assert from_micros(-(10**17)) == datetime.min.replace(tzinfo=UTC)


def test_the_limit_of_an_input_is_an_option() -> None:
    short = define_task("short", nothing, input=str, max_input_bytes=4)
    assert submission(short, "xx").input == b'"xx"'
    with pytest.raises(TaskInputTooLargeError, match="an input of 5 bytes; the limit is 4"):
        submission(short, "xxx")
    with pytest.raises(ConfigurationError, match="max_input_bytes"):
        define_task("none", nothing, input=str, max_input_bytes=0)


async def nothing(ctx: TaskContext, text: str) -> None: ...
