"""What people do with jobs: run, pause, resume, cancel, rewind, backfill. Here, and by the worker they are sent to.

Each command returns what it has done in a sentence, and the runs that it began; what it refuses it raises as an error
that says why and what to do instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from framework.errors import JobFailed
from framework.jobs.backfill import Backfill, Part, Survey, backfill_id, rows_of
from framework.jobs.job import Job
from framework.jobs.runs import RunRow, run_key
from framework.jobs.scratch import scratch_name
from framework.log.errors import Conflict, NotFound, UsageError
from framework.state import rows
from framework.state.errors import StateFailed
from framework.state.store import Commit

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
        await self._store_state(job)
        return Done(f"job {name!r} is paused; its records stay for when it is resumed")

    async def resume(self, name: str) -> Done:
        """Let the job be due again, for what was missed as its `catchup` says."""
        job = self.job(name)
        state = self._runner.states.of(job)
        if state.paused is None:
            return Done(f"job {name!r} is not paused")
        state.paused = None
        await self._store_state(job)
        return Done(f"job {name!r} is resumed")

    async def _store_state(self, job: Job) -> None:
        try:
            await self._commit([self._runner.states.change(job)])
        except StateFailed:
            self._runner.states.forget(job)
            raise
        self._runner.changed(job).set()

    async def cancel(self, name: str, run: str | None, *, by: str) -> Done:
        """Stop the runs of the job that are at work or waiting, or just *run*.

        What their chunks have committed stays; the rest is for the next run, and the job goes on by its schedule.
        """
        job = self.job(name)
        found = [row for row in self._unfinished(job) if run in (None, row.id)]
        if not found:
            raise NotFound(
                f"job {name!r} has no run {run!r} that is not finished" if run else f"job {name!r} is not running"
            )
        now, changes = self._runner.now().timestamp(), []
        for row in found:
            if row.id in self._runner.active:
                self._runner.cancel(row, f"by {by}")
            else:
                row.state, row.ended, row.error = "cancelled", now, f"by {by}"
                self._runner.waiting_rows.pop(row.id, None)
                changes.append(row.change())
        await self._commit(changes)
        return Done(f"cancelled {', '.join(row.id for row in found[:3])}{' and more' * (len(found) > 3)}")

    def _unfinished(self, job: Job) -> list[RunRow]:
        there = [*self._runner.active.values(), *self._runner.waiting_rows.values()]
        return [row for row in there if row.job == job.name]

    async def plan_run(self, name: str) -> RunRow:
        """A run over what is there now, planned and not begun.

        Raises:
            Conflict: One is at work, or was interrupted.
        """
        job = self.job(name)
        busy = [row.id for row in self._unfinished(job) if not row.is_detached]
        if busy:
            raise Conflict(f"run {busy[0]} of job {name!r} is not finished: wait for it, or cancel it")
        return await self._runner.plan_now(job, self._runner.now())

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
        """Have the job read on from *offsets* of its partitions, its tables as they are or *empty*.

        Raises:
            Conflict: A run of it is not finished.
        """
        job = self.job(name)
        busy = [row.id for row in self._unfinished(job) if not row.is_detached]
        if busy:
            raise Conflict(f"run {busy[0]} of job {name!r} is not finished: wait for it, or cancel it, then rewind")
        info = self._app.topic_info(job.source)
        async with self._runner.turn(job):
            if empty:
                for table in [table for table, owner in self._store.owners.items() if owner == name]:
                    await self._drop_table(table)
            changes: list[rows.Change] = []
            for number, offset in offsets.items():
                changes.append((rows.offset_key(name, info.id, number), rows.pack_u64(offset)))
                part = self._app.log.partition(info, number)
                if (hold := self._app.log.shared.hold(part.slot)) is not None and hold > offset:
                    part.set_hold(
                        offset
                    )  # Retention, in any process, may remove what was read; now it is wanted again.
            await self._commit(changes)
            self._runner.moved(job)
        return Done(f"job {name!r} reads on from {', '.join(f'{n}@{at}' for n, at in sorted(offsets.items()))}")

    async def _drop_table(self, table: str) -> None:
        prefix = rows.all_table_prefix(table)
        while True:
            keys = [key for key, _ in self._store.database.scan(prefix)][:MAX_AT_ONCE]
            if not keys:
                return
            await self._commit([(key, None) for key in keys])

    # Backfills.

    def survey(self, name: str, wanted: Backfill, survey: type[Survey] = Survey) -> list[Part]:
        """What a backfill would read; looks through the log, which takes a while."""
        job = self.job(name)
        info, parts = self._app.topic_info(job.source), wanted.parts(job.schedule.zone)
        survey(self._app.log, info, parts).run()
        return parts

    async def plan_backfill(self, name: str, wanted: Backfill) -> list[RunRow]:
        """Write down the runs of a backfill; they are begun by `finish_backfill`, and by the next worker if not.

        Raises:
            UsageError: It cannot be.
        """
        job = self.job(name)
        if wanted.max_active < 1:
            raise UsageError(f"--max-active is {wanted.max_active}, it must be 1 or more")
        if wanted.max_active > 1 and wanted.tables == "live":
            raise UsageError("runs that write the live tables follow each other: --max-active 1 with --tables live")
        parts = await asyncio.to_thread(self.survey, name, wanted)
        taken = {row.backfill for row in self._runner.history(job)}
        called = first = backfill_id(self._runner.now())
        again = 1
        while called in taken:
            again += 1
            called = f"{first}-{again}"
        planned = rows_of(job, self._app.topic_info(job.source), parts, wanted, called, self._runner.now())
        await self._commit([row.change() for row in planned])
        self._runner.waiting_rows |= {row.id: row for row in planned if row.unfinished}
        return planned

    async def finish_backfill(self, planned: Sequence[RunRow]) -> None:
        """Run what is left of *planned*, as many at once as it says; what fails is in its row, and others go on."""
        left = [row for row in planned if row.unfinished]
        if not left:
            return
        slots = asyncio.Semaphore(left[0].max_active)

        async def one(row: RunRow) -> None:
            async with slots:
                if row.id in self._runner.waiting_rows:  # And was not cancelled meanwhile.
                    with suppress(JobFailed):
                        await self.finish(row)

        try:
            async with asyncio.TaskGroup() as group:
                for row in left:
                    group.create_task(one(row))
        except* StateFailed as failures:
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
                self._runner.note_crash(row)
            await self.finish_backfill(its)

    async def drop_backfill(self, name: str, backfill: str) -> Done:
        """Remove the runs of a backfill that is finished, and its scratch tables.

        Raises:
            NotFound, Conflict: There is none, or it is at work.
        """
        job = self.job(name)
        its = [row for row in self._runner.history(job) if row.backfill == backfill]
        if not its:
            raise NotFound(f"job {name!r} has no backfill {backfill!r}")
        if any(row.id in self._runner.active or row.id in self._runner.waiting_rows for row in its):
            raise Conflict(f"backfill {backfill} of job {name!r} is not finished: wait for it, or cancel it")
        owner = scratch_name(name, backfill)
        tables = [table for table, writer in self._store.owners.items() if writer == owner]
        for table in tables:
            await self._drop_table(table)
            await self._commit([(rows.owner_key(table), None)])
            del self._store.owners[table]
        await self._commit([(run_key(name, row.id), None) for row in its])
        return Done(f"removed {len(its)} runs and {len(tables)} scratch tables of backfill {backfill}")

    async def _commit(self, changes: list[rows.Change]) -> None:
        if changes:
            await asyncio.to_thread(self._store.commit, Commit(changes))


def argument(arguments: Mapping[str, Any], name: str, kind: type) -> Any:
    """The argument *name* of a command, which is of that *kind*.

    Raises:
        UsageError: It is not.
    """
    value = arguments.get(name)
    if not isinstance(value, kind):
        raise UsageError(f"the command has {name}={value!r}, it must be a {kind.__name__}")
    return value
