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
from framework.jobs.job import Job
from framework.schedule import stable_delay
from tests.framework.job_history import due, history
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


# Jitter, history and chunks.


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
