"""A submission as the JSON of an outbox row, and back. Nothing is ever unpickled, and nothing is trusted."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json, to_json

from concave.hooks import TaskForm
from concave.store.records import Debounce, NewTask, Retention

__all__ = ["MalformedError", "NewerError", "aged", "around", "as_text", "decode", "encode", "numbered"]

VERSION = 1

Micros: TypeAlias = Annotated[int, Field(ge=0, lt=2**63)]
Text: TypeAlias = Annotated[str, Field(min_length=1)]


class MalformedError(ValueError):
    """Not a submission, and never will be one."""


class NewerError(ValueError):
    """Written by newer code than this, which a process that runs it will read."""


class _Payload(BaseModel):
    # Built when it is first used: most processes never sweep up a row, and all would wait for it at their start.
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True, defer_build=True)

    v: int = VERSION
    id: Text
    name: Text
    input: Text
    priority: Annotated[int, Field(ge=0, le=100)]
    delay: Micros
    at: int | None
    max_attempts: Annotated[int, Field(ge=1)]
    max_crashes: Annotated[int, Field(ge=1)]
    idempotency_key: str | None
    debounce: tuple[Text, Micros, Micros | None, Micros | None] | None
    retention: tuple[Micros, Micros, Micros, Micros]


def encode(task: NewTask) -> str:
    """A submission as JSON. Its input stays the text that it is: decoding it would rewrite numbers."""
    return (
        f'{{"id":{as_text(task.id)},"input":{as_text(task.input.decode())},{_rest_of(task[1:2] + task[3:])}}}'
    )


def around(form: TaskForm) -> tuple[str, str]:
    """What the payloads of a form's tasks have in common: between the id, which comes first, and the row; and from the row on."""
    before, after = (as_text(part.decode())[1:-1] for part in (form.before, form.after))
    return f',"input":"{before}', f'{after}",{_rest_of(form.task[1:2] + form.task[3:])}}}'


def as_text(text: str) -> str:
    """Text as JSON, as in a payload its input is."""
    return to_json(text).decode()


@lru_cache(maxsize=256)
def _rest_of(rest: tuple[Any, ...]) -> str:
    """All but what is another one for each task: most tasks of a name have the rest in common."""
    fields = dict(zip(("name", *NewTask._fields[3:]), rest, strict=True))
    return to_json({"v": VERSION, **fields}).decode()[1:-1]


def decode(task_id: str, payload: str, sequence: int) -> NewTask:
    """The submission of the row `task_id`, whose number is `sequence`. Raises `MalformedError`, or `NewerError`."""
    if (version := _version_of(payload)) > VERSION:
        raise NewerError(f"written by newer code than this (version {version})")
    try:
        found = _Payload.model_validate_json(payload)
        from_json(found.input, allow_inf_nan=False)
    except ValidationError as error:
        raise MalformedError(_described(error)) from error
    except ValueError as error:
        raise MalformedError(f"input: {error}") from error
    if found.id != task_id:
        raise MalformedError(f"it holds the submission of another row, {found.id!r}")
    fields = found.model_dump(exclude={"v", "input", "debounce", "retention"})
    new = NewTask(
        **fields,
        input=found.input.encode(),
        debounce=None if found.debounce is None else Debounce(*found.debounce),
        retention=Retention(*found.retention),
    )
    return numbered(new, sequence)


def numbered(new: NewTask, sequence: int) -> NewTask:
    """The submission with its row's number, if it is one that is coalesced: the store compares them."""
    if new.debounce is None or new.debounce.sequence is None:
        return new
    return new._replace(debounce=new.debounce._replace(sequence=sequence))


def aged(task: NewTask, age: float) -> NewTask:
    """The submission of a row that is so many seconds old: a delay counts from when it was written, however late it is relayed."""
    waited = round(max(0.0, age) * 1_000_000)
    debounce = task.debounce
    if debounce is not None and debounce.sequence is not None:
        bound = None if debounce.max_wait is None else max(0, debounce.max_wait - waited)
        debounce = debounce._replace(window=max(0, debounce.window - waited), max_wait=bound)
    return task._replace(delay=max(0, task.delay - waited), debounce=debounce)


def _version_of(payload: str) -> int:
    try:
        version = from_json(payload).get("v", VERSION)
    except (ValueError, AttributeError):
        return VERSION  # not for this to say
    return version if isinstance(version, int) else VERSION


def _described(error: ValidationError) -> str:
    """What is wrong, without the values: those may be secrets."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'payload'}: {each['msg']}" for each in found[:10])
