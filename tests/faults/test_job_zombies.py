"""An attempt at a run that was stopped, and whose handler goes on in its thread, changes nothing any more.

If it is inside a commit when it is stopped, that commit counts as a whole, and whoever goes on with the run begins
behind it; or it comes too late, and is refused.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from framework import App, Batch, Retry
from framework.clock import ManualClock
from framework.errors import JobFailed, RunStopped, StaleTask
from framework.jobs import attempt as attempts
from framework.jobs.attempt import Attempt
from framework.jobs.job import Job
from framework.jobs.runner import JobRunner
from framework.jobs.runs import RunRow
from framework.state.database import Database
from framework.state.rows import Change
from framework.state.shards import Shards

LIMIT_S = 5.0
WAYS = ("timeout", "cancel", "worker ends", "killed")
NUMBERS = list(range(6))

pytestmark = pytest.mark.slow


class Held(Database):
    """A real RocksDB that stands still inside a chosen write."""

    chosen: Callable[[RunRow], bool] | None = None
    inside, gate = threading.Event(), threading.Event()

    def write(self, changes: Sequence[Change]) -> None:
        rows = [RunRow.load(value) for key, value in changes if key.startswith(b"r") and value is not None]
        chosen = type(self).chosen
        if chosen is not None and any(map(chosen, rows)):
            type(self).chosen = None
            self.inside.set()
            assert self.gate.wait(LIMIT_S)
        super().write(changes)


class Site:
    """An app with one job, and who runs it."""

    def __init__(self, data: Path) -> None:
        self.clock = ManualClock()
        self.app = App("zombies", data=data, clock=self.clock)
        self.numbers, self.out = self.app.topic("numbers", int), self.app.topic("out", int)
        self.sums = self.app.table("sums", int)
        self.calls = list[int]()
        self.running: asyncio.Task[Any]
        shards = Shards(self.app.open(create=True), open_database=Held)
        shards.own_jobs()
        self.shards = shards
        self.start()

    def start(self) -> None:
        """A runner that knows nothing of the one before."""
        self.runner = JobRunner(self.app, self.shards.of_jobs())

    def declare(self, function: Any) -> Job:
        policies: Any = {"timeout": timedelta(minutes=1), "retries": Retry(0)}
        job: Job = self.app.job(self.numbers, schedule="@daily", name="fold", **policies)(function)
        self.app.topic_info(self.numbers)
        return job

    @asynccontextmanager
    async def begun(self, job: Job) -> AsyncIterator[None]:
        """A run over the numbers is begun before the body, and has ended behind it."""
        for number in NUMBERS:
            ack = self.numbers.send(number)
        await ack
        async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
            self.running = group.create_task(self._run(job))
            yield

    async def _run(self, job: Job) -> None:
        with suppress(JobFailed):
            await self.runner.run(job, self.clock.now)

    def stop(self, job: Job, way: str) -> None:
        """Stop the run the way *way* says."""
        if way == "timeout":
            self.clock.advance(timedelta(minutes=2))
        elif way == "cancel":
            [row] = self.runner.active.values()
            self.runner.cancel(row, "by hand")
        else:
            if way == "killed":
                self.runner.kill()
            self.running.cancel()

    async def end(self, job: Job) -> None:
        """A new worker goes on, and somebody wants what is left."""
        self.start()
        await self.runner.resume(job)
        await self.runner.run(job, self.clock.now)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Handlers are given up soon, and a commit that is held goes on when it is about to be waited for."""
    monkeypatch.setattr(attempts, "STOP_GRACE_S", 0.01)
    Held.inside.clear()
    Held.gate.clear()
    revoke = Attempt.revoke

    def revoked(self: Attempt) -> None:
        Held.gate.set()
        revoke(self)

    monkeypatch.setattr(Attempt, "revoke", revoked)
    site = Site(tmp_path / "data")
    yield site
    Held.gate.set()
    site.shards.close()
    site.app.close()


def handler(site: Site, kind: str) -> Any:
    """Chunks of two numbers into table and topic, and one output at the end."""

    def take(chunk: Batch[int]) -> None:
        for number in chunk:
            site.sums["all"] += number
            site.out.send(number)

    def fold(batch: Batch[int]) -> None:
        site.calls.append(batch.run.attempt if batch.run else 0)
        for chunk in batch.chunks(2):
            take(chunk)
        site.out.send(-1)

    async def fold_async(batch: Batch[int]) -> None:
        site.calls.append(batch.run.attempt if batch.run else 0)
        async for chunk in batch.chunks(2):
            take(chunk)
        site.out.send(-1)

    return fold if kind == "def" else fold_async


