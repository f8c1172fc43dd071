"""What can be said of a job: which records it reads, what if it fails, how long it may take, what is remembered."""

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
from framework.errors import DeclarationError, JobFailed
from framework.jobs import attempt as attempts
from framework.jobs.job import Job
from framework.jobs.runner import MAX_CRASHES
from framework.jobs.serving import Serving
from framework.schedule import stable_delay
from framework.worker import Worker
from tests.framework.job_history import due, history, runner, short, until
from tests.framework.test_jobs import START as SITE_START
from tests.framework.test_jobs import Site

HOUR, DAY, MINUTE, SECOND = timedelta(hours=1), timedelta(days=1), timedelta(minutes=1), timedelta(seconds=1)
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


# Which records.


async def test_reads_new_all_or_what_was_appended_in_some_time(site: Site) -> None:
    seen = dict[str, list[list[int]]]()

    def declare(name: str, reads: Any) -> Job:
        @site.app.job(site.numbers, schedule="@hourly", reads=reads, name=name)
        def job(batch: Batch[int]) -> None:
            seen.setdefault(name, []).append(list(batch))

        return job

    jobs = [declare("new", "new"), declare("all", "all"), declare("lately", 2 * HOUR)]
    site.start()
    for job in jobs:
        await site.pass_time(job, SITE_START)
    for number in range(4):
        site.append(number)
        for job in jobs:
            site.now = SITE_START + number * HOUR
            await site.pass_time(job, SITE_START + (number + 1) * HOUR)
    assert seen == {
        "new": [[0], [1], [2], [3]],
        "all": [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]],
        "lately": [[0], [0, 1], [1, 2], [2, 3]],
    }


@pytest.mark.parametrize(("bound", "first"), [("fire", [1]), ("start", [1, 2])])
async def test_a_run_ends_where_it_was_due_or_where_it_starts(site: Site, bound: Any, first: list[int]) -> None:
    """However late it starts: here by five minutes."""
    seen = []

    @site.app.job(site.numbers, schedule="@hourly", until=bound)
    def job(batch: Batch[int]) -> None:
        seen.append(list(batch))

    site.start()
    await site.pass_time(job, SITE_START)
    site.append(1)
    site.now += HOUR
    site.append(2)
    site.now += 5 * MINUTE
    await site.pass_time(job, site.now)
    assert seen == [first]


@pytest.mark.parametrize("on_empty", ["skip", "run"])
async def test_over_no_records_the_handler_is_called_if_that_is_wanted(on_empty: Any) -> None:
    app, calls = numbers_app(), list[list[int]]()

    @app.job(app.topics["numbers"], schedule="@hourly", on_empty=on_empty)
    def job(batch: Batch[int]) -> None:
        calls.append(list(batch))

    async with app.testing() as t:
        t.clock.advance(HOUR)
        await t.idle()
        assert [row.state for row in history(t, job)] == ["empty" if on_empty == "skip" else RAN]
        assert calls == ([] if on_empty == "skip" else [[]])


@pytest.mark.parametrize("on_gap", ["fail", "earliest"])
async def test_records_that_were_removed_before_they_were_read(site: Site, on_gap: Any) -> None:
    """Planned, then removed: the run fails for good, and says how to go on; or goes on, and that is noted."""
    seen = []

    @site.app.job(site.numbers, schedule="@hourly", on_gap=on_gap, name="gap")
    def job(batch: Batch[int]) -> None:
        seen.append(list(batch))

    site.start()
    info = site.app.topic_info(site.numbers)
    site.append(1, 2)
    row = await site.runner.plan_now(job, site.now)
    site.append(3)
    partition = site.app.log.partition(info, 0)
    partition.delete_records(1)
    await site.runner.finish(job, row)
    [row] = site.runner.history(job)
    if on_gap == "fail":
        assert (row.state, row.attempt, seen) == ("failed", 1, [])
        assert "offsets 0 to 0 were removed before run" in row.error
        assert "on_gap='earliest'" in row.error
    else:
        assert (row.state, row.records, seen) == (RAN, 1, [[2]])
        assert row.notes == [f"{partition.name} offsets 0 to 0 were removed before run {row.id} read them"]


