"""Jobs and timers by their schedules: one loop for each, which runs what is due, one after the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from framework.alongside import alongside
from framework.full_disk import Outage
from framework.jobs.commands import Commands
from framework.jobs.control import Control
from framework.jobs.fires import Fire, due_fire
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
            group.create_task(self._through_outages(None, Control(self._runner, self._commands).run))
            for job in self._app.jobs.values():
                group.create_task(self._through_outages(job, partial(self.serve, job)), name=f"job {job.name}")
                group.create_task(self._through_outages(job, partial(self._serve_backfills, job)))
            for timer in self._app.timers.values():
                serve = partial(self._runner.timers.serve, timer)
                group.create_task(self._through_outages(timer, serve), name=f"timer {timer.name}")

    async def _through_outages(self, thing: Job | Timer | None, serve: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """*serve* the *thing*, or the commands, again after times at which the disk takes no commits."""
        name = "" if thing is None else thing.name
        while True:
            try:
                await serve()
            except StateFailed as error:
                # A run goes on behind its last chunk, when the disk takes commits again.
                self._runner.held_up.add(name)
                try:
                    await self._wait_out(name, thing, error)
                finally:
                    self._runner.held_up.discard(name)

    async def _wait_out(self, name: str, thing: Job | Timer | None, error: StateFailed) -> None:
        """Return when the store is open again, and has sent what its last commit sends."""
        outage = self._outages.setdefault(name, Outage(self._runner.store, asyncio.Event()))
        while True:
            await outage.wait(error)
            try:
                await self._runner.reopen(thing)
            except StateFailed as again:
                error = again
            else:
                return

    async def serve(self, job: Job) -> None:
        """Finish what was interrupted, then run *job* whenever it is due, or somebody wants it; until cancelled.

        Raises:
            StateFailed: The disk takes no commits.
        """
        runner, policies = self._runner, job.policies
        await asyncio.to_thread(runner.states.settle, [job])
        behind_a_run = False
        while True:
            behind_a_run = bool(await runner.resume(job)) or behind_a_run
            state, now = runner.states.of(job), runner.now() - job.delay
            overlap = policies.overlap if behind_a_run else None
            fire = None if state.paused else due_fire(job.schedule, state.last, now, policies.catchup, overlap=overlap)
            if fire is None:
                behind_a_run = False
                await self._wait(job)
            elif fire.action == "skip":
                await self._skip(job, fire)
            else:
                behind_a_run = (await self._run_due(job, fire)).state != "empty"

    async def _serve_backfills(self, job: Job) -> None:
        """Run the backfills of *job*, one after the other; until cancelled."""
        while True:
            await self._commands.finish_backfills(job)
            if outage := self._outages.pop(job.name, None):
                outage.over()
            wanted = self._runner.backfills_wanted(job)
            await wanted.wait()
            wanted.clear()

    async def _wait(self, job: Job) -> None:
        """Return when *job* may be due, or has been changed."""
        if outage := self._outages.pop(job.name, None):
            outage.over()
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
        await runner.commit([row.change(), runner.states.change(job)])

    async def _run_due(self, job: Job, fire: Fire) -> RunRow:
        runner = self._runner
        async with runner.turn(job):
            runner.states.of(job).fired(fire.nominal)
            notes = (fire.covers,) if fire.covers else ()
            row = await runner.plan(job, Wanted(fire.nominal, "schedule", job.policies.until, notes))
            if row.unfinished:
                if job.policies.overlap == "cancel":
                    async with alongside(self._cancel_when_due(job, row)):
                        await runner.finish(job, row)
                else:
                    await runner.finish(job, row)
            return row

    async def _cancel_when_due(self, job: Job, row: RunRow) -> None:
        await self._runner.alarm.until(self._runner.next_look(job))
        self._runner.cancel(row, "its next run is due")
