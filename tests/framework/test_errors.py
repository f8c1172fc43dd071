"""What happens when an agent raises or a record cannot be decoded: retries, dead letters, nothing lost or doubled."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from framework import Record, Stream, Table
from framework.errors import AgentEnded

if TYPE_CHECKING:
    from tests.framework.conftest import Shop


class Refused(Exception):
    """What the agents of this file raise."""


# The fold.


@pytest.mark.slow
@pytest.mark.parametrize("form", ["loop", "call"])
@pytest.mark.parametrize("partitions", [1, 5])
async def test_every_tenth_record_dead_lettered_leaves_the_fold_of_the_others(
    shop: Shop, form: str, partitions: int
) -> None:
    app = shop.app()
    numbers = app.topic("numbers", int, key=lambda n: f"k{n % 7}", partitions=partitions)
    lists: Table[list[int]] = app.table("lists", list)

    def handle(number: int) -> None:
        lists[f"k{number % 7}"].append(number)
        if number % 10 == 9:
            raise Refused(number)

    async def loop(stream: Stream[int]) -> None:
        async for number in stream:
            handle(number)

    def call(number: int) -> None:
        handle(number)

    forms: dict[str, Any] = {"loop": loop, "call": call}
    app.agent(numbers)(forms[form])
    shop.send(numbers, range(300))
    await shop.run(app)
    expected: dict[str, list[int]] = {}
    for number in range(300):
        if number % 10 != 9:
            expected.setdefault(f"k{number % 7}", []).append(number)
    assert shop.rows(lists) == expected
    assert sorted(int(letter.value) for letter in shop.dead(app, form)) == list(range(9, 300, 10))


async def test_what_a_failing_record_sent_is_never_seen(shop: Shop) -> None:
    app = shop.app()
    numbers, one, two = app.topic("numbers", int), app.topic("one", int), app.topic("two", int)

    @app.agent(numbers)
    async def fan_out(stream: Stream[int]) -> None:
        async for number in stream:
            one.send(number)
            if number % 3 == 0:
                raise Refused(number)
            two.send(number)

    shop.send(numbers, range(30))
    await shop.run(app)
    assert shop.values(one) == shop.values(two) == [n for n in range(30) if n % 3]


async def test_outputs_keep_the_order_in_which_they_were_sent(shop: Shop) -> None:
    app = shop.app()
    numbers, out = app.topic("numbers", int), app.topic("out", list)

    @app.agent(numbers)
    async def three_each(stream: Stream[int]) -> None:
        async for number in stream:
            for part in range(3):
                out.send([number, part])
            if number % 4 == 2:
                raise Refused(number)

    shop.send(numbers, range(40))
    await shop.run(app)
    assert shop.values(out) == [[number, part] for number in range(40) if number % 4 != 2 for part in range(3)]


# Retries.


@pytest.mark.parametrize("failing", [[0], [4], [9], [3, 4, 5], [0, 9], list(range(10))], ids=str)
async def test_a_failing_record_is_tried_three_times_more_and_alone(shop: Shop, failing: list[int]) -> None:
    app, calls = shop.app(), Counter[int]()
    numbers, sums = app.topic("numbers", int), app.table("sums", int)

    @app.agent(numbers)
    async def fold(stream: Stream[int]) -> None:
        async for number in stream:
            calls[number] += 1
            sums["all"] += 1
            sums["sum"] += number
            if number in failing:
                raise Refused(number)

    shop.send(numbers, range(10))
    await shop.run(app)
    good = [number for number in range(10) if number not in failing]
    assert {number: calls[number] for number in failing} == dict.fromkeys(failing, 4)
    assert shop.rows(sums) == ({"all": len(good), "sum": sum(good)} if good else {})
    assert [int(letter.value) for letter in shop.dead(app, "fold")] == failing


@pytest.mark.parametrize("failures", [1, 2, 3])
async def test_a_record_that_succeeds_in_the_end_is_no_dead_letter(shop: Shop, failures: int) -> None:
    app, calls = shop.app(), Counter[int]()
    numbers = app.topic("numbers", int)
    lists: Table[list[int]] = app.table("lists", list)

    @app.agent(numbers)
    async def fold(stream: Stream[int]) -> None:
        async for number in stream:
            calls[number] += 1
            lists["all"].append(number)
            if number == 5 and calls[number] <= failures:
                raise Refused(number)

    shop.send(numbers, range(10))
    await shop.run(app)
    assert shop.rows(lists) == {"all": list(range(10))}
    assert shop.dead(app, "fold") == []
    assert calls[5] == failures + 1


async def test_variables_outside_the_loop_start_anew_after_a_failure(shop: Shop) -> None:
    app, starts = shop.app(), list[int]()
    numbers = app.topic("numbers", int)

    @app.agent(numbers)
    async def fold(stream: Stream[int]) -> None:
        starts.append(1)
        async for number in stream:
            if number == 1:
                raise Refused

    shop.send(numbers, range(3))
    await shop.run(app)
    assert len(starts) == 5


async def test_a_value_that_is_no_value_of_the_sink_is_the_fault_of_its_record(shop: Shop) -> None:
    app = shop.app()
    numbers, out = app.topic("numbers", int), app.topic("out", str)

    @app.agent(numbers, sink=out)
    async def wrong(stream: Stream[int]) -> AsyncGenerator[Any, None]:
        async for number in stream:
            yield number if number == 2 else str(number)

    shop.send(numbers, range(5))
    await shop.run(app)
    assert shop.values(out) == ["0", "1", "3", "4"]
    [letter] = shop.dead(app, "wrong")
    assert letter.headers["dead-letter.error"] == b"EncodeError: 2 cannot be stored as str: it is no str"


async def test_a_failing_flat_map_is_the_fault_of_the_record_it_is_at(shop: Shop) -> None:
    app = shop.app()
    numbers, out = app.topic("numbers", int), app.topic("out", int)

    def spread(number: int) -> list[int]:
        return [12 // (number - 3), number]

    @app.agent(numbers)
    async def forward(stream: Stream[int]) -> None:
        async for value in stream.flat_map(spread):
            out.send(value)

    shop.send(numbers, range(6))
    await shop.run(app)
    assert shop.values(out) == [value for number in (0, 1, 2, 4, 5) for value in spread(number)]
    assert [int(letter.value) for letter in shop.dead(app, "forward")] == [3]


async def test_a_failure_at_the_second_of_a_records_values_undoes_the_first(shop: Shop) -> None:
    app = shop.app()
    numbers, out = app.topic("numbers", int), app.topic("out", int)

    @app.agent(numbers)
    async def forward(stream: Stream[int]) -> None:
        async for value in stream.flat_map(lambda n: [10 * n, 10 * n + 1]):
            out.send(value)
            if value == 21:
                raise Refused

    shop.send(numbers, range(4))
    await shop.run(app)
    assert shop.values(out) == [0, 1, 10, 11, 30, 31]


@pytest.mark.parametrize("failing", [0, 4, 9, 10])
async def test_a_failing_list_is_handled_one_record_at_a_time(shop: Shop, failing: int) -> None:
    """The good records of the list are handled, the bad one is a dead letter, later lists are whole."""
    app = shop.app()
    numbers, out = app.topic("numbers", int), app.topic("out", int)

    @app.agent(numbers)
    async def in_lists(stream: Stream[int]) -> None:
        async for taken in stream.take(5, timedelta(milliseconds=20)):
            for number in taken:
                out.send(number)
                if number == failing:
                    raise Refused

    shop.send(numbers, range(11))
    await shop.run(app)
    assert shop.values(out) == [number for number in range(11) if number != failing]
    assert [int(letter.value) for letter in shop.dead(app, "in_lists")] == [failing]


# Dead letters.


async def test_a_dead_letter_is_the_record_as_it_was_with_the_reason_in_headers(shop: Shop) -> None:
    app = shop.app()
    orders = app.topic("orders", dict, partitions=3)
    when = datetime(2024, 5, 6, 7, 8, 9, 10_000, tzinfo=UTC)

    @app.agent(orders)
    def refuse(order: dict) -> None:  # type: ignore[type-arg]
        raise Refused("out of stock")

    shop.send(orders, [{"id": 1}], key="a key", timestamp=when, headers={"trace": b"\xff\x00"})
    await shop.run(app)
    [letter] = shop.dead(app, "refuse")
    with app.opened():
        [original] = orders.read().records()
    assert (letter.value, letter.key, letter.timestamp) == (b'{"id":1}', b"a key", when)
    assert letter.topic == "shop.refuse.dead-letter"
    assert letter.partition == original.partition
    trace = letter.headers["dead-letter.traceback"].decode()
    assert "in refuse\n" in trace
    assert trace.endswith("Refused: out of stock\n")
    assert {name: value for name, value in letter.headers.items() if name != "dead-letter.traceback"} == {
        "trace": b"\xff\x00",
        "dead-letter.agent": b"refuse",
        "dead-letter.topic": b"orders",
        "dead-letter.partition": b"%d" % original.partition,
        "dead-letter.offset": b"0",
        "dead-letter.error": b"Refused: out of stock",
    }


async def test_the_log_names_the_record_each_attempt_and_the_error(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    app = shop.app()
    numbers = app.topic("numbers", int)

    @app.agent(numbers)
    def refuse(number: int) -> None:
        if number == 1:
            raise Refused("no ones")

    shop.send(numbers, range(3))
    with caplog.at_level(logging.WARNING):
        await shop.run(app)
    assert [record.getMessage() for record in caplog.records] == [
        "refuse[0]: numbers-0@1 failed, first attempt: Refused: no ones",
        "refuse[0]: numbers-0@1 failed, retry 1 of 3: Refused: no ones",
        "refuse[0]: numbers-0@1 failed, retry 2 of 3: Refused: no ones",
        "refuse[0]: numbers-0@1 failed, retry 3 of 3: Refused: no ones",
        "refuse: numbers-0@1 goes to shop.refuse.dead-letter: Refused: no ones",
    ]


@pytest.mark.parametrize("value", ["x" * ((1 << 20) - 101), "y" * 900_000])
async def test_a_record_as_large_as_its_topic_allows_can_be_a_dead_letter(shop: Shop, value: str) -> None:
    """With the headers of a dead letter it is larger than it was."""
    app = shop.app()
    texts, out = app.topic("texts", str), app.topic("out", str)

    @app.agent(texts, sink=out)
    def refuse(text: str) -> str:
        if len(text) > 1:
            raise Refused("too long")
        return text

    shop.send(texts, ["a", value, "b"])
    await shop.run(app)
    assert shop.values(out) == ["a", "b"]
    assert [len(letter.value) for letter in shop.dead(app, "refuse")] == [len(value)]


# Agents that end, or do not begin.


async def test_an_agent_that_leaves_its_loop_ends_the_worker(shop: Shop) -> None:
    app = shop.app()
    numbers, out = app.topic("numbers", int), app.topic("out", int)

    @app.agent(numbers)
    async def impatient(stream: Stream[int]) -> None:
        async for number in stream:
            out.send(number)
            if number == 2:
                break

    shop.send(numbers, range(5))
    with pytest.raises(AgentEnded, match=r"agent 'impatient' left its loop at numbers-0@.*: remove the break"):
        await shop.run(app)


async def test_an_agent_that_fails_before_its_first_record_ends_the_worker_with_its_error(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No record is to blame, so none becomes a dead letter."""
    app, starts = shop.app(), list[int]()
    numbers = app.topic("numbers", int)

    @app.agent(numbers)
    async def broken(stream: Stream[int]) -> None:
        starts.append(1)
        raise Refused("no settings")

    shop.send(numbers, range(5))
    with pytest.raises(Refused, match="no settings"):
        await shop.run(app)
    assert len(starts) == 4
    assert shop.dead(app, "broken") == []


