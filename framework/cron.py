"""What a cron line says, read strictly: exactly five fields, or an alias.

    minute        0-59
    hour          0-23
    day of month  1-31, L for the last day
    month         1-12, JAN-DEC
    day of week   0-7 (0 and 7 are Sunday), SUN-SAT, 2#3 for the third Tuesday

    part   = "*" | "*/" step | value | value "-" value | value "-" value "/" step
    field  = part { "," part }
    alias  = @hourly @daily @midnight @weekly @monthly @yearly @annually

When day of month and day of week are both given, a day that matches either is due. What cron
implementations read differently (six fields, `5/15`, `?`, `R`, `H`, `*/2` beside a day of week) is refused,
so a line that parses means the same here, in Debian's cron and in every croniter. Where it can be guessed
what was meant, the error holds it as a line that can be read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches

from framework.log.errors import UsageError

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
MONTH_NAMES = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
WEEKDAY_NAMES = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
LONGEST_MONTH = {1: 31, 2: 29, 3: 31, 4: 30, 5: 31, 6: 30, 7: 31, 8: 31, 9: 30, 10: 31, 11: 30, 12: 31}
LONGEST_STEP_NAMED = 1000
"""A larger step than this is a slip of the hand, and no period is offered for it."""


@dataclass(frozen=True, slots=True)
class Field:
    """One of the five: its name in errors, the numbers it takes, how many differ, and names for them."""

    label: str
    low: int
    high: int
    count: int
    names: Mapping[str, int] = field(default_factory=dict)


MINUTE = Field("minute", 0, 59, 60)
HOUR = Field("hour", 0, 23, 24)
DAY = Field("day of month", 1, 31, 31)
MONTH = Field("month", 1, 12, 12, {name: number for number, name in enumerate(MONTH_NAMES, 1)})
WEEKDAY = Field("day of week", 0, 7, 7, {name: number for number, name in enumerate(WEEKDAY_NAMES)})
PERIODS = {"minute": "minutes", "hour": "hours", "day of month": "days"}

PART = re.compile(r"(?P<first>\*|\w{1,9})(-(?P<last>\w{1,9}))?(/(?P<step>\d{1,9}))?", re.ASCII)
NTH_WEEKDAY = re.compile(r"(?P<day>\w+)#(?P<nth>[1-5])", re.ASCII)
YEAR = re.compile(r"(19|20)\d\d\b.*", re.ASCII)
NUMBERED_WEEKDAY = re.compile(r"(?<![#/\w])[1-7](?!\w)", re.ASCII)


class BadSchedule(UsageError):
    """A schedule that cannot be read, never comes due, or names an unknown time zone.

    *instead* is what was probably meant, written so that it can be read; empty where nobody knows.
    """

    def __init__(self, reason: str, instead: str = "") -> None:
        super().__init__(reason)
        self.instead = instead


def read_cron(text: str) -> tuple[str, bool]:
    """The line in numbers, for croniter, and whether its hours go by elapsed time.

    >>> read_cron("*/20 9-11 * * MON-FRI")
    ('0,20,40 9,10,11 * * 1,2,3,4,5', False)

    Raises:
        BadSchedule: With what is wrong.
    """
    line = text.strip().upper()
    if line.startswith("@"):
        line = _line_of_alias(line.lower())
    fields = line.split()
    if len(fields) != 5:
        raise _wrong_count(fields)
    minute, hour, day, month, weekday = fields
    with _in_line(fields, 0):
        minutes = _canonical(_values(minute, MINUTE), MINUTE)
    with _in_line(fields, 1):
        hours = _canonical(_values(hour, HOUR), HOUR)
    with _in_line(fields, 3):
        months = _values(month, MONTH)
    with _in_line(fields, 2):
        days = _days(day, months)
    with _in_line(fields, 4):
        weekdays = _weekdays(weekday)
    if "*" not in (day, weekday):
        if "*" in day + weekday + days + weekdays:
            # Debian wants both to match here, most others either, and few readers know which.
            raise BadSchedule("day of month and day of week are given, one as a '*'; list the days")
        if "#" in weekdays:
            raise BadSchedule(f"{weekday!r} beside a day of month; give one of the two")
    by_elapsed_time = any(part.startswith("*") for part in hour.split(","))
    return f"{minutes} {hours} {days} {_canonical(months, MONTH)} {weekdays}", by_elapsed_time


def _line_of_alias(alias: str) -> str:
    if alias in ALIASES:
        return ALIASES[alias]
    if alias == "@reboot":
        raise BadSchedule("a job is due at a time; what is done when the app starts belongs in its lifespan")
    if alias.startswith("@every"):
        raise BadSchedule("for a period give a timedelta, like timedelta(minutes=5)")
    if close := get_close_matches(alias, ALIASES, n=1):
        raise BadSchedule("unknown alias", close[0])
    raise BadSchedule(f"unknown alias; there are {', '.join(ALIASES)}")


def _wrong_count(fields: list[str]) -> BadSchedule:
    reason = f"{len(fields)} fields; a cron line has 5: minute hour day month weekday"
    if len(fields) == 1:
        alias = f"@{fields[0].lower()}"
        return BadSchedule("1 field, and no alias without its @", alias) if alias in ALIASES else BadSchedule(reason)
    if len(fields) not in (6, 7):
        return BadSchedule(reason)
    reason += " (no seconds, no year)"
    step = re.fullmatch(r"\*/(\d{1,3})", fields[0], re.ASCII)
    if step and set(fields[1:]) <= {"*", "?"}:
        return BadSchedule(f"{reason}; for every {step[1]} seconds give timedelta(seconds={step[1]})")
    five = _five_of(fields)
    if "?" in fields:
        # Who writes `?` counts the days of the week from 1, so the numbers are put as names.
        five[4:] = [NUMBERED_WEEKDAY.sub(lambda day: WEEKDAY_NAMES[int(day[0]) - 1], each) for each in five[4:]]
    return BadSchedule(reason, " ".join("*" if each == "?" else each for each in five))


def _five_of(fields: list[str]) -> list[str]:
    """The five among six or seven; none where other systems differ, or where seconds matter.

    Quartz and Spring put seconds first, Quartz a year last; AWS has the year only; croniter puts seconds last.
    """
    *_, last = fields
    if len(fields) == 7:
        has_year = last == "*" or YEAR.fullmatch(last)
        return fields[1:6] if fields[0] == "0" != fields[5] and has_year else []
    if YEAR.fullmatch(last) or "?" in (fields[2], fields[4]):
        return fields[:5]
    if fields[0] == "0" != last:
        return fields[1:]
    return fields[:5] if last == "0" != fields[0] else []


@contextmanager
def _in_line(fields: list[str], index: int) -> Iterator[None]:
    """What to write instead of a field becomes what to write instead of the line."""
    try:
        yield
    except BadSchedule as error:
        if error.instead:
            error.instead = " ".join([*fields[:index], error.instead, *fields[index + 1 :]])
        raise


def _days(text: str, months: set[int]) -> str:
    """The day-of-month field for croniter, once it is sure that some month has one of the days."""
    parts = text.split(",")
    numbered = [part for part in parts if part != "L"]
    days = _values(",".join(numbered), DAY) if numbered else set()
    if "L" not in parts and min(days) > max(LONGEST_MONTH[month] for month in months):
        raise BadSchedule(f"never due: month {_canonical(months, MONTH)} has no day {min(days)}", "L")
    last = "L" in parts and len(days) < DAY.count
    return ",".join([*map(str, sorted(days)), "L"]) if last else _canonical(days, DAY)


def _weekdays(text: str) -> str:
    """The day-of-week field for croniter, with Sunday as 0."""
    if "#" not in text:
        return _canonical({number % 7 for number in _values(text, WEEKDAY)}, WEEKDAY)
    parts = []
    for part in text.split(","):
        match = NTH_WEEKDAY.fullmatch(part)
        if match is None:
            raise BadSchedule(f"{part!r} in the day of week; write 2#3 for the third Tuesday")
        parts.append(f"{_value(match['day'], text, WEEKDAY) % 7}#{match['nth']}")
    return ",".join(parts)


def _values(text: str, of: Field) -> set[int]:
    """The numbers a field stands for."""
    values: set[int] = set()
    for part in text.split(","):
        if part[:1] in ("R", "H"):
            raise BadSchedule(f"{part!r} in the {of.label}: random and hashed times are not supported")
        if part == "?":
            raise BadSchedule(f"'?' in the {of.label}", _swap(text, part, "*"))
        match = PART.fullmatch(part)
        if match is None or (match["first"] == "*" and match["last"]):
            raise BadSchedule(f"cannot read {part!r} in the {of.label}")
        first, last, step = of.low, of.high, int(match["step"] or 1)
        if match["first"] != "*":
            first = _value(match["first"], text, of)
            last = _value(match["last"], text, of) if match["last"] else first
            if match["step"] and not match["last"]:
                whole = f"{match['first']}-{_top(match['first'], of)}/{step}"
                raise BadSchedule(f"{part!r} in the {of.label}", _swap(text, part, whole))
            if last < first:
                reason = f"{part!r} in the {of.label} runs backwards"
                raise BadSchedule(reason, _swap(text, part, _forwards(match, first, last, of)))
        if not 1 <= step <= of.high - of.low:
            raise _bad_step(text, part, step, of)
        values.update(range(first, last + 1, step))
    return values


def _value(value: str, text: str, of: Field) -> int:
    if value in of.names:
        return of.names[value]
    if not value.isdecimal() or not of.low <= int(value) <= of.high:
        named = f" or {next(iter(of.names))}-{[*of.names][-1]}" if of.names else ""
        # MONDAY, SEPT: the first three letters are the name.
        better = re.sub(rf"\b{value}\b", value[:3], text) if value[:3] in of.names else ""
        raise BadSchedule(f"{value!r} in the {of.label}; it takes {of.low}-{of.high}{named}", better)
    return int(value)


def _bad_step(text: str, part: str, step: int, of: Field) -> BadSchedule:
    reason = f"step {step} in the {of.label} is not in 1-{of.high - of.low}"
    if part.startswith("*") and of.label in PERIODS and step > of.high - of.low:
        if step == of.count:
            return BadSchedule(reason, _swap(text, part, str(of.low)))
        if step < LONGEST_STEP_NAMED:
            unit = PERIODS[of.label]
            return BadSchedule(f"{reason}; for every {step} {unit} give timedelta({unit}={step})")
    return BadSchedule(reason)


def _forwards(match: re.Match[str], first: int, last: int, of: Field) -> str:
    """A range that runs over the end, as what comes before the end and what comes after it."""
    if match["step"]:
        # Months differ in length, and so does what a step over their end means.
        wrapped = {
            of.low + (number - of.low) % of.count for number in range(first, last + of.count + 1, int(match["step"]))
        }
        return _canonical(wrapped, of) if of is not DAY else ""
    top = _top(match["first"], of)
    bottom = next(iter(of.names)) if match["last"] in of.names else str(of.low)
    before = match["first"] if match["first"] == top else f"{match['first']}-{top}"
    after = match["last"] if match["last"] == bottom else f"{bottom}-{match['last']}"
    return f"{before},{after}"


def _top(value: str, of: Field) -> str:
    """The last value of a field, as a name where *value* is one, and with Sunday counted once."""
    return [*of.names][-1] if value in of.names else str(of.low + of.count - 1)


def _swap(text: str, part: str, better: str) -> str:
    return ",".join(better if each == part else each for each in text.split(",")) if better else ""


def _canonical(values: set[int], of: Field) -> str:
    return "*" if len(values) == of.count else ",".join(map(str, sorted(values)))
