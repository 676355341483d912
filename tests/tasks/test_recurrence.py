"""Rules, by hand: what can't be a rule, real clock changes, intervals, missed slots, plans and ids."""

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, strategies as st

from concave.errors import InvalidScheduleError
from concave.tasks.cron import load_zone
from concave.tasks.recurrence import (
    CronRule,
    IntervalRule,
    Misfire,
    Plan,
    Rule,
    missed_slots,
    next_slot,
    parse_rule,
    plan,
    schedule_id,
)

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
NAIVE = NOON.replace(tzinfo=None)
NEW_YORK, PARIS, LORD_HOWE, SAMOA = "America/New_York", "Europe/Paris", "Australia/Lord_Howe", "Pacific/Apia"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def slots(rule: Rule, after: datetime, count: int) -> list[datetime]:
    found: list[datetime] = []
    for _ in range(count):
        slot = next_slot(rule, found[-1] if found else after)
        assert slot is not None
        found.append(slot)
    return found


# Parsing ---------------------------------------------------------------------------------------------------------


def test_a_cron_rule_keeps_its_expression_and_zone() -> None:
    rule = parse_rule(cron=" 0  6 * *\tMON-FRI ", interval=None, timezone=PARIS, anchor=NOON)

    assert rule == CronRule("0 6 * * MON-FRI", PARIS)


@pytest.mark.parametrize("interval", [90, 90.0, timedelta(seconds=90)])
def test_an_interval_is_seconds_or_a_timedelta(interval: float | timedelta) -> None:
    anchor = datetime(2026, 6, 1, 14, tzinfo=timezone(timedelta(hours=2)))

    assert parse_rule(cron=None, interval=interval, anchor=anchor) == IntervalRule(90.0, NOON)


def test_cron_and_interval_exclude_each_other() -> None:
    with pytest.raises(InvalidScheduleError, match="either cron or interval"):
        parse_rule(cron=None, interval=None, anchor=NOON)
    with pytest.raises(InvalidScheduleError, match="either cron or interval"):
        parse_rule(cron="* * * * *", interval=60, anchor=NOON)


@pytest.mark.parametrize("interval", [0, -1, math.inf, math.nan, 1e-7, timedelta(0), timedelta(seconds=-1)])
def test_an_interval_must_be_positive_and_finite(interval: float | timedelta) -> None:
    with pytest.raises(InvalidScheduleError, match="finite number of seconds above 0"):
        parse_rule(cron=None, interval=interval, anchor=NOON)
    if not isinstance(interval, timedelta):
        with pytest.raises(InvalidScheduleError, match="finite number of seconds above 0"):
            next_slot(IntervalRule(interval, NOON), NOON)


@pytest.mark.parametrize("interval", ["1h", "60", True, b"60", [60], pytest.param(10**400, id="huge")])
def test_an_interval_is_a_number(interval: Any) -> None:
    with pytest.raises(InvalidScheduleError, match="finite number of seconds above 0"):
        parse_rule(cron=None, interval=interval, anchor=NOON)


@pytest.mark.parametrize("value", [5, True, b"* * * * *", ["*"]])
def test_an_expression_is_text(value: Any) -> None:
    with pytest.raises(InvalidScheduleError, match="cron must be text"):
        parse_rule(cron=value, interval=None, anchor=NOON)


@pytest.mark.parametrize("zone", [None, 5, b"UTC", ["UTC"]])
def test_a_zone_is_text(zone: Any) -> None:
    with pytest.raises(InvalidScheduleError, match="timezone must be text"):
        parse_rule(cron="* * * * *", interval=None, timezone=zone, anchor=NOON)


@pytest.mark.parametrize("interval", [1e12, 1e18, timedelta(days=3_000_000)])
def test_an_interval_must_end_before_the_calendar(interval: float | timedelta) -> None:
    with pytest.raises(InvalidScheduleError, match="too long"):
        parse_rule(cron=None, interval=interval, anchor=NOON)