async def test_an_agent_that_begins_at_the_second_attempt_loses_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, starts, seen = shop.app(), list[int](), list[int]()
    numbers = app.topic("numbers", int)

    @app.agent(numbers)
    async def slow_to_start(stream: Stream[int]) -> None:
        starts.append(1)
        if len(starts) < 3:
            raise Refused("not yet")
        async for number in stream:
            seen.append(number)

    shop.send(numbers, range(5))
    await shop.run(app)
    assert seen == list(range(5))


@pytest.mark.parametrize("error", [ValueError, TypeError, Refused])
async def test_a_failure_at_a_tombstone_is_a_failure_like_any_other(shop: Shop, error: type[Exception]) -> None:
    """A ValueError there is the agent's, for a tombstone needs no decoding."""
    app = shop.app()
    numbers, out = app.topic("numbers", int), app.topic("out", int)

    @app.agent(numbers, sink=out)
    def increase(record: Record[int]) -> int:
        if record.value is None:
            raise error("nothing there")
        return record.value + 1

    shop.send(numbers, [1])
    shop.send_raw(numbers, None, key=b"k")
    shop.send(numbers, [2])
    await shop.run(app)
    assert shop.values(out) == [2, 3]
    [letter] = shop.dead(app, "increase")
    assert letter.key == b"k"
    assert letter.value is None