ENDED = {"timeout": "timeout", "cancel": "cancelled", "worker ends": "succeeded", "killed": "succeeded"}


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("way", WAYS)
async def test_a_chunk_that_is_being_committed_when_its_attempt_is_stopped_counts_once(
    site: Site, way: str, kind: str
) -> None:
    Held.chosen = lambda row: row.chunk == 1 and row.state == "running"
    job = site.declare(handler(site, kind))
    async with site.begun(job):
        await asyncio.to_thread(Held.inside.wait, LIMIT_S)
        site.stop(job, way)
        if kind == "async def":  # Which waits for its commit before it is stopped.
            for _ in range(10):
                await asyncio.sleep(0)
            Held.gate.set()
    first = site.runner.history(job)[0]
    assert (first.chunk, first.plan) == (1, [[0, 0, 6, 2]])
    await site.end(job)
    assert list(site.out.read()) == [*NUMBERS, -1]
    assert dict(site.sums.items()) == {"all": sum(NUMBERS)}
    assert site.runner.history(job)[0].state == ENDED[way]


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("way", WAYS)
async def test_a_run_whose_last_commit_is_being_made_when_it_is_stopped_has_succeeded(
    site: Site, way: str, kind: str
) -> None:
    """It is not run again over nothing, which would do again what the handler does at its end."""
    Held.chosen = lambda row: row.state == "succeeded"
    job = site.declare(handler(site, kind))
    async with site.begun(job):
        await asyncio.to_thread(Held.inside.wait, LIMIT_S)
        site.stop(job, way)
    assert [(row.state, row.attempt) for row in site.runner.history(job)] == [("succeeded", 1)]
    await site.end(job)
    assert list(site.out.read()) == [*NUMBERS, -1]
    assert dict(site.sums.items()) == {"all": sum(NUMBERS)}
    assert site.calls == [1]


@pytest.mark.parametrize("way", WAYS)
async def test_a_handler_that_goes_on_after_its_attempt_was_stopped_is_refused(site: Site, way: str) -> None:
    """Reading and writing tables, sending, asking for the next chunk, and returning."""
    begun, gate, tried = threading.Event(), threading.Event(), threading.Event()
    refused = dict[str, bool]()

    def stale(what: str, action: Callable[[], object]) -> None:
        try:
            action()
        except (StaleTask, RunStopped):
            refused[what] = True
        else:
            refused[what] = False

    def zombie(batch: Batch[int]) -> None:
        if site.calls:  # The next attempt.
            handler(site, "def")(batch)
            return
        site.calls.append(1)
        chunks = iter(batch.chunks(2))
        for number in next(chunks):
            site.sums["all"] += number
            site.out.send(number)
        begun.set()
        assert gate.wait(LIMIT_S)
        stale("set", lambda: site.sums.__setitem__("all", 1000))
        stale("get", lambda: site.sums["all"])
        stale("send", lambda: site.out.send(1000))
        stale("send many", lambda: site.out.send_many([1000, 1001]))
        stale("next chunk", lambda: next(chunks))
        tried.set()

    job = site.declare(zombie)
    async with site.begun(job):
        await asyncio.to_thread(begun.wait, LIMIT_S)
        site.stop(job, way)
    gate.set()
    assert await asyncio.to_thread(tried.wait, LIMIT_S)
    assert refused == dict.fromkeys(["set", "get", "send", "send many", "next chunk"], True)
    assert site.runner.history(job)[0].chunk == 0
    await site.end(job)
    assert list(site.out.read()) == [*NUMBERS, -1]
    assert dict(site.sums.items()) == {"all": sum(NUMBERS)}


async def test_a_handler_that_lives_on_after_a_crash_is_refused(tmp_path: Path) -> None:
    """Of a worker that a test has killed: the next one has the run to itself."""
    app = App("crashed")
    numbers, out = app.topic("numbers", int), app.topic("out", int)
    sums = app.table("sums", int)
    begun, gate, ended = threading.Event(), threading.Event(), threading.Event()
    calls, failures = list[int](), list[BaseException]()

    @app.job(numbers, schedule="@daily")
    def fold(batch: Batch[int]) -> None:
        calls.append(batch.run.attempt if batch.run else 0)
        first = len(calls) == 1
        try:
            for chunk in batch.chunks(2):
                for number in chunk:
                    sums["all"] += number
                    out.send(number)
                if first:
                    begun.set()
                    assert gate.wait(LIMIT_S)
        except BaseException as error:
            failures.append(error)
            raise
        finally:
            if first:
                ended.set()

    async with app.testing() as t:
        numbers.send_many(NUMBERS)
        await t.idle()
        t.clock.advance(timedelta(days=1))
        await asyncio.to_thread(begun.wait, LIMIT_S)
        await t.crash()
        gate.set()
        assert await asyncio.to_thread(ended.wait, LIMIT_S)
        await t.idle()
        assert t.sent(out) == NUMBERS
        assert dict(sums.items()) == {"all": sum(NUMBERS)}
    assert calls == [1, 2]
    assert [type(failure) for failure in failures] == [StaleTask]
