"""What people do with jobs: run, pause, resume, cancel, rewind, backfill. Here, and by the worker they are sent to.

Each command returns what it has done in a sentence, and the runs that it planned; what it refuses it raises as an
error that says why and what to do instead. A command that the disk refuses has changed nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from framework.jobs.backfill import Backfill, Seen, Survey, backfill_id, rows_of, total
from framework.jobs.job import Job
from framework.jobs.runs import RunRow, run_key
from framework.jobs.scratch import scratch_name, scratch_topics
from framework.log.errors import Conflict, NotFound, UsageError
from framework.state import rows
from framework.state.errors import StateBehind, StateFailed

if TYPE_CHECKING:
    from framework.jobs.runner import JobRunner

MAX_AT_ONCE = 10_000
"""How many rows of a table are removed in one commit."""


@dataclass(frozen=True, slots=True)
class Done:
    """What a command has done."""

    text: str
    runs: list[str] = field(default_factory=list)


class Commands:
    """The commands of one runner."""

    def __init__(self, runner: JobRunner) -> None:
        """They are done in the event loop in which the runner runs."""
        self._runner, self._app, self._store = runner, runner.app, runner.store
        self._naming = asyncio.Lock()

    def job(self, name: str) -> Job:
        """The job *name*.

        Raises:
            NotFound: The app declares none of that name.
        """
        job = self._app.jobs.get(name)
        if job is None:
            there = ", ".join(sorted(self._app.jobs)) or "none"
            raise NotFound(f"app {self._app.name!r} declares no job {name!r}; it declares {there}")
        self._runner.meet(job)
        return job

    async def pause(self, name: str, *, by: str, why: str) -> Done:
        """Let the job not be due until it is resumed; a run that is at work goes on."""
        job = self.job(name)
        paused = self._runner.states.of(job).paused
        if paused:
            return Done(f"job {name!r} has been paused since {paused['at']}, by {paused['by']}")
        self._runner.states.pause(job, by=by, why=why)
        await self._store_state(job, before=None)
        return Done(f"job {name!r} is paused; its records stay for when it is resumed")

    async def resume(self, name: str) -> Done:
        """Let the job be due again, for what was missed as its `catchup` says."""
        job = self.job(name)
        state = self._runner.states.of(job)
        if state.paused is None:
            return Done(f"job {name!r} is not paused")
        before, state.paused = state.paused, None
        await self._store_state(job, before=before)
        return Done(f"job {name!r} is resumed")

    async def _store_state(self, job: Job, *, before: dict[str, str] | None) -> None:
        try:
            await self._runner.commit([self._runner.states.change(job)])
        except StateFailed:
            self._runner.states.of(job).paused = before
            raise
        finally:  # Also if it failed: the job may have looked meanwhile.
            self._runner.changed(job).set()

    async def cancel(self, name: str, run: str | None, *, by: str) -> Done:
        """Stop the runs of the job that are at work or waiting, or just *run*.

        What their chunks have committed stays; the rest is for the next run, and the job goes on by its schedule.

        Raises:
            NotFound: Nothing is at work, or waits.
        """
        job = self.job(name)
        found = [row for row in self._unfinished(job) if run in (None, row.id)]
        if not found:
            raise NotFound(
                f"job {name!r} has no run {run!r} that is not finished" if run else f"job {name!r} is not running"
            )
        at_work = [row for row in found if row.id in self._runner.active]
        for row in at_work:
            self._runner.cancel(row, f"by {by}")
        await self._forget(job, [row for row in found if row not in at_work], by)
        said = [
            (at_work, "told to stop at the next record"),
            ([row for row in found if row not in at_work], "cancelled"),
        ]
        return Done("; ".join(f"{how}: {_named(runs)}" for runs, how in said if runs))

    async def _forget(self, job: Job, waiting: list[RunRow], by: str) -> None:
        """Let runs be cancelled that are not at work: first here, so that nobody begins them meanwhile."""
        before = [(row, row.state, row.error) for row in waiting]
        for row in waiting:
            row.state, row.ended, row.error = "cancelled", self._runner.now().timestamp(), f"by {by}"
            del self._runner.waiting_rows[row.id]
        try:
            await self._runner.commit([row.change() for row in waiting])
        except StateFailed:
            for row, state, error in before:
                row.state, row.ended, row.error = state, 0.0, error
                self._runner.waiting_rows[row.id] = row
            self._runner.changed(job).set()  # Both may have looked meanwhile, and found nothing to begin.
            self._runner.backfills_wanted(job).set()
            raise

    def _unfinished(self, job: Job) -> list[RunRow]:
        there = [*self._runner.active.values(), *self._runner.waiting_rows.values()]
        return [row for row in there if row.job == job.name]

    def _check_free(self, job: Job, what: str) -> None:
        """Refuse to plan a run of *job*, or to move it, while another run counts on where it is."""
        busy = [row.id for row in self._unfinished(job) if not row.is_detached]
        if busy:
            raise Conflict(f"run {busy[0]} of job {job.name!r} is not finished: wait for it, or cancel it, then {what}")
        if self._runner.turn(job).locked():
            raise Conflict(
                f"a run of job {job.name!r} is just being planned, or a backfill writes its tables: wait for it, then "
                f"{what}"
            )

    async def plan_run(self, name: str) -> RunRow:
        """A run over what is there now, planned and not begun.

        Raises:
            Conflict: One is at work, or was interrupted.
        """
        job = self.job(name)
        self._check_free(job, "run it again")
        async with self._runner.turn(job):
            row = await self._runner.plan_now(job, self._runner.now())
        self._runner.changed(job).set()
        return row

    async def finish(self, row: RunRow) -> None:
        """Do what is left of *row*; when it fails, that is in the row."""
        job = self.job(row.job)
        if row.scratch:
            await self._runner.finish(job, row)
            return
        async with self._runner.turn(job):
            if row.unfinished:  # And was not cancelled meanwhile.
                await self._runner.finish(job, row)

    # Going back.

    async def rewind(self, name: str, offsets: Mapping[int, int], *, empty: bool) -> Done:
        """Have the job read on from *offsets* of its partitions, its tables as they are or *empty*; in one commit.

        Raises:
            Conflict: A run of it is not finished.
            UsageError: There are no such partitions or offsets.
        """
        job = self.job(name)
        info = self._app.topic_info(job.source)
        places = [(self._app.log.partition(info, number), offset) for number, offset in offsets.items()]
        for part, offset in places:
            if not part.log_start <= offset <= part.high_watermark:
                raise UsageError(
                    f"{part.name} has offsets {part.log_start} to {part.high_watermark}: job {name!r} cannot read on "
                    f"from {offset}"
                )
        self._check_free(job, "rewind it")
        async with self._runner.turn(job):
            changes: list[rows.Change] = []
            if empty:
                tables = [table for table, owner in self._store.owners.items() if owner == name]
                changes += await asyncio.to_thread(lambda: [(key, None) for key in self._table_keys(tables)])
            for part, offset in places:
                changes.append((rows.offset_key(name, info.id, part.number), rows.pack_u64(offset)))
                if (hold := self._app.log.shared.hold(part.slot)) is not None and hold > offset:
                    part.set_hold(offset)  # Retention, in any process, keeps from now on what is wanted again.
            await self._runner.commit(changes)
            self._runner.moved(job)
        return Done(f"job {name!r} reads on from {', '.join(f'{n}@{at}' for n, at in sorted(offsets.items()))}")

    def _table_keys(self, tables: Sequence[str]) -> Iterator[bytes]:
        for table in tables:
            for key, _ in self._store.database.scan(rows.all_table_prefix(table)):
                yield key

    # Backfills.

    async def plan_backfill(
        self, name: str, wanted: Backfill, seen: Seen = lambda _: None
    ) -> tuple[Done, list[RunRow]]:
        """Look through the log, and write down the runs of a backfill, which are not begun.

        *seen* is called in another thread.

        Raises:
            UsageError: It cannot be.
        """
        job = self.job(name)
        wanted.check()
        info, parts = self._app.topic_info(job.source), wanted.parts(job.schedule.zone)
        await _look(Survey(self._app.log, info, parts, seen))
        async with self._naming:
            planned = rows_of(job, info, parts, wanted, self._free_id(), self._runner.now())
            await self._runner.commit([row.change() for row in planned])
        self._runner.waiting_rows |= {row.id: row for row in planned if row.unfinished}
        self._runner.backfills_wanted(job).set()
        text = f"backfill {planned[0].backfill} is begun: {total(parts)}"
        return Done(text, [row.id for row in planned]), planned

    def _free_id(self) -> str:
        """What a backfill that begins now is called: of all jobs, because they may send to the same topics."""
        taken = {row.backfill for job in self._app.jobs.values() for row in self._runner.history(job)}
        called = first = backfill_id(self._runner.now())
        again = 1
        while called in taken:
            again += 1
            called = f"{first}-{again}"
        return called

    async def finish_backfill(self, planned: Sequence[RunRow]) -> None:
        """Run what is left of *planned*, as many at once as it says; what fails is in its row, and others go on.

        Raises:
            StateFailed, StateBehind: The disk takes no commits.
        """
        left = [row for row in planned if row.unfinished]
        if not left:
            return
        slots = asyncio.Semaphore(left[0].max_active)

        async def one(row: RunRow) -> None:
            async with slots:
                if row.id in self._runner.waiting_rows:  # And was not cancelled meanwhile.
                    await self.finish(row)

        try:
            async with asyncio.TaskGroup() as group:
                for row in left:
                    group.create_task(one(row))
        except* (StateFailed, StateBehind) as failures:
            raise failures.exceptions[0] from None

    async def finish_backfills(self, job: Job) -> None:
        """Run what is planned of the backfills of *job*, and what a worker before has not finished."""
        while True:
            left = [row for row in self._runner.waiting_rows.values() if row.job == job.name and row.is_detached]
            if not left:
                return
            first = min(row.backfill for row in left)
            its = sorted((row for row in left if row.backfill == first), key=lambda row: row.id)
            for row in its:
                await self._runner.give_up_if_deadly(job, row)
            await self.finish_backfill(its)

    async def drop_backfill(self, name: str, backfill: str) -> Done:
        """Remove the runs of a backfill that is finished, and its scratch tables. Interrupted, it can be done again.

        Raises:
            NotFound, Conflict: There is none, or it is at work.
        """
        job = self.job(name)
        its = [row for row in self._runner.history(job) if backfill and row.backfill == backfill]
        if not its:
            raise NotFound(f"job {name!r} has no backfill {backfill!r}")
        if any(row.unfinished for row in its):
            raise Conflict(f"backfill {backfill} of job {name!r} is not finished: wait for it, or cancel it")
        owner = scratch_name(name, backfill)
        tables = [table for table, writer in self._store.owners.items() if writer == owner]
        while keys := list(islice(self._table_keys(tables), MAX_AT_ONCE)):
            await self._runner.commit([(key, None) for key in keys])
        # The runs go last: as long as one is there, it can be done again.
        left = [key for prefix in rows.task_rows(owner) for key, _ in self._store.database.scan(prefix)]
        left += [rows.sender_key(owner), *map(rows.owner_key, tables), *(run_key(name, row.id) for row in its)]
        await self._runner.commit([(key, None) for key in left])
        self._store.senders.discard(owner)
        for table in tables:
            del self._store.owners[table]
        return Done(f"removed {dropped_text(its, tables)}{topics_text(self._app.log.topics(), backfill)}")


async def _look(survey: Survey) -> None:
    """Run *survey* in a thread, which ends soon if nobody waits for it any more."""
    try:
        await asyncio.to_thread(survey.run)
    finally:
        survey.stop()


def _named(runs: Sequence[RunRow]) -> str:
    return f"{', '.join(row.id for row in runs[:3])}{' and more' * (len(runs) > 3)}"


def dropped_text(runs: Sequence[RunRow], tables: Sequence[str]) -> str:
    """What is removed with a backfill, in words."""
    named = f" ({', '.join(sorted(tables))})" if tables else ""
    return (
        f"{len(runs)} run{'s' * (len(runs) != 1)} and {len(tables)} scratch table{'s' * (len(tables) != 1)}{named} of "
        f"backfill {runs[0].backfill}"
    )


def topics_text(topics: Mapping[str, object], backfill: str) -> str:
    """Which topics stay that a backfill has sent to, in words."""
    found = scratch_topics(topics, backfill)
    return f"; remove topic {', '.join(found)} with `framework topics delete`" if found else ""