# Failures.


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


# Time.


async def test_a_plain_def_that_takes_too_long_is_stopped_at_its_next_record() -> None:
    """In a thread; what its chunks had committed stays, and the next attempt goes on there."""
    app, gate, calls = numbers_app(), threading.Event(), list[int]()
    numbers, out = app.topics["numbers"], app.topics["out"]
    handed = list[int]()

    @app.job(numbers, schedule="@hourly", timeout=MINUTE, retries=Retry(1))
    def job(batch: Batch[int]) -> None:
        calls.append(batch.number)
        for chunk in batch.chunks(1000):
            for number in chunk:
                handed.append(number)
                if number == 1500 and len(calls) == 1:
                    gate.wait(10)
            out.send_many(chunk)

    async with app.testing() as t:
        for number in range(3000):
            numbers.send(number)
        await t.idle()
        t.clock.advance(HOUR)
        await until(lambda: handed and handed[-1] == 1500)
        t.clock.advance(MINUTE)
        await until(lambda: any(a._stopping for a in runner(t)._attempts.values()))
        gate.set()
        await t.idle()
        [row] = history(t, job)
        assert (row.state, row.attempt, row.failures, row.records) == (RAN, 2, 1, 3000)
        assert calls == [0, 1]
        assert len(handed) < 4000, "it went on to the end of what it had in hand, and no further"
        assert t.sent(out) == list(range(3000))