@pytest.mark.parametrize(
    "zone", ["Mars/Olympus", "Europe", "", "../etc/passwd", "/etc/passwd", "x" * 5000, "a\0b", "\ud800"]
)
def test_an_unknown_zone_is_refused(zone: str) -> None:
    with pytest.raises(InvalidScheduleError, match="unknown time zone"):
        parse_rule(cron="* * * * *", interval=None, timezone=zone, anchor=NOON)
    with pytest.raises(InvalidScheduleError, match="unknown time zone"):
        next_slot(CronRule("* * * * *", zone), NOON)


def test_utc_needs_no_zone_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("concave.tasks.cron.ZoneInfo", None)  # fails if called
    load_zone.cache_clear()

    assert next_slot(parse_rule(cron="0 6 * * *", interval=None, anchor=NOON), NOON) == utc(
        "2026-06-02 06:00"
    )
    assert next_slot(parse_rule(cron=None, interval=60, anchor=NOON), NOON) == utc("2026-06-01 12:01")


@pytest.mark.parametrize(
    "cron, message",
    [
        ("", "has 0 fields"),
        ("hello", "has 1 fields"),
        ("* * * *", r"has 4 fields, not 5 \(minute, hour, day, month, weekday\)$"),
        ("60 * * * *", "out of range"),
        ("* 24 * * *", "out of range"),
        ("* * 0 * *", "bad cron expression"),
        ("*/0 * * * *", "bad cron expression"),
        ("-5 * * * *", "negative"),
        ("@reboot", "bad cron expression"),
        ("* * L-3 * *", "bad cron expression"),
        ("*/5 * * * * *", "has 6 fields, not 5.*use interval"),
        ("* * * * * * 2027", "has 7 fields"),
        ("H * * * *", "random"),
        ("R(0-30) * * * *", "random"),
        ("\u0665 * * * *", "ASCII"),
        ("0 0 15W * *", "nearest weekday"),
        ("5-5 * * * *", "write '5' for that value"),
        ("05-5/2 * * * *", "write '05' for that value"),
        ("0 0 * JAN-jan *", "write 'jan' for that value"),
        ("59/15 * * * *", "write '59' for that value"),
        ("0 0 * * SAT/2", "write 'sat' for that value"),
        ("0 0 30 2 *", "matches no day"),
        ("0 0 31 4,6,9,11 *", "matches no day"),
    ],
)
def test_what_is_no_cron_rule_is_refused_and_says_why(cron: str, message: str) -> None:
    with pytest.raises(InvalidScheduleError, match=message):
        parse_rule(cron=cron, interval=None, anchor=NOON)
    with pytest.raises(InvalidScheduleError, match=message):
        next_slot(CronRule(cron, "UTC"), NOON)


@given(st.text(alphabet="0123456789*/-,#?@lLwWhHrR MONjanu", max_size=25))
@example("* * * * 1#0")
@example("* * * * 1#7")
@example("* * * * L")
@example("0 0 L,15 * *")
@example("* * * * *#2")
@example("* * * * 1,2#2")
@example("* * L-L * *")
def test_any_text_is_a_rule_that_fires_or_an_invalid_schedule(text: str) -> None:
    try:
        rule = parse_rule(cron=text, interval=None, anchor=NOON)
    except InvalidScheduleError:
        return
    slot = next_slot(rule, NOON)
    assert slot is not None
    assert missed_slots(rule, NOON, slot, limit=2) == [slot]


def test_naive_times_are_refused() -> None:
    rule = CronRule("* * * * *", "UTC")

    with pytest.raises(InvalidScheduleError, match="anchor must be an aware datetime"):
        parse_rule(cron="* * * * *", interval=None, anchor=NAIVE)
    with pytest.raises(InvalidScheduleError, match="after must be an aware datetime"):
        next_slot(rule, NAIVE)
    with pytest.raises(InvalidScheduleError, match="last must be an aware datetime"):
        missed_slots(rule, NAIVE, NOON, limit=1)
    with pytest.raises(InvalidScheduleError, match="now must be an aware datetime"):
        plan(rule, NOON, NAIVE, "once")


