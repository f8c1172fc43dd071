"""When jobs are due: what the clock changes do, what a missed time leaves behind, and how long a gap can be."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.schedule import EPOCH, SECOND, BadSchedule, Schedule, stable_delay

BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"


@pytest.mark.parametrize("period", [timedelta(0), timedelta(seconds=-5), timedelta(days=367)])
def test_a_period_has_bounds(period: timedelta) -> None:
    with pytest.raises(BadSchedule, match="a period lies between 1 second and 366 days"):
        Schedule.parse(period)


def test_a_period_takes_no_time_zone() -> None:
    """It would be ignored: one day after the other is midnight UTC, not midnight in Berlin."""
    with pytest.raises(BadSchedule, match="counted in UTC; for Europe/Berlin write a cron line"):
        Schedule.parse(timedelta(days=1), BERLIN)


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (Schedule.parse(" 0 3 * * mon ", NEW_YORK), "0 3 * * mon America/New_York"),
        (Schedule.parse("@daily"), "@daily UTC"),
        (Schedule.parse(timedelta(minutes=90)), "every 90 minutes"),
        (Schedule.parse(timedelta(hours=24)), "every day"),
        (Schedule.parse(timedelta(seconds=1.5)), "every 1.5 seconds"),
        (Schedule.parse(timedelta(days=1, microseconds=1)), "every 86400.000001 seconds"),
    ],
)
def test_a_schedule_reads_as_it_was_written(schedule: Schedule, said: str) -> None:
    assert str(schedule) == said


@pytest.mark.parametrize(
    ("line", "due"),
    [
        ("@hourly", ["2027-12-31T23:00", "2028-01-01T00:00"]),
        ("@midnight", ["2028-01-01T00:00", "2028-01-02T00:00"]),
        ("@weekly", ["2028-01-02T00:00", "2028-01-09T00:00"]),
        ("@monthly", ["2028-01-01T00:00", "2028-02-01T00:00"]),
        ("@annually", ["2028-01-01T00:00", "2029-01-01T00:00"]),
        ("10-20/5 6,18 * * *", ["2028-01-01T06:10", "2028-01-01T06:15", "2028-01-01T06:20"]),
        ("0 0 L * *", ["2028-01-31T00:00", "2028-02-29T00:00", "2028-03-31T00:00"]),
        ("0 0 15,L FEB *", ["2028-02-15T00:00", "2028-02-29T00:00", "2029-02-15T00:00"]),
        ("0 0 29 2 *", ["2028-02-29T00:00", "2032-02-29T00:00"]),
        ("0 0 1 * FRI", ["2028-01-01T00:00", "2028-01-07T00:00", "2028-01-14T00:00"]),
        ("0 0 * * 2#3", ["2028-01-18T00:00", "2028-02-15T00:00"]),
        ("0 0 * * 5-7", ["2028-01-01T00:00", "2028-01-02T00:00", "2028-01-07T00:00"]),
        ("0 0 * * SUN#1,mon#5", ["2028-01-02T00:00", "2028-01-31T00:00", "2028-02-06T00:00"]),
    ],
)
def test_a_line_is_due_when_cron_says(line: str, due: list[str]) -> None:
    after = datetime(2027, 12, 31, 22, 30, 17, 250, tzinfo=UTC)
    upcoming = Schedule.parse(line).upcoming(after, len(due))
    assert [instant.strftime("%Y-%m-%dT%H:%M") for instant in upcoming] == due


# Zone, line, an instant, and the next instants due after it. Offsets show which side of the change it is.
CLOCK_CHANGES = [
    # Berlin, 2026-03-29: 02:00+01:00 is followed by 03:00+02:00.
    (BERLIN, "30 2 * * *", "2026-03-28T02:30+01:00", ["2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"]),
    (BERLIN, "0 3 * * *", "2026-03-28T03:00+01:00", ["2026-03-29T03:00+02:00", "2026-03-30T03:00+02:00"]),
    (BERLIN, "0 2,3 * * *", "2026-03-29T00:00+01:00", ["2026-03-29T03:00+02:00", "2026-03-30T02:00+02:00"]),
    (BERLIN, "*/20 2 * * *", "2026-03-29T00:00+01:00", ["2026-03-29T03:00+02:00", "2026-03-30T02:00+02:00"]),
    (BERLIN, "0 * * * *", "2026-03-29T00:00+01:00", ["2026-03-29T01:00+01:00", "2026-03-29T03:00+02:00"]),
    (BERLIN, "0 */2 * * *", "2026-03-29T00:00+01:00", ["2026-03-29T04:00+02:00", "2026-03-29T06:00+02:00"]),
    # Berlin, 2026-10-25: 03:00+02:00 is shown as 02:00+01:00.
    (BERLIN, "30 2 * * *", "2026-10-24T02:30+02:00", ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]),
    (BERLIN, "30 2 * * *", "2026-10-25T02:10+01:00", ["2026-10-26T02:30+01:00", "2026-10-27T02:30+01:00"]),
    (BERLIN, "0 * * * *", "2026-10-25T02:00+02:00", ["2026-10-25T02:00+01:00", "2026-10-25T03:00+01:00"]),
    (BERLIN, "*/30 * * * *", "2026-10-25T02:30+02:00", ["2026-10-25T02:00+01:00", "2026-10-25T02:30+01:00"]),
    (BERLIN, "0 */2 * * *", "2026-10-25T00:00+02:00", ["2026-10-25T02:00+02:00", "2026-10-25T02:00+01:00"]),
    # New York, 2026-03-08: 02:00-05:00 is followed by 03:00-04:00.
    (NEW_YORK, "15 2 * * *", "2026-03-07T02:15-05:00", ["2026-03-08T03:00-04:00", "2026-03-09T02:15-04:00"]),
    (NEW_YORK, "0 */2 * * *", "2026-03-08T00:00-05:00", ["2026-03-08T04:00-04:00", "2026-03-08T06:00-04:00"]),
    (NEW_YORK, "0 2 8 3 *", "2026-03-07T00:00-05:00", ["2026-03-08T03:00-04:00", "2027-03-08T02:00-05:00"]),
    # New York, 2026-11-01: 02:00-04:00 is shown as 01:00-05:00.
    (NEW_YORK, "0 1 * * *", "2026-10-31T01:00-04:00", ["2026-11-01T01:00-04:00", "2026-11-02T01:00-05:00"]),
    (NEW_YORK, "45 * * * *", "2026-11-01T01:00-04:00", ["2026-11-01T01:45-04:00", "2026-11-01T01:45-05:00"]),
    (NEW_YORK, "45 * 1 11 *", "2026-11-01T01:50-04:00", ["2026-11-01T01:45-05:00", "2026-11-01T02:45-05:00"]),
    # Lord Howe moves by half an hour. 2026-10-04: 02:00+10:30 is followed by 02:30+11:00.
    (LORD_HOWE, "15 2 * * *", "2026-10-03T02:15+10:30", ["2026-10-04T02:30+11:00", "2026-10-05T02:15+11:00"]),
    (LORD_HOWE, "45 2 * * *", "2026-10-03T02:45+10:30", ["2026-10-04T02:45+11:00", "2026-10-05T02:45+11:00"]),
    (LORD_HOWE, "0 * * * *", "2026-10-04T01:00+10:30", ["2026-10-04T03:00+11:00", "2026-10-04T04:00+11:00"]),
    # Lord Howe, 2026-04-05: 02:00+11:00 is shown as 01:30+10:30.
    (LORD_HOWE, "45 1 * * *", "2026-04-04T01:45+11:00", ["2026-04-05T01:45+11:00", "2026-04-06T01:45+10:30"]),
    (LORD_HOWE, "45 * * * *", "2026-04-05T01:00+11:00", ["2026-04-05T01:45+11:00", "2026-04-05T01:45+10:30"]),
    (LORD_HOWE, "0 2 * * *", "2026-04-04T02:00+11:00", ["2026-04-05T02:00+10:30", "2026-04-06T02:00+10:30"]),
    # Beirut skips midnight itself; Apia skipped a whole day.
    ("Asia/Beirut", "@daily", "2026-03-28T00:00+02:00", ["2026-03-29T01:00+03:00", "2026-03-30T00:00+03:00"]),
    ("Pacific/Apia", "0 6 30 12 *", "2011-12-29T00:00-10:00", ["2011-12-31T00:00+14:00"]),
]


@pytest.mark.parametrize(("zone", "line", "after", "due"), CLOCK_CHANGES)
def test_a_fixed_time_is_due_once_and_every_hour_hourly_when_the_clock_changes(
    zone: str, line: str, after: str, due: list[str]
) -> None:
    upcoming = Schedule.parse(line, zone).upcoming(datetime.fromisoformat(after), len(due))
    assert [instant.astimezone(ZoneInfo(zone)).isoformat(timespec="minutes") for instant in upcoming] == due


# What other schedulers have been blamed for on days the clock changes, and what is due here.
COMPLAINTS = {
    "a daily job runs at the end of the hour that is skipped": (
        (BERLIN, "30 2 * * *", "2026-03-28T12:00+01:00"),
        ["2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"],
    ),
    "a daily job does not run twice in the hour that is shown twice": (
        (BERLIN, "30 2 * * *", "2026-10-25T02:30+02:00"),
        ["2026-10-26T02:30+01:00"],
    ),
    "nor does it at the first minute of that hour": (
        (NEW_YORK, "0 1 * * *", "2026-11-01T01:00-04:00"),
        ["2026-11-02T01:00-05:00"],
    ),
    "every second hour gets no third one where an hour is skipped": (
        (NEW_YORK, "0 */2 * * *", "2026-03-07T23:30-05:00"),
        ["2026-03-08T00:00-05:00", "2026-03-08T04:00-04:00", "2026-03-08T06:00-04:00"],
    ),
    "an hourly job does not pause for two hours where an hour is shown twice": (
        (NEW_YORK, "0 * * * *", "2026-11-01T00:00-04:00"),
        ["2026-11-01T01:00-04:00", "2026-11-01T01:00-05:00", "2026-11-01T02:00-05:00"],
    ),
    "a job every few minutes does not pause either": (
        (NEW_YORK, "*/30 * * * *", "2026-11-01T01:00-04:00"),
        ["2026-11-01T01:30-04:00", "2026-11-01T01:00-05:00", "2026-11-01T01:30-05:00", "2026-11-01T02:00-05:00"],
    ),
    "a skip of half an hour is half an hour": (
        (LORD_HOWE, "15 2 * * *", "2026-10-03T12:00+10:30"),
        ["2026-10-04T02:30+11:00", "2026-10-05T02:15+11:00"],
    ),
    "half an hour that is shown twice is due in once": (
        (LORD_HOWE, "*/7 0-1 * * *", "2026-04-05T01:50+11:00"),
        ["2026-04-05T01:56+11:00", "2026-04-06T00:00+10:30"],
    ),
    "a day that is skipped is made up for when the next one begins": (
        ("Pacific/Apia", "0 3 * * *", "2011-12-29T03:00-10:00"),
        ["2011-12-31T00:00+14:00", "2011-12-31T03:00+14:00", "2012-01-01T03:00+14:00"],
    ),
    "a midnight that is skipped is one o'clock": (
        ("America/Sao_Paulo", "0 0 * * *", "2018-11-03T00:00-03:00"),
        ["2018-11-04T01:00-02:00", "2018-11-05T00:00-02:00"],
    ),
    "a midnight that is skipped keeps its day": (
        ("Asia/Beirut", "@daily", "2026-03-28T00:00+02:00"),
        ["2026-03-29T01:00+03:00", "2026-03-30T00:00+03:00"],
    ),
    "a midnight that is shown twice is due once": (
        ("America/Havana", "@daily", "2026-10-31T00:00-04:00"),
        ["2026-11-01T00:00-04:00", "2026-11-02T00:00-05:00"],
    ),
    "a time that is skipped does not make the job wait until the month comes again": (
        (BERLIN, "30 2 * 3,10 *", "2026-03-28T02:30+01:00"),
        ["2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00", "2026-03-31T02:30+02:00", "2026-10-01T02:30+02:00"],
    ),
}


@pytest.mark.parametrize("complaint", COMPLAINTS)
def test_what_others_are_blamed_for_does_not_happen(complaint: str) -> None:
    (zone, line, after), expected = COMPLAINTS[complaint]
    upcoming = Schedule.parse(line, zone).upcoming(datetime.fromisoformat(after), len(expected))
    assert [due.astimezone(ZoneInfo(zone)).isoformat(timespec="minutes") for due in upcoming] == expected
    assert Schedule.parse(line, zone).previous_at_or_before(upcoming[-1] - SECOND) == (
        upcoming[-2] if len(upcoming) > 1 else datetime.fromisoformat(after)
    )


def test_a_daily_time_is_due_on_every_day_around_a_change() -> None:
    for zone in (BERLIN, NEW_YORK, LORD_HOWE):
        schedule = Schedule.parse("15 2 * * *", zone)
        for change in CHANGES[zone]:
            start = datetime.fromisoformat(change) - timedelta(days=2)
            days = [instant.astimezone(ZoneInfo(zone)).date() for instant in schedule.upcoming(start, 5)]
            assert [(day - days[0]).days for day in days] == [0, 1, 2, 3, 4]


def test_a_period_is_due_at_multiples_since_the_epoch() -> None:
    """So that a restart does not move it, nor the day the worker was first started."""
    schedule = Schedule.parse(timedelta(minutes=15))
    noon = datetime(2026, 5, 4, 12, tzinfo=UTC)
    assert schedule.next_after(noon) == noon + timedelta(minutes=15)
    assert schedule.next_after(noon - timedelta(microseconds=1)) == noon
    assert schedule.previous_at_or_before(noon) == noon
    assert schedule.previous_at_or_before(noon - timedelta(microseconds=1)) == noon - timedelta(minutes=15)
    assert schedule.next_after(EPOCH - SECOND) == EPOCH


@pytest.mark.parametrize(
    "period", [timedelta(seconds=1.5), timedelta(seconds=1, microseconds=1), timedelta(seconds=3.3)]
)
def test_a_period_of_fractions_does_not_drift_over_decades(period: timedelta) -> None:
    schedule, count = Schedule.parse(period), timedelta(days=40 * 365) // period
    due = EPOCH + count * period
    assert schedule.previous_at_or_before(due) == due
    assert schedule.next_after(due - timedelta(microseconds=1)) == due
    assert schedule.next_after(due) == due + period
    assert schedule.previous_at_or_before(due - timedelta(microseconds=1)) == due - period


GAPS = [
    ("UTC", "@daily", "2026-06-01", timedelta(days=1)),
    (BERLIN, "@daily", "2026-06-01", timedelta(hours=25)),
    (BERLIN, "30 2 * * *", "2026-06-01", timedelta(hours=25)),
    (BERLIN, "0 * * * *", "2026-06-01", timedelta(hours=1)),
    (BERLIN, "*/5 * * * *", "2026-06-01", timedelta(minutes=5)),
    (BERLIN, "0 0-23 * * *", "2026-06-01", timedelta(hours=2)),  # Fixed hours, of which one is shown twice.
    (LORD_HOWE, "0 0 * * *", "2026-06-01", timedelta(hours=24.5)),
    ("Pacific/Apia", "0 12 * * *", "2011-06-01", timedelta(hours=25)),
    ("UTC", "* 9-16 * * *", "2026-06-01", timedelta(hours=16, minutes=1)),
    ("UTC", "*/5 9-17 * * 1-5", "2026-06-01", timedelta(hours=63, minutes=5)),
    (NEW_YORK, "0 9 * * 1-5", "2026-06-01", timedelta(hours=73)),
    ("UTC", "* * 1-30 * *", "2026-06-01", timedelta(days=1, minutes=1)),
    ("UTC", "@monthly", "2026-06-01", timedelta(days=31)),
    ("UTC", "0 0 * * 2#5", "2026-06-01", timedelta(days=91)),
    ("UTC", "@yearly", "2026-06-01", timedelta(days=366)),
    ("UTC", "0 0 29 2 *", "2026-06-01", timedelta(days=1461)),
    ("UTC", "0 0 29 2 *", "2095-06-01", timedelta(days=2921)),  # 2100 has no such day.
]


@pytest.mark.parametrize(("zone", "line", "day", "gap"), GAPS)
def test_the_longest_gap_of_a_schedule_is_known(zone: str, line: str, day: str, gap: timedelta) -> None:
    """It is what a topic must retain."""
    assert Schedule.parse(line, zone).longest_gap(datetime.fromisoformat(day).replace(tzinfo=UTC)) == gap


def test_the_longest_gap_of_a_period_is_the_period() -> None:
    assert Schedule.parse(timedelta(seconds=1.5)).longest_gap(EPOCH) == timedelta(seconds=1.5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "line", ["7 */5 * * *", "0 2,3 * * *", "30 1 * * 0", "0 6 1,15 * *", "0 0-6/3 * 3,10 *", "0 0 L * 1"]
)
def test_no_gap_is_longer_than_the_longest(line: str) -> None:
    for zone in (BERLIN, LORD_HOWE, "America/Havana"):
        schedule, now = Schedule.parse(line, zone), datetime(2026, 6, 1, tzinfo=UTC)
        due = [schedule.previous_at_or_before(now)]
        while len(due) <= 3 or due[-1] - due[0] < timedelta(days=366):
            due.append(schedule.next_after(due[-1]))
        assert schedule.longest_gap(now) == max(after - before for before, after in pairwise(due))


def test_a_line_is_read_by_croniter_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading it takes longer than looking for the next time, and a thousand jobs look at once."""
    read: list[str] = []

    class Counted(croniter):  # type: ignore[misc]  # croniter ships no types
        def __init__(self, line: str, *rest: object, **options: object) -> None:
            read.append(line)
            super().__init__(line, *rest, **options)

    monkeypatch.setattr("framework.schedule.croniter", Counted)
    schedule = Schedule.parse("13 5 * * *", BERLIN)
    now = datetime(2026, 3, 1, tzinfo=UTC)
    due = schedule.upcoming(now, 30)
    assert [schedule.previous_at_or_before(instant) for instant in reversed(due)] == due[::-1]
    assert schedule.upcoming(now, 30) == due
    assert read == ["13 5 * * *"]


