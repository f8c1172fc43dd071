"""A job must not starve agents: in a thread it rests while they have work, and is handed few records that take long."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta

import pytest

from framework import App, Batch, Stream
from framework.jobs import runner
from framework.jobs.pace import MAX_REST_S, REST, TURN_S, Pace
from framework.reading import SLICE_RECORDS
from tests.framework.job_history import history
from tests.until import until


class Time:
    """A clock that goes on when somebody works or sleeps."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, list[float]()

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)


def test_beside_agents_that_have_work_it_rests_most_of_the_time() -> None:
    time, asked = Time(), list[float]()

    def busy() -> bool:
        asked.append(time.now)
        return True

    pace, worked = Pace(busy, clock=time.clock, sleep=time.sleep), 0.0
    while time.now < 10:
        time.now += TURN_S / 20  # A slice of records.
        worked += TURN_S / 20
        pace.keep()
    assert 0.9 < worked * (1 + REST) / time.now < 1.1
    assert len(asked) == len(time.slept) < worked / TURN_S + 2, "once in a turn, for it costs something too"


def test_beside_agents_that_have_nothing_to_do_it_does_not_rest() -> None:
    time = Time()
    pace = Pace(clock=time.clock, sleep=time.sleep)
    for _ in range(1000):
        time.now += TURN_S
        pace.keep()
    assert time.slept == []


def test_a_rest_has_a_limit_however_long_a_turn_was() -> None:
    """What took a second is over; making up for it in one piece would help nobody."""
    time = Time()
    pace = Pace(lambda: True, clock=time.clock, sleep=time.sleep)
    time.now += 1
    pace.keep()
    assert time.slept == [MAX_REST_S]


def test_records_that_take_long_are_handed_out_few_at_a_time() -> None:
    """So that a job comes to a rest, or to its stop, in time; and quick ones many, for each slice costs something."""
    time = Time()
    pace = Pace(clock=time.clock, sleep=time.sleep)
    handed = []
    for each_s in (1e-6, 1.0, 1e-3, 1e-6):
        for _ in range(20):
            count = pace.turn()
            time.now += count * each_s
        handed.append(count)
    assert handed == [SLICE_RECORDS, 1, 2, SLICE_RECORDS]


async def test_a_job_in_a_thread_rests_for_an_agent_that_has_a_record_in_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Again and again, as long as it reads; and comes to its end."""
    app, rests, done = App("beside"), list[float](), asyncio.Event()
    numbers = app.topic("numbers", int)

    @app.agent(numbers)
    async def hold(stream: Stream[int]) -> None:
        async for number in stream:
            if number == 0:
                await done.wait()

    @app.job(numbers, schedule="@hourly")
    def job(batch: Batch[int]) -> None:
        for _ in batch:
            time.now += TURN_S / 2  # As if it computed.

    time, ended = Time(), threading.Event()

    def sleep(seconds: float) -> None:
        rests.append(seconds)
        ended.wait(0.001)  # Somebody else's turn.

    monkeypatch.setattr(runner, "Pace", lambda busy: Pace(busy, clock=time.clock, sleep=sleep))
    async with app.testing() as t:
        for number in range(1000):
            numbers.send(number)
        t.app.flush()
        await until(lambda: t._worker.tasks[0].in_hand is not None)
        t.clock.advance(timedelta(hours=1))
        await until(lambda: [row.state for row in history(t, job)] == ["succeeded"])
        assert history(t, job)[0].records == 1000
        assert len(rests) > 100
        done.set()
        await t.idle()
