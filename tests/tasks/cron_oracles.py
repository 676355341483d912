"""Two independent readings of cron, to hold ours against.

`simulate` is cronsim, a library that follows Debian's cron. `walk` goes through real time minute by minute, looks at
the clock on the wall, and does what cron would do; it knows nothing of folds and gaps.
"""

import itertools
from calendar import monthrange
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache, lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def simulate(expression: str, zone: str, start: datetime, end: datetime) -> list[datetime]:
    """cronsim's slots in [start, end). Where it names one instant twice (two fixed times in one gap), once."""
    # cronsim takes a time zone of zoneinfo for one with clock changes, even UTC.
    local = start.astimezone(UTC if zone == "UTC" else ZoneInfo(zone))
    slots = (slot.astimezone(UTC) for slot in CronSim(expression, local - timedelta(seconds=1)))
    within = itertools.takewhile(lambda slot: slot < end, slots)
    return [slot for slot, _ in itertools.groupby(slot for slot in within if slot >= start)]


def walk(
    expression: str, zone: str, start: datetime, end: datetime, *, lead: timedelta = 25 * HOUR
) -> list[datetime]:
    """The slots in [start, end), found by watching the clock from `lead` before `start`.

    What the clock showed before that is forgotten, so `lead` must be longer than the longest repetition.
    """
    fields = read(expression)
    wildcard = any(field.startswith("*") for field in expression.split()[:2])
    slots: list[datetime] = []
    shown: set[datetime] = set()
    previous: datetime | None = None
    for instant, wall in ticks(zone, start - lead, end):
        skipped = () if wildcard or previous is None else _between(previous, wall)
        new = wildcard or wall not in shown
        if instant >= start and (any(map(fields.match, skipped)) or (new and fields.match(wall))):
            slots.append(instant)
        shown.add(wall)
        previous = wall
    return slots


@cache
def clock_changes(zone: str, start: datetime, end: datetime) -> tuple[datetime, ...]:
    """The instants, to the minute, at which the offset of `zone` changes. No zone changes it twice a day."""
    tz = ZoneInfo(zone)
    days = itertools.takewhile(lambda day: day < end, (start + day * DAY for day in itertools.count()))
    offsets = [(day, day.astimezone(tz).utcoffset()) for day in days]
    return tuple(
        next(i for i in (day + m * MINUTE for m in range(1441)) if i.astimezone(tz).utcoffset() != old)
        for (day, old), (_, new) in itertools.pairwise(offsets)
        if old != new
    )


@lru_cache(maxsize=60)  # the clock changes of three zones
def ticks(zone: str, start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    """Each whole minute of [start, end), and what the clock in `zone` shows then."""
    tz = ZoneInfo(zone)
    first = start.replace(second=0, microsecond=0)
    if first < start:
        first += MINUTE
    instants = (first + minute * MINUTE for minute in itertools.count())
    return [
        (i, i.astimezone(tz).replace(tzinfo=None)) for i in itertools.takewhile(lambda i: i < end, instants)
    ]


def _between(previous: datetime, wall: datetime) -> Iterator[datetime]:
    skipped = previous + MINUTE
    while skipped < wall:
        yield skipped
        skipped += MINUTE


class Fields:
    """The five fields as sets of numbers, with a reader of its own."""

    def __init__(self, expression: str) -> None:
        minute, hour, day, month, weekday = expression.split()
        self.minutes = _numbers(minute, 0, 59)
        self.hours = _numbers(hour, 0, 23)
        self.last_day = day == "L"
        self.days = set[int]() if self.last_day else _numbers(day, 1, 31)
        self.months = _numbers(month, 1, 12)
        weekday, _, nth = weekday.partition("#")
        self.weekdays = {number % 7 for number in _numbers(weekday, 0, 7)}
        self.nth = int(nth) if nth else None
        self.either = not (day.startswith("*") or weekday.startswith("*"))
        self._days: dict[date, bool] = {}

    def match(self, wall: datetime) -> bool:
        return wall.minute in self.minutes and wall.hour in self.hours and self.match_day(wall.date())

    def match_day(self, day: date) -> bool:
        if day not in self._days:
            by_day = day.day == monthrange(day.year, day.month)[1] if self.last_day else day.day in self.days
            by_weekday = day.isoweekday() % 7 in self.weekdays and self.nth in {None, (day.day - 1) // 7 + 1}
            by_either = by_day or by_weekday if self.either else by_day and by_weekday
            self._days[day] = day.month in self.months and by_either
        return self._days[day]


@cache
def read(expression: str) -> Fields:
    return Fields(expression)


def _numbers(field: str, low: int, high: int) -> set[int]:
    numbers: set[int] = set()
    for item in field.split(","):
        values, _, step = item.partition("/")
        first, dash, last = values.partition("-")
        begin = low if first == "*" else int(first)
        end = int(last) if dash else high if first == "*" or step else begin
        numbers.update(range(begin, end + 1, int(step or 1)))
    return numbers
