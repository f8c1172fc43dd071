"""`App.testing`: what a test sees of its app as time passes, and what it is told when something fails."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from framework import App, Batch, Stream
from framework.clock import START
from framework.errors import AgentEnded, JobFailed, NotIdle
from tests.framework.shop_app import (
    Basket,
    Order,
    ann,
    app,
    baskets,
    fill,
    nightly,
    numbers_app,
    orders,
    receipts,
    reports,
)

SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)


@pytest.fixture(autouse=True)
def no_reports() -> None:
    reports.clear()


# What a test sees.


async def test_a_basket_is_exact_through_a_crash() -> None:
    async with app.testing() as t:
        await orders.send(ann(3))
        await t.idle()
        assert baskets["ann"] == Basket(orders=1, total=3)
        await t.crash()
        await orders.send(ann(4))
        await t.idle()
        assert baskets["ann"] == Basket(orders=2, total=7)
        assert t.dead_letters(fill) == []
        t.clock.advance(DAY)
        await t.idle()
        run = await t.run(nightly)
        assert run.attempt == 1
    assert reports == [[3, 4]]


async def test_idle_waits_for_records_whose_sends_nobody_awaited() -> None:
    async with app.testing() as t:
        for amount in range(1, 100):
            orders.send(Order(customer=f"c{amount}", amount=amount))
        await t.idle()
        assert sorted(t.sent(receipts)) == list(range(1, 100))
        assert sum(basket.total for basket in baskets.values()) == sum(range(100))


async def test_idle_waits_for_the_commit_however_often_it_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """In every turn of the event loop: also between the last record and the commit that it asks for."""
    monkeypatch.setattr("framework.testing.POLL_S", 0)
    async with app.testing() as t:
        for count in range(1, 21):
            await orders.send(ann(1))
            await t.idle()
            assert t.sent(receipts) == [1] * count


async def test_sent_gives_partition_after_partition_each_in_its_order() -> None:
    async with app.testing() as t:
        for amount in range(1, 9):
            orders.send(Order(customer=f"c{amount % 4}", amount=amount))
        await t.idle()
        found = list(orders.read().records())
        assert t.sent(orders) == [record.value for record in found]
        places = [(record.partition, record.offset) for record in found]
        assert places == sorted(places)
        assert {partition for partition, _ in places} == {0, 1}


async def test_tables_are_read_as_of_the_last_idle() -> None:
    """Elsewhere a read may be a moment old."""
    async with app.testing() as t:
        for count in range(1, 6):
            await orders.send(ann(1))
            await t.idle()
            assert baskets["ann"].orders == count


async def test_a_record_that_fails_is_a_dead_letter_after_idle() -> None:
    """The waits between its attempts are over at once: the clock moves as far as they take, and no further."""
    async with app.testing() as t:
        orders.send_many([ann(1), ann(0), ann(2)])
        await t.idle()
        [letter] = t.dead_letters(fill)
        assert Order.model_validate_json(letter.value).amount == 0
        assert letter.headers["dead-letter.error"] == b"ValueError: an order over nothing"
        assert baskets["ann"] == Basket(orders=2, total=3)
        assert t.clock.now - START < timedelta(minutes=1)


async def test_an_agent_that_cannot_start_is_tried_again_at_the_time_of_the_clock() -> None:
    one, starts = numbers_app(), list[datetime]()

    @one.agent(one.topics["numbers"])
    async def late(stream: Stream[int]) -> None:
        starts.append(t.clock.now if starts else START)
        if len(starts) < 3:
            raise ValueError("not yet")
        async for _ in stream:
            pass

    async with one.testing() as t:
        await t.idle()
        assert t.clock.now == starts[-1]
        waits = [after - before for before, after in pairwise(starts)]
        assert len(waits) == 2
        assert waits[1] == 2 * waits[0] > timedelta(0)


# Time.


async def test_time_begins_where_it_always_does_or_where_the_test_says() -> None:
    start = datetime(2026, 2, 3, 4, 5, 6, 789000, tzinfo=UTC)
    for given, shown in ((None, START), (start, start)):
        async with app.testing(start=given) as t:
            await orders.send(ann(1))
            [record] = orders.read().records()
            assert record.timestamp == t.clock.now == shown
            t.clock.advance(HOUR)
            await orders.send(ann(1))
            assert [record.timestamp for record in orders.read().records()] == [shown, shown + HOUR]


async def test_a_job_runs_when_its_time_comes_and_once_for_what_was_missed() -> None:
    async with app.testing() as t:
        await orders.send(ann(1))
        t.clock.advance(2 * HOUR)
        await t.idle()
        assert reports == []
        t.clock.advance(HOUR)
        await t.idle()
        assert reports == [[1]]
        await orders.send(ann(2))
        t.clock.advance(7 * DAY)
        await t.idle()
        assert reports == [[1], [2]]


async def test_run_runs_a_job_now_over_what_its_last_run_has_not_seen() -> None:
    async with app.testing() as t:
        orders.send(ann(1))
        first = await t.run(nightly)
        orders.send(ann(2))
        t.clock.advance(SECOND)
        second = await t.run(nightly)
        assert (first.id, first.nominal, first.attempt) == ("nightly-20240101T000000Z", START, 1)
        assert (second.id, second.nominal, second.attempt) == ("nightly-20240101T000001Z", START + SECOND, 1)
    assert reports == [[1], [2]]


async def test_a_job_that_falls_due_while_it_runs_waits_for_its_turn() -> None:
    """Both at once would have the same records."""
    one, seen, entered, gate = numbers_app(), list[list[int]](), asyncio.Event(), asyncio.Event()
    numbers = one.topics["numbers"]

    @one.job(numbers, schedule="@hourly")
    async def hourly(batch: Batch[int]) -> None:
        seen.append(list(batch))
        entered.set()
        await gate.wait()

    async with one.testing() as t, asyncio.TaskGroup() as group:
        await numbers.send(1)
        group.create_task(t.run(hourly))
        await asyncio.wait_for(entered.wait(), 10)
        t.clock.advance(HOUR)
        for _ in range(20):
            await asyncio.sleep(0)
        gate.set()
        await t.idle()
    assert seen == [[1]]


async def test_run_raises_what_the_handler_raised() -> None:
    async with app.testing() as t:
        orders.send(ann(13))
        with pytest.raises(JobFailed, match="ValueError: no luck"):
            await t.run(nightly)


async def test_a_list_is_given_out_when_its_time_has_passed() -> None:
    """Until then `idle` does not wait for it, for it is the clock that has to move."""
    one = numbers_app()
    numbers, lists, sums = one.topics["numbers"], one.topic("lists", list), one.table("sums", int)

    def increase(number: int) -> int:
        sums["all"] += 1
        return number + 1

    @one.agent(numbers)
    async def collect(stream: Stream[int]) -> None:
        async for taken in stream.map(increase).take(3, within=5 * SECOND):
            lists.send(taken)

    async with one.testing() as t:
        for number in range(4):
            numbers.send(number)
        await t.idle()
        t.clock.advance(4 * SECOND)
        await t.idle()
        assert (t.sent(lists), sums["all"]) == ([[1, 2, 3]], 3)
        t.clock.advance(SECOND)
        await t.idle()
        assert (t.sent(lists), sums["all"]) == ([[1, 2, 3], [4]], 4)


async def test_retention_goes_by_the_clock() -> None:
    one = App("short")
    kept = one.topic("kept", bytes, retention=HOUR, config={"segment.bytes": 1 << 20})

    @one.agent(kept)
    async def read(stream: Stream[bytes]) -> None:
        async for _ in stream:
            pass

    async with one.testing() as t:
        for _ in range(4):
            await kept.send(bytes(600_000))
        await t.idle()
        t.clock.advance(HOUR / 2)
        await t.idle()
        assert len(t.sent(kept)) == 4
        t.clock.advance(HOUR)
        await t.idle()
        assert len(t.sent(kept)) < 4


# What fails.


async def test_idle_names_the_agent_and_the_record_it_waits_for() -> None:
    one, gate = numbers_app(), asyncio.Event()

    @one.agent(one.topics["numbers"])
    async def stuck(stream: Stream[int]) -> None:
        async for number in stream:
            if number == 2:
                await gate.wait()

    async with one.testing() as t:
        one.topics["numbers"].send_many(range(5))
        with pytest.raises(NotIdle) as raised:
            await t.idle(within=SECOND / 10)
        assert str(raised.value) == "app 'numbers' is not idle after 0.1 s: stuck[0] is handling numbers-0@2"
        assert isinstance(raised.value, TimeoutError)
        gate.set()
        await t.idle()


async def test_idle_raises_what_ended_the_worker() -> None:
    one = numbers_app()

    @one.agent(one.topics["numbers"])
    async def hasty(stream: Stream[int]) -> None:
        async for _ in stream:
            return

    async with one.testing() as t:
        await one.topics["numbers"].send(1)
        for _ in range(2):
            with pytest.raises(AgentEnded, match=r"'hasty' left its loop at numbers-0@"):
                await t.idle()
        await t.crash()
        with pytest.raises(AgentEnded):
            await t.idle()


async def test_a_worker_that_has_ended_fails_the_test_that_did_not_ask() -> None:
    one = numbers_app()

    @one.agent(one.topics["numbers"])
    async def hasty(stream: Stream[int]) -> None:
        return

    async def never_ask() -> None:
        async with one.testing():
            async with asyncio.timeout(10):
                while one.is_open:  # noqa: ASYNC110  # the worker closes it when it ends
                    await asyncio.sleep(0)

    with pytest.raises(AgentEnded):
        await never_ask()
    assert not one.is_open


async def test_what_the_body_raises_comes_out_as_it_is() -> None:
    error = ValueError("of the test")
    with pytest.raises(ValueError, match="of the test") as raised:
        async with app.testing():
            raise error
    assert raised.value is error
