"""Jobs on clocks that are set: nothing runs twice, nothing is lost, and a clock that was years ahead stops nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from framework import App, Batch
from framework.clock import START, ManualClock
from framework.jobs.alarm import HOP_S, Alarm
from framework.jobs.job import Job
from tests.framework.job_history import SetClock, due, history, runner, short
from tests.framework.test_jobs import START as SITE_START
from tests.framework.test_jobs import Site
from tests.until import until

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
HOP = timedelta(seconds=HOP_S)
YEARS = timedelta(days=6 * 365)


@pytest.fixture(autouse=True)
def _clock_that_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framework.testing.ManualClock", SetClock)


def hourly_app(**options: Any) -> tuple[App, Job]:
    """An app with a job that runs also over nothing."""
    app = App("clock")

    @app.job(app.topic("numbers", int), schedule="@hourly", on_empty="run", **options)
    def job(batch: Batch[int]) -> None:
        list(batch)

    return app, job


def set_by(clock: ManualClock, by: timedelta) -> None:
    """Set the wall clock, which nobody who waits is told."""
    assert isinstance(clock, SetClock)
    clock.set(by)


async def test_a_clock_that_is_set_back_over_a_fire_does_not_run_it_again() -> None:
    app, job = hourly_app()
    async with app.testing() as t:
        t.clock.advance(HOUR)
        await t.idle()
        set_by(t.clock, -HOUR / 2)
        for _ in range(3):
            t.clock.advance(HOUR / 4)
            await t.idle()
        assert t.clock.now == START + HOUR + HOUR / 4
        assert [row[0] for row in short(history(t, job))] == ["01 01:00"]
        t.clock.advance(3 * HOUR / 4)
        await t.idle()
        assert [row[0] for row in short(history(t, job))] == ["01 01:00", "01 02:00"]


@pytest.mark.parametrize(
    ("catchup", "recorded"),
    [
        ("coalesce", [("01 05:00", "succeeded", "stands for 5 times")]),
        ("each", [(f"01 0{hour}:00", "succeeded", "") for hour in range(1, 6)]),
        ("none", [("01 05:00", "skipped", "5 times missed")]),
    ],
)
async def test_a_clock_set_forward_and_a_machine_that_slept_are_noticed_within_a_hop(
    catchup: Any, recorded: list[Any]
) -> None:
    """The time by which threads sleep has not moved meanwhile: it stands still while a machine is suspended."""
    app, job = hourly_app(catchup=catchup)
    async with app.testing() as t:
        await t.idle()
        set_by(t.clock, 5 * HOUR + 10 * HOP)
        assert history(t, job) == []
        t.clock.advance(HOP)
        await t.idle()
        assert short(history(t, job)) == recorded


@pytest.mark.parametrize("restart", [False, True])
async def test_a_clock_that_was_years_ahead_once_does_not_stop_a_job_for_years(restart: bool) -> None:
    """What ran then stays; from now on it is due by the clock of now, over what is there."""
    app, job = hourly_app()
    async with app.testing() as t:
        await t.idle()
        set_by(t.clock, YEARS)
        t.clock.advance(HOP)
        await t.idle()
        [ahead] = history(t, job)
        assert due(ahead) == datetime(2029, 12, 30, tzinfo=UTC)
        await app.topics["numbers"].send(6)
        set_by(t.clock, -YEARS)
        if restart:
            await t.crash()
        else:
            t.clock.advance(HOP)
        await app.topics["numbers"].send(7)
        await t.idle()
        t.clock.advance(START + HOUR - t.clock.now)
        await t.idle()
        first, last = history(t, job)
        assert (due(first), first.records, last) == (START + HOUR, 2, ahead)
        assert first.notes == ["until='start': the last append to numbers-0 is ahead of the clock"]


async def test_a_time_that_has_been_run_is_not_run_again_after_days_of_a_wrong_clock() -> None:
    """The clock is set back by so much that what was due last no longer counts; the runs there were still do."""
    app, job = hourly_app(catchup="each")
    async with app.testing() as t:
        t.clock.advance(3 * HOUR)
        await t.idle()
        t.clock.advance(2 * DAY)
        await t.idle()
        before = history(t, job)
        assert len(before) == 51
        set_by(t.clock, -2 * DAY - HOUR)
        t.clock.advance(HOP)
        await until(lambda: runner(t).states.of(job).last < START + DAY)
        t.clock.advance(3 * HOUR)
        await t.idle()
        assert runner(t).states.of(job).last == START + 5 * HOUR
        assert history(t, job) == before


async def test_a_clock_set_back_while_the_worker_is_down(tmp_path: Path) -> None:
    with site_with(tmp_path, "0 3 * * *") as (site, job):
        await site.pass_time(job, site.now)
        assert len(await site.pass_time(job, SITE_START + DAY)) == 1
    with site_with(tmp_path, "0 3 * * *", SITE_START) as (site, job):
        assert await site.pass_time(job, site.now) == []
        rows = await site.pass_time(job, SITE_START + 2 * DAY)
        assert [f"{due(row):%d %H}" for row in rows] == ["10 03"]


@pytest.mark.parametrize(("schedule", "timezone"), [("0 12 * * *", "UTC"), ("0 3 * * *", "America/New_York")])
async def test_what_the_schedule_of_yesterday_has_missed_is_not_run_by_that_of_today(
    tmp_path: Path, schedule: str, timezone: str
) -> None:
    """Edited while the worker was down: due from now on, for all the records; not for a slot in the past."""
    with site_with(tmp_path, "0 3 * * *") as (site, job):
        await site.pass_time(job, site.now)
        site.append(1)
    now = SITE_START + 5 * DAY + HOUR
    with site_with(tmp_path, schedule, now, timezone=timezone) as (site, job):
        assert await site.pass_time(job, site.now) == []
        [row] = await site.pass_time(job, now + DAY)
        assert due(row) == job.schedule.next_after(now)
        assert row.records == 1


@contextmanager
def site_with(tmp_path: Path, schedule: str, now: datetime = SITE_START, **options: Any) -> Iterator[tuple[Site, Job]]:
    """The site as it is declared now, started."""
    site = Site(tmp_path / "data")

    @site.app.job(site.numbers, schedule=schedule, on_empty="run", name="job", **options)
    def job(batch: Batch[int]) -> None:
        list(batch)

    site.now = now
    site.start()
    try:
        yield site, job
    finally:
        site.stop()


# The alarm.


async def test_who_waits_is_woken_by_what_the_clock_shows_and_in_order() -> None:
    clock, woken = SetClock(), list[int]()
    alarm = Alarm(clock)

    async def wait(number: int) -> None:
        await alarm.until(START + number * HOUR)
        woken.append(number)

    async with asyncio.TaskGroup() as group:
        serving = group.create_task(alarm.run())
        waiting = [group.create_task(wait(number)) for number in (3, 1, 2, 30)]
        await until(lambda: len(alarm._waiting) == 4)
        clock.advance(HOUR)
        await until(lambda: woken == [1])
        clock.set(2 * HOUR)
        assert woken == [1]
        clock.advance(HOP)
        await until(lambda: woken == [1, 2, 3])
        clock.set(-3 * HOUR)
        clock.advance(HOP)
        await until(lambda: woken == [1, 2, 3, 30])  # They look again, and wait again if it is not time.
        assert all(task.done() for task in waiting)
        serving.cancel()


async def test_who_waits_no_longer_is_forgotten() -> None:
    """A job that somebody changes every second waits for tomorrow each time."""
    alarm = Alarm(SetClock())
    async with asyncio.TaskGroup() as group:
        for _ in range(100):
            waiting = group.create_task(alarm.until(START + DAY))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
    assert len(alarm._waiting) < 3


async def test_a_small_step_back_wakes_nobody() -> None:
    clock, woken = SetClock(), list[int]()
    alarm = Alarm(clock)

    async def wait() -> None:
        await alarm.until(START + HOUR)
        woken.append(1)

    async with asyncio.TaskGroup() as group:
        serving, waiting = group.create_task(alarm.run()), group.create_task(wait())
        await until(lambda: len(alarm._waiting) == 1)
        clock.set(-timedelta(seconds=40))
        for _ in range(4):
            clock.advance(HOP)
            await asyncio.sleep(0)
        assert not woken
        waiting.cancel()
        serving.cancel()
