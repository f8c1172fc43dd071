"""Testing an app: its own objects on real parts in a temporary directory, at a time that the test moves.

async with app.testing() as t:
    await orders.send(Order(customer="ann", amount=3))
    await t.idle()
    assert baskets["ann"].total == 3
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from typing_extensions import TypeVar

from framework.agent import Agent
from framework.alongside import alongside
from framework.app import App
from framework.batch import Run
from framework.clock import START, ManualClock
from framework.concurrency import ConcurrentTask
from framework.errors import AppIsOpen, NotIdle
from framework.jobs.job import Job
from framework.record import Record
from framework.task import Task
from framework.topic import Topic
from framework.worker import Worker

V = TypeVar("V")

POLL_S = 0.001
LIMIT = timedelta(seconds=10)


@asynccontextmanager
async def harness(app: App, start: datetime | None = None) -> AsyncIterator[Harness]:
    """Use `App.testing`."""
    if app.is_open:
        raise AppIsOpen(f"app {app.name!r} is open in {app.data}: close it, or leave what opened it, before testing()")
    clock = ManualClock(START if start is None else start)
    with tempfile.TemporaryDirectory(prefix="framework-testing-") as directory, _lent(app, Path(directory), clock):
        async with AsyncExitStack() as exits:
            group = await asyncio.TaskGroup().__aenter__()
            # Without the body's error, which a group would wrap into another; its tasks raise none.
            exits.push_async_callback(group.__aexit__, None, None, None)
            running = Harness(app, clock, group)
            exits.push_async_callback(running._end)
            await running._begin()
            yield running
            running._check(again=False)


@contextmanager
def _lent(app: App, directory: Path, clock: ManualClock) -> Iterator[None]:
    """The app with another directory and clock, and afterwards as it was."""
    clock_before, state_before, topics_before = app.clock, app.state, set(app.topics)
    app.clock, app.place = clock, directory / "data"
    try:
        yield
    finally:
        app.close()
        app.clock, app.place, app.state = clock_before, None, state_before
        # Topics of dead letters are declared when they are first used, with the partitions that were met.
        for name in app.topics.keys() - topics_before:
            if name.startswith(f"{app.name}.") and name.endswith(".dead-letter"):
                del app.topics[name]


class Harness:
    """What a test does with an app that runs; given by `App.testing`.

    The app's agents and jobs run beside the test, in its event loop, on a real log and real RocksDB; its topics, tables
    and agents are used as they are anywhere. At the end everything is thrown away.
    """

    def __init__(self, app: App, clock: ManualClock, group: asyncio.TaskGroup) -> None:
        """Use `App.testing`."""
        self.app, self.clock = app, clock
        self._group, self._state = group, app.state
        self._worker = Worker(app)
        self._life: asyncio.Task[None] | None = None
        self._failure: Exception | None = None
        self._told = False

    # Waiting.

    async def idle(self, within: timedelta = LIMIT) -> None:
        """Return when every record has been handled and committed, and every job that is due has run.

        As far as that goes at the time the clock shows: for a list of `take` that is not full, or a job that is due
        later, `clock.advance` comes first. Only waits between two attempts at a failing record are not waited for:
        the clock moves as far as they take.

        Raises:
            NotIdle: It is not so *within* that time by the real clock; names what is left.
            Error: Whatever has ended the worker: an agent that left its loop, state that cannot be written.
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + within.total_seconds()
        while True:
            self._check()
            self.app.flush()
            tasks = [task for task in self._worker.tasks if task.unfinished]
            jobs = self._worker.jobs.unfinished() if self._worker.jobs is not None else []
            rest = self._unfinished()
            if not tasks and not jobs and not rest:
                break
            if loop.time() > ends:
                due = [f"{name} is running or due" for name in jobs]
                left = "; ".join([*(_described(task) for task in tasks), *due, *rest])
                raise NotIdle(f"app {self.app.name!r} is not idle after {within.total_seconds():g} s: {left}")
            if not rest:
                self._pass_pause(tasks, jobs=bool(jobs))
            await asyncio.sleep(POLL_S)
        self.app.refresh()

    def _unfinished(self) -> list[str]:
        """What is left to be done that is not a task's, in words."""
        worker = self._worker
        left = [] if self.app.is_flushed else ["records that were sent are on their way to the log"]
        if worker.committing:
            left.append("a commit is being written")
        if worker.retention_due_s <= self.clock.time():
            left.append("retention is at work")
        return left

    def _pass_pause(self, tasks: list[Task | ConcurrentTask], *, jobs: bool) -> None:
        """Move the clock if everybody who has something left to do waits for another attempt at it."""
        ends = [task.pause_until for task in tasks]
        if jobs and self._worker.jobs is not None:
            ends.append(self._worker.jobs.pause_until)
        known = [until for until in ends if until is not None]
        if ends and len(known) == len(ends):
            self.clock.advance(timedelta(seconds=max(0.0, min(known) - self.clock.time())))

    # Looking.

    def sent(self, topic: Topic[V, Any]) -> list[V]:
        """All values in *topic*, partition by partition, without tombstones; what agents sent, once it is committed."""
        return list(topic.read())

    def dead_letters(self, agent: Agent[Any, Any] | Job) -> list[Record[bytes, bytes]]:
        """The records that *agent* could not handle, as bytes, with the reason in their headers."""
        return list(self.app.dead_letters(agent.name, agent.source).read().records())

    # Acting.

    async def run(self, job: Job) -> Run:
        """Run *job* now, over everything since its last run, and return that run; what is due is done first.

        Between two attempts the clock moves, as in `idle`.

        Raises:
            JobFailed: Its handler raised, at the last attempt too.
            NotIdle, Error: As `idle`.
        """
        await self.idle()
        jobs = self._worker.jobs
        assert jobs is not None, f"{job!r} is no job of {self.app!r}"
        async with alongside(self._pass_pauses()):
            row = await jobs.run(job, self.clock.now, trigger="manual")
        self.app.refresh()
        return row.run

    async def _pass_pauses(self) -> None:
        while True:
            if not any(task.unfinished for task in self._worker.tasks):
                self._pass_pause([], jobs=True)
            await asyncio.sleep(POLL_S)

    async def crash(self) -> None:
        """Die as by `kill -9` and start again on the same directory.

        What agents and jobs have not committed is lost, and so is what was sent and not yet handed to the log; a commit
        that is being written is written whole. Agents are cancelled where they wait; the lifespan ends and begins
        again, because what it opened belongs to this process. Threads and tasks that your code has started live on.
        A power cut, and a death in the middle of a write, are not what this shows.

        Raises:
            Error: The worker had failed before and nobody was told; or it cannot start again.
        """
        self._check(again=False)
        self.app.abandon()
        await self._end()
        self._failure = None  # A killed process says nothing.
        self.app.close()
        await self._begin()

    # Living.

    async def _begin(self) -> None:
        self.app.state = SimpleNamespace(**vars(self._state))
        self._worker, started = Worker(self.app, may_be_empty=True), asyncio.Event()
        self._told = False
        self._life = self._group.create_task(self._live(self._worker, started), name=f"testing {self.app.name}")
        await started.wait()
        self._check()

    async def _live(self, worker: Worker, started: asyncio.Event) -> None:
        try:
            await worker.run(started=started.set)
        except Exception as error:  # whatever ends a worker is for the test to see, in `idle`
            self._failure = error
        finally:
            started.set()

    async def _end(self) -> None:
        if self._life is not None:
            self._worker.kill()
            await asyncio.wait([self._life])

    def _check(self, *, again: bool = True) -> None:
        """Raise what has ended the worker, if it has; unless *again* only once."""
        if self._failure is not None and (again or not self._told):
            self._told = True
            raise self._failure


def _described(task: Task | ConcurrentTask) -> str:
    """What is left for the task to do."""
    record = task.place(task.fetch.offset if task.in_hand is None else task.in_hand)
    if task.in_hand is not None:
        doing = "is handling" if task.pause_until is None else "waits to try again"
        return f"{task.name} {doing} {record}"
    if task.fetch.ready(task.fetch.offset):
        return f"{task.name} has yet to read {record}"
    return f"{task.name} is at {record} and has yet to commit"
