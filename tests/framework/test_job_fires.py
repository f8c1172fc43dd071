"""Which due times are run: every row of the table in `framework.jobs.fires`, decided alone and by a worker."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framework import App, Batch
from framework.clock import START
from framework.jobs.fires import due_fire
from framework.jobs.serving import Serving
from framework.schedule import Schedule
from tests.framework.job_history import due, history, short
from tests.framework.test_jobs import Site
from tests.until import until

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
LATE = 2 * MINUTE
HOURLY = Schedule.parse("@hourly")
DAILY = Schedule.parse("@daily")
RAN, SKIPPED = "succeeded", "skipped"


# Missed times.


@pytest.mark.parametrize(
    ("catchup", "passed", "recorded"),
    [
        *((catchup, DAY, [("02 00:00", RAN, "")]) for catchup in ("coalesce", "each", "none")),
        ("coalesce", DAY + LATE, [("02 00:00", RAN, "")]),
        ("each", DAY + LATE, [("02 00:00", RAN, "")]),
        ("none", DAY + LATE, [("02 00:00", SKIPPED, "1 time missed")]),
        ("coalesce", 3 * DAY + LATE, [("04 00:00", RAN, "stands for 3 times")]),
        ("each", 3 * DAY + LATE, [(f"0{day} 00:00", RAN, "") for day in (2, 3, 4)]),
        ("none", 3 * DAY + LATE, [("04 00:00", SKIPPED, "3 times missed")]),
        ("coalesce", 3 * DAY, [("04 00:00", RAN, "stands for 3 times")]),
        ("each", 3 * DAY, [(f"0{day} 00:00", RAN, "") for day in (2, 3, 4)]),
        ("none", 3 * DAY, [("03 00:00", SKIPPED, "2 times missed"), ("04 00:00", RAN, "")]),
    ],
)
@pytest.mark.parametrize("overlap", ["coalesce", "skip", "cancel"])
async def test_times_that_were_missed(catchup: Any, overlap: Any, passed: timedelta, recorded: list[Any]) -> None:
    """The machine slept. What `overlap` says is about runs at work, and there was none."""
    app, seen = App("missed"), list[int]()
    numbers = app.topic("numbers", int)

    @app.job(numbers, schedule="@daily", catchup=catchup, overlap=overlap, on_empty="run")
    def job(batch: Batch[int]) -> None:
        seen.extend(batch)

    async with app.testing() as t:
        await numbers.send(1)
        t.clock.advance(passed)
        await t.idle()
        assert short(history(t, job)) == recorded
        t.clock.advance(START + 5 * DAY - t.clock.now)
        await t.idle()
        assert seen == [1], "a time that was skipped has lost nothing"
        assert short(history(t, job))[len(recorded) :][-1][:2] == ("06 00:00", RAN)
        times = [row.nominal for row in history(t, job)]
        assert times == sorted(set(times)), "never twice for one time"


# Times that came due while a run was at work.


@pytest.mark.parametrize(
    ("catchup", "overlap", "recorded"),
    [
        ("coalesce", "coalesce", [("01 01:00", RAN, ""), ("01 03:00", RAN, "stands for 2 times")]),
        ("none", "coalesce", [("01 01:00", RAN, ""), ("01 03:00", RAN, "stands for 2 times")]),
        ("each", "coalesce", [("01 01:00", RAN, ""), ("01 02:00", RAN, ""), ("01 03:00", RAN, "")]),
        *(
            (
                catchup,
                "skip",
                [("01 01:00", RAN, ""), ("01 03:00", SKIPPED, "2 times due while the run before was at work")],
            )
            for catchup in ("coalesce", "each", "none")
        ),
        *(
            (catchup, "cancel", [("01 01:00", "cancelled", ""), ("01 02:00", RAN, ""), ("01 03:00", RAN, "")])
            for catchup in ("coalesce", "each", "none")
        ),
    ],
)
async def test_times_that_came_due_during_a_run(catchup: Any, overlap: Any, recorded: list[Any]) -> None:
    app, calls, gate = App("overlapped"), list[list[int]](), asyncio.Event()
    numbers = app.topic("numbers", int)

    @app.job(numbers, schedule="@hourly", catchup=catchup, overlap=overlap, on_empty="run")
    async def job(batch: Batch[int]) -> None:
        calls.append(list(batch))
        if len(calls) == 1:
            await gate.wait()

    async with app.testing() as t:
        await numbers.send(1)
        t.clock.advance(HOUR)
        await until(lambda: calls)
        t.clock.advance(HOUR)
        if overlap == "cancel":
            await until(lambda: [row.state for row in history(t, job)] == ["cancelled", RAN])
            await t.idle()
        t.clock.advance(HOUR)
        gate.set()
        await t.idle()
        assert short(history(t, job)) == recorded
        assert calls[:2] == ([[1], [1]] if overlap == "cancel" else [[1], []][: len(calls)])
        t.clock.advance(HOUR)
        await t.idle()
        assert short(history(t, job))[-1] == ("01 04:00", RAN, "")


async def test_a_run_that_somebody_wanted_is_a_run_before_too() -> None:
    """With `skip`, and with `cancel`: whoever began what is at work when the job is due."""
    app, calls, gate = App("wanted"), list[str](), asyncio.Event()
    numbers = app.topic("numbers", int)

    async def handle(batch: Batch[int]) -> None:
        assert batch.run is not None
        calls.append(batch.run.id)
        if len(calls) <= 2:
            await gate.wait()

    skip = app.job(numbers, schedule="@hourly", overlap="skip", name="skip")(handle)
    cancel = app.job(numbers, schedule="@hourly", overlap="cancel", name="cancel")(handle)
    async with app.testing() as t, asyncio.TaskGroup() as group:
        await numbers.send(1)
        await t.idle()
        jobs = t._worker.jobs
        assert jobs is not None
        t.clock.advance(MINUTE)
        for job in (skip, cancel):
            row = await jobs.plan_now(job, t.clock.now)
            group.create_task(_finish(jobs, job, row))
        await until(lambda: len(calls) == 2)
        t.clock.advance(HOUR)
        await until(lambda: len(calls) == 3)
        await until(lambda: len(history(t, skip)) == 2)
        gate.set()
        await t.idle()
        assert [row[:2] for row in short(history(t, skip))] == [("01 00:01", RAN), ("01 01:00", SKIPPED)]
        assert [row[:2] for row in short(history(t, cancel))] == [("01 00:01", "cancelled"), ("01 01:00", RAN)]


async def _finish(jobs: Any, job: Any, row: Any) -> None:
    async with jobs.turn(job):
        await jobs.finish(job, row)


@pytest.mark.parametrize(
    ("catchup", "overlap", "recorded"),
    [
        ("coalesce", "coalesce", [("12 00:00", RAN, "stands for 3 times")]),
        ("each", "coalesce", [("10 00:00", RAN, ""), ("11 00:00", RAN, ""), ("12 00:00", RAN, "")]),
        ("none", "coalesce", [("12 00:00", SKIPPED, "3 times missed")]),
        ("coalesce", "skip", [("12 00:00", RAN, "stands for 3 times")]),
        ("each", "cancel", [("10 00:00", RAN, ""), ("11 00:00", RAN, ""), ("12 00:00", RAN, "")]),
    ],
)
async def test_what_was_missed_with_a_run_left_over(
    tmp_path: Path, catchup: Any, overlap: Any, recorded: list[Any]
) -> None:
    """The worker was down for days in the middle of a run: nothing was at work then, whatever is finished first."""
    site, calls, gate = Site(tmp_path / "data"), list[str](), asyncio.Event()

    @site.app.job(site.numbers, schedule="@daily", catchup=catchup, overlap=overlap, on_empty="run")
    async def job(batch: Batch[int]) -> None:
        assert batch.run is not None
        calls.append(f"{batch.run.nominal:%d}#{batch.run.attempt}")
        await gate.wait()

    site.start()
    try:
        site.append(1)
        assert await site.pass_time(job, site.now) == []
        site.now += DAY / 2
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(Serving(site.runner).serve(job))
            await until(lambda: calls)
            serving.cancel()
        site.stop()
        site.now += 3 * DAY + LATE
        site.start()
        gate.set()
        rows = await site.pass_time(job, site.now)
        assert calls[:2] == ["09#1", "09#2"]
        assert short(rows) == recorded
    finally:
        site.stop()


# Decided alone.

AT = datetime(2024, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        ("coalesce", [(3, "run", "stands for 3 times")]),
        ("cancel", [(3, "run", "stands for 3 times")]),
        ("skip", [(1, "run", ""), (3, "skip", "2 times due while the run before was at work")]),
    ],
)
def test_missed_and_overlapped_are_told_apart(overlap: Any, expected: list[Any]) -> None:
    """13:00 was missed before the runs began at 13:30; 14:00 and 15:00 came due meanwhile."""
    last, found = AT, []
    while fire := due_fire(
        HOURLY, last, AT + 3 * HOUR + MINUTE, "coalesce", overlap, busy=(AT + HOUR + 30 * MINUTE, AT + 3 * HOUR)
    ):
        found.append(((fire.nominal - AT) // HOUR, fire.action, fire.covers))
        last = fire.nominal
    assert found == expected


def test_what_is_counted_has_a_limit() -> None:
    fire = due_fire(Schedule.parse(timedelta(seconds=1)), AT, AT + HOUR, "coalesce")
    assert fire is not None
    assert (fire.nominal, fire.covers) == (AT + HOUR, "stands for more than 1000 times")


STEPS = st.lists(st.tuples(st.integers(0, 200), st.integers(1, 40)), max_size=12)


@given(
    STEPS,
    st.sampled_from(["coalesce", "each", "none"]),
    st.sampled_from(["coalesce", "skip", "cancel"]),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_nothing_is_skipped_silently_and_nothing_is_due_twice(
    steps: list[tuple[int, int]], catchup: Any, overlap: Any, busy: bool
) -> None:
    """Whatever time passes between two looks, in minutes: each time is run, or noted by what stands for it, once."""
    schedule, now, last, covered = Schedule.parse("*/20 * * * *"), AT, AT, 0
    for passed, at_work in steps:
        since = now + timedelta(minutes=passed)
        now = since + timedelta(minutes=at_work) if busy else since
        while fire := due_fire(schedule, last, now, catchup, overlap, busy=(since, now) if busy else None):
            assert last < fire.nominal <= now
            noted = [int(word) for word in fire.covers.split() if word.isdigit()]
            between = (fire.nominal - last) // (20 * MINUTE)
            assert (noted or [1]) == [between]
            last, covered = fire.nominal, covered + between
            if catchup == "each" and fire.action == "run":
                assert between == 1
        assert schedule.next_after(last) > now
    assert covered == (last - AT) // (20 * MINUTE)


# Each.

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 3)),
        st.tuples(st.just("wait"), st.integers(1, 150)),
        st.tuples(st.just("down"), st.integers(1, 300)),
    ),
    min_size=3,
    max_size=14,
)


@given(ACTIONS)
@settings(max_examples=20, deadline=None)
@pytest.mark.slow
def test_each_missed_run_gets_what_it_would_have_got_on_time(actions: list[tuple[str, int]]) -> None:
    """Appends, minutes in which the job is served, and minutes in which nobody is there: ranges end at the fires."""
    with TemporaryDirectory() as directory:
        asyncio.run(_check_each(Path(directory), actions))


async def _check_each(directory: Path, actions: list[tuple[str, int]]) -> None:
    site, seen, expected = Site(directory / "data"), dict[datetime, list[int]](), dict[datetime, list[int]]()

    @site.app.job(site.numbers, schedule="@hourly", catchup="each")
    def job(batch: Batch[int]) -> None:
        assert batch.run is not None
        assert batch.run.nominal not in seen
        seen[batch.run.nominal] = sorted(batch)

    site.start()
    try:
        await site.pass_time(job, site.now)
        number = 0
        for what, amount in [*actions, ("wait", 60)]:
            if what == "append":
                for _ in range(amount):
                    site.append(number, partition=number % 2)
                    expected.setdefault(job.schedule.next_after(site.now), []).append(number)
                    number += 1
                continue
            if what == "down":
                site.stop()
                site.now += timedelta(minutes=amount)
                site.start()
                await site.pass_time(job, site.now)
            else:
                await site.pass_time(job, site.now + timedelta(minutes=amount))
        assert seen == {nominal: values for nominal, values in expected.items() if nominal <= site.now}
        rows = site.runner.history(job)
        assert [due(row) for row in rows] == [rows and due(rows[0]) + at * HOUR for at in range(len(rows))]
        ends = [0, 0]
        for row in rows:
            assert [start for _, start, _, _ in row.plan] == ends, "each begins where the one before has ended"
            ends = [end for _, _, end, _ in row.plan]
        assert sum(ends) == sum(map(len, seen.values()))
    finally:
        site.stop()
