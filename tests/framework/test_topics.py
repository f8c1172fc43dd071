"""Topics: keys and partitions, what `send` takes and refuses, acknowledgements, and reading between two places."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from framework import Ack, Topic
from framework.errors import DeclarationError, DecodeError, EncodeError
from framework.log import partition_of
from framework.log.ack import Delivery
from framework.log.errors import InvalidName, InvalidSetting, NoDataDirectory, RecordTooLarge, TopicExists

if TYPE_CHECKING:
    from tests.framework.conftest import Shop

MEBIBYTE = 1 << 20


class Order(BaseModel):
    id: int
    customer: str


def keys(topic: Topic[Any, Any]) -> list[tuple[Any, int]]:
    """(key, partition) of every record."""
    with topic._app.opened():
        return [(record.key, record.partition) for record in topic.read().records()]


# Keys and partitions.


def test_the_key_is_derived_from_the_value_unless_it_is_given(shop: Shop) -> None:
    app = shop.app()
    orders = app.topic("orders", Order, key=lambda order: order.customer)
    order = Order(id=1, customer="c")
    with app.opened():
        orders.send(order)
        orders.send(order, key="given")
        orders.send(order, key=None)
    assert keys(orders) == [("c", 0), ("given", 0), (None, 0)]


def test_a_record_goes_where_murmur2_puts_its_key(shop: Shop) -> None:
    """As with every Kafka client; 'foobar' and '21' are in the tests of Kafka itself."""
    app = shop.app()
    texts = app.topic("texts", str, key=str, partitions=7)
    with app.opened():
        acks = {text: texts.send(text).partition for text in ("21", "foobar", "a-little-bit-long-string", "")}
    assert acks == {text: partition_of(text.encode(), 7) for text in acks}
    assert acks["21"] == (-973932308 & 0x7FFFFFFF) % 7
    assert acks["foobar"] == (-790332482 & 0x7FFFFFFF) % 7
    assert dict(keys(texts)) == acks


def test_equal_keys_of_any_type_are_one_key(shop: Shop) -> None:
    app = shop.app()
    by_dict = app.topic("by-dict", int, key_type=dict, partitions=50)
    with app.opened():
        partitions = {by_dict.send(1, key=key).partition for key in ({"a": 1, "b": 2}, {"b": 2, "a": 1})}
    assert len(partitions) == 1


def test_records_without_keys_go_round(shop: Shop) -> None:
    app = shop.app()
    numbers = app.topic("numbers", int, partitions=4)
    shop.send(numbers, range(40))
    assert Counter(partition for _, partition in keys(numbers)) == dict.fromkeys(range(4), 10)


def test_records_of_one_key_keep_their_order(shop: Shop) -> None:
    app = shop.app()
    numbers = app.topic("numbers", int, key=lambda n: f"k{n % 3}", partitions=3)
    shop.send(numbers, range(300))
    found = shop.values(numbers)
    for rest in range(3):
        assert [number for number in found if number % 3 == rest] == list(range(rest, 300, 3))


# Acknowledgements.


async def test_an_ack_tells_where_the_record_went(shop: Shop) -> None:
    app = shop.app()
    numbers = app.topic("numbers", int, partitions=2)
    async with app:
        acks = [numbers.send(number, key="k") for number in range(3)]
        assert not acks[0].done
        sent = [await ack for ack in acks]
        assert acks[0].done
        assert await acks[0] == sent[0]
    assert [(each.topic, each.offset) for each in sent] == [("numbers", 0), ("numbers", 1), ("numbers", 2)]
    assert {each.partition for each in sent} == {acks[0].partition}


def test_an_ack_gives_its_result_to_code_without_a_loop(shop: Shop) -> None:
    app = shop.app()
    numbers = app.topic("numbers", int)
    with app.opened():
        assert [numbers.send(number).result(timedelta(seconds=10)).offset for number in range(3)] == [0, 1, 2]


def test_an_ack_that_is_waited_for_too_long_times_out() -> None:
    class Held:
        def flush(self) -> None: ...
        def hurry(self) -> None: ...

    with pytest.raises(TimeoutError):
        Ack("topic", 0, Delivery(Held())).result(timedelta(milliseconds=1))


async def test_send_many_sends_in_order_and_waits_for_every_partition(shop: Shop) -> None:
    app = shop.app()
    numbers = app.topic("numbers", int, partitions=3)
    async with app:
        ack = numbers.send_many(range(30))
        assert not ack.done
        assert (await ack).offset == 9
        assert sorted(numbers.read()) == list(range(30))
        assert numbers.send_many([1, 2]).result().offset == 10
        with pytest.raises(ValueError, match="send_many to 'numbers' was given no values"):
            numbers.send_many([])


async def test_an_abandoned_wait_leaves_the_record_on_its_way(shop: Shop) -> None:
    app = shop.app()
    numbers = app.topic("numbers", int)
    async with app:
        one, two = numbers.send(1), numbers.send(2)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(wait(one))
            await asyncio.sleep(0)
            waiting.cancel()
        assert (await two).offset == 1
        assert (await one).offset == 0


async def wait(ack: Ack) -> None:
    """Await it in a task."""
    await ack


# What is refused.


def test_a_value_of_another_type_is_refused_by_send(shop: Shop) -> None:
    app = shop.app()
    orders = app.topic("orders", Order, key_type=bytes)
    with app.opened():
        with pytest.raises(EncodeError, match=r"\{'id': 1\} cannot be stored as Order: it is no Order"):
            orders.send({"id": 1})  # type: ignore[arg-type]
        with pytest.raises(EncodeError, match="'text' cannot be stored as bytes"):
            orders.send(Order(id=1, customer="c"), key="text")  # type: ignore[arg-type]
    assert shop.values(orders) == []


@pytest.mark.parametrize("size", [MEBIBYTE, MEBIBYTE - 69, MEBIBYTE - 70])
async def test_a_record_over_the_limit_is_refused_by_send(shop: Shop, size: int) -> None:
    """By `send` itself: later there would be nobody to tell, and others in its batch."""
    app = shop.app()
    texts = app.topic("texts", str)
    async with app:
        before = texts.send("before")
        with pytest.raises(RecordTooLarge, match=r"to 'texts' is over its max\.message\.bytes, 1048576"):
            texts.send("x" * size)
        assert (await before).offset == 0
        assert (await texts.send("x" * (MEBIBYTE - 200))).offset == 1


@pytest.mark.parametrize("headers", [{"h": b"x" * MEBIBYTE}, {"h": "text"}, {1: b"x"}], ids=["large", "str", "name"])
async def test_headers_that_cannot_be_stored_are_refused_by_send(shop: Shop, headers: Any) -> None:
    app = shop.app()
    texts = app.topic("texts", str)
    async with app:
        before = texts.send("before")
        with pytest.raises((RecordTooLarge, EncodeError, TypeError)):
            texts.send("x", headers=headers)
        assert (await before).offset == 0


def test_a_timestamp_that_cannot_be_stored_is_refused_by_send(shop: Shop) -> None:
    app = shop.app()
    texts = app.topic("texts", str)
    with app.opened():
        with pytest.raises(AttributeError):
            texts.send("x", timestamp="yesterday")  # type: ignore[arg-type]
        assert texts.send("y").result().offset == 0


# Declaring.


def test_a_topic_declared_twice_alike_is_one_and_differently_is_refused(shop: Shop) -> None:
    app = shop.app()
    orders = app.topic("orders", Order, partitions=2)
    assert app.topic("orders", Order, partitions=2) is orders
    different: list[dict[str, Any]] = [
        {"value_type": dict, "partitions": 2},
        {"value_type": Order, "partitions": 3},
        {"value_type": Order},
        {"value_type": Order, "partitions": 2, "key_type": int},
        {"value_type": Order, "partitions": 2, "key": lambda order: order.customer},
        {"value_type": Order, "partitions": 2, "retention": None},
    ]
    for options in different:
        with pytest.raises(DeclarationError, match="topic 'orders' is declared twice, and differently: keep one"):
            app.topic("orders", **options)
    assert repr(orders) == "<Topic 'orders' of Order>"


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("", {}, InvalidName),
        ("a b", {}, InvalidName),
        ("..", {}, InvalidName),
        ("x" * 250, {}, InvalidName),
        ("a", {"partitions": 0}, InvalidSetting),
        ("a", {"partitions": 10_001}, InvalidSetting),
        ("a", {"retention": timedelta(0)}, DeclarationError),
        ("a", {"retention": timedelta(days=-1)}, DeclarationError),
    ],
)
def test_what_kafka_would_not_take_is_refused(shop: Shop, name: str, options: Any, error: type[Exception]) -> None:
    app = shop.app()
    with pytest.raises(error):
        app.topic(name, str, **options)
    assert app.topics == {}


def test_a_topic_is_made_as_declared_when_it_is_first_used(shop: Shop) -> None:
    app = shop.app(partitions=3)
    declared = [
        app.topic("a", str),
        app.topic("b", str, partitions=2, retention=timedelta(hours=1)),
        app.topic("c", str, retention=None),
    ]
    assert not shop.data.exists()
    with app.opened():
        infos = [app.topic_info(topic) for topic in declared]
    assert [(info.partitions, info.settings.retention_ms) for info in infos] == [
        *((3, 7 * 24 * 3600 * 1000), (2, 3_600_000), (3, -1)),
    ]


def test_a_topic_that_is_there_with_other_partitions_is_refused(shop: Shop) -> None:
    shop.send(shop.app().topic("texts", str, partitions=2), ["a"])
    other, silent = shop.app(), shop.app(partitions=9)
    with other.opened(), pytest.raises(TopicExists) as refused:
        other.topic("texts", str, partitions=3).send("b")
    assert str(refused.value) == (
        f"topic 'texts' has 2 partitions in {shop.data}, the app declares 3: declare 2, or use another topic"
    )
    assert shop.values(silent.topic("texts", str)) == ["a"]


# Reading.


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        ("beginning", "end", [0, 1, 2, 3, 4]),
        ("end", "end", []),
        ("beginning", "beginning", []),
        (2, "end", [2, 3, 4]),
        (1, 3, [1, 2]),
        (3, 1, []),
        (-5, 99, [0, 1, 2, 3, 4]),
        (datetime(2024, 1, 1, 3, tzinfo=UTC), "end", [3, 4]),
        (datetime(2024, 1, 1, 2, 1, tzinfo=UTC), "end", [3, 4]),
        ("beginning", datetime(2024, 1, 1, 2, tzinfo=UTC), [0, 1]),
        (timedelta(hours=1), "end", [4]),
        (timedelta(hours=3), timedelta(hours=1), [2, 3]),
        (datetime(2000, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC), [0, 1, 2, 3, 4]),
    ],
    ids=str,
)
def test_read_gives_the_records_between_two_places(shop: Shop, start: Any, end: Any, expected: list[int]) -> None:
    """The records are stamped at 0 to 4 o'clock, in batches of their own; it is half past four."""

    class HalfPastFour:
        def now_ms(self) -> int:
            return int(datetime(2024, 1, 1, 4, 30, tzinfo=UTC).timestamp() * 1000)

        def monotonic(self) -> float:
            return 0.0

    app = shop.app(clock=HalfPastFour())
    numbers = app.topic("numbers", int)
    with app.opened():
        for hour in range(5):
            numbers.send(hour, timestamp=datetime(2024, 1, 1, hour, tzinfo=UTC)).result()
        batch = numbers.read(start, end)
        assert (list(batch), list(batch), len(batch)) == (expected, expected, len(expected))


def test_read_ends_where_the_topic_ended_when_it_was_called(shop: Shop) -> None:
    app = shop.app()
    numbers = app.topic("numbers", int, partitions=2)
    with app.opened():
        numbers.send_many([1, 2]).result()
        batch = numbers.read()
        numbers.send_many([3, 4]).result()
        assert sorted(batch) == [1, 2]


def test_read_tells_where_a_record_cannot_be_decoded(shop: Shop) -> None:
    app = shop.app()
    numbers = app.topic("numbers", int)
    for value in (b"1", None, b"?"):
        shop.send_raw(numbers, value)
    with app.opened():
        found = iter(numbers.read())
        assert next(found) == 1
        with pytest.raises(DecodeError, match="numbers-0@2: not a valid int: "):
            next(found)


def test_reading_makes_neither_a_topic_nor_a_directory(shop: Shop) -> None:
    app = shop.app()
    numbers = app.topic("numbers", int)
    with pytest.raises(NoDataDirectory, match="there is no data directory at"):
        numbers.read()
    assert not shop.data.exists()
    with app.opened():
        assert list(numbers.read()) == []
        assert app.log.topics() == {}
