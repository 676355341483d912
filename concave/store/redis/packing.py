"""Records to bytes. How they are laid out is told in ``lua/lib/base.lua``."""

# msgpack ships no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgpack import Packer, packb

from concave.clock import Micros
from concave.store.records import (
    Cancel,
    Complete,
    Decision,
    Die,
    Failure,
    NewTask,
    Release,
    Retention,
    Retry,
    ScheduleRecord,
    Settlement,
    TaskRecord,
    bucket_of,
)

__all__ = ["KEPT", "pack", "pack_schedule", "packed_lanes", "packed_settlements", "packed_tasks"]

KEPT = Retention()
"""That of most tasks, which a spec doesn't spell out: 35 bytes. Whoever changes it changes it for tasks that are there already."""


def pack(value: Any) -> bytes:
    """MessagePack as Redis' Lua reads it: bytes and text alike are raw strings."""
    return packb(value, use_bin_type=False)  # type: ignore[no-any-return]


def packed_lanes(tasks: Sequence[NewTask]) -> bytes | None:
    """Plain submissions as push.lua takes them: each run of the same lane together, so that their order stays.

    None where one isn't plain: due at once, and no key of its user's.
    """
    groups: list[tuple[str, list[str], list[bytes]]] = []
    name, bucket = "", -1
    ids: list[str] = []
    specs: list[bytes] = []
    packed = Packer(use_bin_type=False).pack
    for new in tasks:
        if new.idempotency_key is not None or new.debounce is not None or new.at is not None or new.delay:
            return None
        if new.name != name or bucket_of(new.priority) != bucket:
            name, bucket, ids, specs = new.name, bucket_of(new.priority), [], []
            groups.append((f"{bucket}n:{name}", ids, specs))
        ids.append(new.id)
        specs.append(packed(_spec(new)))
    return pack(groups)


def packed_tasks(tasks: Sequence[NewTask]) -> bytes:
    """Submissions as add.lua takes them."""
    return pack([_task(new) for new in tasks])


def _spec(new: NewTask) -> list[Any]:
    return [
        new.name,
        new.priority,
        new.input,
        new.max_attempts,
        new.max_crashes,
        new.idempotency_key or False,
        new.debounce.key if new.debounce else False,
        False if new.retention == KEPT else new.retention,
        False,
    ]


def _task(new: NewTask) -> list[Any]:
    debounce = new.debounce
    return [
        new.id,
        pack(_spec(new)),
        new.name,
        bucket_of(new.priority),
        new.delay,
        False if new.at is None else new.at,
        new.idempotency_key or False,
        [
            debounce.key,
            debounce.window,
            False if debounce.max_wait is None else debounce.max_wait,
            debounce.sequence or False,
        ]
        if debounce
        else False,
    ]


def packed_settlements(settlements: Sequence[Settlement]) -> tuple[bytes, bytes, list[int]]:
    """Decisions as settle.lua takes them: completions in columns, others in rows; and which of them comes where."""
    groups: dict[tuple[str, Micros], tuple[list[int], list[Any]]] = {}
    rows: list[Any] = []
    row_indexes: list[int] = []
    in_rows: set[str] = set()
    packed = Packer(use_bin_type=False).pack  # making one costs more than what it does here
    for index, (lease, decision) in enumerate(settlements):
        task = lease.task
        # Columns are carried out before rows: of two decisions about one task the first counts, so they stay in order.
        keyless = task.idempotency_key is None and task.debounce_key is None
        if type(decision) is Complete and keyless and task.id not in in_rows:
            kept = task.retention.completed
            group = groups.get((task.name, kept))
            if group is None:
                group = groups[task.name, kept] = ([], [task.name, kept, [], [], [], []])
            indexes, (_, _, ids, tokens, created, results) = group
            indexes.append(index)
            ids.append(task.id)
            tokens.append(lease.token)
            created.append(task.created_at)
            results.append(packed(decision.result))
        else:
            in_rows.add(task.id)
            row_indexes.append(index)
            rows.append(_settlement(task, lease.token, decision))
    order = [index for indexes, _ in groups.values() for index in indexes]
    return pack([columns for _, columns in groups.values()]), pack(rows), order + row_indexes


def _settlement(task: TaskRecord, token: str, decision: Decision) -> list[Any]:
    row: list[Any] = [task.id, token, task.name]
    match decision:
        case Complete(result):
            kept = task.retention
            return [
                *row,
                "c",
                pack(result),
                kept.completed,
                str(task.created_at),
                task.idempotency_key or False,
                task.debounce_key or False,
                kept.key,
            ]
        case Retry(delay, failure):
            return [*row, "r", delay, _failure(failure)]
        case Release():
            return [*row, "b"]
        case Die(reason, failure):
            return [*row, "d", reason, _failure(failure)]
        case Cancel(reason):
            return [*row, "x", reason]


def _failure(failure: Failure | None) -> Any:
    return [failure.error, failure.traceback] if failure else False


def pack_schedule(schedule: ScheduleRecord) -> tuple[bytes, bytes]:
    """A schedule's body and its rule."""
    task = schedule.task
    body = [
        [*task[:9], task.debounce, list(task.retention)],
        schedule.cron,
        schedule.interval,
        schedule.timezone,
        schedule.misfire,
    ]
    return pack(body), pack(list(schedule.rule))
