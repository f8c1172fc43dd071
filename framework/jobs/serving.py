"""Jobs and timers by their schedules: one loop for each, which runs what is due, one after the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

from framework.alongside import alongside
from framework.full_disk import Outage
from framework.jobs.commands import Commands
from framework.jobs.control import CONTROL, Control
from framework.jobs.fires import Busy, Fire, due_fire, next_fire
from framework.jobs.job import Job
from framework.jobs.planning import Wanted
from framework.jobs.runner import JobRunner
from framework.jobs.runs import RunRow, run_id
from framework.jobs.timer import Timer
from framework.state.errors import StateFailed

logger = logging.getLogger("framework.job")


class Serving:
    """Serves the jobs and timers of one app, and the commands that come for them."""

    def __init__(self, runner: JobRunner) -> None:
        """*runner* runs them."""
        self._runner, self._app = runner, runner.app
        self._commands = Commands(runner)
        self._outages: dict[str, Outage] = {}

    async def run(self) -> None:
        """Finish what was interrupted, then run each job whenever it is due; until cancelled.

        Raises:
            StateFailed: The disk fails.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._runner.alarm.run())
            control = Control(self._runner, self._commands, well=partial(self._is_well, CONTROL))
            group.create_task(self._through_outages(control, control.run))
            for job in self._app.jobs.values():
                group.create_task(self._through_outages(job, partial(self.serve, job)), name=f"job {job.name}")
                group.create_task(self._through_outages(job, partial(self._serve_backfills, job)))
            for timer in self._app.timers.values():
                serve = partial(self._runner.timers.serve, timer, partial(self._is_well, timer.name))
                group.create_task(self._through_outages(timer, serve), name=f"timer {timer.name}")

    async def _through_outages(
        self, thing: Job | Timer | Control, serve: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        """*serve* the *thing*, again after times at which the disk takes no commits."""
        while True:
            try:
                await serve()
            except StateFailed as error:
                # A run goes on behind its last chunk, when the disk takes commits again.
                self._runner.held_up.add(thing.name)
                try:
                    await self._wait_out(thing, error)
                finally:
                    self._runner.held_up.discard(thing.name)

    async def _wait_out(self, thing: Job | Timer | Control, error: StateFailed) -> None:
        """Return when the store is open again, and has sent what its last commit sends."""
        outage = self._outages.setdefault(thing.name, Outage(self._runner.store, asyncio.Event()))
        while True:
            await outage.wait(error)
            try:
                await self._runner.reopen(None if isinstance(thing, Control) else thing)
            except StateFailed as again:
                error = again
            else:
                return

    def _is_well(self, name: str) -> None:
        """The disk takes what is served by *name*."""
        if outage := self._outages.pop(name, None):
            outage.over()

    async def serve(self, job: Job) -> None:
        """Finish what was interrupted, then run *job* whenever it is due, or somebody wants it; until cancelled.

        Raises:
            StateFailed: The disk takes no commits.
        """
        runner = self._runner
        await asyncio.to_thread(runner.states.settle, [job])
        busy: Busy | None = None
        while True:
            began = runner.now()
            if await self._resume(job):
                busy = (busy[0] if busy else began, runner.now())
            fire = self._due(job, busy or self._at_work(job))
            if fire is None:
                busy = None
                await self._wait(job)
            elif fire.action == "skip":
                await self._skip(job, fire)
            else:
                began = runner.now()
                row = await self._run_due(job, fire)
                if row is not None and row.state != "empty":
                    busy = (busy[0] if busy else began, runner.now())

    def _due(self, job: Job, busy: Busy | None) -> Fire | None:
        """What is due of *job*, of which runs were at work then."""
        now, policies = self._runner.now() - job.delay, job.policies
        last = self._runner.states.last(job, now)
        if self._runner.states.of(job).paused:
            return None
        if busy is not None:
            busy = (busy[0] - job.delay, busy[1] - job.delay)
        return due_fire(job.schedule, last, now, policies.catchup, policies.overlap, busy=busy)

    def _at_work(self, job: Job) -> Busy | None:
        """When the run has been at work that is because somebody wanted it."""
        planned = [row.planned for row in self._runner.active.values() if row.job == job.name and not row.is_detached]
        return (datetime.fromtimestamp(min(planned), UTC), self._runner.now()) if planned else None

    async def _serve_backfills(self, job: Job) -> None:
        """Run the backfills of *job*, one after the other; until cancelled."""
        while True:
            await self._commands.finish_backfills(job)
            self._is_well(job.name)
            wanted = self._runner.backfills_wanted(job)
            await wanted.wait()
            wanted.clear()

    async def _wait(self, job: Job) -> None:
        """Return when *job* may be due, or has been changed."""
        self._is_well(job.name)
        changed = self._runner.changed(job)
        if self._runner.states.of(job).paused:
            await changed.wait()
        else:
            async with alongside(self._ring(job, changed)):
                await changed.wait()
        changed.clear()

    async def _ring(self, job: Job, changed: asyncio.Event) -> None:
        await self._runner.alarm.until(self._runner.next_look(job))
        changed.set()

    async def _skip(self, job: Job, fire: Fire) -> None:
        runner = self._runner
        runner.states.of(job).fired(fire.nominal)
        now = runner.now().timestamp()
        name = runner.stored.free_id(job.name, run_id(job.name, fire.nominal))
        row = RunRow(name, fire.nominal.timestamp(), "skipped", [], job=job.name, notes=[fire.covers], planned=now)
        row.ended = now
        logger.warning("%s is skipped: %s; its records are for the next run", row.id, fire.covers)
        changes = runner.stored.trimmed(job.name, job.policies.history, runner.now())
        with runner.planning(job):
            await runner.commit([row.change(), runner.states.change(job), *changes])

    async def _run_due(self, job: Job, fire: Fire) -> RunRow | None:
        """Run *job* for *fire*, behind a run that somebody else wanted.

        Returns None if somebody has planned another one meanwhile, which goes first; if the job has been paused; or if
        it has been run for that time, before its clock was set back.
        """
        runner = self._runner
        if job.policies.overlap == "cancel":
            for row in list(runner.active.values()):
                if row.job == job.name and not row.is_detached:
                    runner.cancel(row, "its next run is due")
        async with runner.turn(job):
            if runner.states.of(job).paused:
                return None
            if any(row.job == job.name and not row.is_detached for row in runner.waiting_rows.values()):
                return None
            runner.states.of(job).fired(fire.nominal)
            if runner.stored.was_due(job.name, fire.nominal):
                await runner.commit([runner.states.change(job)])
                return None
            notes = (fire.covers,) if fire.covers else ()
            row = await runner.plan(job, Wanted(fire.nominal, "schedule", job.policies.until, notes))
            if row.unfinished:
                async with self._cancelled_when_due(job):
                    await runner.finish(job, row)
            return row

    async def _resume(self, job: Job) -> bool:
        """Finish the runs of *job* that were interrupted; whether there were any."""
        async with self._cancelled_when_due(job):
            return bool(await self._runner.resume(job))

    @asynccontextmanager
    async def _cancelled_when_due(self, job: Job) -> AsyncIterator[None]:
        """With overlap="cancel", what runs of *job* in the body is cancelled when a time comes that is due then."""
        if job.policies.overlap != "cancel" or self._runner.states.of(job).paused:
            yield
            return
        async with alongside(self._cancel_when_due(job)):
            yield

    async def _cancel_when_due(self, job: Job) -> None:
        runner = self._runner
        # What was due before the run began, and has not been run for, is no reason to stop it.
        taken = max(runner.states.of(job).last, runner.now() - job.delay)
        due = next_fire(job.schedule, taken, job.delay)
        while runner.now() < due or runner.states.of(job).paused:
            await runner.alarm.until(due)
        for row in list(runner.active.values()):
            if row.job == job.name and not row.is_detached:
                runner.cancel(row, "its next run is due")
