"""When a recurring schedule fires: pure functions from a rule and an instant to slots.

    parse_rule -> next_slot -> (the store waits until it is due) -> plan -> which slots to enqueue, and the next one

Nothing here reads a clock or does I/O. Instants go in as aware datetimes and come out in UTC; a naive one raises
InvalidScheduleError. What cron expressions mean, and what daylight saving time does to them, is in `cron.py`.
"""

from __future__ import annotations

import hashlib
import math
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple, TypeAlias, assert_never

from concave.clock import seconds
from concave.errors import ConfigurationError, InvalidScheduleError
from concave.tasks.cron import first_slot_after, last_slot_until, load_zone, read_cron

__all__ = [
    "DEFAULT_GRACE",
    "DEFAULT_LIMIT",
    "CronRule",
    "IntervalRule",
    "Misfire",
    "Plan",
    "Rule",
    "missed_slots",
    "next_slot",
    "parse_rule",
    "plan",
    "schedule_id",
]

DEFAULT_GRACE = 60.0
"""Seconds that a slot may be late and still count as on time: a restart of the scheduler, but not an outage."""

DEFAULT_LIMIT = 100
"""How many missed slots one `plan` makes up for, at most."""

_MICROSECOND = timedelta(microseconds=1)


class CronRule(NamedTuple):
    """Fires when the clock of `timezone` (an IANA name) matches `expression` (five fields, or an alias: `@daily`)."""

    expression: str
    timezone: str


class IntervalRule(NamedTuple):
    """Fires at `anchor` + k times `every` seconds, for k = 0, 1, 2 and so on: never before the anchor.

    `every` counts in whole microseconds, and each slot is computed from the anchor: there is no drift.
    """

    every: float
    anchor: datetime


Rule: TypeAlias = CronRule | IntervalRule
Misfire: TypeAlias = Literal["skip", "once", "all"]


class Plan(NamedTuple):
    """What to do with a due schedule: enqueue `run`, oldest first, and wait until `next`."""

    run: list[datetime]
    next: datetime


def parse_rule(
    *, cron: str | None, interval: float | timedelta | None, timezone: str = "UTC", anchor: datetime
) -> Rule:
    """Make a rule of what a user wrote: exactly one of `cron` and `interval` (seconds, or a timedelta).

    `anchor` is where an interval starts counting; a cron rule doesn't use it. Raises InvalidScheduleError for anything
    that could never fire: a bad expression, an unknown zone, a date that doesn't exist, an interval that isn't positive.
    """
    load_zone(_text(timezone, "timezone"))
    start = _utc(anchor, "anchor")
    if cron is not None and interval is None:
        rule = CronRule(" ".join(_text(cron, "cron").split()), timezone)
        read_cron(rule.expression)
        return rule
    if interval is None or cron is not None:
        raise InvalidScheduleError("a schedule needs either cron or interval, and not both")
    interval_rule = IntervalRule(_seconds(interval), start)
    if next_slot(interval_rule, start) is None:
        raise InvalidScheduleError(f"interval {interval!r} is too long: it ends after the year 9999")
    return interval_rule


