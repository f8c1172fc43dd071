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
    busy_since: datetime | None = None,
) -> Fire | None:
    """What is due at *now*, taken care of up to *last*; None if nothing is.

    *busy_since* is when the runs began that have been at work until now, one behind the other; None if none was. What
    came due from then on was not missed.
    """
    first = schedule.next_after(last)
    if first > now:
        return None
    newest, idle_until = schedule.previous_at_or_before(now), now if busy_since is None else busy_since
    if catchup == "none":
        missed = schedule.previous_at_or_before(idle_until - MISSED_AFTER - _INSTANT)
        if missed > last:
            return Fire(missed, "skip", f"{_counted(schedule, first, missed)} missed")
    if overlap == "skip" and newest > idle_until:
        before = schedule.previous_at_or_before(idle_until)
        if before <= last:
            return Fire(newest, "skip", f"{_counted(schedule, first, newest)} due while the run before was at work")
        newest = before
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
