"""What tests of jobs look at: the runs there were, in short; and a clock that can be set."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from framework.clock import ManualClock
from framework.jobs.job import Job
from framework.jobs.runner import JobRunner
from framework.jobs.runs import RunRow
from framework.testing import Harness

LIMIT_S = 30.0


class SetClock(ManualClock):
    """A clock whose wall time can be set, as people and time servers do; what sleeps by it does not notice."""

    def set(self, by: timedelta) -> None:
        """Show *by* more, or less, from now on."""
        self._start_ms += by // timedelta(milliseconds=1)


def runner(t: Harness) -> JobRunner:
    """What runs the jobs of the app under test."""
    assert t._worker.jobs is not None
    return t._worker.jobs


def history(t: Harness, job: Job) -> list[RunRow]:
    """The runs of *job*, oldest first."""
    return runner(t).history(job)


def short(rows: list[RunRow]) -> list[tuple[str, str, str]]:
    """Day and time each was due, its state, and the first of its notes."""
    return [(f"{due(row):%d %H:%M}", row.state, row.notes[0] if row.notes else "") for row in rows]


def due(row: RunRow) -> datetime:
    """When it was due."""
    return datetime.fromtimestamp(row.nominal, UTC)
