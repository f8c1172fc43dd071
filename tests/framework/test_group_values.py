"""What goes through a group_by comes back as what it was; through, items and enumerate; and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from framework import App, Retry, Stream, Topic
from framework.errors import DeclarationError

if TYPE_CHECKING:
    from tests.framework.conftest import Shop


class Flight(BaseModel):
    """What is grouped."""

    origin: str
    dest: str


def key(number: int) -> str:
    """A key that has nothing to do with the partition of the number."""
    return f"k{number % 5}"


def grouped(app: App, operate: Callable[[Stream[Any]], Stream[Any]], source: Topic[Any]) -> Topic[Any]:
    """A pipeline whose end sends what comes to it."""
    out = app.topic("out")
    operate(app.stream(source, name="pipe")).to(out)
    return out


# What the values and keys are.


def annotated(flight: Flight) -> Flight:
    """Gives a type that is known."""
    return flight


Case = tuple[Callable[[Stream[Flight]], Stream[Any]], Any]
CASES: list[Case] = [
    (lambda s: s, Flight(origin="JFK", dest="LAX")),
    (lambda s: s.map(annotated), Flight(origin="JFK", dest="LAX")),
    (lambda s: s.map(lambda f: f.dest), "LAX"),
    (lambda s: s.map(lambda f: {"to": [f.dest, None, 1.5]}), {"to": ["LAX", None, 1.5]}),
    (lambda s: s.flat_map(lambda f: [f.dest]), "LAX"),
    (lambda s: s.items(), ("JFK", Flight(origin="JFK", dest="LAX"))),
    (lambda s: s.enumerate(7), (7, Flight(origin="JFK", dest="LAX"))),
]


@pytest.mark.parametrize(("operate", "expected"), CASES)
async def test_values_come_back_as_what_they_were(
    shop: Shop, operate: Callable[[Stream[Flight]], Stream[Any]], expected: Any
) -> None:
    app, seen = shop.app(), list[Any]()
    flights = app.topic("flights", Flight, key=lambda flight: flight.origin)

    @app.agent(flights)
    async def watch(stream: Stream[Flight]) -> None:
        async for value in operate(stream).group_by(lambda _: "all"):
            seen.append(value)

    shop.send(flights, [Flight(origin="JFK", dest="LAX")])
    await shop.run(app)
    assert seen == [expected]
    assert type(seen[0]) is type(expected)


async def test_a_type_can_be_said_where_nothing_says_it(shop: Shop) -> None:
    app = shop.app()
    pairs, seen = app.topic("pairs", list), list[Any]()

    @app.agent(pairs)
    async def watch(stream: Stream[list[str]]) -> None:
        made = stream.map(lambda pair: Flight(origin=pair[0], dest=pair[1]))
        async for flight in made.group_by(lambda flight: len(flight.dest), type=Flight, key_type=int).items():
            seen.append(flight)

    shop.send(pairs, [["JFK", "LAX"]])
    await shop.run(app)
    assert seen == [(3, Flight(origin="JFK", dest="LAX"))]


@pytest.mark.parametrize(
    ("operate", "text"),
    [
        (
            lambda s: s.map(lambda n: Flight(origin="JFK", dest=str(n))).group_by(lambda f: f.dest),
            (
                "a value of type Flight is passed on, and JSON would give back another: "
                "say group_by(..., name='group-1', type=...)"
            ),
        ),
        (
            lambda s: s.group_by(lambda n: n),
            (
                "group_by 'group-1' was given the key 1, of type int; nothing says that keys are not str: "
                "say group_by(..., key_type=int)"
            ),
        ),
    ],
)
async def test_what_nothing_could_read_back_stops_the_worker_and_no_record_is_lost(
    shop: Shop, operate: Callable[[Stream[int]], Stream[Any]], text: str
) -> None:
    app = shop.app()
    numbers = app.topic("numbers", int)

    @app.agent(numbers)
    async def loop(stream: Stream[int]) -> None:
        async for _ in operate(stream):
            pass

    shop.send(numbers, [1])
    with pytest.raises(DeclarationError) as refused:
        await shop.run(app)
    assert str(refused.value) == text
    assert shop.dead(app, "loop.group-1") == []


async def test_json_that_would_change_a_value_is_a_dead_letter(shop: Shop) -> None:
    app = shop.app(on_error=Retry(times=0))
    numbers = app.topic("numbers", int)
    out = grouped(app, lambda s: s.map(lambda n: {"pair": (n, n)} if n == 2 else {"one": n}).group_by(str), numbers)
    shop.send(numbers, [1, 2, 3])
    await shop.run(app)
    assert shop.values(out) == [{"one": 1}, {"one": 3}]
    [letter] = shop.dead(app, "pipe.group-1")
    assert b"JSON gives back something else: say group_by(" in letter.headers["dead-letter.error"]


async def test_a_key_is_not_as_long_as_a_value(shop: Shop) -> None:
    app = shop.app(on_error=Retry(times=0))
    words = app.topic("words", str)
    out = grouped(app, lambda s: s.group_by(lambda word: word), words)
    shop.send(words, ["x" * 8193, "x" * 8192])
    await shop.run(app)
    assert shop.values(out) == ["x" * 8192]
    [letter] = shop.dead(app, "pipe.group-1")
    assert b"was given a key of 8193 bytes, 8192 is most" in letter.headers["dead-letter.error"]


# through, items and enumerate.


async def test_through_goes_on_with_what_is_in_the_topic(shop: Shop) -> None:
    app = shop.app()
    words = app.topic("words", str, partitions=2)
    clean, out = app.topic("clean", str, key=str.lower, partitions=3), app.topic("out", str)
    app.stream(words, name="tidy").map(str.strip).through(clean).map(str.title).to(out)
    shop.send(words, [" a ", "b ", " c"])
    shop.send(clean, ["d"])
    await shop.run(app)
    assert sorted(shop.values(out)) == ["A", "B", "C", "D"]
    assert sorted(shop.values(clean)) == ["a", "b", "c", "d"]


async def test_in_a_loop_through_needs_as_many_partitions(shop: Shop) -> None:
    app = shop.app()
    words, clean = app.topic("words", str, partitions=2), app.topic("clean", str, partitions=3)

    @app.agent(words)
    async def loop(stream: Stream[str]) -> None:
        async for _ in stream.through(clean):
            pass

    with pytest.raises(DeclarationError, match=r"has 3 partitions and 'words' 2: in a loop they must have as many"):
        await shop.run(app)


async def test_items_leave_out_tombstones_and_not_nulls(shop: Shop) -> None:
    app, seen = shop.app(), list[Any]()
    anything = app.topic("anything")

    @app.agent(anything)
    async def loop(stream: Stream[Any]) -> None:
        async for item in stream.items():
            seen.append(item)

    for name, value in ((b"a", b"1"), (b"b", None), (b"c", b"null"), (None, b"2")):
        shop.send_raw(anything, value, key=name)
    await shop.run(app)
    assert seen == [("a", 1), ("c", None), (None, 2)]


async def test_enumerate_counts_through_slices_and_anew_in_each_loop(shop: Shop) -> None:
    app = shop.app(on_error=Retry(times=1, wait=timedelta(0)))
    numbers, out, failures = app.topic("numbers", int), app.topic("out", list), iter([True])

    @app.agent(numbers)
    async def loop(stream: Stream[int]) -> None:
        async for n, number in stream.filter(lambda number: number % 2).enumerate(1):
            if number == 999 and next(failures, False):
                raise ValueError
            out.send([n, number])

    shop.send(numbers, range(999))
    await shop.run(app)
    assert shop.values(out) == [[n, 2 * n - 1] for n in range(1, 500)]
    shop.send(numbers, [999, 1001])
    await shop.run(app)
    assert shop.values(out)[499:] == [[1, 999], [2, 1001]]


# What cannot be declared.


async def test_a_loop_has_one_form(shop: Shop) -> None:
    app = shop.app(on_error=Retry(times=1, wait=timedelta(0)))
    numbers, forms = app.topic("numbers", int), iter([True, False])

    @app.agent(numbers)
    async def loop(stream: Stream[int]) -> None:
        async for _ in stream.group_by(key) if next(forms) else stream:
            raise ValueError

    shop.send(numbers, [1])
    with pytest.raises(DeclarationError, match=r"has begun a loop behind \['group-1'\], and then one behind no stages"):
        await shop.run(app)


def wrong(numbers: Topic[int]) -> Iterator[tuple[Callable[[Stream[int]], object], str]]:
    """What cannot be declared, and what it says."""
    soon = timedelta(seconds=1)
    yield lambda s: s.take(2, soon).group_by(len), "take() comes last, group_by() goes before it"
    yield lambda s: s.records().group_by(lambda r: r.key), "group_by() passes on values, not records: put records()"
    yield lambda s: s.records().filter(bool).through(numbers), "through() passes on values, not records"  # type: ignore[arg-type]
    yield lambda s: s.map(str).items(), "items() comes first: stream.items().filter(...)"
    yield lambda s: s.group_by(str, name="x").group_by(str, name="x"), "two stages of one stream are named 'x'"
    yield lambda s: s.map(unstorable).group_by(str).to(numbers), "cannot be stored"  # type: ignore[arg-type]


class Unstorable:
    """No type that pydantic knows."""


def unstorable(_: int) -> Unstorable:
    """Says that it gives one."""
    return Unstorable()


def test_what_cannot_be_grouped_is_refused_with_the_reason(shop: Shop) -> None:
    app = shop.app()
    numbers = app.topic("numbers", int)
    for declare, text in wrong(numbers):
        with pytest.raises(DeclarationError) as refused:
            declare(app.stream(numbers, name="pipe"))
        assert text in str(refused.value)
    assert app.agents == {}
