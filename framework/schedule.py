"""When a job is due: cron lines in a time zone, or a fixed period.

What a cron line may hold is said in `framework.cron`. On the days the clock changes:

    hour field      the clock skips the time            the clock shows the time twice
    fixed (`2`)     due once, when the skip ends        due once, the first time
    with a `*`      not due, that hour does not exist   due both times, an hour apart

So a daily job runs once a day, and an hourly job once an hour.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from croniter import croniter

from framework.cron import BadSchedule, read_cron

__all__ = ["BadSchedule", "Schedule", "stable_delay"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
MIN_PERIOD = SECOND
MAX_PERIOD = timedelta(days=366)
GAP_HORIZON = timedelta(days=366)
"""How far `longest_gap` looks ahead ..."""
GAP_FIRES = 3
"""... and how many instants it looks at, however far apart they are."""
NIGHT = timedelta(hours=22)
"""Shorter than any gap that holds a whole day, even one that the clock shortens."""
EXPANDED_LINES = 4096
"""How many different lines are kept in the form croniter makes of them."""
CLOSE_ZONE = 0.8
"""How alike two names of zones are, of 1, for one to be offered for the other; `America` is like every city there."""
MAX_CORRECTIONS = 10
"""How many faults of one line are corrected to show what it could be."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The instants at which something is due; a value, shared freely between threads.

    Every instant taken and given is an aware datetime, and those given are in UTC. The process clock is
    never read: the same arguments give the same answer in any process, at any time. (A new release of
    the time zone database may move instants that lie in the future.)
    """

    text: str
    zone: ZoneInfo
    cron: str
    hours_by_elapsed_time: bool
    period: timedelta | None

    @classmethod
    def parse(
        cls, text: str | timedelta, timezone: str = "UTC", *, name: str = "", now: datetime | None = None
    ) -> Schedule:
        """Read a cron line, an alias or a period; *name* says in errors whose schedule it is.

        >>> str(Schedule.parse("30 2 * * MON-FRI", "Europe/Berlin"))
        '30 2 * * MON-FRI Europe/Berlin'

        Errors show when the line they offer instead would be due after *now*; only they ask the clock.

        Raises:
            BadSchedule: With what is wrong, and what to write instead where that is known.
        """
        said = f"{name}{': ' if name else ''}schedule {str(text) if isinstance(text, timedelta) else repr(text)}"
        try:
            if isinstance(text, timedelta):
                return _parse_period(text, timezone)
            cron, by_elapsed_time = read_cron(text)
        except BadSchedule as error:
            better = _readable(error.instead)
            offer = _offer(better, better, timezone, now) if better else ""
            raise BadSchedule(f"{said}: {error}{offer}", better) from None
        try:
            return cls(text.strip(), _zone(timezone), cron, by_elapsed_time, period=None)
        except BadSchedule as error:
            offer = _offer(error.instead, text, error.instead, now) if error.instead else ""
            raise BadSchedule(f"{said}: {error}{offer}", error.instead) from None

    def __str__(self) -> str:
        return self.text if self.period is not None else f"{self.text} {self.zone.key}"

    def next_after(self, utc: datetime) -> datetime:
        """The first instant due strictly after *utc*.

        >>> Schedule.parse("0 3 * * *", "Asia/Seoul").next_after(EPOCH).isoformat()
        '1970-01-01T18:00:00+00:00'
        """
        assert utc.tzinfo is not None, f"{utc} has no time zone"
        utc = utc.astimezone(UTC)
        if self.period is not None:
            return EPOCH + ((utc - EPOCH) // self.period + 1) * self.period
        # What is due is due at a whole second, so the fraction decides nothing.
        utc = utc.replace(microsecond=0)
        return self._next_by_elapsed_time(utc) if self.hours_by_elapsed_time else self._next_by_date(utc)

    def previous_at_or_before(self, utc: datetime) -> datetime:
        """The last instant due at *utc* or before: the one that was missed, if any was."""
        assert utc.tzinfo is not None, f"{utc} has no time zone"
        utc = utc.astimezone(UTC)
        if self.period is not None:
            return EPOCH + ((utc - EPOCH) // self.period) * self.period
        utc = utc.replace(microsecond=0)
        for wall in self._walls_at_or_before(self._wall(utc)):
            found = self.next_after(self._instant(wall) - SECOND)
            # Later than *utc* only where *wall* falls into a skipped hour and is not due at all.
            if found <= utc:
                break
        # In an hour shown twice, *wall* names the first time, and the second may have passed as well.
        while (following := self.next_after(found)) <= utc:
            found = following
        return found

    def upcoming(self, utc: datetime, count: int = 3) -> list[datetime]:
        """The next *count* instants due after *utc*, in order."""
        due: list[datetime] = []
        for _ in range(count):
            due.append(self.next_after(due[-1] if due else utc))
        return due

    def longest_gap(self, utc: datetime) -> timedelta:
        """The longest time between two neighbouring instants, from the last one at or before *utc* on.

        Looks a year ahead, and at three instants at least: for the 29th of February that is 4 years, and
        8 where the turn of a century without a leap day lies within the next three.
        """
        if self.period is not None:
            return self.period
        first = self.previous_at_or_before(utc)
        if self._is_daily():
            return max([self._longest_within_a_day(), *self._gaps_at_changes(first)])
        longest, fires, last = timedelta(0), 0, first
        while fires < GAP_FIRES or last - first < GAP_HORIZON:
            # No gap that ends before *near* can be the longest, and a whole day without one always is longer.
            near = self.previous_at_or_before(last + max(longest, NIGHT))
            last = self.next_after(near)
            longest, fires = max(longest, last - near), fires + 1
        return longest

    def _is_daily(self) -> bool:
        return self.cron.endswith(" * * *")

    def _longest_within_a_day(self) -> timedelta:
        """By the wall clock, for a line that is due on every day, over midnight too."""
        minutes, hours = (
            range(count) if field == "*" else [int(number) for number in field.split(",")]
            for field, count in zip(self.cron.split(), (60, 24), strict=False)
        )
        times = [60 * hour + minute for hour in hours for minute in minutes]
        return max(after - before for before, after in pairwise([*times, times[0] + 24 * 60])) * MINUTE

    def _gaps_at_changes(self, start: datetime) -> Iterator[timedelta]:
        """Those within which the offset changes; all others are as long as the wall clock says."""
        if self.zone.key == "UTC":
            return  # As a thousand jobs are that a worker looks at when it starts.
        end = start + GAP_HORIZON
        change = self._offset_change(start, end)
        while change is not None:
            before = change - SECOND
            yield self.next_after(before) - self.previous_at_or_before(before)
            change = self._offset_change(change, end)

    def _next_by_date(self, utc: datetime) -> datetime:
        """Each wall clock time names one instant, whatever the clock does that day.

        The map from wall clock times to instants never goes backwards, so the first instant after *utc*
        belongs to a time later than the one the clock shows at *utc*.
        """
        for wall in self._walls_after(self._wall(utc)):
            instant = self._instant(wall)
            if instant > utc:
                return instant
        raise AssertionError("the wall clock times of a schedule do not end")

    def _next_by_elapsed_time(self, utc: datetime) -> datetime:
        """Between two changes of the offset wall clock and UTC run alike; so go from change to change."""
        since, wall = utc, self._wall(utc)
        while True:
            offset = self._offset(since)
            found = (next(self._walls_after(wall)) - offset).replace(tzinfo=UTC)
            change = self._offset_change(since, found)
            if change is None:
                return found
            # The time shown at the change itself counts too, hence the second.
            since, wall = change, self._wall(change) - SECOND

    def _walls_after(self, wall: datetime) -> Iterator[datetime]:
        """Matching wall clock times after *wall*, naive: croniter never sees a time zone.

        Its own rules for clock changes differ from release to release, and fire a daily job twice.
        """
        times = _times(self.cron, wall)
        while True:
            found: datetime = times.get_next(datetime)
            yield found

    def _walls_at_or_before(self, wall: datetime) -> Iterator[datetime]:
        """Matching wall clock times, latest first."""
        times = _times(self.cron, wall + SECOND)
        while True:
            found: datetime = times.get_prev(datetime)
            yield found

    def _instant(self, wall: datetime) -> datetime:
        """The first instant at which the clock shows *wall*; if it never does, the end of the skip."""
        instant = wall.replace(tzinfo=self.zone, fold=0).astimezone(UTC)
        if self._wall(instant) == wall:
            return instant
        # Read with the offset before the skip, *wall* lies after it; with the offset after, before it.
        before = wall.replace(tzinfo=self.zone, fold=1).astimezone(UTC)
        change = self._offset_change(before, instant)
        assert change is not None, f"{wall} is not skipped in {self.zone.key}"
        return change

    def _wall(self, utc: datetime) -> datetime:
        return utc.astimezone(self.zone).replace(tzinfo=None, fold=0)

    def _offset(self, utc: datetime) -> timedelta:
        offset = utc.astimezone(self.zone).utcoffset()
        assert offset is not None
        return offset

    def _offset_change(self, start: datetime, end: datetime) -> datetime | None:
        """The first instant in (start, end] with another offset than *start*.

        Looks a day at a time: no zone has changed its offset and changed it back within one.
        """
        offset = self._offset(start)
        while start < end:
            changed = min(start + DAY, end)
            if self._offset(changed) != offset:
                while changed - start > SECOND:
                    middle = start + (changed - start) // (2 * SECOND) * SECOND
                    if self._offset(middle) == offset:
                        start = middle
                    else:
                        changed = middle
                return changed
            start = changed
        return None


def _parse_period(period: timedelta, timezone: str) -> Schedule:
    if not MIN_PERIOD <= period <= MAX_PERIOD:
        raise BadSchedule("a period lies between 1 second and 366 days")
    if timezone != "UTC":
        # Said rather than ignored: a period of one day is due at midnight UTC, wherever the reader lives.
        raise BadSchedule(f"a period is counted in UTC; for {timezone} write a cron line")
    return Schedule(_describe(period), ZoneInfo("UTC"), "", hours_by_elapsed_time=True, period=period)


def _describe(period: timedelta) -> str:
    """`every 90 minutes`: in the largest unit that divides it."""
    for unit in ("days", "hours", "minutes", "seconds"):
        count, rest = divmod(period, timedelta(**{unit: 1}))
        if not rest:
            return f"every {count} {unit}" if count > 1 else f"every {unit[:-1]}"
    fraction = f"{rest // timedelta(microseconds=1):06}".rstrip("0")
    return f"every {count}.{fraction} seconds"


def stable_delay(name: str, window: timedelta) -> timedelta:
    """How long after an instant due the job *name* begins, less than *window*: so that not all begin at once.

    It comes from the name alone, so it is the same after a restart and on every machine.
    """
    assert window > timedelta(0), f"{window} is no window"
    number = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")
    return number % (window // timedelta(microseconds=1)) * timedelta(microseconds=1)


@lru_cache(maxsize=EXPANDED_LINES)
def _expanded(cron: str) -> croniter:
    """The line as croniter reads it, which takes longer than looking for the next time.

    What is kept here is shared between threads and never moved: `_times` moves a copy of it.
    """
    return croniter(cron, 0.0, ret_type=datetime)


def _times(cron: str, wall: datetime) -> croniter:
    times = copy(_expanded(cron))
    times.set_current(wall, force=True)
    return times


def _readable(line: str) -> str:
    """What is offered instead of a line, once all its faults are corrected; empty if one cannot be."""
    for _ in range(MAX_CORRECTIONS):
        if not line:
            break
        try:
            read_cron(line)
        except BadSchedule as error:
            line = error.instead
        else:
            return line
    return ""


def _offer(write: str, line: str, timezone: str, now: datetime | None) -> str:
    """`; write '5-59/15 * * * *', next due 2026-03-01 00:05, 00:20, 00:35 UTC`: so that it is seen what it does."""
    try:
        schedule = Schedule.parse(line, timezone)
    except BadSchedule:
        return f"; write {write!r}"  # The time zone is wrong, too, and will be said next.
    shown, day = [], ""
    for due in schedule.upcoming(now or datetime.now(UTC)):
        date, time = due.astimezone(schedule.zone).strftime("%Y-%m-%d %H:%M").split()
        shown.append(time if date == day else f"{date} {time}")
        day = date
    return f"; write {write!r}, next due {', '.join(shown)} {schedule.zone.key}"


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # An absolute path is a ValueError, a folder of the database ("America") an OSError.
        if re.search(r"[+-]\d", name):
            reason = f"time zone {name!r} is an offset; name a place, like 'Europe/Berlin'"
            raise BadSchedule(reason) from None
        raise BadSchedule(f"unknown time zone {name!r}", _zone_meant_by(name)) from None


def _zone_meant_by(name: str) -> str:
    written = name.strip().lower().replace(" ", "_")
    known = {zone.lower(): zone for zone in sorted(available_timezones())}
    cities = {zone.rpartition("/")[2]: zone for zone in known}
    if written in known or written in cities:
        return known[cities.get(written, written)]
    if len(written) < 5:
        return ""  # PST and EST are one letter and three hours apart.
    close = get_close_matches(written, known, n=1, cutoff=CLOSE_ZONE)
    return known[close[0]] if close else ""
