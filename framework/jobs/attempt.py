"""One attempt at one run: the handler is called, what it does is gathered, and each chunk is one commit.

The handler of a plain `def` is called in a thread of its own, which cannot be stopped from outside: it is told to at
its next record or chunk. Whatever comes of it, its effects are closed before anybody else goes on with the run, under
the lock of the store: a commit of it is made before that, and counts, or is refused.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from framework.batch import Batch
from framework.dead_letter import bury
from framework.effects import current
from framework.errors import DecodeError, JobFailed, RunStopped, StaleTask
from framework.jobs.job import Job
from framework.jobs.pace import Pace
from framework.jobs.runs import RunRow
from framework.jobs.scratch import effects_of
from framework.log import Cursor, Partition, Range, StoredRecord, Times
from framework.log.errors import OffsetOutOfRange
from framework.reading import SLICE_RECORDS, Reading
from framework.state import rows
from framework.state.store import Commit, Store

if TYPE_CHECKING:
    from framework.app import App

STOP_GRACE_S = 10.0
"""How long a handler in a thread may take to come to its next record, once it is told to stop."""
logger = logging.getLogger("framework.job")


class Attempt(Reading):
    """One attempt at one run, and what its batch asks while it is read."""

    def __init__(self, app: App, store: Store, job: Job, row: RunRow, *, pace: Pace | None = None) -> None:
        """Reads nothing yet.

        Raises:
            JobFailed: The topic has been deleted, and made again, since the run was planned.
        """
        info = app.topic_info(job.source)
        if info.id != row.topic_id:
            raise JobFailed(f"topic {info.name!r} is another one than run {row.id} was planned over: cancel the run")
        self._app, self._store, self._job, self._row, self._info = app, store, job, row, info
        self._effects = effects_of(app, store, job, row)
        self._dead_letters = app.dead_letters(job.name, job.source)
        self.times = Times(*row.bounds)
        ranges = [Range(app.log.partition(info, number), at, end) for number, _, end, at in row.plan]
        self._cursor = self.cursor(app.log.reader, ranges)
        self._pace = pace
        self._batch: Batch[Any, Any] = Batch(
            self._cursor, job.source, run=row.run, reading=self, number=row.chunk, resumed=row.attempt > 1
        )
        self._buried: set[tuple[int, int]] = set()
        self._lost: set[tuple[int, int]] = set()
        self._stopping: RunStopped | None = None
        self.failure: BaseException | None = None
        """What kept a commit of it from being made: nothing can follow that one, which may be there or not."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._ended: asyncio.Future[None] | None = None

    # Calling the handler.

    async def run(self) -> None:
        """Call the handler and commit what it did.

        Raises:
            RunStopped: Somebody has stopped it.
            Exception: Whatever the handler raises.
        """
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        assert self._task is not None
        cancelling = self._task.cancelling()
        try:
            if inspect.iscoroutinefunction(self._job.function):
                await self._call_async()
            else:
                await self._in_thread(self.call)
        except asyncio.CancelledError as error:
            if self._task.cancelling() == cancelling:
                raise RuntimeError(f"the handler of {self._job.name!r} was cancelled, and not from outside") from error
            ours = self._stopping is not None and self._ended is None  # And not that of whoever waits for us.
            if not ours or self._task.uncancel() > cancelling:
                raise
            assert self._stopping is not None
            raise self._stopping from None

    def call(self) -> None:
        """Call a plain handler, in this thread."""
        token = current.set(self._effects)
        try:
            self._job.function(self._batch)
        finally:
            current.reset(token)
        self._finish()

    async def _call_async(self) -> None:
        token = current.set(self._effects)
        try:
            await self._job.function(self._batch)
        finally:
            current.reset(token)
        await asyncio.to_thread(self._finish)

    async def _in_thread(self, function: Callable[[], None]) -> None:
        self._ended = start_thread(function, self._row.id)
        try:
            await asyncio.shield(self._ended)
        except asyncio.CancelledError:
            if self._effects.views.closed:  # The worker is gone, as far as anybody can tell.
                raise
            self.stop(RunStopped(f"run {self._row.id} is interrupted: its worker ends"))
            with suppress(Exception):
                await self._ended
            raise

    def stop(self, error: RunStopped) -> None:
        """Have the handler stop with *error*; in the event loop."""
        if self._stopping is not None:
            return
        self._stopping = error
        if self._ended is None:
            if self._task is not None:
                self._task.cancel()
            return
        assert self._loop is not None
        self._loop.call_later(STOP_GRACE_S, self._give_up, self._ended, error)

    def _give_up(self, ended: asyncio.Future[None], error: RunStopped) -> None:
        if not ended.done():
            logger.warning(
                "%s: its handler did not come to a record or chunk within %g s; what it does from now on is refused",
                self._row.id,
                STOP_GRACE_S,
            )
            ended.set_exception(error)

    def revoke(self) -> None:
        """Refuse what code of the handler that is still running may want to do; waits for a commit under way."""
        with self._store.lock:
            self._effects.close()

    # What the batch asks.

    def pause(self) -> None:
        """Let others have their turn, and stop if that is wanted."""
        if self._stopping is not None:
            raise self._stopping
        if self._pace is not None:
            self._pace.keep()

    def turn(self) -> int:
        """Let others have their turn; how many records the handler gets then."""
        if self._stopping is not None:
            raise self._stopping
        return SLICE_RECORDS if self._pace is None else self._pace.turn()

    def bad(self, partition: Partition, record: StoredRecord, error: DecodeError) -> None:
        """Send what cannot be decoded to the dead letters; once, however often the handler reads."""
        if (partition.number, record.offset) not in self._buried:
            self._buried.add((partition.number, record.offset))
            bury(self._effects, self._dead_letters, partition, record, error)

    def gap(self, partition: Partition, start: int, end: int) -> None:
        """Records were removed before they were read.

        Raises:
            OffsetOutOfRange: The job does not go on without them.
        """
        lost = f"{partition.name} offsets {start} to {end - 1} were removed before run {self._row.id} read them"
        if self._job.policies.on_gap == "fail":
            raise OffsetOutOfRange(
                f"{lost}. To go on without them, declare the job with on_gap='earliest', or run `framework jobs rewind "
                f"{self._job.name} --to beginning --execute`"
            )
        if (partition.number, start) not in self._lost:
            self._lost.add((partition.number, start))
            self._row.notes.append(lost)
            logger.warning("%s", lost)

    def commit(self, cursor: Cursor, records: int) -> None:
        """Make a chunk true: position, tables, outputs and progress in one write."""
        self._commit(cursor, replace(self._row, chunk=self._row.chunk + 1, records=self._row.records + records))

    def _finish(self) -> None:
        """The handler has returned: the run is done, unless chunks were left."""
        batch, row = self._batch, replace(self._row)
        if self.failure is not None:
            raise self.failure  # Whatever the handler has made of it.
        if batch.begun and any(part.start < part.end for part in self._cursor.ranges):
            raise JobFailed(f"the handler of {self._job.name!r} returned before its last chunk")
        if batch.begun:
            row.chunk += bool(batch.open_records)
            row.records += batch.open_records  # Of its last chunk, in which it returned.
        else:
            row.records = len(batch) if batch.counted is None else batch.counted
        for part in self._cursor.ranges:
            part.start = part.end
        row.state, row.error, row.traceback = "succeeded", "", ""
        row.ended = self._app.clock.now_ms() / 1000
        self._commit(self._cursor, row)

    def _commit(self, cursor: Cursor, row: RunRow) -> None:
        row.plan = [[*entry[:3], part.start] for entry, part in zip(self._row.plan, cursor.ranges, strict=True)]
        with self.committing():
            commit = Commit()
            self._effects.take(commit)
            self._check_alone(commit)
            commit.changes += [*self._moved(row), row.change()]
            self._store.commit(commit)
            self._effects.settled()
            self._row.become(row)
        self._buried.clear()

    @contextmanager
    def committing(self) -> Iterator[None]:
        """Around a commit, which is refused if the run is somebody else's by now, or one before has failed.

        Raises:
            StaleTask: It was stopped.
        """
        # Held over all of it, because the outbox takes its sequence numbers when it is encoded.
        with self._store.lock:
            if self._effects.views.closed:
                raise StaleTask(f"run {self._row.id} was stopped; what it had not committed runs again")
            if self.failure is not None:
                raise self.failure
            try:
                yield
            except BaseException as error:
                self.failure = error
                raise

    def _check_alone(self, commit: Commit) -> None:
        """Runs side by side would each count from what they have read of a row, and lose what the others add."""
        if self._row.max_active > 1 and any(key.startswith(b"t") for key, _ in commit.changes):
            raise JobFailed(f"job {self._job.name!r} writes tables: run its backfill with --max-active 1")

    def _moved(self, row: RunRow) -> list[rows.Change]:
        """The job's own position, as far as this run moves it."""
        if row.is_detached or not (self._job.policies.reads == "new" or row.state == "succeeded"):
            return []
        return [
            (rows.offset_key(self._job.name, self._info.id, number), rows.pack_u64(at)) for number, _, _, at in row.plan
        ]


def start_thread(function: Callable[[], None], name: str) -> asyncio.Future[None]:
    """Call *function* in a new thread; what comes of it, in this event loop.

    Not in a pool: a handler that hangs would hold up others, and the end of the process.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    ended.add_done_callback(lambda done: done.cancelled() or done.exception())  # Nobody may be waiting any more.

    def end(error: BaseException | None) -> None:
        if ended.done():
            return
        if isinstance(error, StopIteration):  # Which no future takes; `next(iter(batch))` of an empty one raises it.
            cause, error = error, RuntimeError("the function raised StopIteration")
            error.__cause__ = cause
        if error is None:
            ended.set_result(None)
        else:
            ended.set_exception(error)

    def call() -> None:
        failure: BaseException | None = None
        try:
            function()
        except BaseException as error:  # whatever it is, it is raised where the run is supervised
            failure = error
        with suppress(RuntimeError):  # The loop is closed, and nobody waits any more.
            loop.call_soon_threadsafe(end, failure)

    threading.Thread(target=call, name=name, daemon=True).start()
    return ended
