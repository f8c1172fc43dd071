"""Running jobs: when they are due, one run after the other, attempt after attempt. The process owns the jobs' store."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime

from framework.app import App
from framework.clock import Waker, after, timer_of
from framework.dead_letter import TRACEBACK_BYTES, describe
from framework.errors import JobFailed, RaisedElsewhere, RunStopped, TimedOut
from framework.jobs.alarm import Alarm
from framework.jobs.attempt import Attempt
from framework.jobs.due import DueStates, Scheduled
from framework.jobs.fires import next_fire
from framework.jobs.job import Job
from framework.jobs.pace import Pace
from framework.jobs.planning import Planner, Wanted, now_of
from framework.jobs.positions import Positions
from framework.jobs.process import ProcessAttempt
from framework.jobs.runs import FAILURES, History, RunRow
from framework.jobs.timer import Timers
from framework.log import Partition
from framework.log.errors import OffsetOutOfRange
from framework.retry import Retry
from framework.state import rows
from framework.state.errors import OutboxTooLarge, StateBehind, StateFailed
from framework.state.store import Commit, Store

MAX_CRASHES = 5
"""How many workers in a row a run may take with it, without a chunk in between, before it is abandoned."""
FINAL = (JobFailed, OffsetOutOfRange, OutboxTooLarge)
"""What another attempt would not change."""
logger = logging.getLogger("framework.job")


class JobRunner:
    """The jobs of one app in one process."""

    def __init__(self, app: App, store: Store, *, agents_busy: Callable[[], bool] = lambda: False) -> None:
        """*store* is `Shards.of_jobs()`; *agents_busy* says whether agents beside have work."""
        self.app, self.store = app, store
        self.stored, self.states = History(store), DueStates(app, store)
        self.alarm, self._planner = Alarm(app.clock), Planner(app, store)
        self.timers = Timers(app, store, self.states, self.alarm)
        self.active: dict[str, RunRow] = {}
        """The runs that are at work, or wait for their next attempt."""
        self.waiting_rows: dict[str, RunRow] = {}
        """The runs that are planned, or were interrupted, and are not at work."""
        self._agents_busy = agents_busy
        self._attempts: dict[str, Attempt] = {}
        self._pauses: dict[str, Waker] = {}
        self._cancelled: dict[str, str] = {}
        """Why runs are cancelled that are at work."""
        self._turns: dict[str, asyncio.Lock] = {}
        self._changed: dict[str, asyncio.Event] = {}
        self._backfills: dict[str, asyncio.Event] = {}
        self._positions = Positions(app, store)
        self._killed = False
        self.rung = asyncio.Event()
        """Set when something was appended to the log."""
        self._met: set[str] = set()
        self._planning: set[str] = set()
        self.held_up: set[str] = set()
        """The jobs and timers that wait for the disk to take commits again."""

    def settle(self) -> None:
        """Know what all jobs and timers have come to, before any of them is served."""
        self.states.settle([*self.app.jobs.values(), *self.app.timers.values()])
        for job in self.app.jobs.values():
            self.meet(job)

    def meet(self, job: Job, *, again: bool = False) -> None:
        """Know which runs of *job* are not finished, as it is stored."""
        if again or job.name not in self._met:
            self._met.add(job.name)
            left = [row for row in self.stored.of(job.name) if row.unfinished and row.id not in self.active]
            if again:  # The disk has ended its attempt, and the worker lives: that is no crash.
                for row in left:
                    row.state = "waiting" if row.state == "running" else row.state
            # What is known already may have been finished by the commit that failed.
            for name in [row.id for row in self.waiting_rows.values() if row.job == job.name]:
                del self.waiting_rows[name]
            # Not what is at work: another loop of the job may be, while this one comes back from an outage.
            self.waiting_rows |= {row.id: row for row in left}

    # Asking.

    def history(self, job: Job) -> list[RunRow]:
        """The runs of *job*, oldest first."""
        return self.stored.of(job.name)

    @property
    def running(self) -> set[str]:
        """The ids of the runs that are at work."""
        return set(self.active)

    @property
    def idle(self) -> bool:
        """Whether no run is at work, planned, or interrupted; one may be due."""
        return not (self.active or self.waiting_rows or self._planning or self.held_up)

    def positions(self) -> Iterator[tuple[Partition, int]]:
        """Up to where the jobs have read each partition of their topics, and what unfinished runs still need."""
        yield from self._positions.of_jobs()
        for row in [*self.active.values(), *self.waiting_rows.values()]:
            yield from self._positions.of_run(row)

    def unfinished(self) -> list[str]:
        """The jobs and timers that are running or due."""
        now = self.now()
        due = [job.name for job in self.app.jobs.values() if self.states.of(job).paused is None]
        due = [name for name in due if self.next_look(self.app.jobs[name]) <= now]
        rows_left = [*self.active.values(), *self.waiting_rows.values()]
        jobs = sorted({*self._planning, *self.held_up, *(row.job for row in rows_left), *due})
        return [*(f"job {name}" for name in jobs), *(f"timer {name}" for name in self.timers.unfinished())]

    @property
    def pause_until(self) -> float | None:
        """When the next attempt of a run is, if all that are at work wait for one."""
        ends = [waker.until for waker in self._pauses.values() if waker.until is not None]
        return min(ends) if ends and len(ends) == len(self.active) else None

    def now(self) -> datetime:
        """What the clock shows."""
        return now_of(self.app)

    def next_look(self, job: Job) -> datetime:
        """When it is time to see whether *job* is due."""
        return next_fire(job.schedule, self.states.of(job).last, job.delay)

    # What happens to it.

    async def reopen(self, thing: Scheduled | None) -> None:
        """Open the store anew after a failure, and know what of *thing* it holds.

        Raises:
            StateFailed: The disk still takes no commits; or not what the last one sends, which is written.
        """
        await asyncio.to_thread(self._reopen)
        if thing is not None:
            self.states.forget(thing)
        if isinstance(thing, Job):
            self.meet(thing, again=True)

    def _reopen(self) -> None:
        with self.store.lock:
            if self.store.failure is not None:  # Or another job has done it.
                self.store.reopen()

    def kill(self) -> None:
        """As if the process had been killed at this moment: nothing more is committed."""
        self._killed = True
        for attempt in self._attempts.values():
            attempt.revoke()
        self.timers.revoke()

    def changed(self, job: Job) -> asyncio.Event:
        """What is set when there is something new about *job*: it is due, paused, resumed, or a run of it is wanted."""
        return self._changed.setdefault(job.name, asyncio.Event())

    def backfills_wanted(self, job: Job) -> asyncio.Event:
        """What is set when a backfill of *job* is planned."""
        return self._backfills.setdefault(job.name, asyncio.Event())

    # Running.

    def turn(self, job: Job) -> asyncio.Lock:
        """Held while a run of *job* is planned and run: the next one begins where that ended."""
        return self._turns.setdefault(job.name, asyncio.Lock())

    async def run(self, job: Job, nominal: datetime, *, trigger: str = "manual") -> RunRow:
        """Run *job* now, over everything since its last run.

        Raises:
            JobFailed: The handler raised; what its chunks committed stays, the rest is for the next run.
        """
        async with self.turn(job):
            row = await self.plan_now(job, nominal, trigger)
            if row.unfinished:
                await self.finish(job, row)
        check_succeeded(row)
        return row

    async def plan_now(self, job: Job, nominal: datetime, trigger: str = "manual") -> RunRow:
        """A run over everything that is there now."""
        return await self.plan(job, Wanted(nominal, trigger, "start"))

    async def plan(self, job: Job, wanted: Wanted) -> RunRow:
        """Write down a run, which waits for its turn then."""
        with self.planning(job):
            row = await asyncio.to_thread(self._planner.plan, job, wanted, self.states.of(job))
            if row.unfinished:
                self.waiting_rows[row.id] = row
            else:
                await self.commit(self.stored.trimmed(job.name, job.policies.history, self.now()))
        return row

    @contextmanager
    def planning(self, job: Job) -> Iterator[None]:
        """In the body something is written down of *job*, which until then is not idle."""
        self._planning.add(job.name)
        try:
            yield
        finally:
            self._planning.discard(job.name)

    async def resume(self, job: Job) -> list[RunRow]:
        """Finish the runs of *job* that were interrupted; those of backfills are not among them."""
        self.meet(job)
        rows_left = [row for row in self.waiting_rows.values() if row.job == job.name and not row.is_detached]
        for row in sorted(rows_left, key=lambda row: row.planned):
            if await self.give_up_if_deadly(job, row):
                continue
            logger.info("%s is resumed behind chunk %d", row.id, row.chunk)
            async with self.turn(job):
                await self.finish(job, row)
        return rows_left

    async def give_up_if_deadly(self, job: Job, row: RunRow) -> bool:
        """Whether too many workers in a row have died of *row*, of which the last one said nothing at its end."""
        if row.chunk != row.begun_chunk:
            row.crashes = 0
        elif row.state == "running":
            row.crashes += 1
        if row.crashes <= MAX_CRASHES:
            return False
        await self._give_up(job, row, "abandoned", f"it has ended {row.crashes} workers in a row")
        return True

    async def finish(self, job: Job, row: RunRow) -> None:
        """Attempt *row* until it has succeeded or is given up."""
        self.waiting_rows.pop(row.id, None)
        self.active[row.id] = row
        try:
            while row.unfinished:
                if row.id in self._cancelled:
                    await self._give_up(job, row, "cancelled", self._cancelled[row.id])
                else:
                    await self._attempt(job, row)
        finally:
            del self.active[row.id]
            self._cancelled.pop(row.id, None)
            self._positions.moved(job)
            if row.unfinished:  # Its worker is stopped, or the disk takes no commits.
                self.waiting_rows[row.id] = row
        logger.info("%s: %s, %d records", row.id, row.state, row.records)

    async def _attempt(self, job: Job, row: RunRow) -> None:
        row.attempt, row.begun_chunk, row.state = row.attempt + 1, row.chunk, "running"
        row.started = row.started or self.now().timestamp()
        await self.commit([row.change()])
        logger.info("%s: attempt %d, %d of %d offsets to read", row.id, row.attempt, row.size - row.done, row.size)
        try:
            await self._call(job, row)
        except (StateFailed, StateBehind):
            raise  # Not the handler's fault; the run goes on when the disk does, or with the next worker.
        except Exception as error:  # the one place where a job's errors are supervised
            if row.unfinished:
                await self._failed(job, row, error)
                return
            logger.warning("%s has succeeded, and then: %s", row.id, describe(error), exc_info=error)
        if not row.unfinished:
            await self.commit(self._trimmed(job, row))

    async def _call(self, job: Job, row: RunRow) -> None:
        if row.id in self._cancelled:  # While it was written down that it is begun.
            raise RunStopped(f"run {row.id} is cancelled: {self._cancelled[row.id]}")
        if job.policies.executor == "process":
            attempt: Attempt = ProcessAttempt(self.app, self.store, job, row)
        else:
            attempt = Attempt(self.app, self.store, job, row, pace=Pace(self._agents_busy))
        self._attempts[row.id] = attempt
        limit, timer = job.policies.timeout, timer_of(self.app.clock)
        error = TimedOut(f"run {row.id}: attempt {row.attempt} has taken longer than {limit}")
        call = limit and timer.call_at(after(timer.time(), limit.total_seconds()), lambda: attempt.stop(error))
        try:
            try:
                await attempt.run()
            finally:
                if call:
                    call.cancel()
                del self._attempts[row.id]
                await asyncio.to_thread(attempt.revoke)
        except asyncio.CancelledError:
            attempt.revoke()  # From here on the row is as it is stored, unless a commit has failed.
            if row.unfinished and attempt.failure is None and not self._killed:
                row.state = "waiting"
                with suppress(StateFailed):
                    self.store.commit(Commit([row.change()]))
            raise
        except Exception:
            if isinstance(attempt.failure, StateFailed | StateBehind):
                raise attempt.failure from None  # Whatever the handler has made of it.
            raise

    async def _failed(self, job: Job, row: RunRow, error: Exception) -> None:
        row.error = str(error) if isinstance(error, RaisedElsewhere) else describe(error)
        if isinstance(error, RunStopped) and not isinstance(error, TimedOut):
            await self._give_up(job, row, "cancelled", self._cancelled.get(row.id, row.error))
            return
        row.failures += 1
        trace = error.trace if isinstance(error, RaisedElsewhere) else "".join(traceback.format_exception(error))
        row.traceback, retries = trace[-TRACEBACK_BYTES:], job.policies.retries
        if not may_go_on(error, retries, row.failures):
            logger.error("%s failed", row.id, exc_info=error)
            await self._give_up(job, row, "timeout" if isinstance(error, TimedOut) else "failed", row.error)
            return
        wait_s = retries.wait_s(row.failures)
        logger.warning("%s: attempt %d failed, %s; again in %g s", row.id, row.attempt, row.error, wait_s)
        row.state = "waiting"
        await self.commit([row.change()])
        if row.id in self._cancelled:
            return
        self._pauses[row.id] = waker = Waker(timer_of(self.app.clock))
        try:
            await waker.pause(wait_s)
        finally:
            del self._pauses[row.id]

    async def _give_up(self, job: Job, row: RunRow, state: str, why: str) -> None:
        """There are no more attempts."""
        row.state, row.error, row.ended = state, why, self.now().timestamp()
        changes: list[rows.Change] = []
        failed = state in FAILURES and not row.is_detached
        if failed and (job.policies.on_failure == "pause" or state == "abandoned"):
            self.states.pause(job, by="the worker", why=f"run {row.id}: {why}")
            changes.append(self.states.change(job))
        elif failed and job.policies.on_failure == "skip":
            row.notes.append(f"its records from here on are skipped: {[[n, at, end] for n, _, end, at in row.plan]}")
            changes += [(rows.offset_key(job.name, row.topic_id, n), rows.pack_u64(end)) for n, _, end, _ in row.plan]
        changes += [row.change(), *self._trimmed(job, row)]
        await self.commit(changes)
        self.waiting_rows.pop(row.id, None)

    def _trimmed(self, job: Job, row: RunRow) -> list[rows.Change]:
        """What is forgotten when *row* has ended; a backfill's are kept, and each would look through all of them."""
        return [] if row.is_detached else self.stored.trimmed(job.name, job.policies.history, self.now())

    def cancel(self, row: RunRow, why: str) -> None:
        """Have a run that is at work stop at its next record, or not begin again."""
        self._cancelled[row.id] = why
        if (attempt := self._attempts.get(row.id)) is not None:
            attempt.stop(RunStopped(f"run {row.id} is cancelled: {why}"))
        elif (waker := self._pauses.get(row.id)) is not None:
            waker.set()

    async def commit(self, changes: list[rows.Change]) -> None:
        """Make *changes* true, in a thread."""
        if changes:
            await asyncio.to_thread(self.store.commit, Commit(changes))

    def moved(self, job: Job) -> None:
        """Somebody has moved where *job* reads on."""
        self._positions.moved(job)


def may_go_on(error: Exception, retries: Retry, failures: int) -> bool:
    """Whether a run is attempted again that has failed *failures* times, with *error* now."""
    if isinstance(error, FINAL):
        return False
    if isinstance(error, RaisedElsewhere):
        return error.again and failures <= retries.times
    return retries.again(error, failures)


def check_succeeded(row: RunRow) -> None:
    """Raise `JobFailed` if the run has not succeeded."""
    if row.state in FAILURES or row.state == "cancelled":
        raise JobFailed(f"run {row.id} {row.state}: {row.error}")
