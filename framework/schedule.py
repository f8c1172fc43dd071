"""When a job is due: cron lines in a time zone, or a fixed period.

A cron line has exactly five fields, or is an alias:

    minute        0-59
    hour          0-23
    day of month  1-31, L for the last day
    month         1-12, JAN-DEC
    day of week   0-7 (0 and 7 are Sunday), SUN-SAT, 2#3 for the third Tuesday

    part   = "*" | "*/" step | value | value "-" value | value "-" value "/" step
    field  = part { "," part }
    alias  = @hourly @daily @midnight @weekly @monthly @yearly @annually

When day of month and day of week are both given, a day that matches either is due. What cron
implementations read differently (six fields, `5/15`, `R`, `H`, `*/2` beside a day of week) is refused,
so a line that parses means the same here, in Debian's cron and in every croniter.

On the days the clock changes:

    hour field      the clock skips the time            the clock shows the time twice
    fixed (`2`)     due once, when the skip ends        due once, the first time
    with a `*`      not due, that hour does not exist   due both times, an hour apart

So a daily job runs once a day, and an hourly job once an hour.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from croniter import croniter

from framework.log.errors import UsageError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
MIN_PERIOD = SECOND
MAX_PERIOD = timedelta(days=366)

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
MONTHS = {
    "JAN": 1,
    "FEB": 2,
    "MAR": 3,
    "APR": 4,
    "MAY": 5,
    "JUN": 6,
    "JUL": 7,
    "AUG": 8,
    "SEP": 9,
    "OCT": 10,
    "NOV": 11,
    "DEC": 12,
}
WEEKDAYS = {"SUN": 0, "MON": 1, "TUE": 2, "WED": 3, "THU": 4, "FRI": 5, "SAT": 6}
LONGEST_MONTH = {1: 31, 2: 29, 3: 31, 4: 30, 5: 31, 6: 30, 7: 31, 8: 31, 9: 30, 10: 31, 11: 30, 12: 31}

PART = re.compile(r"(?P<first>\*|\w{1,9})(-(?P<last>\w{1,9}))?(/(?P<step>\d{1,9}))?", re.ASCII)
NTH_WEEKDAY = re.compile(r"(?P<day>\w+)#(?P<nth>[1-5])", re.ASCII)


class BadSchedule(UsageError):
    """A schedule that cannot be read, never comes due, or names an unknown time zone."""


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
    def parse(cls, text: str | timedelta, timezone: str = "UTC", *, name: str = "") -> Schedule:
        """Read a cron line, an alias or a period; *name* says in errors whose schedule it is.

        >>> str(Schedule.parse("30 2 * * MON-FRI", "Europe/Berlin"))
        '30 2 * * MON-FRI Europe/Berlin'

        Raises:
            BadSchedule: With what is wrong, and what to write instead where that is known.
        """
        try:
            if isinstance(text, timedelta):
                return _parse_period(text, timezone)
            return _parse_cron(text, timezone)
        except BadSchedule as error:
            said = str(text) if isinstance(text, timedelta) else repr(text)
            raise BadSchedule(f"{name}{': ' if name else ''}schedule {said}: {error}") from None

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
        times = croniter(self.cron, wall, ret_type=datetime)
        while True:
            found: datetime = times.get_next(datetime)
            yield found

    def _walls_at_or_before(self, wall: datetime) -> Iterator[datetime]:
        """Matching wall clock times, latest first."""
        times = croniter(self.cron, wall + SECOND, ret_type=datetime)
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
    return f"every {period.total_seconds():g} seconds"


def _parse_cron(text: str, timezone: str) -> Schedule:
    line = text.strip().upper()
    if line.startswith("@"):
        if line.lower() not in ALIASES:
            raise BadSchedule(f"unknown alias; there are {', '.join(ALIASES)}")
        line = ALIASES[line.lower()]
    fields = line.split()
    if len(fields) != 5:
        hint = " (no seconds, no year)" if len(fields) in (6, 7) else ""
        raise BadSchedule(f"{len(fields)} fields; a cron line has 5: minute hour day month weekday{hint}")
    minute, hour, day, month, weekday = fields
    months = _values(month, "month", 1, 12, MONTHS)
    days, weekdays = _days(day, months), _weekdays(weekday)
    if "*" not in (day, weekday):
        if "*" in day + weekday + days + weekdays:
            # Debian wants both to match here, most others either, and few readers know which.
            raise BadSchedule("day of month and day of week are given, one as a '*'; list the days")
        if "#" in weekdays:
            raise BadSchedule(f"{weekday!r} beside a day of month; give one of the two")
    cron = " ".join(
        [
            _canonical(_values(minute, "minute", 0, 59), 60),
            _canonical(_values(hour, "hour", 0, 23), 24),
            days,
            _canonical(months, 12),
            weekdays,
        ]
    )
    by_elapsed_time = any(part.startswith("*") for part in hour.split(","))
    return Schedule(text.strip(), _zone(timezone), cron, by_elapsed_time, period=None)


def _days(field: str, months: set[int]) -> str:
    """The day-of-month field for croniter, once it is sure that some month has one of the days."""
    parts = field.split(",")
    numbered = [part for part in parts if part != "L"]
    days = _values(",".join(numbered), "day of month", 1, 31) if numbered else set()
    if "L" not in parts and min(days) > max(LONGEST_MONTH[month] for month in months):
        raise BadSchedule(f"never due: month {_canonical(months, 12)} has no day {min(days)}")
    last = "L" in parts and len(days) < 31
    return ",".join([*map(str, sorted(days)), "L"]) if last else _canonical(days, 31)


def _weekdays(field: str) -> str:
    """The day-of-week field for croniter, with Sunday as 0."""
    if "#" not in field:
        return _canonical({number % 7 for number in _values(field, "day of week", 0, 7, WEEKDAYS)}, 7)
    parts = []
    for part in field.split(","):
        match = NTH_WEEKDAY.fullmatch(part)
        if match is None:
            raise BadSchedule(f"{part!r} in the day of week; write 2#3 for the third Tuesday")
        parts.append(f"{_value(match['day'], 'day of week', 0, 7, WEEKDAYS) % 7}#{match['nth']}")
    return ",".join(parts)


def _values(field: str, label: str, low: int, high: int, names: dict[str, int] | None = None) -> set[int]:
    """The numbers a field stands for."""
    values: set[int] = set()
    for part in field.split(","):
        if part[:1] in ("R", "H"):
            raise BadSchedule(f"{part!r} in the {label}: random and hashed times are not supported")
        match = PART.fullmatch(part)
        if match is None or (match["first"] == "*" and match["last"]):
            raise BadSchedule(f"cannot read {part!r} in the {label}")
        first, last = low, high
        if match["first"] != "*":
            first = _value(match["first"], label, low, high, names)
            last = _value(match["last"], label, low, high, names) if match["last"] else first
            if match["step"] and not match["last"]:
                raise BadSchedule(f"{part!r} in the {label}; write {first}-{high}/{match['step']}")
            if last < first:
                raise BadSchedule(f"{part!r} in the {label} runs backwards; write it as two ranges")
        step = int(match["step"] or 1)
        if not 1 <= step <= high - low:
            raise BadSchedule(f"step {step} in the {label} is not in 1-{high - low}")
        values.update(range(first, last + 1, step))
    return values


def _value(text: str, label: str, low: int, high: int, names: dict[str, int] | None) -> int:
    if names and text in names:
        return names[text]
    if not text.isdecimal() or not low <= int(text) <= high:
        named = f" or {next(iter(names))}-{[*names][-1]}" if names else ""
        raise BadSchedule(f"{text!r} in the {label}; it takes {low}-{high}{named}")
    return int(text)


def _canonical(values: set[int], count: int) -> str:
    return "*" if len(values) == count else ",".join(map(str, sorted(values)))


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # An absolute path is a ValueError, a folder of the database ("America") an OSError.
        known = {zone.lower(): zone for zone in sorted(available_timezones())}
        close = get_close_matches(name.lower(), known, n=1)
        hint = f"; did you mean {known[close[0]]!r}?" if close else ""
        raise BadSchedule(f"unknown time zone {name!r}{hint}") from None
