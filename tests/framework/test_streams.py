"""Streams: the operators inside agents and pipelines, and lists of records that are committed as one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from framework import Stream, Topic
from framework.errors import DeclarationError
from framework.worker import Worker

if TYPE_CHECKING:
    from tests.framework.conftest import Shop

SOON, LATE = timedelta(milliseconds=20), timedelta(hours=1)
Operate = Callable[[Stream[int]], Stream[Any]]

OPERATORS: list[tuple[Operate, Callable[[list[int]], list[Any]]]] = [
    (lambda s: s, lambda values: values),
    (lambda s: s.map(str), lambda values: [str(n) for n in values]),
    (lambda s: s.filter(lambda n: n % 3), lambda values: [n for n in values if n % 3]),
    (lambda s: s.flat_map(range), lambda values: [m for n in values for m in range(n)]),
    (
        lambda s: s.map(lambda n: n + 1).filter(lambda n: n % 2).flat_map(lambda n: [n] * 2).map(str),
        lambda values: [str(n + 1) for n in values if (n + 1) % 2 for _ in range(2)],
    ),
    (
        lambda s: s.records().filter(lambda r: r.offset > 2).map(lambda r: (r.offset, r.value)),
        lambda values: [[offset, n] for offset, n in enumerate(values) if offset > 2],
    ),
]


@pytest.mark.parametrize(("operate", "expected"), OPERATORS)
async def test_operators_give_what_plain_python_gives(
    shop: Shop, operate: Operate, expected: Callable[[list[int]], list[Any]]
) -> None:
    app = shop.app()
    numbers, looped, piped = app.topic("numbers", int), app.topic("looped"), app.topic("piped")

    @app.agent(numbers)
    async def loop(stream: Stream[int]) -> None:
        async for value in operate(stream):
            looped.send(value)

    operate(app.stream(numbers, name="pipe")).to(piped)
    shop.send(numbers, range(20))
    await shop.run(app)
    assert shop.values(looped) == shop.values(piped) == expected(list(range(20)))


async def test_two_pipelines_read_one_topic_apart(shop: Shop) -> None:
    app = shop.app()
    numbers, evens, odds = app.topic("numbers", int), app.topic("evens", int), app.topic("odds", int)
    app.stream(numbers, name="evens").filter(lambda n: n % 2 == 0).to(evens)
    app.stream(numbers, name="odds").filter(lambda n: n % 2).to(odds)
    assert list(app.agents) == ["evens", "odds"]
    shop.send(numbers, range(6))
    await shop.run(app)
    assert (shop.values(evens), shop.values(odds)) == ([0, 2, 4], [1, 3, 5])


async def test_a_pipeline_may_end_in_lists(shop: Shop) -> None:
    app = shop.app()
    numbers, lists = app.topic("numbers", int), app.topic("lists", list)
    app.stream(numbers, name="pipe").map(lambda n: n + 1).take(2, SOON).to(lists)
    shop.send(numbers, range(5))
    await shop.run(app)
    assert shop.values(lists) == [[1, 2], [3, 4], [5]]


# Lists.


def take_into(shop: Shop, count: int, within: timedelta, operate: Operate = lambda s: s) -> tuple[Any, Topic[int], Any]:
    """An app whose agent sends the lists it takes to a topic."""
    app = shop.app()
    numbers, lists = app.topic("numbers", int), app.topic("lists", list)

    @app.agent(numbers)
    async def collect(stream: Stream[int]) -> None:
        async for taken in operate(stream).take(count, within):
            lists.send(list(taken))

    return app, numbers, lists


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
async def test_lists_are_full_but_for_the_last(shop: Shop, count: int) -> None:
    app, numbers, lists = take_into(shop, count, LATE)
    expected = [list(range(10))[at : at + count] for at in range(0, 10, count)]
    async with app.testing() as t:
        numbers.send_many(range(10))
        await t.idle()
        assert t.sent(lists) == [taken for taken in expected if len(taken) == count]
        t.clock.advance(LATE)
        await t.idle()
        assert t.sent(lists) == expected


async def test_lists_reach_over_slices_and_reads(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first slice has 64 records, and several commits fall into one list."""
    monkeypatch.setattr("framework.commit.COMMIT_INTERVAL_S", 0.001)
    app, numbers, lists = take_into(shop, 1000, SOON)
    shop.send(numbers, range(5500))
    await shop.run(app)
    assert [len(taken) for taken in shop.values(lists)] == [1000] * 5 + [500]
    assert [number for taken in shop.values(lists) for number in taken] == list(range(5500))


