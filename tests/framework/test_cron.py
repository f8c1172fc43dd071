"""Cron lines that are refused: what is said, and what is offered instead, with when that would be due."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from framework.cron import ALIASES
from framework.schedule import BadSchedule, Schedule

NOW = datetime(2026, 3, 1, tzinfo=UTC)
FIVE = "a cron line has 5: minute hour day month weekday"
FEWER = f"6 fields; {FIVE} (no seconds, no year)"
STARRED = "day of month and day of week are given, one as a '*'; list the days"
AT_THREE = "write '0 3 * * *', next due 2026-03-01 03:00, 2026-03-02 03:00, 2026-03-03 03:00 UTC"
WORKDAYS_AT_TEN = "write '0 10 * * MON-FRI', next due 2026-03-02 10:00, 2026-03-03 10:00, 2026-03-04 10:00 UTC"
QUARTERS = "write '5-59/15 * * * *', next due 2026-03-01 00:05, 00:20, 00:35 UTC"

REFUSED = [
    ("", f"0 fields; {FIVE}"),
    ("0 3", f"2 fields; {FIVE}"),
    ("0 3 * * * * * *", f"8 fields; {FIVE}"),
    # Seconds and years.
    ("0 0 3 * * *", f"{FEWER}; {AT_THREE}"),
    ("0 0 3 * * ?", f"{FEWER}; {AT_THREE}"),
    ("0 3 * * * 2026", f"{FEWER}; {AT_THREE}"),
    ("30 2 * * * 0", f"{FEWER}; write '30 2 * * *', next due 2026-03-01 02:30, 2026-03-02 02:30, 2026-03-03 02:30 UTC"),
    ("0 0 10 ? * 2-6 *", f"7 fields; {FIVE} (no seconds, no year); {WORKDAYS_AT_TEN}"),
    ("0 10 ? * 2-6 *", f"{FEWER}; {WORKDAYS_AT_TEN}"),
    ("0 3 * * 1 0", FEWER),
    ("30 0 3 * * *", FEWER),
    ("*/10 * * * * *", f"{FEWER}; for every 10 seconds give timedelta(seconds=10)"),
    # Aliases.
    ("@dayly", "unknown alias; write '@daily', next due 2026-03-02 00:00, 2026-03-03 00:00, 2026-03-04 00:00 UTC"),
    (
        "Daily",
        (
            "1 field, and no alias without its @; write '@daily', "
            "next due 2026-03-02 00:00, 2026-03-03 00:00, 2026-03-04 00:00 UTC"
        ),
    ),
    ("@noon", f"unknown alias; there are {', '.join(ALIASES)}"),
    ("@reboot", "a job is due at a time; what is done when the app starts belongs in its lifespan"),
    ("@every 5m", "for a period give a timedelta, like timedelta(minutes=5)"),
    # Values.
    ("60 * * * *", "'60' in the minute; it takes 0-59"),
    ("0 24 * * *", "'24' in the hour; it takes 0-23"),
    ("0 0 0 * *", "'0' in the day of month; it takes 1-31"),
    (
        "0 0 1 SEPT *",
        (
            "'SEPT' in the month; it takes 1-12 or JAN-DEC; write '0 0 1 SEP *', "
            "next due 2026-09-01 00:00, 2027-09-01 00:00, 2028-09-01 00:00 UTC"
        ),
    ),
    (
        "0 10 * * monday-friday",
        f"'MONDAY' in the day of week; it takes 0-7 or SUN-SAT; {WORKDAYS_AT_TEN}",
    ),
    ("0 0 1 BRUMAIRE *", "'BRUMAIRE' in the month; it takes 1-12 or JAN-DEC"),
    ("0 0 * * 8", "'8' in the day of week; it takes 0-7 or SUN-SAT"),
    ("0 3 * * ?", f"'?' in the day of week; {AT_THREE}"),
    ("1,,2 * * * *", "cannot read '' in the minute"),
    ("*-5 * * * *", "cannot read '*-5' in the minute"),
    ("\u0665 * * * *", "cannot read '\u0665' in the minute"),
    ("0 0 * * 6L", "'6L' in the day of week; it takes 0-7 or SUN-SAT"),
    # Ranges and steps.
    (
        "0 0 * * FRI-MON",
        (
            "'FRI-MON' in the day of week runs backwards; write '0 0 * * FRI-SAT,SUN-MON', "
            "next due 2026-03-02 00:00, 2026-03-06 00:00, 2026-03-07 00:00 UTC"
        ),
    ),
    (
        "0 0 * * 6-0",
        (
            "'6-0' in the day of week runs backwards; write '0 0 * * 6,0', "
            "next due 2026-03-07 00:00, 2026-03-08 00:00, 2026-03-14 00:00 UTC"
        ),
    ),
    (
        "0 22-4/2 * * *",
        "'22-4/2' in the hour runs backwards; write '0 0,2,4,22 * * *', next due 2026-03-01 02:00, 04:00, 22:00 UTC",
    ),
    ("0 0 28-3/2 * *", "'28-3/2' in the day of month runs backwards"),
    ("5/15 * * * *", f"'5/15' in the minute; {QUARTERS}"),
    ("5/15 * ? * ?", f"'5/15' in the minute; {QUARTERS}"),
    (
        "*/60 * * * *",
        "step 60 in the minute is not in 1-59; write '0 * * * *', next due 2026-03-01 01:00, 02:00, 03:00 UTC",
    ),
    ("*/90 * * * *", "step 90 in the minute is not in 1-59; for every 90 minutes give timedelta(minutes=90)"),
    ("0 */36 * * *", "step 36 in the hour is not in 1-23; for every 36 hours give timedelta(hours=36)"),
    ("*/0 * * * *", "step 0 in the minute is not in 1-59"),
    # What cannot be known.
    ("R * * * *", "'R' in the minute: random and hashed times are not supported"),
    ("0 H(1-5) * * *", "'H(1-5)' in the hour: random and hashed times are not supported"),
    (
        "0 0 31 2 *",
        (
            "never due: month 2 has no day 31; write '0 0 L 2 *', "
            "next due 2027-02-28 00:00, 2028-02-29 00:00, 2029-02-28 00:00 UTC"
        ),
    ),
    ("0 0 */2 * MON", STARRED),
    ("0 0 1 * 0-6", STARRED),
    ("0 0 1 * 2#3", "'2#3' beside a day of month; give one of the two"),
    ("0 0 * * 2#6", "'2#6' in the day of week; write 2#3 for the third Tuesday"),
]
ZONES = [
    (
        "Europe/Berln",
        (
            "unknown time zone 'Europe/Berln'; write 'Europe/Berlin', "
            "next due 2026-03-01 03:00, 2026-03-02 03:00, 2026-03-03 03:00 Europe/Berlin"
        ),
    ),
    (
        "new york",
        (
            "unknown time zone 'new york'; write 'America/New_York', "
            "next due 2026-03-01 03:00, 2026-03-02 03:00, 2026-03-03 03:00 America/New_York"
        ),
    ),
    ("utc", f"unknown time zone 'utc'; {AT_THREE.replace('0 3 * * *', 'UTC')}"),
    ("PST", "unknown time zone 'PST'"),
    ("UTC+2", "time zone 'UTC+2' is an offset; name a place, like 'Europe/Berlin'"),
    ("/etc/hostname", "unknown time zone '/etc/hostname'"),
    ("America", "unknown time zone 'America'"),
    ("", "unknown time zone ''"),
]


@pytest.mark.parametrize(("line", "reason"), REFUSED)
def test_a_line_that_cannot_be_read_says_why_and_what_to_write(line: str, reason: str) -> None:
    with pytest.raises(BadSchedule) as caught:
        Schedule.parse(line, name="job nightly", now=NOW)
    assert str(caught.value) == f"job nightly: schedule {line!r}: {reason}"


@pytest.mark.parametrize(("zone", "reason"), ZONES)
def test_a_time_zone_that_is_unknown_is_guessed_if_it_can_be(zone: str, reason: str) -> None:
    with pytest.raises(BadSchedule) as caught:
        Schedule.parse("0 3 * * *", zone, now=NOW)
    assert str(caught.value) == f"schedule '0 3 * * *': {reason}"


def test_what_is_offered_can_be_read() -> None:
    for line, _ in REFUSED:
        with pytest.raises(BadSchedule) as caught:
            Schedule.parse(line, now=NOW)
        if caught.value.instead:
            Schedule.parse(caught.value.instead)


def test_times_of_an_offer_are_those_of_the_time_zone_that_was_given() -> None:
    with pytest.raises(BadSchedule) as caught:
        Schedule.parse("0 0 3 * * *", "Asia/Seoul", now=NOW)
    due = "next due 2026-03-02 03:00, 2026-03-03 03:00, 2026-03-04 03:00 Asia/Seoul"
    assert str(caught.value).endswith(f"write '0 3 * * *', {due}")


def test_of_two_mistakes_the_line_is_said_first() -> None:
    with pytest.raises(BadSchedule) as caught:
        Schedule.parse("5/15 * * * *", "Europe/Berln", now=NOW)
    assert str(caught.value) == "schedule '5/15 * * * *': '5/15' in the minute; write '5-59/15 * * * *'"


def test_an_offer_without_a_given_time_is_due_from_now_on() -> None:
    """Only errors ask the clock."""
    with pytest.raises(BadSchedule) as caught:
        Schedule.parse("0 0 1 1 * 2026")
    assert f"next due {datetime.now(UTC).year + 1}-01-01 00:00" in str(caught.value)
