"""Which offsets a run is to read: decided once, when it is due, and written down before the first record is read.

    until="fire"    the records appended before the run was due: the same ones however late it starts, and whoever asks
    until="start"   the records that are there now

The first is asked of each partition under its lock: later appends get the second in which the run was due, or a later
one, even if the clock is set back. An end is durable before the plan is, or a power cut could leave a plan over offsets
that other records get.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from framework.jobs.job import Job, Until
from framework.jobs.runs import DueState, History, RunRow, due_key, run_id
from framework.log import Partition, TopicInfo
from framework.state.store import Commit, Store

if TYPE_CHECKING:
    from framework.app import App

MAX_AHEAD_S = 60
"""How far the last append may be ahead of the clock, which then was wrong once, until runs end where they start."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A run that somebody wants: the schedule, or a person."""

    nominal: datetime
    trigger: str
    until: Until
    notes: tuple[str, ...] = ()


class Planner:
    """Plans the runs of one app's jobs; each call takes the time of a few syncs."""

    def __init__(self, app: App, store: Store) -> None:
        """*store* is that of the jobs."""
        self._app, self._store = app, store

    def plan(self, job: Job, wanted: Wanted, state: DueState) -> RunRow:
        """Write down which offsets the run is to read; *state* is committed with it."""
        info = self._app.topic_info(job.source)
        partitions = [self._app.log.partition(info, number) for number in range(info.partitions)]
        notes, until = list(wanted.notes), wanted.until
        ahead = self._ahead(partitions)
        if until == "fire" and ahead:
            until = "start"
            notes.append(f"until='start': the last append to {', '.join(ahead)} is ahead of the clock")
        plan: list[list[int]] = []
        for partition in partitions:
            before = self._position(job, info, partition)
            end = self._end(partition, wanted.nominal, until, before)
            start = min(self._start(job, partition, before, end, wanted.nominal), end)
            plan.append([partition.number, start, end, start])
        now = self._app.clock.now_ms() / 1000
        is_empty = job.policies.on_empty == "skip" and all(start == end for _, start, end, _ in plan)
        row = RunRow(
            History(self._store).free_id(job.name, run_id(job.name, wanted.nominal)),
            wanted.nominal.timestamp(),
            "empty" if is_empty else "planned",
            plan,
            topic_id=info.id,
            job=job.name,
            trigger=wanted.trigger,
            notes=notes,
            planned=now,
        )
        if is_empty:
            row.attempt, row.started, row.ended = 1, now, now
        # Its inputs are synced before it is written.
        self._store.commit(Commit([row.change(), (due_key("job", job.name), state.pack())], inputs=partitions))
        return row

    def _ahead(self, partitions: list[Partition]) -> list[str]:
        """The partitions whose last append lies in the future: the clock was wrong, and append times never go back."""
        latest = self._app.clock.now_ms() // 1000 + MAX_AHEAD_S
        return [partition.name for partition in partitions if partition.append_second > latest]

    def _position(self, job: Job, info: TopicInfo, partition: Partition) -> int:
        """Where the run before ended."""
        committed = self._store.offset(job.name, info, partition.number, gap_allowed=True)
        return partition.log_start if committed is None else committed

    def _end(self, partition: Partition, nominal: datetime, until: Until, before: int) -> int:
        if until == "start":
            return max(before, partition.high_watermark)
        return max(before, partition.end_before(math.floor(nominal.timestamp()), known=before))

    def _start(self, job: Job, partition: Partition, before: int, end: int, nominal: datetime) -> int:
        reads = job.policies.reads
        if reads == "new":
            return before
        if reads == "all":
            return partition.log_start
        assert isinstance(reads, timedelta)
        since = math.floor((nominal - reads).timestamp())
        if partition.append_second < since:
            return end
        return max(partition.log_start, partition.end_before(since))


def now_of(app: App) -> datetime:
    """What the clock of *app* shows."""
    return datetime.fromtimestamp(app.clock.now_ms() / 1000, UTC)
