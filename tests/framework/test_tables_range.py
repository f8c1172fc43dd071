"""Ranges of a table: sorted by the keys' bytes, with what the agent has changed; outside over all partitions."""

from __future__ import annotations

import random
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from framework import Stream
from framework.state import rows
from framework.state.database import Database
from framework.worker import Worker

if TYPE_CHECKING:
    from tests.framework.conftest import Shop

START, END, PREFIX = 0, 1, 2
CASES: list[tuple[Any, Any, Any]] = [
    (None, None, None),
    ("b", None, None),
    (None, "b", None),
    ("a", "b", None),
    ("b", "a", None),
    ("", "", None),
    (None, None, "a"),
    (None, None, ""),
    (None, None, "\U0010ffff"),
    (None, None, "ü"),
]
KEYS = ["", "a", "a\0", "aa", "ab", "b", "ba", "z", "ü", "üa", "\U0010ffff", "\U0010ffff!"]


def expected(found: dict[str, int], case: tuple[Any, Any, Any]) -> list[tuple[str, int]]:
    """What a range gives, found another way; the order of code points is that of UTF-8."""
    return [
        (key, found[key])
        for key in sorted(found)
        if (case[START] is None or key >= case[START])
        and (case[END] is None or key < case[END])
        and (case[PREFIX] is None or key.startswith(case[PREFIX]))
    ]


@pytest.mark.parametrize("ttl", [False, True])
async def test_a_range_holds_what_is_stored_being_stored_and_changed(shop: Shop, *, ttl: bool) -> None:
    """At every step of a run with commits anywhere, deletions and new rows included; against a dict."""
    app, chance, wrong = shop.app(), random.Random(7), list[Any]()
    table = app.table("table", int, ttl=timedelta(days=1) if ttl else None)
    shadow: dict[str, int] = {}

    @app.agent(app.topic("numbers", int))
    async def change(stream: Stream[int]) -> None:
        async for number in stream:
            key = chance.choice(KEYS)
            if key in shadow and chance.random() < 0.4:
                del table[key], shadow[key]
            else:
                table[key] = shadow[key] = number
            case = chance.choice(CASES)
            if list(table.range(*case[:2], prefix=case[2])) != expected(shadow, case):
                wrong.append((number, case))

    for start in range(0, 200, 50):
        shop.send(app.topics["numbers"], range(start, start + 50))
        await shop.run(app)
    assert wrong == []
    assert shop.dead(app, "change") == []
    with app.opened():
        for case in CASES:
            assert list(table.range(*case[:2], prefix=case[2])) == expected(shadow, case)


async def test_a_range_holds_the_rows_of_a_commit_that_is_being_written(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have left the agent's hand, and are not in the database yet."""
    app, found = shop.app(), list[Any]()
    numbers, table = app.topic("numbers", int), app.table("table", int)
    begun, go = threading.Event(), threading.Event()
    write = Database.write

    def held(self: Database, changes: Any) -> None:
        if any(key.startswith(b"t") for key, _ in changes):
            begun.set()
            assert go.wait(10)
        write(self, changes)

    @app.agent(numbers)
    def change(number: int) -> None:
        if number == 0:
            table.update(a=1, b=2)
        else:
            found.append((begun.is_set() and not go.is_set(), list(table.range("a"))))

    monkeypatch.setattr(Database, "write", held)
    worker = Worker(app)
    async with worker.running():
        await numbers.send(0)
        await shop.until(begun.is_set)
        await numbers.send(1)
        await shop.until(lambda: bool(found))
        go.set()
    assert found == [(True, [("a", 1), ("b", 2)])]


async def test_outside_a_range_is_one_over_all_partitions_and_inside_over_its_own(shop: Shop) -> None:
    app, inside = shop.app(partitions=3), dict[int, list[str]]()
    words, table = app.topic("words", str, key=str), app.table("table", int)

    @app.agent(words)
    async def fill(stream: Stream[str]) -> None:
        async for record in stream.records():
            table[record.value] += 1
            inside[record.partition] = [key for key, _ in table.range("b")]

    shop.send(words, "hgfedcba")
    await shop.run(app)
    with app.opened():
        assert list(table.range("b")) == [(key, 1) for key in "bcdefgh"]
        assert list(table.range("b", "d")) == [("b", 1), ("c", 1)]
        assert list(table.range(prefix="c")) == [("c", 1)]
    assert sorted(key for keys in inside.values() for key in keys) == list("bcdefgh")
    assert len(inside) > 1
    assert all(keys == sorted(keys) for keys in inside.values())


async def test_rows_may_be_changed_while_a_range_is_gone_through(shop: Shop) -> None:
    app, found = shop.app(), list[Any]()
    table = app.table("table", int)

    @app.agent(app.topic("numbers", int))
    def change(_: int) -> None:
        table.update({"a": 1, "b": 2, "c": 3})
        for key, value in table.range("a", "d"):
            found.append((key, value))
            table.pop("b", None)
            table[key + "!"] = value

    shop.send(app.topics["numbers"], [1])
    await shop.run(app)
    assert found == [("a", 1), ("c", 3)]
    assert shop.rows(table) == {"a": 1, "a!": 1, "c": 3, "c!": 3}


async def test_keys_that_are_no_text_are_in_the_order_of_their_json_and_have_no_prefix(shop: Shop) -> None:
    app = shop.app()
    table = app.table("table", int, key_type=int)

    @app.agent(app.topic("numbers", int))
    def put(number: int) -> None:
        table[number] = number

    shop.send(app.topics["numbers"], [9, 10, 11, 2])
    await shop.run(app)
    with app.opened():
        assert [key for key, _ in table.range()] == [10, 11, 2, 9]
        assert [key for key, _ in table.range(11, 9)] == [11, 2]
        with pytest.raises(TypeError, match="table 'table' has keys of type int, which have no prefix"):
            table.range(prefix=1)
        text = app.table("text", int)
        with pytest.raises(TypeError, match="table 'text': a range has a prefix or bounds, not both"):
            text.range("a", prefix="b")


def test_a_prefix_of_the_highest_bytes_has_an_end_or_none(shop: Shop) -> None:
    table = shop.app().table("table", int, key_type=bytes)
    assert table._bounds(None, None, b"a\xff\xff") == (b"a\xff\xff", b"b")
    assert table._bounds(None, None, b"\xff\xff") == (b"\xff\xff", None)
    assert rows.table_prefix("table", 0) < rows.table_prefix("table", 1)