async def test_a_plain_def_that_never_comes_to_a_record_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on without it, and what it does from then on is refused."""
    monkeypatch.setattr(attempts, "STOP_GRACE_S", 0.05)
    app, gate, refused = numbers_app(), threading.Event(), list[str]()
    numbers, out = app.topics["numbers"], app.topics["out"]

    @app.job(numbers, schedule="@hourly", timeout=MINUTE, retries=ONCE)
    def job(batch: Batch[int]) -> None:
        gate.wait(10)
        try:
            out.send(1)
        except Exception as error:  # noqa: BLE001  # it is looked at below
            refused.append(str(error))

    async with app.testing() as t:
        await numbers.send(1)
        await t.idle()
        t.clock.advance(HOUR)
        await until(lambda: runner(t)._attempts)
        t.clock.advance(MINUTE)
        await t.idle()
        [row] = history(t, job)
        assert (row.state, row.attempt) == ("timeout", 1)
        assert row.error.endswith("attempt 1 has taken longer than 0:01:00")
        gate.set()
        await until(lambda: refused)
        assert refused == ["job sent to 'out' after its record was finished or discarded"]
        assert t.sent(out) == []


async def test_an_async_def_that_takes_too_long_is_cancelled_where_it_waits() -> None:
    app, calls, ended = numbers_app(), list[int](), list[str]()
    numbers = app.topics["numbers"]

    @app.job(numbers, schedule="@hourly", timeout=MINUTE, retries=Retry(2, wait=SECOND))
    async def job(batch: Batch[int]) -> None:
        calls.append(len(batch))
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append("here")

    async with app.testing() as t:
        await numbers.send(1)
        await t.idle()
        t.clock.advance(HOUR)
        for attempt in range(1, 4):
            await until(lambda: len(calls) == attempt)  # noqa: B023  # it is called here only
            t.clock.advance(MINUTE)
            await until(lambda: len(ended) == attempt)  # noqa: B023  # as above
            if attempt < 3:
                await until(lambda: runner(t).pause_until)
                t.clock.advance(2 * SECOND)
        await t.idle()
        [row] = history(t, job)
        assert (row.state, row.attempt, row.failures) == ("timeout", 3, 3)


async def test_cancel_stops_a_plain_def_at_its_next_record_and_the_next_run_goes_on_there() -> None:
    app, gate, calls = numbers_app(), threading.Event(), list[list[int]]()
    numbers, out = app.topics["numbers"], app.topics["out"]

    @app.job(numbers, schedule="@hourly", overlap="cancel")
    def job(batch: Batch[int]) -> None:
        calls.append([])
        for chunk in batch.chunks(1000):
            out.send_many(chunk)
            calls[-1].append(chunk.number)
            if len(calls) == 1 and chunk.number == 1:
                gate.wait(10)

    async with app.testing() as t:
        for number in range(3000):
            numbers.send(number)
        await t.idle()
        t.clock.advance(HOUR)
        await until(lambda: calls and len(calls[0]) == 2)
        t.clock.advance(HOUR)
        await until(lambda: any(a._stopping for a in runner(t)._attempts.values()))
        gate.set()
        await t.idle()
        first, second = history(t, job)
        assert (first.state, first.records) == ("cancelled", 2000), "the chunk in hand was done, and is committed"
        assert first.error == f"RunStopped: run {first.id} is cancelled: its next run is due"
        assert (second.state, second.records, calls) == (RAN, 1000, [[0, 1], [0]])
        assert t.sent(out) == list(range(3000))


async def test_jitter_moves_the_start_by_the_same_time_always_and_not_what_is_read() -> None:
    app, started = numbers_app(), list[Any]()
    numbers = app.topics["numbers"]

    @app.job(numbers, schedule="@hourly", jitter=10 * MINUTE)
    def job(batch: Batch[int]) -> None:
        started.append((t.clock.now, list(batch)))

    delay = job.delay
    assert timedelta(0) <= stable_delay("options.job", 10 * MINUTE) - delay < timedelta(milliseconds=1)
    assert SECOND < delay < 10 * MINUTE
    async with app.testing() as t:
        await numbers.send(1)
        t.clock.advance(HOUR)
        await numbers.send(2)
        t.clock.advance(delay - SECOND)
        await t.idle()
        assert (started, history(t, job)) == ([], [])
        t.clock.advance(SECOND)
        await t.idle()
        assert started == [(START + HOUR + delay, [1])]
        assert [due(row) for row in history(t, job)] == [START + HOUR]
        t.clock.advance(HOUR)
        await t.idle()
        assert started[1:] == [(START + 2 * HOUR + delay, [2])]


async def test_so_many_runs_are_remembered_and_failed_ones_for_a_month(site: Site) -> None:
    calls = []

    @site.app.job(site.numbers, schedule="@daily", history=3, retries=ONCE, on_empty="run", catchup="none")
    def job(batch: Batch[int]) -> None:
        calls.append(batch)
        if len(calls) == 2:
            raise ValueError("no luck")

    site.start()
    await site.pass_time(job, SITE_START)
    for day in range(1, 32):
        site.now = SITE_START + day * DAY
        site.now = site.now.replace(hour=0)
        await site.pass_time(job, site.now)
        states = [row.state for row in site.runner.history(job)]
        assert len(states) <= 4
        assert ("failed" in states) == (day >= 2), day
    site.now += 2 * DAY
    await site.pass_time(job, site.now)
    assert [row.state for row in site.runner.history(job)] == [RAN, "skipped", RAN]
    await site.pass_time(job, site.now + DAY)
    assert [row.state for row in site.runner.history(job)] == ["skipped", RAN, RAN]


# Chunks.


async def test_async_for_commits_without_blocking_the_event_loop(site: Site) -> None:
    """While a chunk is committed, in a thread, the loop goes on."""
    held, turns = threading.Event(), list[int]()

    @site.app.job(site.numbers, schedule="@hourly")
    async def job(batch: Batch[int]) -> None:
        async for chunk in batch.chunks(1):
            site.out.send_many(chunk)

    site.start()
    site.append(1, 2)
    commit = site.runner.store.commit

    def slow(what: Any) -> None:
        if any(key.startswith(b"r") for key, _ in what.changes):
            assert held.wait(10), "the loop stands still"
            held.clear()
        commit(what)

    site.runner.store.commit = slow  # type: ignore[method-assign, assignment]
    async with asyncio.TaskGroup() as group:
        running = group.create_task(site.run(job))
        while not running.done():
            turns.append(1)
            held.set()
            await asyncio.sleep(0)
    assert (list(site.out.read()), running.result().chunk) == ([1, 2], 2)


# What cannot be.


def handle(batch: Batch[int]) -> None:
    """A handler."""


async def handle_async(batch: Batch[int]) -> None:
    """Another."""


class Holder:
    """Holds a handler."""

    @staticmethod
    def method(batch: Batch[int]) -> None:
        """It cannot be found by the name of its module."""


@pytest.mark.parametrize(
    ("function", "options", "sentence"),
    [
        (handle, {"until": "now"}, "until is 'now', it must be one of fire, start"),
        (handle, {"catchup": "all"}, "catchup is 'all', it must be one of coalesce, each, none"),
        (handle, {"overlap": "allow"}, "overlap is 'allow', it must be one of coalesce, skip, cancel"),
        (handle, {"on_failure": "retry"}, "on_failure is 'retry', it must be one of hold, pause, skip"),
        (handle, {"on_gap": "skip"}, "on_gap is 'skip', it must be one of fail, earliest"),
        (handle, {"on_empty": True}, "on_empty is True, it must be one of skip, run"),
        (handle, {"executor": "fork"}, "executor is 'fork', it must be one of thread, process"),
        (handle, {"reads": "old"}, "reads is 'old', it must be 'new', 'all' or a timedelta"),
        (handle, {"reads": timedelta(0)}, "reads is 0:00:00, it must be positive"),
        (handle, {"timeout": timedelta(0)}, "timeout is 0:00:00, it must be positive"),
        (handle, {"timeout": 30}, "timeout is 30, it must be a timedelta"),
        (handle, {"jitter": 30}, "jitter is 30, it must be a timedelta"),
        (handle, {"jitter": -SECOND}, "jitter is -1 day, 23:59:59, it must be positive"),
        (handle, {"history": 0}, "history is 0, it must be a number of runs, 1 or more"),
        (handle, {"history": "5"}, "history is '5', it must be a number of runs, 1 or more"),
        (handle, {"retries": 3}, "retries is 3, it must be a Retry"),
        (handle, {"retries": Retry(then="stop")}, "of a job, on_failure says what comes after the last retry"),
        (handle, {"catchup": "each", "until": "start"}, "until='start' does not know: leave one of them out"),
        (handle_async, {"executor": "process"}, "executor='process' is for a plain def"),
        (Holder.method, {"executor": "process"}, "the function stands at the top of a module"),
        (lambda batch: None, {"executor": "process"}, "the function stands at the top of a module"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_declared(function: Any, options: Any, sentence: str) -> None:
    app = App("bad")
    with pytest.raises(DeclarationError) as refused:
        app.job(app.topic("numbers", int), schedule="@daily", name="nightly", **options)(function)
    assert str(refused.value).startswith("job 'nightly': ")
    assert sentence in str(refused.value)
    assert app.jobs == {}


def test_an_option_that_there_is_not_is_refused() -> None:
    app, options = App("bad"), {"overlaps": "skip"}
    with pytest.raises(DeclarationError, match="overlaps is no option of job; there are catchup, executor, history"):
        app.job(app.topic("numbers", int), schedule="@daily", **options)(handle)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("topic", "schedule", "options", "refused"),
    [
        ({"retention": 7 * DAY}, "@weekly", {}, None),
        ({"retention": 6 * DAY}, "@weekly", {}, "is due up to 7 days, 0:00:00 after the time before, but topic 'kept'"),
        ({"retention": 7 * DAY}, "@daily", {"reads": 8 * DAY}, "reads back 8 days, 0:00:00, but topic 'kept' keeps"),
        ({"retention": 7 * DAY}, "@daily", {"reads": 7 * DAY}, None),
        ({"compact": True}, "@monthly", {}, None),
        ({"retention": None}, "@yearly", {"reads": 400 * DAY}, None),
    ],
)
async def test_a_topic_keeps_what_its_jobs_are_to_read(
    tmp_path: Path, topic: Any, schedule: str, options: Any, refused: str | None
) -> None:
    """Else the worker does not start: it would lose records without anybody having been told."""
    app = App("kept", data=tmp_path / "data")
    app.job(app.topic("kept", int, **topic), schedule=schedule, name="job", **options)(handle)
    if refused is None:
        await Worker(app).run(until_idle=True)
        return
    with pytest.raises(DeclarationError) as error:
        await Worker(app).run(until_idle=True)
    assert refused in str(error.value)