def next_slot(rule: Rule, after: datetime) -> datetime | None:
    """The first slot strictly after `after`, in UTC; None if the calendar ends before it.

    Raises InvalidScheduleError for a rule that `parse_rule` would have refused, such as one stored by a newer version or
    in a zone that this machine doesn't know.
    """
    instant = _utc(after, "after")
    try:
        match rule:
            case CronRule():
                pattern, zone = read_cron(rule.expression), load_zone(rule.timezone)
                return first_slot_after(pattern, zone, instant)
            case IntervalRule():
                anchor, step = _interval(rule)
                return anchor + max((instant - anchor) // step + 1, 0) * step
            case _:
                assert_never(rule)
    except OverflowError:
        return None


def missed_slots(rule: Rule, last: datetime, now: datetime, limit: int) -> list[datetime]:
    """The slots after `last` and up to `now` inclusive, oldest first: the `limit` most recent ones, if there are more.

    The work is bounded by `limit`, not by the time missed: intervals are arithmetic, and cron rules are walked back from
    `now`, `limit` steps at most.
    """
    start, end = _utc(last, "last"), _utc(now, "now")
    match rule:
        case CronRule():
            pattern, zone = read_cron(rule.expression), load_zone(rule.timezone)
            slots: list[datetime] = []
            while len(slots) < limit:
                slot = last_slot_until(pattern, zone, end)
                if slot is None or slot <= start:
                    break
                slots.append(slot)
                end = slot - _MICROSECOND
            return slots[::-1]
        case IntervalRule():
            anchor, step = _interval(rule)
            newest = (end - anchor) // step
            oldest = max((start - anchor) // step + 1, newest - limit + 1, 0)
            return [anchor + count * step for count in range(oldest, newest + 1)]
        case _:
            assert_never(rule)


def plan(
    rule: Rule,
    due: datetime,
    now: datetime,
    misfire: Misfire,
    *,
    grace: float = DEFAULT_GRACE,
    limit: int = DEFAULT_LIMIT,
) -> Plan:
    """Decide what to do at `now` with a schedule whose next slot was stored as `due`.

    Before it is due: nothing, and `next` stays `due`. From then on `due` itself and the slots since then are candidates,
    `limit` of them at most, the most recent ones:

    - "skip" runs the latest one if it is at most `grace` seconds late, and drops the others;
    - "once" runs the latest one, however late, on behalf of all;
    - "all" runs each.

    `next` is always after `now`. Raises InvalidScheduleError as `next_slot` does, and for a limit below 1.
    """
    if limit < 1:
        raise InvalidScheduleError(f"limit must be at least 1, not {limit}")
    stored, instant = _utc(due, "due"), _utc(now, "now")
    if stored > instant:
        return Plan([], stored)
    following = next_slot(rule, instant)
    if following is None:
        raise InvalidScheduleError(f"{rule} has no slot after {instant.isoformat()}")
    slots = [stored, *missed_slots(rule, stored, instant, limit)][-limit:]
    match misfire:
        case "skip":
            slots = [slot for slot in slots[-1:] if (instant - slot).total_seconds() <= grace]
        case "once":
            slots = slots[-1:]
        case "all":
            pass
        case _:
            assert_never(misfire)
    return Plan(slots, following)


def schedule_id(task_name: str, input_json: bytes, rule: Rule) -> str:
    """The id of a schedule that was declared without one: the same for the same task, input and rule, in any process.

    An interval's anchor doesn't count: it is when the schedule was first declared, and every boot declares it again.
    """
    match rule:
        case CronRule():
            parts = ["cron", rule.expression, rule.timezone]
        case IntervalRule():
            parts = ["interval", str(_microseconds(rule.every))]
        case _:
            assert_never(rule)
    digest = hashlib.sha256()
    for part in (task_name.encode(), input_json, *(part.encode() for part in parts)):
        digest.update(len(part).to_bytes(8, "big"))  # so that no two lists of parts look the same
        digest.update(part)
    return digest.hexdigest()[:32]


def _text(value: object, option: str) -> str:
    if not isinstance(value, str):
        raise InvalidScheduleError(f"{option} must be text, not {value!r}")
    return value


def _seconds(interval: float | timedelta) -> float:
    try:
        every = seconds(interval, "interval")
    except ConfigurationError as error:
        raise InvalidScheduleError(
            f"interval must be a finite number of seconds above 0 or a timedelta, not {interval!r}"
        ) from error
    if _microseconds(every) <= 0:
        raise InvalidScheduleError(f"interval must be a finite number of seconds above 0, not {interval!r}")
    return every


def _interval(rule: IntervalRule) -> tuple[datetime, timedelta]:
    microseconds = _microseconds(rule.every) if math.isfinite(rule.every) else 0
    if microseconds <= 0:
        raise InvalidScheduleError(f"interval must be a finite number of seconds above 0, not {rule.every!r}")
    return _utc(rule.anchor, "anchor"), timedelta(microseconds=microseconds)


def _microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)


def _utc(value: datetime, name: str) -> datetime:
    if value.utcoffset() is None:
        raise InvalidScheduleError(f"{name} must be an aware datetime, not {value!r}")
    return value.astimezone(UTC)