async def test_lists_can_be_taken_of_records(shop: Shop) -> None:
    app, numbers, lists = take_into(shop, 2, SOON, lambda s: s.records().map(lambda r: r.id))
    async with app.testing() as t:
        numbers.send_many(range(3))
        await t.idle()
        t.clock.advance(SOON)
        await t.idle()
        assert t.sent(lists) == [["numbers-0-0", "numbers-0-1"], ["numbers-0-2"]]


@pytest.mark.slow
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=12),
    size=st.integers(1, 6),
    failing=st.sets(st.integers(0, 11), max_size=2),
)
def test_lists_of_values_that_records_were_made_into_hold_each_value_once(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], size: int, failing: set[int]
) -> None:
    """A list may begin and end inside a record; a failure undoes whole records all the same."""
    from framework import App

    app = App("shop", data=tmp_path_factory.mktemp("data"))
    numbers, values = app.topic("numbers", int), app.topic("values", list)

    @app.agent(numbers)
    async def collect(stream: Stream[int]) -> None:
        async for taken in stream.flat_map(lambda n: [[n, part] for part in range(counts[n])]).take(size, SOON / 10):
            assert len(taken) <= size
            for value in taken:
                values.send(value)
            if any(value[0] in failing for value in taken):
                raise ValueError

    with app.opened():
        for number in range(len(counts)):
            numbers.send(number)

    async def run() -> None:
        async with asyncio.timeout(10):
            await Worker(app).run(until_idle=True)

    asyncio.run(run())
    good = [number for number in range(len(counts)) if number not in failing]
    with app.opened():
        assert list(values.read()) == [[n, part] for n in good for part in range(counts[n])]


