"""Runs that fail, and those that crash: attempts, what they are for, and what becomes of the records then."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from framework import App, Batch, Retry
from framework.clock import START
from framework.errors import JobFailed
from framework.jobs.runner import MAX_CRASHES
from framework.jobs.serving import Serving
from tests.framework.job_history import history, runner, short
from tests.framework.test_jobs import Site
from tests.until import until

HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)
ONCE = Retry(0)
RAN = "succeeded"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site; closed after the test."""
    site = Site(tmp_path / "data")
    yield site
    site.stop()


def numbers_app() -> App:
    """An app with topics and a table for a job."""
    app = App("options")
    app.topic("numbers", int)
    app.topic("out", int)
    app.table("sums", int)
    return app


async def test_attempts_are_made_inside_one_run_at_the_chunk_that_failed_with_waits_that_double() -> None:
    app, calls = numbers_app(), list[tuple[int, bool, list[tuple[int, list[int]]]]]()
    numbers, out = app.topics["numbers"], app.topics["out"]
    times = list[float]()

    @app.job(numbers, schedule="@hourly", retries=Retry(3, wait=30 * SECOND, max_wait=50 * SECOND))
    def job(batch: Batch[int]) -> None:
        assert batch.run is not None
        chunks = list[tuple[int, list[int]]]()
        calls.append((batch.run.attempt, batch.resumed, chunks))
        times.append((t.clock.now - START).total_seconds())
        for chunk in batch.chunks(2):
            chunks.append((chunk.number, list(chunk)))
            out.send_many(chunk)
            if chunk.number == 1 and len(calls) < 4:
                raise ValueError("no luck")

    async with app.testing() as t:
        for number in range(5):
            numbers.send(number)
        run = await t.run(job)
        assert calls == [
            (1, False, [(0, [0, 1]), (1, [2, 3])]),
            (2, True, [(1, [2, 3])]),
            (3, True, [(1, [2, 3])]),
            (4, True, [(1, [2, 3]), (2, [4])]),
        ]
        assert times == [0, 30, 80, 130]
        [row] = history(t, job)
        assert (row.id, row.state, row.attempt, row.failures, row.records, row.chunk) == (run.id, RAN, 4, 3, 5, 3)
        assert (row.error, row.traceback) == ("", "")
        assert t.sent(out) == [0, 1, 2, 3, 4]


async def test_only_what_retries_are_for_is_tried_again() -> None:
    app, calls = numbers_app(), list[int]()
    numbers = app.topics["numbers"]

    @app.job(numbers, schedule="@hourly", retries=Retry(5, on=(OSError, TimeoutError)))
    def job(batch: Batch[int]) -> None:
        calls.append(1)
        raise (OSError("away") if len(calls) < 3 else ValueError("never"))

    async with app.testing() as t:
        numbers.send(1)
        with pytest.raises(JobFailed, match="failed: ValueError: never"):
            await t.run(job)
        [row] = history(t, job)
        assert (row.state, row.attempt, row.error) == ("failed", 3, "ValueError: never")
        assert 'raise (OSError("away") if' in row.traceback


async def test_a_crash_while_a_run_waits_for_its_next_attempt() -> None:
    """It is no crash of the run; the attempt is made at once."""
    app, calls = numbers_app(), list[int]()
    numbers = app.topics["numbers"]

    @app.job(numbers, schedule="@hourly", retries=Retry(3, wait=10 * MINUTE, max_wait=HOUR))
    async def job(batch: Batch[int]) -> None:
        calls.append(len(batch))
        if len(calls) == 1:
            raise ValueError("no luck")

    async with app.testing() as t:
        await numbers.send(1)
        await t.idle()
        t.clock.advance(HOUR)
        await until(lambda: runner(t).pause_until)
        assert [(row.state, row.error) for row in history(t, job)] == [("waiting", "ValueError: no luck")]
        await t.crash()
        await t.idle()
        assert t.clock.now == START + HOUR
        [row] = history(t, job)
        assert (row.state, row.attempt, row.failures, row.crashes, calls) == (RAN, 2, 1, 0, [1, 1])


@pytest.mark.parametrize(
    ("on_failure", "second", "paused"), [("hold", [1, 2], False), ("pause", None, True), ("skip", [2], False)]
)
async def test_what_becomes_of_the_records_of_a_run_that_failed(on_failure: Any, second: Any, paused: bool) -> None:
    app, calls = numbers_app(), list[list[int]]()
    numbers = app.topics["numbers"]

    @app.job(numbers, schedule="@hourly", retries=ONCE, on_failure=on_failure)
    def job(batch: Batch[int]) -> None:
        calls.append(list(batch))
        if len(calls) == 1:
            raise ValueError("no luck")

    async with app.testing() as t:
        await numbers.send(1)
        t.clock.advance(HOUR)
        await t.idle()
        [row] = history(t, job)
        assert row.state == "failed"
        assert bool(row.notes) == (on_failure == "skip")
        await numbers.send(2)
        t.clock.advance(HOUR)
        await t.idle()
        assert calls[1:] == ([] if second is None else [second])
        state = runner(t).states.of(job)
        assert (state.paused is not None) == paused
        if state.paused:
            assert state.paused["by"] == "the worker"
            assert state.paused["why"] == f"run {row.id}: ValueError: no luck"
            await t.crash()
            t.clock.advance(HOUR)
            await t.idle()
            assert len(calls) == 1, "it survives a restart"
            await Serving(runner(t))._commands.resume("job")
            await t.idle()
            assert calls[1:] == [[1, 2]]
            assert short(history(t, job))[1] == ("01 03:00", RAN, "stands for 2 times")


