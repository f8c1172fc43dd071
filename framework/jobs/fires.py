"""Which of the times at which something was due it is run for.

                     catchup = coalesce      each                  none
    one was missed   run for it              run for it            skipped
    many were        run for the latest      run for each          skipped
                     overlap = coalesce      skip                  cancel
    due during a run run for it afterwards   skipped               that run is stopped, then run for it

A time is missed if it was due more than `MISSED_AFTER` ago and nothing of the job was at work then: no worker ran, or
the machine slept. Several that were due during a run are one run afterwards; with catchup="each" each has its own. What
is skipped is recorded, and its records are there for the next run: a skipped time loses nothing. A clock that is set
back makes nothing due again, for what was due last is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from framework.jobs.job import Catchup, Overlap
from framework.schedule import Schedule

MISSED_AFTER = timedelta(seconds=60)
MAX_COUNTED = 1000
"""How many missed times are counted, for the note of the run that stands for them."""
_INSTANT = timedelta(microseconds=1)
Busy = tuple[datetime, datetime]


@dataclass(frozen=True, slots=True)
class Fire:
    """What is to be done now: for which time, and how many others it stands for."""

    nominal: datetime
    action: Literal["run", "skip"]
    covers: str = ""
    """What is not as usual with it, in words."""


def next_fire(schedule: Schedule, last: datetime, delay: timedelta) -> datetime:
    """When something is to be looked at next that was taken care of up to *last*, and starts *delay* late."""
    return schedule.next_after(last) + delay


def due_fire(
    schedule: Schedule,
    last: datetime,
    now: datetime,
    catchup: Catchup,
    overlap: Overlap = "coalesce",
    *,
    busy: Busy | None = None,
) -> Fire | None:
    """What is due at *now*, taken care of up to *last*; None if nothing is.

    *busy* is when runs were at work last, one behind the other; None if none was since the last look. What came due
    then was not missed.
    """
    first = schedule.next_after(last)
    if first > now:
        return None
    newest, (busy_since, _) = schedule.previous_at_or_before(now), busy or (now, now)
    if catchup == "none":
        missed = schedule.previous_at_or_before(busy_since - MISSED_AFTER - _INSTANT)
        if missed > last:
            return Fire(missed, "skip", f"{_counted(schedule, first, missed)} missed")
    if overlap == "skip" and busy is not None:
        before, during = map(schedule.previous_at_or_before, busy)
        if before <= last < during:
            return Fire(during, "skip", f"{_counted(schedule, first, during)} due while the run before was at work")
        newest = newest if during <= last else before
    if catchup == "each" or first == newest:
        return Fire(first, "run")
    return Fire(newest, "run", f"stands for {_counted(schedule, first, newest)}")


def _counted(schedule: Schedule, first: datetime, newest: datetime) -> str:
    count, at = 1, first
    while at < newest and count < MAX_COUNTED:
        at = schedule.next_after(at)
        count += 1
    if at < newest:
        return f"more than {MAX_COUNTED} times"
    return f"{count} time{'s' * (count > 1)}"
