"""From a task and its input to what a store keeps. Pure: the same for the scheduler, an outbox and a schedule."""

from __future__ import annotations

import os
import re
from datetime import datetime
from typing import Any
from uuid import UUID

from concave.clock import Micros, to_micros
from concave.errors import ConfigurationError, TaskInputError, TaskInputTooLargeError
from concave.store.records import Debounce, NewTask
from concave.tasks.codec import CodecError
from concave.tasks.define import TaskDefinition
from concave.tasks.options import DebounceConfig, Duration, Key, micros, priority_in_range

__all__ = ["MAX_KEY", "SURROGATES", "check_size", "new_task_id", "new_task_ids", "submission"]

MAX_KEY = 512
"""Characters of an idempotency or debounce key."""
LETTERS = b"0123456789abcdefghijklmnopqrstuv" * 8
"""What each byte becomes in an id: one of 32, each as likely."""
LAST = 9_000_000_000_000_000
"""Microseconds since the epoch: a little less than what a store whose numbers are doubles counts one by one."""
SURROGATES = re.compile("[\ud800-\udfff]")


def submission(
    task: TaskDefinition[Any, Any],
    value: object = None,
    *,
    delay: Duration | None = None,
    at: datetime | None = None,
    priority: int | None = None,
    idempotency_key: Key | None = None,
    coalesce: str | None = None,
    recurring: bool = False,
    task_id: str | None = None,
) -> NewTask:
    """A checked submission.

    Raises `TaskInputError` for an input that isn't what the task takes, `ConfigurationError` for a naive `at`, a
    negative `delay`, a far `at` (from 2255 on), both at once, a priority outside 0 to 100, or something that is no task. A `recurring` slot has its own identity and
    ignores the definition's key and debounce. With a key to `coalesce` by, it becomes one with those that wait under the
    same key: after the task's own debounce window, or `delay` after the first of them.
    """
    if not isinstance(task, TaskDefinition):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"{task!r} is no task: make one of it with define_task")
    if delay is not None and at is not None:
        raise ConfigurationError("give delay or at, not both")
    try:
        checked, data = task.input.encode_to_be_read(value)
    except CodecError as error:
        raise TaskInputError(f"task {task.name!r}: {error}") from error
    check_size(task, data)
    debounce = None
    if coalesce is not None:
        debounce = _coalesced(task, _checked_key(coalesce, "key", task.name), delay)
        delay = None if task.debounce is None else delay
    elif not recurring and task.debounce is not None:
        debounce = _debounce(
            task.debounce, _checked_key(task.debounce.key(checked), "debounce key", task.name)
        )
    key = None
    if not recurring and (idempotency_key is not None or task.idempotency_key is not None):
        key = _idempotency_key(task, checked, idempotency_key)
    # By position: by name it takes twice as long, and each enqueue comes by here.
    return NewTask(
        task_id or new_task_id(),
        task.name,
        data,
        task.priority if priority is None else priority_in_range(priority),
        0 if delay is None else micros(delay, "delay"),
        None if at is None else _due(at),
        task.retry.max_attempts,
        task.max_crashes,
        key,
        debounce,
        task.retention,
    )


def check_size(task: TaskDefinition[Any, Any], data: bytes) -> None:
    """Raises `TaskInputTooLargeError` for the JSON of an input that is more than the task takes."""
    if len(data) > task.max_input_bytes:
        raise TaskInputTooLargeError(
            f"task {task.name!r}: an input of {len(data)} bytes; the limit is {task.max_input_bytes}"
        )


def _due(at: datetime) -> Micros:
    due = to_micros(at, "at")
    if due > LAST:
        raise ConfigurationError(f"at must be before the year 2255, not {at!r}")
    return due


def new_task_id() -> str:
    """A new id: 100 random bits in 20 lower-case letters and digits. Two among 10^12 meet with odds of 1 : 10^6."""
    return os.urandom(20).translate(LETTERS).decode()


def new_task_ids(count: int) -> list[str]:
    """As many new ids, for one question to the system: those of thousands of tasks cost a twentieth of what they cost alone."""
    letters = os.urandom(20 * count).translate(LETTERS).decode()
    return [letters[start : start + 20] for start in range(0, len(letters), 20)]


def _idempotency_key(task: TaskDefinition[Any, Any], value: object, given: Key | None) -> str | None:
    if given is None and task.idempotency_key is not None:
        given = task.idempotency_key(value)
    return None if given is None else _checked_key(given, "idempotency_key", task.name)


def _coalesced(task: TaskDefinition[Any, Any], key: str, delay: Duration | None) -> Debounce:
    # 0: an outbox will number it, so that the latest to commit is the one that counts.
    if task.debounce is not None:
        return _debounce(task.debounce, key)._replace(sequence=0)
    window = 0 if delay is None else micros(delay, "delay")
    return Debounce(key, window, max_wait=window, sequence=0)


def _debounce(config: DebounceConfig, key: str) -> Debounce:
    return Debounce(
        key=key,
        window=micros(config.window, "debounce window"),
        max_wait=None if config.max_wait is None else micros(config.max_wait, "debounce max_wait"),
    )


def _checked_key(key: object, option: str, name: str) -> str:
    if (isinstance(key, int) and not isinstance(key, bool)) or isinstance(key, UUID):
        key = str(key)  # the id of a user, say: there is one way to write it
    if not isinstance(key, str) or not key or len(key) > MAX_KEY:
        raise ConfigurationError(
            f"task {name!r}: {option} must be text of 1 to {MAX_KEY} characters, not {key!r}"
        )
    if SURROGATES.search(key):
        raise ConfigurationError(f"task {name!r}: {option} has characters that UTF-8 can't hold: {key!r}")
    return key