# Cron ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cron, expected",
    [
        ("@hourly", "2026-06-01 13:00"),
        ("@daily", "2026-06-02 00:00"),
        ("@midnight", "2026-06-02 00:00"),
        ("@weekly", "2026-06-07 00:00"),
        ("@monthly", "2026-07-01 00:00"),
        ("@YEARLY", "2027-01-01 00:00"),
        ("0 12 * * *", "2026-06-02 12:00"),
        ("1 12 * * *", "2026-06-01 12:01"),
        ("0 22-2 * * *", "2026-06-01 22:00"),
        ("0 0 ? * fri", "2026-06-05 00:00"),
        ("0 0 * * 7", "2026-06-07 00:00"),
        ("0 0 * * 5-7", "2026-06-05 00:00"),
        ("0 0 L * *", "2026-06-30 00:00"),
        ("0 0 L 2 *", "2027-02-28 00:00"),
        ("0 0 * * L5", "2026-06-26 00:00"),
        ("0 0 * * L3", "2026-06-24 00:00"),
        ("0 0 * * L2", "2026-06-30 00:00"),
        ("0 0 * * mon#5", "2026-06-29 00:00"),
        ("0 0 29 feb *", "2028-02-29 00:00"),
        ("0 0 * 2 mon#5", "2044-02-29 00:00"),
        ("0 0 13 * fri", "2026-06-05 00:00"),
        ("0 0 31 2 sun", "2027-02-07 00:00"),
        ("0 0 */2 * fri", "2026-06-05 00:00"),
        ("0 0 */4 * fri", "2026-06-05 00:00"),
        ("0 0 */3 * fri", "2026-06-19 00:00"),
    ],
)
def test_the_next_slot(cron: str, expected: str) -> None:
    rule = parse_rule(cron=cron, interval=None, anchor=NOON)

    assert next_slot(rule, NOON) == utc(expected)


def test_the_next_slot_is_strictly_later_to_the_microsecond() -> None:
    rule = CronRule("0 12 * * *", "UTC")

    assert next_slot(rule, NOON - timedelta(microseconds=1)) == NOON
    assert next_slot(rule, NOON) == NOON + timedelta(days=1)
    assert next_slot(rule, NOON.astimezone(ZoneInfo(PARIS))) == NOON + timedelta(days=1)