async def test_a_run_that_ends_worker_after_worker_is_abandoned_and_its_job_paused() -> None:
    app, calls = numbers_app(), list[int]()
    numbers = app.topics["numbers"]

    @app.job(numbers, schedule="@hourly")
    async def job(batch: Batch[int]) -> None:
        calls.append(len(batch))
        await asyncio.get_running_loop().create_future()

    async with app.testing() as t:
        await numbers.send(1)
        await t.idle()
        t.clock.advance(HOUR)
        for crash in range(MAX_CRASHES + 1):
            await until(lambda: len(calls) == crash + 1)  # noqa: B023  # it is called here only
            await t.crash()
        await t.idle()
        [row] = history(t, job)
        assert (row.state, row.crashes, row.attempt) == ("abandoned", MAX_CRASHES + 1, MAX_CRASHES + 1)
        assert row.error == f"it has ended {MAX_CRASHES + 1} workers in a row"
        assert runner(t).states.of(job).paused is not None


async def test_a_run_that_gets_on_between_crashes_is_not_abandoned() -> None:
    app, entered = numbers_app(), list[int]()
    numbers, out = app.topics["numbers"], app.topics["out"]

    @app.job(numbers, schedule="@hourly")
    async def job(batch: Batch[int]) -> None:
        async for chunk in batch.chunks(1):
            out.send_many(chunk)
            entered.append(chunk.number)
            if chunk.number and len(entered) < 18:
                await asyncio.get_running_loop().create_future()

    async with app.testing() as t:
        for number in range(3 * MAX_CRASHES):
            numbers.send(number)
        await t.idle()
        t.clock.advance(HOUR)
        for _ in range(2 * MAX_CRASHES):
            before = len(entered)
            await until(lambda: len(entered) > before)  # noqa: B023  # it is called here only
            if entered[-1] == 0:
                await until(lambda: entered[-1])
            row = history(t, job)[0]
            row.begun_chunk = max(0, row.chunk - 1)  # As if the attempt had committed a chunk before.
            await runner(t).commit([row.change()])
            await t.crash()
        entered += [99] * 18
        await t.idle()
        assert [row.state for row in history(t, job)] == [RAN]
        assert t.sent(out) == list(range(3 * MAX_CRASHES))


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_a_handler_that_is_cancelled_by_itself_or_stops_iterating_has_failed(kind: str) -> None:
    """Neither ends the serving of the job, nor is it waited for for ever."""
    app = numbers_app()
    numbers = app.topics["numbers"]

    def plain(batch: Batch[int]) -> None:
        next(iter(list(batch)[:0]))

    async def coroutine(batch: Batch[int]) -> None:
        raise asyncio.CancelledError

    declare = app.job(numbers, schedule="@hourly", retries=ONCE, name="job")
    job = declare(plain if kind == "def" else coroutine)
    async with app.testing() as t:
        await numbers.send(1)
        for _ in range(2):
            t.clock.advance(HOUR)
            await t.idle()
        assert [row.state for row in history(t, job)] == ["failed", "failed"]
        assert ("StopIteration" if kind == "def" else "cancelled, and not from outside") in history(t, job)[0].error


async def test_a_handler_that_has_done_its_work_has_succeeded_whatever_comes_then(site: Site) -> None:
    """The worker is stopped in the moment in which the run is committed: it is not done a second time."""
    calls, committed, gate = list[int](), threading.Event(), threading.Event()

    @site.app.job(site.numbers, schedule="@hourly")
    def job(batch: Batch[int]) -> None:
        calls.append(len(batch))

    site.start()
    site.append(1)
    commit = site.runner.store.commit

    def slow(what: Any) -> None:
        commit(what)
        if any(b'"succeeded"' in (value or b"") for _, value in what.changes):
            committed.set()
            gate.wait(10)

    site.runner.store.commit = slow  # type: ignore[method-assign, assignment]
    async with asyncio.TaskGroup() as group:
        running = group.create_task(site.run(job))
        await until(committed.is_set)
        running.cancel()
        gate.set()
    [row] = site.runner.history(job)
    assert (row.state, calls) == (RAN, [1])
    site.stop()
    site.start()
    assert await site.runner.resume(job) == []
