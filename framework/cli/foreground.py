"""Runs of a job in this process, while its user watches: what `framework jobs` does when no worker runs."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from framework.alongside import alongside
from framework.cli.live import LiveLine, log_above
from framework.cli.progress import Looked, Watch, ended_text, is_worth_saying
from framework.jobs.commands import Commands, Done
from framework.jobs.control import Order, obey, whoami
from framework.jobs.runner import JobRunner
from framework.log.locks import JOBS_LOCK, SHARD_LOCK
from framework.state.errors import ShardBusy
from framework.state.shards import Shards
from framework.state.view import StateView

if TYPE_CHECKING:
    from framework.app import App
    from framework.jobs.backfill import Backfill
    from framework.jobs.job import Job
    from framework.jobs.runs import RunRow
    from framework.log import Log

INTERRUPTED = 130
Say = Callable[[Done], None]
"""Called with what is done, for the record."""
T = TypeVar("T")


@contextmanager
def owned_jobs(app: App, wait_s: float) -> Iterator[Shards | None]:
    """The jobs of *app*, which is open, owned by this process; None if a worker owns them, which takes commands.

    Raises:
        ShardBusy: Another command owned them for *wait_s* seconds.
    """
    shards = Shards(app.log)
    try:
        if _worker_owns(app.log):
            yield None
            return
        _own(app.log, shards, wait_s)
        view = StateView(app.log)
        try:
            # Which tables agents write is in other databases, which are not opened here.
            shards.of_jobs().owners.update(view.owners())
        finally:
            view.close()
        yield shards
    finally:
        shards.close()


def _worker_owns(log: Log) -> bool:
    """Whether the jobs are owned by a process that owns agents, too."""
    owner = log.shared.holder(JOBS_LOCK)
    return owner is not None and owner == log.shared.holder(SHARD_LOCK)


def _own(log: Log, shards: Shards, wait_s: float) -> None:
    try:
        shards.own_jobs(wait_s)
    except ShardBusy:
        owner = log.shared.holder(JOBS_LOCK)
        raise ShardBusy(
            f"process {owner} runs jobs of {log.path} without a worker: wait until that command is done, or end it "
            "with Ctrl-C; its run is resumed later"
        ) from None


def in_foreground(app: App, shards: Shards, work: Callable[[Foreground], Coroutine[Any, Any, T]]) -> T:
    """Do *work* in an event loop; where it runs a job, that is within the app's lifespan.

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
        return await work(self)

    async def obey(self, command: str, job: Job, arguments: Mapping[str, Any]) -> Done:
        """Do a command as the worker would, but for runs that it plans."""
        return await obey(self.commands, Order("", whoami(), command, job.name, dict(arguments), 0, 0))

    async def run(self, job: Job, say: Say) -> list[RunRow]:
        """Finish what was interrupted, then run the job over what is new; the runs there were.

        If what was interrupted fails, that is all: another run would have the same records.
        """
        async with self._app.living():
            return await self._run(job, say)

    async def _run(self, job: Job, say: Say) -> list[RunRow]:
        self.runner.meet(job)
        left = [row for row in self.runner.waiting_rows.values() if row.job == job.name and not row.is_detached]
        for row in left:
            self._line.print(f"{row.id} was interrupted: resumed")
        async with self._watched(left):
            await self.runner.resume(job)
        self._report(left)
        if any(row.state != "succeeded" for row in left):
            say(_done(left))
            return left
        row = await self.commands.plan_run(job.name)
        say(_done([*left, row]))
        if row.state == "empty":
            self._line.print(f"{row.id}: no new records")
            return [*left, row]
        async with self._watched([row]):
            await self.commands.finish(row)
        self._report([row])
        return [*left, row]

    async def backfill(self, job: Job, wanted: Backfill, say: Say) -> list[RunRow]:
        """Plan a backfill and do its runs."""
        looked = Looked(self._line, job.source.name)
        done, planned = await self.commands.plan_backfill(job.name, wanted, looked.seen)
        self._line.print(done.text)
        say(done)
        async with self._app.living(), self._watched(planned):
            await self.commands.finish_backfill(planned)
        self._report([row for row in planned if is_worth_saying(row, len(planned))])
        return planned

    @asynccontextmanager
    async def _watched(self, runs: Sequence[RunRow]) -> AsyncIterator[None]:
        watch = Watch(self._line, lambda: runs)
        try:
            async with alongside(watch.keep()):
                yield
        except asyncio.CancelledError:
            # Said when it is so: what the handler's thread does from here on is refused.
            self._line.print(f"interrupted: stopped at the last chunk; {_goes_on(runs)}")
            raise
        finally:
            self._line.remove()

    def _report(self, runs: Sequence[RunRow]) -> None:
        for row in runs:
            self._line.print(ended_text(row))

    def _interrupt(self, task: asyncio.Task[object]) -> None:
        if self._interrupted:
            os._exit(INTERRUPTED)
        self._interrupted = True
        self._line.print("stops at the next record; once more to stop at once")
        task.cancel()


def _done(runs: Sequence[RunRow]) -> Done:
    return Done(f"run {', '.join(row.id for row in runs)}, without a worker", [row.id for row in runs])


def _goes_on(runs: Sequence[RunRow]) -> str:
    """Who goes on with *runs*, in words."""
    if any(row.is_detached for row in runs):
        return f"the next worker goes on there, or `framework jobs cancel {runs[0].job}` ends it"
    return f"the next worker, or `framework jobs run {runs[0].job}`, goes on there"
