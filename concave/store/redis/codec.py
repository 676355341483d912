"""Records to bytes and back. How they are laid out is told in ``lua/lib/base.lua``."""

# msgpack ships no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgpack import Packer, Unpacker, packb

from concave.clock import Micros
from concave.errors import StoreError
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
    TaskStatus,
    bucket_of,
)

__all__ = [
    "MalformedRecordError",
    "pack",
    "pack_schedule",
    "packed_lanes",
    "packed_settlements",
    "packed_tasks",
    "read_claimed",
    "read_handed_out",
    "read_record",
    "read_schedule",
    "read_told",
]

ENDED: dict[bytes, TaskStatus] = {b"c": "completed", b"d": "dead", b"x": "cancelled"}


HEAD, SPEC = 7, 9
"""Values in a record's head and in its spec."""

KEPT = Retention()
"""That of most tasks, which a spec doesn't spell out: 35 bytes. Whoever changes it changes it for tasks that are there already."""


class MalformedRecordError(StoreError):
    """Bytes that are not a record: written by something else, or damaged."""


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
        [debounce.key, debounce.window, debounce.max_wait or False, debounce.sequence or False]
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


def read_record(
    task_id: bytes, data: bytes, now: Micros, run: bytes | None = None, progress: bytes | None = None
) -> TaskRecord | None:
    """A record, or None where it has expired. Raises `MalformedRecordError` for what isn't one."""
    try:
        return _read(task_id, _values(data), now, _run_of(run), progress)
    except Exception as error:  # whatever is wrong with the bytes, the reader is to learn just that
        raise MalformedRecordError(f"task {task_id!r}: not a record: {error}") from error


def read_claimed(
    ids: list[bytes], records: list[bytes], worker_id: str, now: Micros
) -> list[TaskRecord | MalformedRecordError | None]:
    """Records as they run from `now` on; None for what has expired, and an error for what isn't one."""
    run = worker_id, now
    try:
        rows = _rows(records)
        return [_read(task_id, row, now, run, None) for task_id, row in zip(ids, rows, strict=True)]
    except Exception:  # noqa: BLE001  one of them, or how they run into each other
        return [_one_claimed(task_id, data, now, run) for task_id, data in zip(ids, records, strict=True)]


def read_handed_out(message: bytes) -> tuple[str, str, Micros, list[bytes], list[bytes]]:
    """What standing.lua tells a worker: a claim's nonce, whose it is, since when; ids and records."""
    nonce, worker_id, now, *rows = _values(message)
    return nonce.decode(), worker_id.decode(), int(now), rows[::2], rows[1::2]


def read_told(data: bytes) -> dict[bytes, bytes]:
    """The records behind the ids in a message about endings, by id; none where nobody can read it."""
    try:
        values = _values(data) if data else []
    except Exception:  # noqa: BLE001  as in read_record; whoever waits for one looks it up
        return {}
    return dict(zip(values[::2], values[1::2], strict=False))


def _one_claimed(
    task_id: bytes, data: bytes, now: Micros, run: tuple[str, Micros]
) -> TaskRecord | MalformedRecordError | None:
    try:
        return _read(task_id, _values(data), now, run, None)
    except Exception as error:  # noqa: BLE001  as in read_record
        return MalformedRecordError(f"task {task_id!r}: not a record: {error}")


def _run_of(entry: bytes | None) -> tuple[str, Micros] | None:
    if entry is None:
        return None
    try:
        (worker, started_at), *_ = _values(entry[16:])
        return worker.decode(), int(started_at)
    except Exception:  # noqa: BLE001  damaged: it runs, and nobody knows where
        return "", 0


def _read(
    task_id: bytes, values: list[Any], now: Micros, run: tuple[str, Micros] | None, progress: bytes | None
) -> TaskRecord | None:
    head, spec, *events = values
    created, due, waits_for_retry, attempts_failed, crashes, interruptions, _ = head
    status: TaskStatus = "pending"
    if due > now:
        status = "failed" if waits_for_retry else "scheduled"
    failures: list[Failure] = []
    started_at: Micros | None = None
    ended_at: Micros | None = None
    worker_id: str | None = None
    result: bytes | None = None
    reason: str | None = None
    for event in events:
        if event[0] == b"e":
            _, at, worker, attempt, text, trace = event
            failures.append(Failure(text.decode(), trace.decode(), attempt, at, worker.decode()))
            continue
        letter, ended_at, expires, (worker, started), payload = event
        if expires <= now:
            return None
        status = ENDED[letter]
        worker_id, started_at = worker.decode() or None, started or None
        if status == "completed":
            result = payload
        else:
            reason = payload.decode() or None
    if run is not None:
        status = "running"
        worker_id, started_at = run[0] or None, run[1] or None
    elif ended_at is None and failures:
        worker_id = failures[-1].worker_id or None
    return TaskRecord(
        task_id.decode(),
        spec[0].decode(),
        spec[2],
        status,
        spec[1],
        created,
        due,
        attempts_failed + (status in {"running", "completed"}),
        crashes,
        interruptions,
        spec[3],
        spec[4],
        spec[5].decode() if spec[5] else None,
        spec[6].decode() if spec[6] else None,
        Retention(*spec[7]) if spec[7] else KEPT,
        started_at,
        ended_at,
        worker_id,
        result,
        reason,
        tuple(failures),
        spec[8].decode() if spec[8] else None,
        progress,
    )


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


def read_schedule(row: list[bytes]) -> ScheduleRecord:
    """A schedule from the row that Lua makes of it."""
    schedule_id, body, enabled, next_at, last_at, created_at, anchor = row
    try:
        ((task, cron, interval, timezone, misfire),) = _values(body)
        name, data, *numbers = task[1:]
        priority, delay, at, max_attempts, max_crashes, _key, _debounce, retention = numbers
        return ScheduleRecord(
            id=schedule_id.decode(),
            task=NewTask(
                task[0].decode(), name.decode(), data, priority, delay, at, max_attempts, max_crashes,
                retention=Retention(*retention),
            ),
            cron=cron.decode() if cron is not None else None,
            interval=interval,
            timezone=timezone.decode(),
            misfire=misfire.decode(),
            enabled=enabled == b"1",
            created_at=int(created_at),
            anchor=int(anchor),
            next_at=int(next_at),
            last_at=int(last_at) if last_at else None,
        )  # fmt: skip
    except Exception as error:  # as in read_record
        raise MalformedRecordError(f"schedule {schedule_id!r}: not a record: {error}") from error


def _rows(records: list[bytes]) -> list[list[Any]]:
    """The values of many records, by one reader: a reader each costs as much as the reading.

    Raises ValueError where a damaged one among them may have run into the next.
    """
    unpacker = Unpacker(raw=True)
    unpacker.feed(b"\xc0".join(records) + b"\xc0")
    rows: list[list[Any]] = [[]]
    for value in unpacker:
        if value is None:
            rows.append([])
        else:
            rows[-1].append(value)
    rest = rows.pop()
    if rest or any(len(row) < 2 or len(row[0]) != HEAD or len(row[1]) != SPEC for row in rows):
        raise ValueError("not records, all of them")
    return rows


def _values(data: bytes) -> list[Any]:
    unpacker = Unpacker(raw=True)
    unpacker.feed(data)
    # A nil to end with: where the last value was cut off, it becomes part of that one.
    unpacker.feed(b"\xc0")
    values: list[Any]
    *values, end = unpacker
    if end is not None:
        raise ValueError("it ends in the middle of a value")
    return values
