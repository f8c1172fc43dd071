"""Timers and crontabs: called when they are due, what they do is there once, and a failure costs one call."""

from __future__ import annotations

import asyncio
import logging
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from framework import App, Batch, Stream
from framework.clock import START
from framework.errors import DeclarationError
from framework.jobs.timer import Timer
from framework.schedule import BadSchedule
from framework.state.errors import DiskFailed
from framework.testing import Harness
from framework.worker import Worker
from tests.framework.job_history import SetClock, runner
from tests.until import until

SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def ticking_app() -> App:
    """An app with a topic and a table for a timer."""
    app = App("ticking")
    app.topic("out", str)
    app.table("counts", int)
    return app


def last_fire(t: Harness, timer: Timer) -> datetime:
    """What is stored of *timer*."""
    states = runner(t).states
    states.forget(timer)
    return states.of(timer).last


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_it_is_called_at_every_interval_and_what_it_does_is_committed_with_the_note(kind: str) -> None:
    """`def` in a thread, `async def` on the loop; counted from the epoch, not from the start of the worker."""
    app, threads = ticking_app(), set[bool]()
    out, counts = app.topics["out"], app.tables["counts"]

    def tick() -> None:
        threads.add(threading.current_thread() is threading.main_thread())
        counts["ticks"] += 1
        out.send(f"{t.clock.now:%H:%M:%S}")

    async def tick_async() -> None:
        await asyncio.sleep(0)
        tick()

    timer = app.timer(2.5, name="tick")(tick if kind == "def" else tick_async)
    async with app.testing(start=START + SECOND) as t:
        assert t.sent(out) == []
        for _ in range(9):
            t.clock.advance(SECOND)
            await t.idle()
        assert t.sent(out) == ["00:00:03", "00:00:05", "00:00:08", "00:00:10"]
        assert (counts["ticks"], last_fire(t, timer)) == (4, START + 10 * SECOND)
    assert threads == {kind != "def"}


async def test_an_interval_is_seconds_or_a_timedelta() -> None:
    app = App("intervals")
    assert str(app.timer(90, name="a")(lambda: None).schedule) == "every 90 seconds"
    assert str(app.timer(1.5, name="b")(lambda: None).schedule) == "every 1.5 seconds"
    assert str(app.timer(2 * HOUR, name="c")(lambda: None).schedule) == "every 2 hours"


@pytest.mark.parametrize(
    ("interval", "sentence"),
    [
        (0.5, "timer(0.5): an interval is 1 second at least, because each call is a commit on the disk"),
        (0, "an interval is 1 second at least"),
        (-1, "an interval is 1 second at least"),
        (timedelta(milliseconds=999), "an interval is 1 second at least"),
        (timedelta(days=400), "a period lies between 1 second and 366 days"),
        (float("nan"), "timer(nan): this is no interval, give seconds or a timedelta"),
        (float("inf"), "timer(inf): this is no interval"),
        ("5s", "timer('5s'): this is no interval"),
    ],
)
def test_an_interval_that_cannot_be_is_refused(interval: Any, sentence: str) -> None:
    with pytest.raises(BadSchedule) as refused:
        App("bad").timer(interval, name="tick")(lambda: None)
    assert sentence in str(refused.value)


def test_it_takes_no_arguments_and_its_name_is_its_own() -> None:
    app = App("names")
    numbers = app.topic("numbers", int)

    def wants_more(batch: Any) -> None:
        """It would be given nothing."""

    with pytest.raises(DeclarationError, match="'wants_more' is called without arguments, and has a parameter 'batch'"):
        app.timer(5)(wants_more)  # type: ignore[arg-type]
    with pytest.raises(DeclarationError, match="catchup is 'all', it must be one of coalesce, each, none"):
        app.timer(5, name="tick", catchup="all")(lambda: None)  # type: ignore[arg-type]

    @app.agent(numbers, name="agent")
    async def agent(stream: Stream[int]) -> None:
        """An agent."""

    @app.job(numbers, schedule="@daily", name="job")
    def job(batch: Batch[int]) -> None:
        """A job."""

    app.timer(5, name="timer")(lambda: None)
    for name in ("agent", "job", "timer"):
        with pytest.raises(DeclarationError, match=f"there are two agents, jobs or timers named '{name}'"):
            app.crontab("@daily", name=name)(lambda: None)


@pytest.mark.parametrize(
    ("catchup", "called"),
    [("coalesce", ["03:02"]), ("each", ["03:02"] * 3), ("none", [])],
)
async def test_calls_that_were_missed(catchup: Any, called: list[str]) -> None:
    app = ticking_app()
    out = app.topics["out"]

    @app.crontab("@hourly", catchup=catchup)
    def hourly() -> None:
        out.send(f"{t.clock.now:%H:%M}")

    async with app.testing() as t:
        await t.idle()
        t.clock.advance(3 * HOUR + 2 * MINUTE)
        await t.idle()
        assert t.sent(out) == called
        assert last_fire(t, hourly) == START + 3 * HOUR
        t.clock.advance(HOUR - 2 * MINUTE)
        await t.idle()
        assert t.sent(out) == [*called, "04:00"]


async def test_a_call_that_takes_long_is_not_a_time_missed() -> None:
    """What came due meanwhile is one call afterwards, also with `none`."""
    app, gate, calls = ticking_app(), asyncio.Event(), list[str]()

    @app.timer(MINUTE, catchup="none")
    async def slow() -> None:
        calls.append(f"{t.clock.now:%H:%M}")
        if len(calls) == 1:
            await gate.wait()

    async with app.testing() as t:
        await t.idle()
        t.clock.advance(MINUTE)
        await until(lambda: calls)
        t.clock.advance(10 * MINUTE)
        gate.set()
        await t.idle()
        assert calls == ["00:01", "00:11"]


