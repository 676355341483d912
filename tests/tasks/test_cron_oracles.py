"""Cron rules against two oracles: ten years of exact slots in four zones, and random rules around clock changes."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings, strategies as st

from concave.tasks.recurrence import CronRule, missed_slots, next_slot
from tests.tasks.cron_oracles import DAY, HOUR, clock_changes, simulate, walk

BEGIN, END = datetime(2020, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

ZONES = ["UTC", "America/New_York", "Europe/Paris", "Australia/Lord_Howe"]
FIXED = [
    "30 2 * * *",
    "0 2,3 * * 0,6",
    "15,45 1-3 * * 0",
    "30 1 * * 0,3",
    "0-59/20 2 * * 0",
    "0 0 1 * *",
    "0 12 L * *",
    "0 6 * * 1#1",
    "0 0 29 2 *",
    "0 0 13 * 5",
    "0 0 */2 * 1",
    "0 0 */10 * *",
    "0 0 13 * 5#2",
    "0 9-17/4 * 3,10 *",
]
WILDCARD = ["0 */5 * * 0", "*/15 2 * * 0", "*/30 1-3 * * 0", "7 * 1,15 * *"]
DENSE = ["* * * * *", "*/15 * * * *", "30 * * * *", "0-59 0-23 * * *"]

# Clock changes of 30 minutes, two hours and a day, at midnight and at a minute past it, backwards in summer.
ODD_ZONES = [
    *ZONES,
    "Africa/Cairo",
    "Africa/Casablanca",
    "America/Caracas",
    "America/Santiago",
    "America/St_Johns",
    "Antarctica/Troll",
    "Asia/Gaza",
    "Asia/Kathmandu",
    "Asia/Pyongyang",
    "Europe/Dublin",
    "Pacific/Apia",
    "Pacific/Kwajalein",
]


def iterate(rule: CronRule, start: datetime, end: datetime) -> list[datetime]:
    """The slots in [start, end), one by one."""
    slots: list[datetime] = []
    slot = next_slot(rule, start - MICROSECOND)
    while slot is not None and slot < end:
        slots.append(slot)
        slot = next_slot(rule, slot)
    return slots


def count_back(rule: CronRule, start: datetime, end: datetime) -> list[datetime]:
    """The same, from the end."""
    return missed_slots(rule, start - MICROSECOND, end - MICROSECOND, limit=1_000_000)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("expression", FIXED + WILDCARD)
def test_ten_years_slot_by_slot(expression: str, zone: str) -> None:
    expected = simulate(expression, zone, BEGIN, END)
    if zone == "Australia/Lord_Howe" and expression in WILDCARD:
        # cronsim steps by whole hours and loses slots of wildcard rules after a change of half an hour.
        for change in clock_changes(zone, BEGIN, END):
            first, last = change - DAY, change + DAY
            outside = [slot for slot in expected if not first <= slot < last]
            expected = sorted(outside + walk(expression, zone, first, last, lead=HOUR))

    rule = CronRule(expression, zone)

    assert iterate(rule, BEGIN, END) == expected
    assert count_back(rule, BEGIN, END) == expected


@pytest.mark.parametrize("zone", ZONES[1:])
@pytest.mark.parametrize("expression", FIXED + WILDCARD + DENSE)
def test_every_clock_change_of_ten_years_minute_by_minute(expression: str, zone: str) -> None:
    rule = CronRule(expression, zone)
    changes = clock_changes(zone, BEGIN, END)

    assert len(changes) == 20
    for change in changes:
        first, last = change - 3 * HOUR, change + 6 * HOUR
        expected = walk(expression, zone, first, last, lead=HOUR)
        assert iterate(rule, first, last) == expected
        assert count_back(rule, first, last) == expected


def numbers(low: int, high: int) -> st.SearchStrategy[str]:
    """A field's list, range or step, in the forms that all crons read alike."""
    number = st.integers(low, high)
    pairs = st.tuples(number, number).filter(lambda pair: pair[0] < pair[1])
    return st.one_of(
        st.lists(number, min_size=1, max_size=4, unique=True).map(lambda values: ",".join(map(str, values))),
        pairs.map(lambda pair: f"{pair[0]}-{pair[1]}"),
        st.tuples(pairs, st.integers(1, 20)).map(lambda part: f"{part[0][0]}-{part[0][1]}/{part[1]}"),
        st.integers(1, high).map(lambda step: f"*/{step}"),
        st.just("*"),
    )


expressions = st.one_of(
    st.tuples(numbers(0, 59), numbers(0, 23), *(st.just("*") for _ in range(3))),
    st.tuples(numbers(0, 59), numbers(0, 4), numbers(1, 31), st.just("*"), numbers(0, 7)),
    st.tuples(
        numbers(0, 59), numbers(0, 4), st.one_of(st.just("L"), st.just("*")), numbers(1, 12), st.just("*")
    ),
    st.tuples(
        numbers(0, 59), numbers(0, 4), st.just("*"), st.just("*"), st.sampled_from(["0#2", "5#4", "1#5"])
    ),
).map(" ".join)


@st.composite
def moments(draw: st.DrawFn) -> tuple[str, datetime]:
    """A zone, and an instant there in 1990 to 2038: within a day and a half of a clock change, or any other."""
    zone = draw(st.sampled_from(ODD_ZONES))
    begin, end = datetime(1990, 1, 1, tzinfo=UTC), datetime(2038, 1, 1, tzinfo=UTC)
    changes = clock_changes(zone, begin, end)
    if changes and draw(st.sampled_from([True, True, True, False])):
        seconds = draw(st.sampled_from([-3600, 0, 3600]) | st.integers(-36 * 3600, 36 * 3600))
        return zone, draw(st.sampled_from(changes)) + timedelta(seconds=seconds)
    return zone, begin + timedelta(seconds=draw(st.integers(0, int((end - begin).total_seconds()))))


@settings(deadline=None, max_examples=60)
@given(expressions, moments(), st.integers(1, 30))
def test_any_rule_at_any_time_minute_by_minute(
    expression: str, moment: tuple[str, datetime], hours: int
) -> None:
    zone, start = moment
    end = start + hours * HOUR
    rule = CronRule(expression, zone)

    expected = walk(expression, zone, start, end)

    assert iterate(rule, start, end) == expected
    assert count_back(rule, start, end) == expected


@settings(deadline=None, max_examples=300)
@given(expressions, moments())
def test_slots_increase_and_are_whole_minutes_in_utc(expression: str, moment: tuple[str, datetime]) -> None:
    zone, start = moment
    rule = CronRule(expression, zone)

    slots = [start]
    for _ in range(5):
        slot = next_slot(rule, slots[-1])
        assert slot is not None
        slots.append(slot)

    assert all(earlier < later for earlier, later in itertools.pairwise(slots))
    assert all(slot.tzinfo is UTC and not slot.second and not slot.microsecond for slot in slots[1:])
    assert missed_slots(rule, start, slots[-1], limit=5) == slots[1:]
    assert missed_slots(rule, start, slots[-1], limit=3) == slots[3:]
    assert missed_slots(rule, start, slots[-1] - MICROSECOND, limit=5) == slots[1:-1]
