"""`crash`: what a test's app loses with it, and what it has afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import pytest

from framework import App, Batch, Stream
from framework.errors import StaleTask
from framework.log.errors import LogClosed
from tests.framework.shop_app import numbers_app

HOUR = timedelta(hours=1)


async def test_a_crash_loses_what_is_not_committed() -> None:
    """The agent had handled the record, all but the last line; it handles it again, and its output is there once."""
    one, seen, entered, gate = numbers_app(), list[int](), asyncio.Event(), asyncio.Event()
    numbers, out, sums = one.topics["numbers"], one.topics["out"], one.table("sums", int)

    @one.agent(numbers)
    async def slow(stream: Stream[int]) -> None:
        async for number in stream:
            out.send(number)
            sums["all"] += number
            seen.append(number)
            entered.set()
            await gate.wait()

    async with one.testing() as t:
        await numbers.send(7)
        await asyncio.wait_for(entered.wait(), 10)
        await t.crash()
        assert (t.sent(out), sums["all"]) == ([], 0)
        gate.set()
        await t.idle()
        assert (seen, t.sent(out), sums["all"]) == ([7, 7], [7], 7)


async def test_an_agent_that_resists_its_cancellation_dies_all_the_same() -> None:
    one, entered, gate = numbers_app(), asyncio.Event(), asyncio.Event()
    numbers, out = one.topics["numbers"], one.topics["out"]

    @one.agent(numbers)
    async def stubborn(stream: Stream[int]) -> None:
        async for number in stream:
            entered.set()
            with suppress(asyncio.CancelledError):
                await gate.wait()
            out.send(number)

    async with one.testing() as t:
        await numbers.send(7)
        await asyncio.wait_for(entered.wait(), 10)
        await t.crash()
        assert t.sent(out) == []
        gate.set()
        await t.idle()
        assert t.sent(out) == [7]


async def test_what_an_agent_started_before_the_crash_can_send_no_more() -> None:
    one, entered, gate = numbers_app(), asyncio.Event(), asyncio.Event()
    numbers, out, refused = one.topics["numbers"], one.topics["out"], list[str]()

    async def later() -> None:
        await gate.wait()
        try:
            out.send(1)
        except StaleTask as error:
            refused.append(str(error))

    async with asyncio.TaskGroup() as group:

        @one.agent(numbers)
        async def start(stream: Stream[int]) -> None:
            async for _ in stream:
                if not entered.is_set():
                    group.create_task(later())
                entered.set()
                await gate.wait()

        async with one.testing() as t:
            await numbers.send(7)
            await asyncio.wait_for(entered.wait(), 10)
            await t.crash()
            gate.set()
            await t.idle()
            assert t.sent(out) == []
    assert refused == ["start sent to 'out' after its record was finished or discarded"]


async def test_a_crash_loses_what_waits_for_company_and_tells_who_waits_for_it() -> None:
    one = App("waiting", linger=HOUR)
    numbers = one.topic("numbers", int)
    async with one.testing() as t:
        lost = numbers.send(1)
        await t.crash()
        with pytest.raises(LogClosed, match="abandoned"):
            await lost
        assert t.sent(numbers) == []
        numbers.send(2)
        await t.idle()
        assert t.sent(numbers) == [2]


async def test_a_run_that_a_crash_interrupted_goes_on_as_its_next_attempt() -> None:
    one, attempts, entered, gate = numbers_app(), list[tuple[str, int, list[int]]](), asyncio.Event(), asyncio.Event()
    numbers, out = one.topics["numbers"], one.topics["out"]

    @one.job(numbers, schedule="@hourly")
    async def hourly(batch: Batch[int]) -> None:
        assert batch.run is not None
        values = list(batch)
        attempts.append((batch.run.id, batch.run.attempt, values))
        out.send_many(values)
        entered.set()
        await gate.wait()

    async with one.testing() as t:
        await numbers.send(1)
        await t.idle()
        t.clock.advance(HOUR)
        await asyncio.wait_for(entered.wait(), 10)
        await numbers.send(2)
        await t.crash()
        gate.set()
        await t.idle()
        assert attempts == [("hourly-20240101T010000Z", 1, [1]), ("hourly-20240101T010000Z", 2, [1])]
        assert t.sent(out) == [1]


async def test_the_lifespan_begins_anew_after_a_crash_with_the_state_the_app_was_declared_with() -> None:
    lives = []

    @asynccontextmanager
    async def lifespan(one: App) -> AsyncIterator[None]:
        lives.append(vars(one.state).copy())
        one.state.client = len(lives)
        yield
        one.topics["numbers"].send(99)

    one = App("living", lifespan=lifespan)
    one.topic("numbers", int)
    one.state.greeting = "hello"
    async with one.testing() as t:
        assert one.state.client == 1
        await t.crash()
        assert one.state.client == 2
        assert t.sent(one.topics["numbers"]) == []
    assert lives == [{"greeting": "hello"}] * 2
    assert vars(one.state) == {"greeting": "hello"}
