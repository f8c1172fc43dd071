"""Running jobs: plan, resume, commit chunk by chunk. All jobs of a data directory live in one store."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from framework.app import App
from framework.batch import Batch
from framework.clock import sleep, timer_of
from framework.dead_letter import bury, describe
from framework.effects import Effects, current
from framework.errors import DecodeError, JobFailed, StaleTask
from framework.full_disk import Outage
from framework.job import Job, RunRow, run_id
from framework.log import Cursor, Partition, Range, StoredRecord
from framework.reading import Reading
from framework.state import rows
from framework.state.errors import StateBehind, StateFailed
from framework.state.store import Commit, Store

IDLE_POLL_S = 30.0
logger = logging.getLogger("framework.job")


class JobRunner:
    """Runs the jobs of one app; the process owns the jobs' store."""

    def __init__(self, app: App, store: Store) -> None:
        """*store* is `Shards.of_jobs()`."""
        self._app, self._store = app, store
        self.running: set[str] = set()
        self._next_fires: dict[str, datetime] = {}
        self._turns: dict[str, asyncio.Lock] = {}

    # Asking.

    def history(self, job: Job) -> list[RunRow]:
        """The runs of *job*, oldest first."""
        found = [RunRow.load(value) for _, value in self._store.database.scan(rows.run_prefix(job.name))]
        return sorted(found, key=lambda row: (row.nominal, row.started))

    def positions(self) -> Iterator[tuple[Partition, int]]:
        """Up to where each job has read each partition of its topic."""
        for job in self._app.jobs.values():
            info = self._app.topic_info(job.source)
            for number in range(info.partitions):
                partition = self._app.log.partition(info, number)
                committed = self._store.offset(job.name, info, number)
                yield partition, partition.log_start if committed is None else committed

    def unfinished(self) -> list[str]:
        """The jobs that are running or due."""
        now = self._now()
        due = [name for name in self._app.jobs if self._next_fires.get(name, now) <= now]
        return [*self.running, *due]

    # Scheduling.

    async def serve(self, job: Job) -> None:
        """Finish what was interrupted, then run *job* whenever it is due; until cancelled.

        Raises:
            StateFailed: The disk fails.
        """
        outage: Outage | None = None
        while True:
            try:
                for row in self.history(job):
                    if row.state == "running" and row.id not in self.running:
                        await self.execute(job, row)
                due = self._due(job)
                if due is not None:
                    await self.run(job, due, trigger="schedule")
                    continue
                if outage is not None:
                    outage.over()
                    outage = None
                self._next_fires[job.name] = job.schedule.next_after(self._last_fire(job))
                await self._sleep_until(self._next_fires[job.name])
            except JobFailed as error:
                logger.error("%s", error)
            except StateFailed as error:
                # The run goes on behind its last chunk, when the disk takes commits again.
                outage = outage or Outage(self._store, asyncio.Event())
                await outage.wait(error)
                await asyncio.to_thread(self._reopen)

    def _reopen(self) -> None:
        with self._store.lock, suppress(StateFailed):  # It fails the next commit, then.
            if self._store.failure is not None:  # Or another job has done it.
                self._store.reopen()

    async def _sleep_until(self, when: datetime) -> None:
        # In short hops by the wall clock, because the machine may sleep or the clock be set.
        seconds = when.timestamp() - self._app.clock.now_ms() / 1000
        await sleep(timer_of(self._app.clock), min(max(seconds, 0.0), IDLE_POLL_S))

    def _due(self, job: Job) -> datetime | None:
        """The newest fire that has come and was not run; older ones are covered by it."""
        newest = job.schedule.previous_at_or_before(self._now())
        return newest if newest > self._last_fire(job) else None

    def _last_fire(self, job: Job) -> datetime:
        """The newest fire that was planned, or else when the job was first seen."""
        key = rows.meta_key(f"job {job.name}")
        stored = self._store.database.get(key)
        if stored is None:
            stored = rows.pack_u64(int(self._now().timestamp()))
            self._store.commit(Commit([(key, stored)]))
        return datetime.fromtimestamp(rows.unpack_u64(stored), UTC)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._app.clock.now_ms() / 1000, UTC)

    # Running.

    async def run(self, job: Job, nominal: datetime, *, trigger: str) -> RunRow:
        """Plan a run over everything since the last one, and execute it.

        Raises:
            JobFailed: The handler raised; what its chunks committed stays, the rest is for the next run.
        """
        # One after the other, for the next one's plan begins where this one's ends.
        async with self._turns.setdefault(job.name, asyncio.Lock()):
            row = self.plan(job, nominal, trigger=trigger)
            if row.state != "empty":
                await self.execute(job, row)
            return row

    def plan(self, job: Job, nominal: datetime, *, trigger: str) -> RunRow:
        """Write down which offsets the run is to read."""
        info = self._app.topic_info(job.source)
        plan: list[list[int]] = []
        for number in range(info.partitions):
            partition = self._app.log.partition(info, number)
            start = self._store.offset(job.name, info, number)
            start = partition.log_start if start is None else start
            plan.append([number, start, max(start, partition.high_watermark), start])
        taken = {row.id for row in self.history(job)}
        name, again = run_id(job.name, nominal), 1
        while name in taken:
            again += 1
            name = f"{run_id(job.name, nominal)}-{again}"
        now = self._now().timestamp()
        state = "running" if any(start < end for _, start, end, _ in plan) else "empty"
        row = RunRow(
            name,
            nominal.timestamp(),
            state,
            plan,
            started=now,
            topic_id=info.id,
            job=job.name,
            trigger=trigger,
        )
        if state == "empty":
            row.attempt, row.ended = 1, now  # Which had nothing to do.
        changes = [row.change()]
        if trigger == "schedule":
            changes.append((rows.meta_key(f"job {job.name}"), rows.pack_u64(int(nominal.timestamp()))))
        inputs = [self._app.log.partition(info, number) for number in range(info.partitions)]
        self._store.commit(Commit(changes, inputs=inputs))
        return row

    async def execute(self, job: Job, row: RunRow) -> None:
        """Run the handler over what is left of the plan of *row*.

        Raises:
            JobFailed: It raised.
        """
        row.attempt += 1
        execution = Execution(self._app, self._store, job, row)
        self._store.commit(Commit([row.change()]))
        self.running.add(row.id)
        logger.info("%s: attempt %d over %d records' offsets", row.id, row.attempt, sum(p[2] - p[3] for p in row.plan))
        try:
            if inspect.iscoroutinefunction(job.function):
                await execution.call_async()
            else:
                await asyncio.to_thread(execution.call)
        except (StateFailed, StateBehind):
            raise  # Not the handler's fault; the next worker resumes the run.
        except Exception as error:  # the one place where a job's errors are supervised
            row.state, row.error, row.ended = "failed", describe(error), self._now().timestamp()
            self._store.commit(Commit([row.change()]))
            logger.error("%s failed", row.id, exc_info=error)
            raise JobFailed(f"run {row.id} failed: {describe(error)}") from error
        finally:
            # When it was cancelled, the row stays "running", and the next worker resumes it.
            execution.close()
            self.running.discard(row.id)
        logger.info("%s: done, %d records", row.id, row.records)