@pytest.mark.parametrize(
    "cron, zone, after, expected",
    [
        # New York, 8 March 2026, 07:00 UTC: 02:00 becomes 03:00.
        ("30 2 * * *", NEW_YORK, "2026-03-07", ["2026-03-07 07:30", "2026-03-08 07:00", "2026-03-09 06:30"]),
        ("0 2 * * *", NEW_YORK, "2026-03-08", ["2026-03-08 07:00", "2026-03-09 06:00"]),
        ("30 2 * * *", NEW_YORK, "2026-03-08 06:59:59.999999", ["2026-03-08 07:00", "2026-03-09 06:30"]),
        ("30 2 * * *", NEW_YORK, "2026-03-08 07:00", ["2026-03-09 06:30"]),
        ("15,45 2 * * *", NEW_YORK, "2026-03-08", ["2026-03-08 07:00", "2026-03-09 06:15"]),
        ("0 1-4 * * *", NEW_YORK, "2026-03-08", ["2026-03-08 06:00", "2026-03-08 07:00", "2026-03-08 08:00"]),
        ("*/30 * * * *", NEW_YORK, "2026-03-08 06:15", ["2026-03-08 06:30", "2026-03-08 07:00"]),
        ("30 * * * *", NEW_YORK, "2026-03-08 06:15", ["2026-03-08 06:30", "2026-03-08 07:30"]),
        ("*/15 2 * * *", NEW_YORK, "2026-03-08", ["2026-03-09 06:00", "2026-03-09 06:15"]),
        # New York, 1 November 2026, 06:00 UTC: 02:00 becomes 01:00.
        ("30 1 * * *", NEW_YORK, "2026-11-01", ["2026-11-01 05:30", "2026-11-02 06:30"]),
        ("30 1 * * *", NEW_YORK, "2026-11-01 06:10", ["2026-11-02 06:30"]),
        ("0 1 * * *", NEW_YORK, "2026-11-01 05:59:59.999999", ["2026-11-02 06:00"]),
        ("0 * * * *", NEW_YORK, "2026-11-01 05:59:59.999999", ["2026-11-01 06:00", "2026-11-01 07:00"]),
        ("0 1,2 * * *", NEW_YORK, "2026-11-01", ["2026-11-01 05:00", "2026-11-01 07:00", "2026-11-02 06:00"]),
        (
            "0 * * * *",
            NEW_YORK,
            "2026-11-01 04:30",
            ["2026-11-01 05:00", "2026-11-01 06:00", "2026-11-01 07:00"],
        ),
        (
            "*/30 1 * * *",
            NEW_YORK,
            "2026-11-01 05:15",
            ["2026-11-01 05:30", "2026-11-01 06:00", "2026-11-01 06:30"],
        ),
        ("*/30 1 * * *", NEW_YORK, "2026-11-01 06:15", ["2026-11-01 06:30", "2026-11-02 06:00"]),
        # Paris, 29 March and 25 October 2026, both at 01:00 UTC.
        ("30 2 * * *", PARIS, "2026-03-28 12:00", ["2026-03-29 01:00", "2026-03-30 00:30"]),
        ("30 2 * * *", PARIS, "2026-10-24 12:00", ["2026-10-25 00:30", "2026-10-26 01:30"]),
        (
            "0 2-3 * * *",
            PARIS,
            "2026-10-24 12:00",
            ["2026-10-25 00:00", "2026-10-25 02:00", "2026-10-26 01:00"],
        ),
        ("59 2 * * 0", PARIS, "2026-10-24 12:00", ["2026-10-25 00:59", "2026-11-01 01:59"]),
        # Lord Howe, 4 October 2026, 15:30 UTC the day before: 02:00 becomes 02:30.
        ("15 2 * * *", LORD_HOWE, "2026-10-03", ["2026-10-03 15:30", "2026-10-04 15:15"]),
        ("45 2 * * *", LORD_HOWE, "2026-10-03", ["2026-10-03 15:45", "2026-10-04 15:45"]),
        (
            "*/15 2 * * *",
            LORD_HOWE,
            "2026-10-03",
            ["2026-10-03 15:30", "2026-10-03 15:45", "2026-10-04 15:00"],
        ),
        # Lord Howe, 5 April 2026, 15:00 UTC the day before: 02:00 becomes 01:30.
        ("45 1 * * *", LORD_HOWE, "2026-04-04", ["2026-04-04 14:45", "2026-04-05 15:15"]),
        ("15 1 * * *", LORD_HOWE, "2026-04-04", ["2026-04-04 14:15", "2026-04-05 14:45"]),
        (
            "30 * * * *",
            LORD_HOWE,
            "2026-04-04 14:00",
            ["2026-04-04 14:30", "2026-04-04 15:00", "2026-04-04 16:00"],
        ),
        # Cairo, 24 April 2026: the day begins at 01:00.
        ("0 0 * * *", "Africa/Cairo", "2026-04-23", ["2026-04-23 22:00", "2026-04-24 21:00"]),
        ("*/30 * * * 5", "Africa/Cairo", "2026-04-23", ["2026-04-23 22:00", "2026-04-23 22:30"]),
        # Samoa, where 30 December 2011 didn't happen: midnight of the 31st, in UTC+14, is 10:00 UTC on the 30th.
        (
            "0 6 * * *",
            SAMOA,
            "2011-12-29 12:00",
            ["2011-12-29 16:00", "2011-12-30 10:00", "2011-12-30 16:00"],
        ),
        (
            "0 */6 * * *",
            SAMOA,
            "2011-12-30 02:00",
            ["2011-12-30 04:00", "2011-12-30 10:00", "2011-12-30 16:00"],
        ),
        ("0 6 30 12 *", SAMOA, "2011-06-01", ["2011-12-30 10:00", "2012-12-29 16:00"]),
    ],
)
def test_clock_changes(cron: str, zone: str, after: str, expected: list[str]) -> None:
    rule = parse_rule(cron=cron, interval=None, timezone=zone, anchor=NOON)
    want = [utc(text) for text in expected]

    assert slots(rule, utc(after), len(want)) == want
    assert missed_slots(rule, utc(after), want[-1], limit=10) == want


