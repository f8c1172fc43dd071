"""Records: what they carry besides their value, that their identity is stable, and what those of agents are given."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from framework import Record, Stream
from framework.log.clock import to_ms

if TYPE_CHECKING:
    from tests.framework.conftest import Shop


async def test_a_record_knows_where_it_came_from(shop: Shop) -> None:
    app, seen = shop.app(), list[Record[str, int]]()
    texts = app.topic("texts", str, key_type=int, partitions=5)
    when = datetime(2024, 2, 29, 12, 0, 0, 123_000, tzinfo=UTC)

    @app.agent(texts)
    def look(record: Record[str, int]) -> None:
        seen.append(record)

    async with app:
        texts.send("zero", key=7)
        sent = await texts.send("one", key=7, timestamp=when, headers={"a": b"1", "b": b""})
    await shop.run(app)
    record = seen[1]
    assert (record.topic, record.partition, record.offset) == ("texts", sent.partition, 1)
    assert (record.key, record.value, record.timestamp) == (7, "one", when)
    assert dict(record.headers) == {"a": b"1", "b": b""}
    assert record.id == f"texts-{sent.partition}-1"
    assert repr(record) == f"<Record texts-{sent.partition}-1 key=b'7' value='one'>"


async def test_the_id_is_the_same_through_retries_and_restarts(shop: Shop) -> None:
    ids: list[str] = []
    for name in ("first", "second"):
        app = shop.app(name)
        numbers = app.topic("numbers", int)

        @app.agent(numbers, name=name)
        def look(record: Record[int]) -> None:
            ids.append(record.id)
            raise ValueError

        if name == "first":
            shop.send(numbers, [1])
        await shop.run(app)
    assert ids == ["numbers-0-0"] * 8


async def test_what_an_agent_is_shown_is_what_a_reader_is_shown(shop: Shop) -> None:
    app, seen = shop.app(), list[tuple[object, ...]]()
    texts = app.topic("texts", str, partitions=3)

    def whole(record: Record[str]) -> tuple[object, ...]:
        return record.id, record.key, record.value, record.timestamp, dict(record.headers)

    @app.agent(texts)
    async def look(stream: Stream[str]) -> None:
        async for record in stream.records():
            seen.append(whole(record))

    with app.opened():
        for number in range(20):
            texts.send(f"t{number}", key=f"k{number}", headers={"n": b"%d" % number} if number % 2 else None)
            texts.send_raw(b"deleted", None, None, [])
    await shop.run(app)
    with app.opened():
        assert sorted(seen, key=str) == sorted(map(whole, texts.read().records()), key=str)
    assert len(seen) == 40


async def test_a_record_without_a_key_has_none(shop: Shop) -> None:
    app = shop.app()
    texts = app.topic("texts", str)
    shop.send(texts, ["a"], key=None)
    with app.opened():
        [record] = texts.read().records()
    assert (record.key, dict(record.headers)) == (None, {})


async def test_of_headers_with_one_name_the_last_counts(shop: Shop) -> None:
    app = shop.app()
    texts = app.topic("texts", str)
    with app.opened():
        texts.send_raw(None, b"a", None, [("h", b"1"), ("h", b"2"), ("none", None)])
    with app.opened():
        [record] = texts.read().records()
    assert dict(record.headers) == {"h": b"2", "none": b""}


@pytest.mark.parametrize(
    ("timestamp", "ms"),
    [
        (datetime(1970, 1, 1, tzinfo=UTC), 0),
        (datetime(1970, 1, 1, 0, 0, 1), 1000),  # noqa: DTZ001  # a naive one is what is tested
        (datetime(1970, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), 0),
        (datetime(2024, 1, 1, 0, 0, 0, 999_999, tzinfo=UTC), 1_704_067_200_999),
        (datetime(2262, 1, 1, tzinfo=UTC), 9_214_646_400_000),
    ],
)
def test_a_timestamp_counts_milliseconds_and_is_utc_where_it_does_not_say(timestamp: datetime, ms: int) -> None:
    assert to_ms(timestamp) == ms


async def test_a_record_may_have_happened_before_1970(shop: Shop) -> None:
    """Flights and weather of the sixties are data, too."""
    app = shop.app()
    texts, when = app.topic("texts", str), datetime(1965, 3, 4, tzinfo=UTC)
    shop.send(texts, ["a"], timestamp=when)
    with app.opened():
        [record] = texts.read().records()
        assert record.timestamp == when
        assert list(texts.read(start=datetime(1960, 1, 1, tzinfo=UTC))) == ["a"]


# Sent by agents.


async def test_what_an_agent_sends_has_the_timestamp_of_its_record_unless_it_says(shop: Shop) -> None:
    app = shop.app()
    numbers, out = app.topic("numbers", int), app.topic("out", int)
    then, other = datetime(2020, 1, 2, tzinfo=UTC), datetime(2021, 1, 2, tzinfo=UTC)

    @app.agent(numbers)
    async def forward(stream: Stream[int]) -> None:
        async for number in stream:
            out.send(number)
            out.send(number, timestamp=other)

    async with app:
        for day in range(3):
            numbers.send(day, timestamp=then + timedelta(days=day))
    await shop.run(app)
    with app.opened():
        stamps = [record.timestamp for record in out.read().records()]
    assert stamps == [stamp for day in range(3) for stamp in (then + timedelta(days=day), other)]


async def test_what_an_agent_sends_is_acknowledged_at_once_and_has_no_offset_yet(shop: Shop) -> None:
    app, acks = shop.app(), list[Any]()
    numbers, out = app.topic("numbers", int), app.topic("out", int)

    @app.agent(numbers)
    async def forward(number: int) -> None:
        ack = out.send(number)
        acks.append((ack.done, await ack, ack.result(timedelta(0)), await out.send_many([1, 2])))

    shop.send(numbers, [7])
    await shop.run(app)
    [(done, awaited, result, many)] = acks
    assert done
    assert awaited == result == many
    assert (result.topic, result.partition, result.offset) == ("out", 0, None)
    assert shop.values(out) == [7, 1, 2]


async def test_what_an_agent_sends_without_a_key_stays_in_its_partition(shop: Shop) -> None:
    """So that an input and its outputs keep their order; modulo, where the target has fewer partitions."""
    app = shop.app(partitions=4)
    numbers, same, fewer = app.topic("numbers", int), app.topic("same", int), app.topic("fewer", int, partitions=3)

    @app.agent(numbers)
    async def forward(number: int) -> None:
        same.send(number)
        fewer.send(number)

    shop.send(numbers, range(40))
    await shop.run(app)
    with app.opened():
        come = {record.value: record.partition for record in numbers.read().records()}
        assert {record.value: record.partition for record in same.read().records()} == come
        gone = {record.value: record.partition for record in fewer.read().records()}
    assert gone == {value: partition % 3 for value, partition in come.items()}
    assert set(come.values()) == {0, 1, 2, 3}
