"""Cron expressions in a time zone: which instants match, and what clock changes do to them.

croniter reads the expression, and no more: how it steps through days, and what it does with aware times around a
clock change, differs from release to release. Walking the calendar, and the way from a wall time to an instant,
are here. The rules are those of Debian's cron.

Days, by crontab(5): if both day fields are restricted, either one matches. A field that begins with `*` is not
restricted, not even `*/2`: `0 0 */2 * 1` means the Mondays on odd days.

Clock changes, by cron(8): "Only jobs that run at a particular time (not specified as @hourly, nor with '*' in the
hour or minute specifier) are affected. Jobs which are specified with wildcards are run based on the new time
immediately." So an expression is a *wildcard* one if its minute or its hour field begins with `*` (`0 * * * *`,
`*/15 2 * * *`, `@hourly`). Otherwise it has *fixed times* (`30 2 * * *`, `0 9-17/2 * * 1-5`, `0-59 1 * * *`).

- A fixed time that the clock skips runs once, at the first instant after the gap. That instant is one slot,
  however many times fall into the gap, and also if it is a time of the rule itself.
- A fixed time that the clock repeats runs once, the first time.
- A wildcard rule follows real time: nothing in the skipped stretch, everything in both passes of the repeated one.

Debian's cron takes a jump of three hours and more for a correction of the clock, and treats fixed times as
wildcards there. It has to guess; we know the zone, and a day that a country skipped (Samoa, 30 December 2011) is a
gap like any other.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from calendar import monthrange
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from concave.errors import InvalidScheduleError

__all__ = ["CronPattern", "first_slot_after", "last_slot_until", "load_zone", "read_cron"]

_MICROSECOND = timedelta(microseconds=1)
_MINUTE = timedelta(minutes=1)
_DAY = timedelta(days=1)

_YEARS = 50
"""How far a day is searched. The rarest, a fifth Monday in February, comes after 40 years at the latest."""

_HIGHEST = ({"59"}, {"23"}, {"31"}, {"12", "dec"}, {"6", "sat"})
_FIELDS = "minute, hour, day, month, weekday"


class CronPattern(NamedTuple):
    """A cron expression, taken apart. Weekdays count from Sunday, 0."""

    times: tuple[int, ...]
    """The minutes of a day, ascending."""
    wildcard: bool
    months: frozenset[int]
    days: frozenset[int]
    last_day: bool
    weekdays: frozenset[int]
    nth_weekdays: frozenset[tuple[int, int]]
    """(weekday, which one in the month); 0 is the last one."""
    either_day: bool
    """The day of the month or the weekday suffices; otherwise both must match."""

    def matches(self, day: date) -> bool:
        """Whether the expression has times on that day of a matching month."""
        last = monthrange(day.year, day.month)[1]
        weekday = day.isoweekday() % 7
        by_day = day.day in self.days or (self.last_day and day.day == last)
        by_weekday = (
            weekday in self.weekdays
            or (weekday, (day.day + 6) // 7) in self.nth_weekdays
            or ((weekday, 0) in self.nth_weekdays and day.day + 7 > last)
        )
        return by_day or by_weekday if self.either_day else by_day and by_weekday


class _ClockChange(NamedTuple):
    """At the instant `at`, the wall times from `start` to before `end` are skipped, or begin to repeat."""

    at: datetime
    start: datetime
    end: datetime


@lru_cache(maxsize=256)
def load_zone(name: str) -> tzinfo:
    """The IANA zone of that name; raises InvalidScheduleError."""
    if name == "UTC":
        return UTC  # the default has to work where there is no zone data
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        # OSError: the name of a directory, such as "Europe", or one too long for the file system.
        raise InvalidScheduleError(
            f"unknown time zone {name!r}: expected an IANA name such as 'Europe/Paris' "
            "(a system without zone data needs the tzdata package)"
        ) from error


@lru_cache(maxsize=1024)
def read_cron(expression: str) -> CronPattern:
    """Take apart an expression of five fields, or an alias such as `@daily`.

    Raises InvalidScheduleError for what can't be read, what different crons read differently, and what matches no
    day at all.
    """
    _refuse_what_is_ambiguous(expression)
    try:
        # A web process without schedules has no use for it, nor for its import's time.
        from croniter import croniter

        # The start time only keeps croniter from reading the clock.
        parsed = croniter(expression, 0.0)
    except (ValueError, TypeError, LookupError) as error:
        raise InvalidScheduleError(
            f"bad cron expression {expression!r} (expected {_FIELDS}): {error}"
        ) from error
    minute, hour, day, _, weekday = parsed.expressions
    minutes, hours, days, months, weekdays = parsed.expanded
    nth = parsed.nth_weekday_of_month
    pattern = CronPattern(
        times=tuple(
            60 * h + m for h in sorted(_numbers(hours, 0, 23)) for m in sorted(_numbers(minutes, 0, 59))
        ),
        wildcard=minute.startswith("*") or hour.startswith("*"),
        months=_numbers(months, 1, 12),
        days=_numbers(days, 1, 31),
        last_day="l" in days,
        weekdays=frozenset() if nth else _numbers(weekdays, 0, 6),
        nth_weekdays=frozenset(
            (int(d), 0 if str(n) == "l" else int(n)) for d, which in nth.items() for n in which
        ),
        either_day=not (day.startswith(("*", "?")) or weekday.startswith(("*", "?"))),
    )
    if _day_from(pattern, date(2000, 1, 1)) is None:
        raise InvalidScheduleError(f"cron expression {expression!r} matches no day at all")
    return pattern


def first_slot_after(pattern: CronPattern, zone: tzinfo, after: datetime) -> datetime | None:
    """The first slot later than the UTC instant `after`; None if the calendar ends before it."""
    try:
        shown = after.astimezone(zone).replace(tzinfo=None)
        # Not the wall time a microsecond later: right before a gap, the skipped times come next.
        floor = shown + _MICROSECOND
        change = _clock_change(zone, shown)  # an overlap: no clock ever shows a skipped time
        if change is not None and pattern.wildcard and after < change.at:
            wall = _first_wall(pattern, floor)
            if wall is not None and wall < change.end:
                return _instants(zone, wall)[0]
            floor = change.start  # nothing more in the first pass; on to the second
        elif change is not None and not pattern.wildcard and after >= change.at:
            floor = change.end  # the second pass doesn't count
        while (wall := _first_wall(pattern, floor)) is not None:
            first, second = _instants(zone, wall)
            if first <= second:
                return first if first > after else second
            gap = _clock_change_between(zone, second, first)
            if not pattern.wildcard:
                return gap.at
            floor = gap.end
    except OverflowError:
        pass  # the calendar's end
    return None


def last_slot_until(pattern: CronPattern, zone: tzinfo, end: datetime) -> datetime | None:
    """The last slot at or before the UTC instant `end`: the mirror image of `first_slot_after`."""
    try:
        ceiling = end.astimezone(zone).replace(tzinfo=None)
        change = _clock_change(zone, ceiling)
        if change is not None and end >= change.at:
            if pattern.wildcard:
                wall = _last_wall(pattern, ceiling)
                if wall is not None and wall >= change.start:
                    return _instants(zone, wall)[1]
            ceiling = change.end - _MICROSECOND  # the whole of the first pass lies behind us
        while (wall := _last_wall(pattern, ceiling)) is not None:
            first, second = _instants(zone, wall)
            if first <= second:
                return second if pattern.wildcard and second <= end else first
            gap = _clock_change_between(zone, second, first)
            if not pattern.wildcard:
                return gap.at
            ceiling = gap.start - _MICROSECOND
    except OverflowError:
        pass  # the calendar's beginning
    return None


def _refuse_what_is_ambiguous(expression: str) -> None:
    """Each node of a fleet has to read an expression alike, whatever its croniter, and as its author meant it."""
    fields = expression.lower().split()
    if len(fields) != 5 and not expression.startswith("@"):
        seconds = "; crons disagree on where seconds go, so use interval for less than a minute"
        raise InvalidScheduleError(
            f"cron expression {expression!r} has {len(fields)} fields, not 5 ({_FIELDS})"
            + (seconds if len(fields) in {6, 7} else "")
        )
    if not expression.isascii():
        raise InvalidScheduleError(f"cron expression {expression!r} has characters outside ASCII")
    for field, highest in zip(fields, _HIGHEST, strict=False):
        for item in field.split(","):
            if item[:1] in {"h", "r"}:
                raise InvalidScheduleError(f"cron expression {expression!r}: {item!r} would be a random time")
            if highest == {"31"} and "w" in item:
                raise InvalidScheduleError(
                    f"cron expression {expression!r}: {item!r} (nearest weekday) isn't supported"
                )
            values, slash, _ = item.partition("/")
            low, dash, high = values.partition("-")
            # croniter reads "5-5" as all values; "59/15" meant "*/15" before croniter 7, and since then "59".
            same, last = low.lstrip("0") == high.lstrip("0"), low.lstrip("0") in highest
            if (dash and low and same) or (slash and not dash and last):
                raise InvalidScheduleError(
                    f"cron expression {expression!r}: crons disagree on {item!r}; write {low!r} for that value, "
                    "or begin with '*' for all"
                )


def _numbers(values: list[str], low: int, high: int) -> frozenset[int]:
    # croniter's lists hold integers, "*" alone, and "l" for the last day; its stubs say strings.
    if values == ["*"]:
        return frozenset(range(low, high + 1))
    return frozenset(int(value) for value in values if value != "l")


def _day_from(pattern: CronPattern, day: date) -> date | None:
    """The first matching day, `day` or later."""
    end = day.year + _YEARS
    while day.year <= end:
        if day.month not in pattern.months:
            day = (day.replace(day=1) + 31 * _DAY).replace(day=1)
        elif pattern.matches(day):
            return day
        else:
            day += _DAY
    return None


def _day_until(pattern: CronPattern, day: date) -> date | None:
    """The last matching day, `day` or earlier."""
    end = day.year - _YEARS
    while day.year >= end:
        if day.month not in pattern.months:
            day = day.replace(day=1) - _DAY
        elif pattern.matches(day):
            return day
        else:
            day -= _DAY
    return None


def _first_wall(pattern: CronPattern, floor: datetime) -> datetime | None:
    """The first matching wall time at or after `floor`."""
    minute = floor.replace(second=0, microsecond=0)
    if minute < floor:
        minute += _MINUTE
    today = minute.date()
    day = _day_from(pattern, today)
    index = 0
    if day == today:
        index = bisect_left(pattern.times, 60 * minute.hour + minute.minute)
        if index == len(pattern.times):
            index = 0
            day = _day_from(pattern, today + _DAY)
    return None if day is None else _wall(day, pattern.times[index])


def _last_wall(pattern: CronPattern, ceiling: datetime) -> datetime | None:
    """The last matching wall time at or before `ceiling`."""
    today = ceiling.date()
    day = _day_until(pattern, today)
    index = len(pattern.times)
    if day == today:
        index = bisect_right(pattern.times, 60 * ceiling.hour + ceiling.minute)
        if index == 0:
            index = len(pattern.times)
            day = _day_until(pattern, today - _DAY)
    return None if day is None else _wall(day, pattern.times[index - 1])


def _wall(day: date, minutes: int) -> datetime:
    return datetime.combine(day, time(minutes // 60, minutes % 60))


def _instants(zone: tzinfo, wall: datetime) -> tuple[datetime, datetime]:
    """When the clock shows `wall`: twice the same instant, or the first and the second of a repeated time.

    Of a skipped time, it is the later one that comes first (PEP 495).
    """
    return (
        wall.replace(tzinfo=zone, fold=0).astimezone(UTC),
        wall.replace(tzinfo=zone, fold=1).astimezone(UTC),
    )


def _clock_change(zone: tzinfo, wall: datetime) -> _ClockChange | None:
    """The clock change that skips or repeats `wall`, if one does."""
    first, second = _instants(zone, wall)
    return None if first == second else _clock_change_between(zone, min(first, second), max(first, second))


def _clock_change_between(zone: tzinfo, before: datetime, after: datetime) -> _ClockChange:
    """The one clock change after `before` and up to `after`, to the second."""
    before = before.replace(microsecond=0)
    old = before.astimezone(zone).utcoffset()
    low, high = 0, int((after - before).total_seconds()) + 1
    while high - low > 1:
        middle = (low + high) // 2
        if (before + timedelta(seconds=middle)).astimezone(zone).utcoffset() == old:
            low = middle
        else:
            high = middle
    at = before + timedelta(seconds=high)
    new_wall = at.astimezone(zone).replace(tzinfo=None)
    old_wall = (at - _MICROSECOND).astimezone(zone).replace(tzinfo=None) + _MICROSECOND
    return _ClockChange(at, min(old_wall, new_wall), max(old_wall, new_wall))