def test_the_calendar_ends() -> None:
    end = datetime.max.replace(tzinfo=UTC)
    rule = CronRule("0 0 1 1 *", NEW_YORK)

    assert next_slot(rule, end - timedelta(days=30)) is None
    assert next_slot(rule, end) is None
    assert next_slot(IntervalRule(3600, NOON), end) is None
    assert (
        missed_slots(rule, datetime.min.replace(tzinfo=UTC), datetime(1, 1, 1, 3, tzinfo=UTC), limit=5) == []
    )
    with pytest.raises(InvalidScheduleError, match="no slot after"):
        plan(rule, NOON, end, "once")


# Intervals -------------------------------------------------------------------------------------------------------


def test_an_interval_counts_from_its_anchor_and_never_before_it() -> None:
    rule = IntervalRule(0.1, NOON)

    assert next_slot(rule, NOON - timedelta(days=1)) == NOON
    assert next_slot(rule, NOON) == NOON + timedelta(milliseconds=100)
    assert next_slot(rule, NOON + timedelta(milliseconds=250)) == NOON + timedelta(milliseconds=300)
    assert missed_slots(rule, NOON - timedelta(days=1), NOON, limit=9) == [NOON]
    assert missed_slots(rule, NOON - timedelta(days=2), NOON - timedelta(days=1), limit=9) == []


@given(
    st.floats(1e-3, 1e6) | st.sampled_from([0.1, 1 / 3, 0.7, 60, 3600, 86400]),
    st.datetimes(NAIVE, NAIVE + timedelta(days=365), timezones=st.sampled_from([UTC, ZoneInfo(PARIS)])),
    st.integers(0, 100_000),
    st.integers(1, 20),
)
def test_an_interval_does_not_drift(every: float, anchor: datetime, count: int, more: int) -> None:
    rule = IntervalRule(every, anchor)
    step = timedelta(microseconds=round(every * 1_000_000))
    before = anchor.astimezone(UTC) + (count - 1) * step

    found = slots(rule, before, more)

    assert found == [before + n * step for n in range(1, more + 1)]
    assert missed_slots(rule, before, found[-1], limit=more) == found
    assert missed_slots(rule, before, found[-1], limit=1) == found[-1:]


# Missed slots and plans ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [CronRule("* * * * *", PARIS), IntervalRule(60, NOON)])
def test_years_of_missed_minutes_cost_no_more_than_the_limit(rule: Rule) -> None:
    now = NOON + timedelta(days=3650, seconds=30)

    assert missed_slots(rule, NOON, now, limit=3) == [now - timedelta(seconds=s) for s in (150, 90, 30)]
    assert missed_slots(rule, NOON, now, limit=0) == []


def test_missed_slots_exclude_the_last_and_include_now() -> None:
    rule = CronRule("0 * * * *", "UTC")
    hour = timedelta(hours=1)

    assert missed_slots(rule, NOON, NOON + 2 * hour, limit=10) == [NOON + hour, NOON + 2 * hour]
    assert missed_slots(rule, NOON, NOON, limit=10) == []
    assert missed_slots(rule, NOON, NOON - hour, limit=10) == []


HOURLY: list[Rule] = [CronRule("0 * * * *", "UTC"), IntervalRule(3600, NOON - timedelta(days=9))]


