"""`App.testing`: what a test sees of its app, through crashes and time, and that the app comes back as it was."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import BaseModel

from framework import App, Batch, Harness, Stream
from framework.clock import START
from framework.errors import AgentEnded, AppIsOpen, JobFailed, NotIdle
from framework.log.errors import LogClosed

SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)


class Order(BaseModel):
    customer: str
    amount: int


class Basket(BaseModel):
    orders: int = 0
    total: int = 0


# One app for all tests, as a project has it.
app = App("shop")
orders = app.topic("orders", Order, key=lambda order: order.customer, partitions=2)
receipts = app.topic("receipts", int)
baskets = app.table("baskets", Basket)
reports: list[list[int]] = []


@app.agent(orders)
async def fill(stream: Stream[Order]) -> None:
    async for order in stream:
        if not order.amount:
            raise ValueError("an order over nothing")
        basket = baskets[order.customer]
        basket.orders += 1
        basket.total += order.amount
        receipts.send(order.amount)


@app.job(orders, schedule="0 3 * * *")
def nightly(batch: Batch[Order]) -> None:
    amounts = [order.amount for order in batch]
    if 13 in amounts:
        raise ValueError("no luck")
    reports.append(amounts)


@pytest.fixture(autouse=True)
def no_reports() -> None:
    reports.clear()


def ann(amount: int) -> Order:
    """An order of hers."""
    return Order(customer="ann", amount=amount)


def numbers_app(name: str = "numbers") -> App:
    """An app with the topics `numbers` and `out`."""
    new = App(name)
    new.topic("numbers", int)
    new.topic("out", int)
    return new


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


async def test_run_raises_what_the_handler_raised() -> None:
    async with app.testing() as t:
        orders.send(ann(13))
        with pytest.raises(JobFailed, match="ValueError: no luck"):
            await t.run(nightly)


async def test_a_list_is_given_out_when_its_time_has_passed() -> None:
    """Until then `idle` does not wait for it, for it is the clock that has to move."""
    one = numbers_app()
    numbers, lists = one.topics["numbers"], one.topic("lists", list)

    @one.agent(numbers)
    async def collect(stream: Stream[int]) -> None:
        async for taken in stream.map(lambda n: n + 1).take(3, within=5 * SECOND):
            lists.send(taken)

    async with one.testing() as t:
        for number in range(4):
            numbers.send(number)
        await t.idle()
        t.clock.advance(4 * SECOND)
        await t.idle()
        assert t.sent(lists) == [[1, 2, 3]]
        t.clock.advance(SECOND)
        await t.idle()
        assert t.sent(lists) == [[1, 2, 3], [4]]


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


# Crashes.


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


# The app is given back.


@pytest.mark.parametrize("fails", [False, True])
async def test_the_app_is_as_it_was_and_its_directory_untouched(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAMEWORK_DATA", str(tmp_path / "mine"))
    before = (app.clock, app.data, app.state, set(app.topics))
    place = tmp_path
    with suppress(ZeroDivisionError):
        async with app.testing() as t:
            await orders.send(ann(0))
            await t.idle()
            assert len(t.dead_letters(fill)) == 1
            place = app.data
            assert place.is_dir()
            if fails:
                raise ZeroDivisionError
    assert not app.is_open
    assert not place.exists()
    assert not (tmp_path / "mine").exists()
    assert (app.clock, app.data, app.state, set(app.topics)) == before


async def test_each_testing_begins_with_nothing() -> None:
    for _ in range(3):
        async with app.testing() as t:
            assert t.sent(orders) == []
            await orders.send(ann(1))
            await t.idle()
            assert baskets["ann"].orders == 1


async def test_keys_find_their_partition_in_the_next_directory_too(tmp_path: Path) -> None:
    """It may have more of them than the one before."""
    with orders._app.opened(tmp_path / "data"):
        orders.send_many(Order(customer=f"c{number}", amount=1) for number in range(20)).result()
        spread = {record.key: record.partition for record in orders.read().records()}
    two = App("two")
    values = two.topic("values", Order, key=lambda order: order.customer)
    for partitions in (1, 2):
        two._partitions = partitions
        async with two.testing():
            await values.send_many(Order(customer=f"c{number}", amount=1) for number in range(20))
            found = {record.key: record.partition for record in values.read().records()}
        assert found == (spread if partitions == 2 else dict.fromkeys(spread, 0))


async def test_an_app_that_is_open_is_not_taken(tmp_path: Path) -> None:
    with app.opened(tmp_path / "data"):
        with pytest.raises(AppIsOpen, match=r"app 'shop' is open in .*data: close it"):
            async with app.testing():
                pass
        assert app.is_open
    async with app.testing():
        with pytest.raises(AppIsOpen):
            async with app.testing():
                pass


async def test_an_app_with_nothing_to_run_can_be_sent_to() -> None:
    one = numbers_app()
    async with one.testing() as t, one:
        await one.topics["numbers"].send(1)
        await t.idle()
        assert t.sent(one.topics["numbers"]) == [1]


@pytest_asyncio.fixture
async def shop_at_work() -> AsyncIterator[Harness]:
    async with app.testing() as t:
        yield t


async def test_it_can_be_a_fixture(shop_at_work: Harness) -> None:
    """Which is set up and torn down by different tasks."""
    await orders.send(ann(1))
    await shop_at_work.idle()
    await shop_at_work.crash()
    assert shop_at_work.sent(receipts) == [1]


@pytest.mark.slow
async def test_fifty_times_leave_neither_threads_nor_descriptors() -> None:
    async def once(*, crash: bool) -> tuple[int, int]:
        async with app.testing() as t:
            await orders.send(ann(1))
            await t.idle()
            if crash:
                await t.crash()
            assert baskets["ann"].orders == 1
        return len(os.listdir("/dev/fd")), threading.active_count()

    first = await once(crash=True)
    for count in range(50):
        last = await once(crash=count % 10 == 0)
    assert last == first
