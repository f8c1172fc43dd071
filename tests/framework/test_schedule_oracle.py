"""Schedules of thirty years in twenty zones, compared with two other ways to say when they are due.

One is cronsim, an independent reading of Debian's rules. Where it goes another way for a reason, it is not asked: in
zones that moved their clock by half an hour, which it counts as a whole one, or between two whole hours, where it may
look for ever; and for minutes with a `*`, which Debian takes to mean elapsed time even where the hour is fixed. Where
the clock skips midnight, it takes a `*` of the hour to hold the midnight that is not shown.

The other is the clock itself, looked at every minute, which decides about all of these. It is slow.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim

from framework.schedule import SECOND, Schedule

pytestmark = pytest.mark.slow

START, END = datetime(2010, 1, 1, tzinfo=UTC), datetime(2040, 1, 1, tzinfo=UTC)
LEFT_OUT = ["America/Caracas", "America/St_Johns", "Asia/Pyongyang", "Australia/Lord_Howe", "Pacific/Chatham"]
ZONES = [
    "Africa/Cairo",
    "Africa/Casablanca",
    "America/Asuncion",
    "America/Havana",
    "America/Los_Angeles",
    "America/New_York",
    "America/Santiago",
    "America/Sao_Paulo",
    "Antarctica/Troll",
    "Asia/Beirut",
    "Asia/Gaza",
    "Asia/Kathmandu",
    "Asia/Tehran",
    "Australia/Sydney",
    "Europe/Berlin",
    "Europe/Istanbul",
    "Europe/London",
    "Pacific/Apia",
    "Pacific/Auckland",
    "UTC",
]
MINUTES = ["0", "1", "15", "30", "45", "59", "10,40", "5-50/15", "0-59/20"]
HOURS = ["*", "*/2", "*/3", "*/5", "0", "1", "2", "3", "23", "2,3", "0-4/2", "22-23", "1-3"]
DAYS = [("*", "*")] * 6 + [
    ("1", "*"),
    ("15,L", "*"),
    ("29-31", "*"),
    ("*", "0"),
    ("*", "1-5"),
    ("*", "0#1"),
    ("26-31", "6"),
]
MONTHS = ["*", "*", "*", "3-4,10-11", "2", "9"]


def line_of(draw: random.Random) -> str:
    """One of some thousand lines."""
    day, weekday = draw.choice(DAYS)
    return f"{draw.choice(MINUTES)} {draw.choice(HOURS)} {day} {draw.choice(MONTHS)} {weekday}"


@cache
def changes(zone: str) -> list[datetime]:
    """Every instant at which *zone* changes its offset, by looking at each hour and halving the one it is in."""

    def offset(instant: datetime) -> timedelta | None:
        return instant.astimezone(ZoneInfo(zone)).utcoffset()

    found, instant = [], START
    while instant < END:
        after = instant + timedelta(hours=12)
        if offset(instant) != offset(after):
            low, high = instant, after
            while high - low > SECOND:
                middle = low + (high - low) // (2 * SECOND) * SECOND
                low, high = (middle, high) if offset(middle) == offset(low) else (low, middle)
            found.append(high)
        instant = after
    return found


def probes(draw: random.Random, zone: str, near: int, far: int) -> Iterator[datetime]:
    """*near* instants around each change of the offset, and *far* over all the years."""
    for change in changes(zone):
        for _ in range(near):
            hours = draw.choice([1, 3, 36])
            yield change + timedelta(microseconds=draw.randint(-hours * 3_600_000_000, hours * 3_600_000_000))
            yield change + draw.choice([-1, 0, 1]) * SECOND
    for _ in range(far):
        yield START + timedelta(seconds=draw.randint(0, (END - START) // SECOND))


def in_local(instant: datetime, zone: str) -> datetime:
    """What the clock shows."""
    return instant.astimezone(ZoneInfo(zone)).replace(tzinfo=None)


def skips_midnight(zone: str, change: datetime) -> bool:
    """Whether the clock shows no midnight on that day."""
    skipped = in_local(change - SECOND, zone) + SECOND
    return in_local(change, zone) > skipped and skipped.hour == 0


def due_by_the_clock(line: str, zone: str, start: datetime, end: datetime) -> list[datetime]:
    """All instants due in (start, end], by looking at the clock every minute; cronsim only reads the fields.

    Hours with a `*` are due whenever the clock shows them, others when it reaches or passes them the first time.
    """
    fields = CronSim(line, datetime(2010, 1, 1))  # noqa: DTZ001, for it is not asked when
    match_day = cache(fields.match_day)

    def matches(wall: datetime) -> bool:
        shown = wall.minute in fields.minutes and wall.hour in fields.hours and wall.month in fields.months
        return shown and match_day(wall.date())

    minute, shown_twice = timedelta(minutes=1), "*" in line.split()[1]
    due, instant = [], start - timedelta(hours=4)
    furthest = in_local(instant, zone)
    while instant < end:
        instant += minute
        wall = in_local(instant, zone)
        passed = [wall] if shown_twice else (furthest + n * minute for n in range(1, (wall - furthest) // minute + 1))
        if any(map(matches, passed)) and instant > start:
            due.append(instant)
        furthest = max(furthest, wall)
    return due


def assert_consistent(schedule: Schedule, now: datetime, following: datetime) -> None:
    previous = schedule.previous_at_or_before(now)
    assert previous <= now < following
    assert schedule.next_after(previous) == following
    assert schedule.previous_at_or_before(following) == following
    assert schedule.previous_at_or_before(following - timedelta(microseconds=1)) == previous


@pytest.mark.parametrize("zone", ZONES)
def test_debian_cron_agrees_and_looking_back_finds_what_looking_ahead_found(zone: str) -> None:
    seed = f"20261130 {zone}"
    draw = random.Random(seed)
    odd = [change for change in changes(zone) if skips_midnight(zone, change)]
    for now in probes(draw, zone, near=3, far=150):
        line = line_of(draw)
        schedule = Schedule.parse(line, zone)
        found = schedule.next_after(now)
        oracle = (due.astimezone(UTC) for due in CronSim(line, now.astimezone(ZoneInfo(zone))))
        expected = next(due for due in oracle if due > now)
        if found != expected:
            where = f"seed {seed!r}: {line} after {now} is {found}, not {expected}"
            between = [change for change in odd if now < change <= max(found, expected)]
            assert "*" in line.split()[1], where
            assert between, where
            start = max(now, between[-1] - timedelta(days=1)).replace(second=0, microsecond=0)
            assert due_by_the_clock(line, zone, start, found) == [found], where
        assert_consistent(schedule, now, found)


@pytest.mark.parametrize("zone", [*LEFT_OUT, *ZONES])
def test_the_clock_agrees_around_its_changes(zone: str) -> None:
    seed = f"20261130 {zone}"
    draw = random.Random(seed)
    odd = [change for change in changes(zone) if skips_midnight(zone, change)]
    others = [change for change in changes(zone) if change not in odd]
    for change in [*odd[:4], *draw.sample(others, min(6, len(others)))]:
        minute, hour, day = draw.choice([*MINUTES, "*", "*/7"]), draw.choice(HOURS), draw.choice(DAYS)
        line = f"{minute} {hour} {day[0]} * {day[1]}"
        schedule = Schedule.parse(line, zone)
        start, end = change - timedelta(days=1), change + timedelta(days=1)
        expected = due_by_the_clock(line, zone, start, end)
        found = [instant for instant in schedule.upcoming(start, len(expected) + 1) if instant <= end]
        assert found == expected, f"seed {seed!r}: {line} around {change}"
        for now, following in [*pairwise(expected)][:20]:
            assert_consistent(schedule, now, following)