@pytest.mark.parametrize("rule", HOURLY)
@pytest.mark.parametrize(
    "misfire, late, run",
    [
        ("skip", timedelta(0), [0]),
        ("skip", timedelta(seconds=60), [0]),
        ("skip", timedelta(seconds=61), []),
        ("skip", timedelta(hours=3, minutes=30), []),
        ("skip", timedelta(hours=3, seconds=5), [3]),
        ("once", timedelta(0), [0]),
        ("once", timedelta(minutes=59), [0]),
        ("once", timedelta(hours=3, minutes=30), [3]),
        ("once", timedelta(days=400), [9600]),
        ("all", timedelta(0), [0]),
        ("all", timedelta(hours=3, minutes=30), [0, 1, 2, 3]),
        ("all", timedelta(days=400), list(range(9501, 9601))),
    ],
)
def test_a_plan(rule: Rule, misfire: Misfire, late: timedelta, run: list[int]) -> None:
    hour = timedelta(hours=1)

    planned = plan(rule, NOON, NOON + late, misfire)

    assert planned == Plan([NOON + n * hour for n in run], NOON + (late // hour + 1) * hour)


@pytest.mark.parametrize("misfire", ["skip", "once", "all"])
def test_nothing_is_planned_before_it_is_due(misfire: Misfire) -> None:
    rule = CronRule("0 * * * *", "UTC")

    assert plan(rule, NOON, NOON - timedelta(microseconds=1), misfire) == Plan([], NOON)


def test_a_plan_has_options() -> None:
    rule = IntervalRule(10, NOON)
    now = NOON + timedelta(seconds=35)

    assert plan(rule, NOON, now, "skip", grace=15).run == [NOON + timedelta(seconds=30)]
    assert plan(rule, NOON, now, "skip", grace=0).run == []
    assert plan(rule, NOON, now, "all", limit=2).run == [NOON + timedelta(seconds=s) for s in (20, 30)]
    assert plan(rule, NOON, now, "all", limit=4).run == [NOON + timedelta(seconds=s) for s in (0, 10, 20, 30)]
    with pytest.raises(InvalidScheduleError, match="limit must be at least 1"):
        plan(rule, NOON, now, "all", limit=0)


def test_a_stored_slot_that_the_rule_no_longer_has_is_run_all_the_same() -> None:
    due, now = NOON + timedelta(minutes=7), NOON + timedelta(minutes=8)

    assert plan(CronRule("0 * * * *", "UTC"), due, now, "once") == Plan([due], NOON + timedelta(hours=1))


@given(
    st.sampled_from([*HOURLY, CronRule("*/20 1-3 * * *", NEW_YORK), CronRule("30 2 * * *", LORD_HOWE)]),
    st.datetimes(NAIVE, NAIVE + timedelta(days=365), timezones=st.just(UTC)),
    st.floats(0, 1e6),
    st.sampled_from(["skip", "once", "all"]),
    st.integers(1, 5),
)
def test_plans_in_a_row_run_each_slot_at_most_once_and_move_on(
    rule: Rule, start: datetime, late: float, misfire: Misfire, limit: int
) -> None:
    due = slots(rule, start, 1)[0]
    ran: list[datetime] = []
    for _ in range(3):
        now = due + timedelta(seconds=late)
        planned = plan(rule, due, now, misfire, limit=limit)
        assert planned.next > now
        assert len(planned.run) <= limit
        assert all(due <= slot <= now for slot in planned.run)
        ran += planned.run
        due = planned.next

    assert ran == sorted(set(ran))


# Ids -------------------------------------------------------------------------------------------------------------


def test_an_id_never_changes_between_versions() -> None:
    # Every boot of every version declares its schedules again: a new id would be a second schedule.
    assert schedule_id("report", b"{}", CronRule("0 6 * * *", PARIS)) == "b08e2007483cd237ff105ff28832d9f2"
    assert schedule_id("report", b"{}", IntervalRule(90, NOON)) == "660dd0267c4e297e019300668e20854d"


def test_an_id_ignores_the_anchor_and_the_spelling_of_an_interval() -> None:
    ids = {
        schedule_id("report", b"{}", parse_rule(cron=None, interval=interval, anchor=anchor))
        for interval in (60, 60.0, timedelta(minutes=1))
        for anchor in (NOON, NOON + timedelta(days=1))
    }

    assert len(ids) == 1


def test_ids_differ_by_task_input_and_rule() -> None:
    daily = CronRule("0 6 * * *", PARIS)
    ids = [
        schedule_id("report", b"{}", daily),
        schedule_id("report2", b"{}", daily),
        schedule_id("report", b"2{}", daily),
        schedule_id("report", b"[]", daily),
        schedule_id("report", b"{}", CronRule("0 7 * * *", PARIS)),
        schedule_id("report", b"{}", CronRule("0 6 * * *", "UTC")),
        schedule_id("report", b"{}", IntervalRule(60, NOON)),
        schedule_id("report", b"{}", IntervalRule(60.001, NOON)),
    ]

    assert len(set(ids)) == len(ids)
