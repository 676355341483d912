"""Bytes to records, as `concave.store.redis.packing` and the scripts have written them."""

# msgpack ships no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from typing import Any

from msgpack import Unpacker

from concave.clock import Micros
from concave.errors import StoreError
from concave.store.records import (
    Failure,
    NewTask,
    Retention,
    ScheduleRecord,
    TaskRecord,
    TaskStatus,
)
from concave.store.redis.packing import KEPT

__all__ = [
    "MalformedRecordError",
    "read_claimed",
    "read_handed_out",
    "read_record",
    "read_schedule",
    "read_told",
]

ENDED: dict[bytes, TaskStatus] = {b"c": "completed", b"d": "dead", b"x": "cancelled"}

HEAD, SPEC = 7, 9
"""Values in a record's head and in its spec."""


class MalformedRecordError(StoreError):
    """Bytes that are not a record: written by something else, or damaged."""


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