async def test_a_restart_moves_nothing_and_calls_nothing_twice(tmp_path: Path) -> None:
    """What was due last is stored: a worker that is started again later does what it missed, once."""
    calls = list[str]()

    def declared(clock: SetClock) -> App:
        app = App("ticking", data=tmp_path / "data", clock=clock)
        app.crontab("*/15 * * * *", name="quarter")(lambda: calls.append(f"{clock.now:%H:%M}"))
        return app

    for minutes in (0, 10, 20, 20, 95):
        worker = Worker(declared(SetClock(START + minutes * MINUTE)))
        async with worker.running():
            jobs = worker.jobs
            assert jobs is not None
            await until(lambda: not jobs.unfinished())  # noqa: B023  # it is called here only
    assert calls == ["00:20", "01:35"]


async def test_a_crontab_is_called_once_on_days_the_clock_changes() -> None:
    """Berlin skips half past two in spring, and has it twice in autumn."""
    for start, times in (
        (datetime(2024, 3, 30, tzinfo=UTC), ["30 01:30", "31 01:00", "01 00:30"]),
        (datetime(2024, 10, 26, tzinfo=UTC), ["26 00:30", "27 00:30", "28 01:30"]),
    ):
        app, calls = ticking_app(), list[str]()

        @app.crontab("30 2 * * *", timezone="Europe/Berlin")
        def nightly(calls: list[str] = calls) -> None:
            calls.append(f"{t.clock.now:%d %H:%M}")

        async with app.testing(start=start) as t:
            await t.idle()
            for _ in range(3 * 48):
                t.clock.advance(HOUR / 2)
                await t.idle()
        assert calls == times


async def test_what_it_raises_is_logged_and_nothing_of_that_call_is_there(caplog: pytest.LogCaptureFixture) -> None:
    app, calls = ticking_app(), list[int]()
    out, counts = app.topics["out"], app.tables["counts"]

    @app.timer(MINUTE)
    async def tick() -> None:
        calls.append(len(calls))
        out.send(f"call {calls[-1]}")
        counts["calls"] += 1
        if calls[-1] == 0:
            raise ValueError("no luck")
        if calls[-1] == 1:
            raise asyncio.CancelledError

    @app.timer(MINUTE)
    def stop() -> None:
        if len(calls) <= 2:
            next(iter(()))

    async with app.testing() as t:
        await t.idle()
        for _ in range(4):
            t.clock.advance(MINUTE)
            await t.idle()
        assert t.sent(out) == ["call 2", "call 3"]
        assert (counts["calls"], last_fire(t, stop)) == (2, START + 4 * MINUTE)
    texts = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "tick failed: ValueError: no luck" in texts
    assert "stop failed: RuntimeError: the function raised StopIteration" in texts


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_a_worker_that_is_killed_inside_one_calls_it_again_and_its_effect_is_there_once(kind: str) -> None:
    app, gate, calls = ticking_app(), threading.Event(), list[int]()
    out, counts = app.topics["out"], app.tables["counts"]

    def tick() -> None:
        calls.append(len(calls))
        counts["calls"] += 1
        out.send(f"call {calls[-1]}")

    def plain() -> None:
        tick()
        if len(calls) == 1:
            gate.wait(10)

    async def coroutine() -> None:
        tick()
        if len(calls) == 1:
            await asyncio.get_running_loop().create_future()

    timer = app.timer(HOUR, name="tick")(plain if kind == "def" else coroutine)
    async with app.testing() as t:
        await t.idle()
        t.clock.advance(HOUR)
        await until(lambda: calls)
        await t.crash()
        gate.set()
        await t.idle()
        assert (calls, t.sent(out), counts["calls"]) == ([0, 1], ["call 1"], 1)
        assert last_fire(t, timer) == START + HOUR


async def test_a_disk_that_refuses_the_commit_once_has_it_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The note was not stored either; and when the disk is well again, the next failure is the first one."""
    monkeypatch.setattr("framework.full_disk.DISK_RETRY_S", 0.01)
    app, calls, refusals = ticking_app(), list[int](), list[int]()
    out = app.topics["out"]

    @app.timer(HOUR)
    def tick() -> None:
        calls.append(len(calls))
        out.send(f"call {calls[-1]}")

    async with app.testing() as t:
        await t.idle()
        store = runner(t).store
        commit = store.commit

        def refuse_once(what: Any) -> None:
            if calls and len(refusals) < (calls[-1] + 2) // 2:
                refusals.append(calls[-1])
                raise DiskFailed("no luck")
            commit(what)

        store.commit = refuse_once  # type: ignore[method-assign, assignment]
        for number in range(1, 6):
            t.clock.advance(HOUR)
            await until(lambda: len(calls) == 2 * number)  # noqa: B023  # it is called here only
            await t.idle()
        assert t.sent(out) == [f"call {number}" for number in (1, 3, 5, 7, 9)]
        assert refusals == [0, 2, 4, 6, 8]


async def test_idle_names_a_timer_that_is_at_work() -> None:
    app, gate = ticking_app(), asyncio.Event()

    @app.timer(HOUR)
    async def tick() -> None:
        await gate.wait()

    async with app.testing() as t:
        await t.idle()
        t.clock.advance(HOUR)
        with pytest.raises(TimeoutError, match="timer tick is running or due"):
            await t.idle(within=timedelta(milliseconds=50))
        gate.set()
        await t.idle()
