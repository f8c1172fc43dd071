"""Running one job in this process, while its user watches."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from framework.alongside import alongside
from framework.cli.live import LiveLine, log_above
from framework.jobs.runner import JobRunner
from framework.state.errors import ShardBusy
from framework.state.shards import Shards

if TYPE_CHECKING:
    from framework.app import App
    from framework.jobs.job import Job
from framework.jobs.runs import RunRow

LINE_S = 0.5
INTERRUPTED = 130


def run_in_foreground(app: App, job: Job, wait_s: float) -> list[RunRow]:
    """Run *job* of *app*, which is open, over everything since its last run; the runs that this took.

    Raises:
        ShardBusy: A worker owns the jobs.
        JobFailed: The handler raised.
        KeyboardInterrupt: Somebody stopped it; the run can be resumed.
    """
    shards = Shards(app.log)
    try:
        try:
            shards.own_jobs(wait_s)
        except ShardBusy as error:
            raise ShardBusy(f"{error}; it runs {job.name!r} when that is due") from error
        line = LiveLine(sys.stderr)
        log_above(line, "warning")
        try:
            return asyncio.run(Foreground(app, job, shards, line).run())
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            line.remove()
    finally:
        shards.close()


class Foreground:
    """The runs of one job in one process."""

    def __init__(self, app: App, job: Job, shards: Shards, line: LiveLine) -> None:
        """*shards* owns the jobs."""
        self._app, self._job, self._line = app, job, line
        self._runner = JobRunner(app, shards.of_jobs())
        self._interrupted = False

    async def run(self) -> list[RunRow]:
        """Finish what was interrupted, then run the job over what is new.

        Raises:
            JobFailed: The handler raised.
        """
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._interrupt, task)
        async with AsyncExitStack() as exits:
            if self._app.lifespan is not None:
                await exits.enter_async_context(self._app.lifespan(self._app))
            # The handler of a cancelled run is still in its thread, until it asks for the next chunk.
            exits.push_async_callback(loop.shutdown_default_executor)
            done = [row for row in self._runner.history(self._job) if row.state == "running"]
            for row in done:
                self._line.print(f"{row.id} was interrupted: resumed")
                await self._execute(row)
            now = datetime.fromtimestamp(self._app.clock.now_ms() / 1000, UTC)
            row = self._runner.plan(self._job, now, trigger="manual")
            if row.state == "empty":
                self._line.print(f"{row.id}: no new records")
            else:
                await self._execute(row)
            return [*done, row]

    async def _execute(self, row: RunRow) -> None:
        try:
            async with alongside(self._watch(row)):
                await self._runner.execute(self._job, row)
        except asyncio.CancelledError:
            # Said when it is so: what the handler's thread does from here on is refused.
            self._line.print("interrupted: stops at the next chunk, and can be resumed; once more to stop at once")
            raise
        finally:
            self._line.remove()
        seconds = row.ended - row.started
        self._line.print(f"{row.id}: {row.state}, {row.records:,} records in {seconds:.1f} s")

    async def _watch(self, row: RunRow) -> None:
        while True:
            size = sum(end - start for _, start, end, _ in row.plan)
            done = sum(at - start for _, start, _, at in row.plan)
            self._line.show(f"{row.id}: {done:,} of {size:,} records, {done * 100 // max(size, 1)} %")
            await asyncio.sleep(LINE_S)

    def _interrupt(self, task: asyncio.Task[object]) -> None:
        if self._interrupted:
            os._exit(INTERRUPTED)
        self._interrupted = True
        task.cancel()
