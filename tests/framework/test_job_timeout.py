"""Jobs that are stopped: by their timeout, or because the next run is due; and what becomes of those that are not."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta

import pytest

from framework import App, Batch, Retry
from framework.jobs import attempt as attempts
from tests.framework.job_history import history, runner
from tests.until import until

HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)
ONCE = Retry(0)
RAN = "succeeded"


def numbers_app() -> App:
    """An app with topics and a table for a job."""
    app = App("options")
    app.topic("numbers", int)
    app.topic("out", int)
    app.table("sums", int)
    return app


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
        assert first.error == "its next run is due"
        assert (second.state, second.records, calls) == (RAN, 1000, [[0, 1], [0]])
        assert t.sent(out) == list(range(3000))