class Execution:
    """One attempt at one run."""

    def __init__(self, app: App, store: Store, job: Job, row: RunRow) -> None:
        """Nothing has been read yet."""
        info = app.topic_info(job.source)
        self._app, self._store, self._job, self._row, self._info = app, store, job, row, info
        self._effects = Effects(job.name, store, 0, 0)
        self._effects.now_ms = self._effects.time.latest_ms = app.clock.now_ms
        self._effects.time.kept = job.source.keeps_time
        self._dead_letters = app.dead_letters(job.name, job.source)
        ranges = [Range(app.log.partition(info, number), at, end) for number, _, end, at in row.plan]
        reading = _RunReading(self)
        self._cursor = reading.cursor(app.log.reader, ranges)
        self._batch: Batch[Any, Any] = Batch(
            self._cursor, job.source, run=row.run, reading=reading, number=row.chunk, resumed=row.attempt > 1
        )
        self._buried: set[tuple[int, int]] = set()

    def call(self) -> None:
        """Call a plain handler; in a thread of its own."""
        current.set(self._effects)
        self._job.function(self._batch)
        self._finish()

    async def call_async(self) -> None:
        """Call a handler that is a coroutine."""
        token = current.set(self._effects)
        try:
            await self._job.function(self._batch)
        finally:
            current.reset(token)
        self._finish()

    def close(self) -> None:
        """Refuse what code of the handler that is still running may want to do."""
        self._effects.close()

    def commit_chunk(self, cursor: Cursor, records: int) -> None:
        """Commit what was read up to *cursor*."""
        self._row.chunk += 1
        self._row.records += records
        self._commit(cursor)

    def _finish(self) -> None:
        """The handler has returned: the run is done, unless chunks were left."""
        if self._batch.begun and any(part.start < part.end for part in self._cursor.ranges):
            raise JobFailed(f"the handler of {self._job.name!r} returned before its last chunk")
        if self._batch.begun:
            self._row.chunk += bool(self._batch.open_records)
            self._row.records += self._batch.open_records  # Of its last chunk, in which it returned.
        else:
            self._row.records = self._cursor.copy().count()
        for part in self._cursor.ranges:
            part.start = part.end
        self._row.state, self._row.ended = "succeeded", self._app.clock.now_ms() / 1000
        self._commit(self._cursor)

    def _commit(self, cursor: Cursor) -> None:
        if self._effects.views.closed:
            raise StaleTask(f"run {self._row.id} was stopped; what it had not committed runs again")
        # Held over both, because the outbox takes its sequence numbers when it is encoded.
        with self._store.lock:
            self._commit_locked(cursor)

    def _commit_locked(self, cursor: Cursor) -> None:
        commit = Commit()
        self._effects.take(commit)
        for entry, part in zip(self._row.plan, cursor.ranges, strict=True):
            entry[3] = part.start
            key = rows.offset_key(self._job.name, self._info.id, entry[0])
            commit.changes.append((key, rows.pack_u64(part.start)))
        commit.changes.append(self._row.change())
        self._store.commit(commit)
        self._effects.settled()
        self._buried.clear()

    def bury(self, partition: Partition, record: StoredRecord, error: DecodeError) -> None:
        """Send what cannot be decoded to the dead-letter topic, once."""
        # A handler may read a chunk, or all of the batch, as often as it likes.
        if (partition.number, record.offset) not in self._buried:
            self._buried.add((partition.number, record.offset))
            bury(self._effects, self._dead_letters, partition, record, error)


class _RunReading(Reading):
    """What a run has to say to the reading of its batch."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    def bad(self, partition: Partition, record: StoredRecord, error: DecodeError) -> None:
        self._execution.bury(partition, record, error)

    def commit(self, cursor: Cursor, records: int) -> None:
        self._execution.commit_chunk(cursor, records)
