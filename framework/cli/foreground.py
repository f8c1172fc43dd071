"""Runs of a job in this process, while its user watches: what `framework jobs` does when no worker runs."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from framework.alongside import alongside
from framework.cli.live import LiveLine, log_above
from framework.cli.progress import Watch, worth_saying
from framework.jobs.commands import Commands
from framework.jobs.runner import JobRunner
from framework.state.shards import Shards
from framework.state.view import StateView

if TYPE_CHECKING:
    from framework.app import App
    from framework.jobs.job import Job
    from framework.jobs.runs import RunRow

INTERRUPTED = 130
T = TypeVar("T")


@contextmanager
def owned_jobs(app: App, wait_s: float) -> Iterator[Shards]:
    """The jobs of *app*, which is open, owned by this process.

    Raises:
        ShardBusy: A worker owns them.
    """
    shards = Shards(app.log)
    try:
        shards.own_jobs(wait_s)
        view = StateView(app.log)
        try:
            # Which tables agents write is in other databases, which are not opened here.
            shards.of_jobs().owners.update(view.owners())
        finally:
            view.close()
        yield shards
    finally:
        shards.close()


def in_foreground(app: App, shards: Shards, work: Callable[[Foreground], Coroutine[Any, Any, T]]) -> T:
    """Do *work* in an event loop, within the app's lifespan.

    Raises:
        KeyboardInterrupt: Somebody stopped it; runs can be resumed.
    """
    line = LiveLine(sys.stderr)
    log_above(line, "warning")
    try:
        return asyncio.run(Foreground(app, shards, line).do(work))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        line.remove()


class Foreground:
    """The jobs of one app, run here."""

    def __init__(self, app: App, shards: Shards, line: LiveLine) -> None:
        """*shards* owns the jobs."""
        self._app, self._line = app, line
        self.runner = JobRunner(app, shards.of_jobs())
        self.commands = Commands(self.runner)
        self._interrupted = False

    async def do(self, work: Callable[[Foreground], Coroutine[Any, Any, T]]) -> T:
        """Do *work*; SIGTERM and Ctrl-C cancel it, a second one ends the process."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._interrupt, task)
        async with self._app.living():
            return await work(self)

    async def run(self, job: Job) -> list[RunRow]:
        """Finish what was interrupted, then run the job over what is new; the runs there were."""
        self.runner.meet(job)
        left = [row for row in self.runner.waiting_rows.values() if row.job == job.name and not row.is_detached]
        for row in left:
            self._line.print(f"{row.id} was interrupted: resumed")
        async with self._watched(left):
            await self.runner.resume(job)
        self._report(left)
        row = await self.runner.plan_now(job, self.runner.now())
        if row.state == "empty":
            self._line.print(f"{row.id}: no new records")
            return [*left, row]
        async with self._watched([row]):
            await self.commands.finish(row)
        self._report([row])
        return [*left, row]

    async def backfill(self, planned: Sequence[RunRow]) -> None:
        """Do the runs of a backfill that is planned."""
        async with self._watched(planned):
            await self.commands.finish_backfill(planned)
        self._report(worth_saying(planned))

    @asynccontextmanager
    async def _watched(self, runs: Sequence[RunRow]) -> AsyncIterator[None]:
        watch = Watch(self._line, lambda: runs)
        try:
            async with alongside(watch.keep()):
                yield
        except asyncio.CancelledError:
            # Said when it is so: what the handler's thread does from here on is refused.
            self._line.print("interrupted: stopped at the last chunk, and can be resumed")
            raise
        finally:
            self._line.remove()

    def _report(self, runs: Sequence[RunRow]) -> None:
        for row in runs:
            seconds = max(0.0, row.ended - row.started)
            why = f": {row.error}" if row.error else ""
            self._line.print(f"{row.id}: {row.state}, {row.records:,} records in {seconds:.1f} s{why}")

    def _interrupt(self, task: asyncio.Task[object]) -> None:
        if self._interrupted:
            os._exit(INTERRUPTED)
        self._interrupted = True
        self._line.print("stops at the next record; once more to stop at once")
        task.cancel()