async def test_a_restart_in_the_middle_of_a_list_loses_and_doubles_nothing(shop: Shop) -> None:
    """Its records are not committed, whatever else is, so they come again."""
    for first in range(0, 20, 4):
        app, numbers, lists = take_into(shop, 10, LATE)
        worker = Worker(app)
        async with worker.running():
            for number in range(first, first + 4):
                await numbers.send(number)
            [task] = worker.tasks
            await shop.until(lambda: task.fetch.offset == first + 4)  # noqa: B023
            await shop.until(lambda: task.committed == (first + 4) // 10 * 10)  # noqa: B023
    assert shop.values(lists) == [list(range(10)), list(range(10, 20))]


async def test_a_dead_letter_in_an_unfinished_list_is_not_doubled_by_a_restart(shop: Shop) -> None:
    """It was read after the first record of the list, which is not committed yet."""
    for last in (False, True):
        app, numbers, lists = take_into(shop, 3, LATE)
        if not last:
            shop.send(numbers, [1])
            shop.send_raw(numbers, b"?")
        worker = Worker(app)
        async with worker.running():
            if last:
                await numbers.send(2)
                await numbers.send(3)
            [task] = worker.tasks
            await shop.until(lambda: task.fetch.offset == (4 if last else 2))  # noqa: B023
            await shop.commit(worker)
    assert shop.values(lists) == [[1, 2, 3]]
    assert [letter.value for letter in shop.dead(app, "collect")] == [b"?"]


@pytest.mark.parametrize("operate", [lambda s: s, lambda s: s.map(int)], ids=["plain", "mapped"])
async def test_a_list_is_committed_while_the_next_one_waits_for_more(shop: Shop, operate: Operate) -> None:
    """However long it waits: what is done is seen."""
    app, numbers, lists = take_into(shop, 2, LATE, operate)
    async with app.worker():
        for number in range(5):
            numbers.send(number)
        await shop.until(lambda: list(lists.read()) == [[0, 1], [2, 3]])


async def test_what_operators_do_is_committed_with_the_lists_of_their_records(shop: Shop) -> None:
    """A restart in the middle of a list takes its records again, and with them what was done for them."""
    for last in range(10):
        app = shop.app()
        numbers, lists, sums = app.topic("numbers", int), app.topic("lists", list), app.table("sums", int)

        def count(number: int) -> int:
            sums["all"] += 1  # noqa: B023
            return number

        @app.agent(numbers)
        async def collect(stream: Stream[int]) -> None:
            async for taken in stream.map(count).take(3, LATE):
                lists.send(taken)  # noqa: B023

        worker = Worker(app)
        async with worker.running():
            await numbers.send(last)
            await shop.until(lambda: worker.tasks[0].fetch.offset == last + 1)  # noqa: B023
            await shop.commit(worker)
        done = len(shop.values(lists))
        assert done <= (last + 1) // 3
        assert shop.rows(sums) == ({"all": 3 * done} if done else {})
    assert shop.values(lists) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


async def test_an_undecodable_record_inside_a_list_leaves_the_others(shop: Shop) -> None:
    app, numbers, lists = take_into(shop, 3, SOON)
    for value in (b"0", b"?", b"1", b"2", b"?", b"3"):
        shop.send_raw(numbers, value)
    await shop.run(app)
    assert shop.values(lists) == [[0, 1, 2], [3]]
    assert [letter.offset for letter in shop.dead(app, "collect")] == [0, 1]


async def test_a_list_that_succeeds_in_the_end_has_all_its_records(shop: Shop) -> None:
    app, calls = shop.app(), Counter[int]()
    numbers, out = app.topic("numbers", int), app.topic("out", int)

    @app.agent(numbers)
    async def collect(stream: Stream[int]) -> None:
        async for taken in stream.take(4, SOON):
            for number in taken:
                out.send(number)
                calls[number] += 1
            if calls[2] == 1 and 2 in taken:
                raise ValueError

    shop.send(numbers, range(10))
    await shop.run(app)
    assert shop.values(out) == list(range(10))
    assert shop.dead(app, "collect") == []


# What cannot be declared.


def test_what_cannot_be_declared_is_refused_with_the_reason(shop: Shop) -> None:
    app = shop.app()
    numbers = app.topic("numbers", int)
    stream = app.stream(numbers, name="pipe")
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: stream.take(0, SOON), "take(0, 0:00:00.020000): count must be at least 1 and within positive"),
        (lambda: stream.take(1, timedelta(0)), "take(1, 0:00:00): count must be at least 1 and within positive"),
        (lambda: stream.take(2, SOON).map(len), "take() comes last: operators go before it"),
        (lambda: stream.map(str).records(), "records() comes first: stream.records().filter(...)"),
        (lambda: stream.take(2, SOON).records(), "records() comes first: stream.records().filter(...)"),
        (
            lambda: Stream[int](None).to(numbers),
            "to() ends a pipeline of app.stream(...); in an agent use topic.send(value)",
        ),
        (lambda: aiter(stream), "a declared stream cannot be iterated; end it with .to(topic)"),
    ]
    for declare, text in wrong:
        with pytest.raises(DeclarationError) as refused:
            declare()
        assert str(refused.value) == text
    assert app.agents == {}


async def test_an_agents_stream_does_not_end_a_pipeline(shop: Shop) -> None:
    app, errors = shop.app(), list[str]()
    numbers = app.topic("numbers", int)

    @app.agent(numbers)
    async def loop(stream: Stream[int]) -> None:
        try:
            stream.to(numbers)
        except DeclarationError as error:
            errors.append(str(error))
        async for _ in stream:
            pass

    await shop.run(app)
    assert errors == ["to() ends a pipeline of app.stream(...); in an agent use topic.send(value)"]