def test_a_delay_is_the_same_in_every_process_and_spread_over_the_window() -> None:
    hour = timedelta(hours=1)
    assert stable_delay("nightly", hour) == timedelta(microseconds=2_344_689_572)
    quarters = Counter(stable_delay(f"job-{number}", hour) * 4 // hour for number in range(1000))
    assert sorted(quarters) == [0, 1, 2, 3]
    assert min(quarters.values()) > 200


@pytest.mark.parametrize("asleep", [timedelta(minutes=1), timedelta(hours=30), timedelta(days=400)])
def test_times_missed_while_asleep_leave_the_latest_one(asleep: timedelta) -> None:
    """A worker that wakes late finds one time due, however many went by, and the next after now."""
    schedule = Schedule.parse("0 3 * * *", NEW_YORK)
    due = schedule.next_after(datetime(2026, 6, 1, tzinfo=UTC))
    awake = due + asleep
    missed = schedule.previous_at_or_before(awake)
    assert due <= missed <= awake < schedule.next_after(missed)
    assert awake - missed < timedelta(days=1)


def test_a_worker_that_wakes_within_the_doubled_hour_finds_the_first_time_only() -> None:
    daily, hourly = Schedule.parse("30 2 * * *", BERLIN), Schedule.parse("30 * * * *", BERLIN)
    second = datetime.fromisoformat("2026-10-25T02:40+01:00")
    assert daily.previous_at_or_before(second) == datetime.fromisoformat("2026-10-25T02:30+02:00")
    assert hourly.previous_at_or_before(second) == datetime.fromisoformat("2026-10-25T02:30+01:00")


def test_a_worker_that_wakes_after_the_skipped_hour_finds_the_time_in_it() -> None:
    daily, hourly = Schedule.parse("30 2 * * *", BERLIN), Schedule.parse("30 * * * *", BERLIN)
    after = datetime.fromisoformat("2026-03-29T03:10+02:00")
    assert daily.previous_at_or_before(after) == datetime.fromisoformat("2026-03-29T03:00+02:00")
    assert hourly.previous_at_or_before(after) == datetime.fromisoformat("2026-03-29T01:30+01:00")


# Clock changes to probe around: two ordinary years, and the odd ones of each zone.
CHANGES = {
    BERLIN: ["2026-03-29T01:00Z", "2026-10-25T01:00Z", "2037-03-29T01:00Z"],
    NEW_YORK: ["2026-03-08T07:00Z", "2026-11-01T06:00Z", "2007-11-04T06:00Z"],
    LORD_HOWE: ["2026-04-04T15:00Z", "2026-10-03T15:30Z"],
    "America/Sao_Paulo": ["2018-11-04T03:00Z", "2019-02-17T02:00Z"],
    "America/Havana": ["2026-03-08T05:00Z", "2026-11-01T05:00Z"],
    "Africa/Casablanca": ["2026-02-15T02:00Z", "2026-03-22T02:00Z"],
    "Pacific/Apia": ["2011-12-30T10:00Z"],
    "UTC": ["2026-01-01T00:00Z"],
}
MINUTES = ["0", "30", "7", "59", "10,40", "5-50/15"]
HOURS = ["*", "*/2", "*/5", "0", "1", "2", "2,3", "0-4/2", "23"]
DAYS = [("*", "*"), ("1", "*"), ("15,L", "*"), ("*", "0"), ("*", "1-5"), ("*", "0#1"), ("26-31", "6")]


def _line(minute: str, hour: str, days: tuple[str, str], month: str) -> str:
    return f"{minute} {hour} {days[0]} {month} {days[1]}"


lines = st.builds(
    _line,
    st.sampled_from(MINUTES),
    st.sampled_from(HOURS),
    st.sampled_from(DAYS),
    st.sampled_from(["*", "3-4,10-11"]),
)
near_a_change = st.sampled_from([(zone, change) for zone in CHANGES for change in CHANGES[zone]])
microseconds = st.integers(-36 * 3_600_000_000, 36 * 3_600_000_000)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, derandomize=True)
@given(line=lines, at=near_a_change, shift=microseconds)
def test_instants_due_are_ordered_and_the_same_from_wherever_one_looks(
    line: str, at: tuple[str, str], shift: int
) -> None:
    schedule = Schedule.parse(line, at[0])
    now = datetime.fromisoformat(at[1]) + timedelta(microseconds=shift)
    previous, (following, third) = schedule.previous_at_or_before(now), schedule.upcoming(now, 2)
    assert previous <= now < following < third
    assert schedule.next_after(previous) == following
    for due in (previous, following, third):
        assert schedule.previous_at_or_before(due) == due
        assert schedule.next_after(due - timedelta(microseconds=1)) == due
    assert schedule.previous_at_or_before(third - timedelta(microseconds=1)) == following
