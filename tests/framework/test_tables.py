"""Tables: defaults, changes in place, deletion, iteration, who may touch which row, and what a restart finds."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from framework import App, Stream, Table
from framework.errors import DeclarationError, EncodeError, WrongPartition
from framework.log import partition_of
from framework.worker import Worker

if TYPE_CHECKING:
    from tests.framework.conftest import Shop

Body = Callable[[Table[Any, Any]], object]


class Count(BaseModel):
    n: int = 0
    seen: list[int] = []


async def steps(
    shop: Shop, default: Callable[[], Any], *bodies: Body, apart: bool = False, **options: Any
) -> list[Any]:
    """What each of *bodies* returns, called by an agent with its table in one run; *apart*: with commits between."""
    app, found = shop.app(), list[Any]()
    numbers, table = app.topic("numbers", int), app.table("table", default, **options)

    @app.agent(numbers)
    async def do(stream: Stream[int]) -> None:
        async for number in stream:
            found.append(bodies[number](table))

    worker = Worker(app)
    async with worker.running():
        for number in range(len(bodies)):
            ack = numbers.send(number)
            if apart or number == len(bodies) - 1:
                await ack
                await shop.until(lambda: len(found) > number and worker.idle)  # noqa: B023
    assert shop.dead(app, "do") == []
    return found


async def rows(shop: Shop, default: Callable[[], Any], *bodies: Body, **options: Any) -> dict[Any, Any]:
    """The committed rows after *bodies*, each in a run of its own, so that nothing is in a cache."""
    for body in bodies:
        await steps(shop, default, body, **options)
    app = shop.app()
    return shop.rows(app.table("table", default, **options))


# Defaults and changes in place.


@pytest.mark.parametrize("default", [int, str, float, list, dict, Count, lambda: None, lambda: 7, lambda: [1]])
async def test_reading_a_missing_row_gives_the_default_and_stores_nothing(shop: Shop, default: Any) -> None:
    found = await steps(shop, default, lambda t: t["a"], lambda t: t.get("a", "nothing"), lambda t: "a" in t, len)
    assert found == [default(), "nothing", False, 0]
    assert await rows(shop, default) == {}


async def test_a_default_that_was_set_is_stored(shop: Shop) -> None:
    assert await rows(shop, int, lambda t: t.update(a=0)) == {"a": 0}


async def test_setdefault_stores_and_gives_its_own_default(shop: Shop) -> None:
    """Also where it is not the table's, which `rows[key]` would give."""
    assert await steps(shop, int, lambda t: t.setdefault("a", 7), lambda t: t.setdefault("a", 8)) == [7, 7]
    assert await rows(shop, int, lambda t: t.setdefault("b", 0)) == {"a": 7, "b": 0}


async def test_pop_gives_its_own_default_where_there_is_no_row(shop: Shop) -> None:
    pop: Body = lambda t: t.pop("a", "nothing")  # noqa: E731
    assert await steps(shop, int, pop, lambda t: t.update(a=1), pop, pop) == ["nothing", None, 1, "nothing"]


IN_PLACE: list[tuple[Any, Body, Any]] = [
    (list, lambda t: t["a"].append(1), [1, 1]),
    (dict, lambda t: t["a"].update({str(len(t["a"])): 1}), {"0": 1, "1": 1}),
    (dict, lambda t: t["a"].setdefault("x", []).append(1), {"x": [1, 1]}),
    (Count, lambda t: setattr(t["a"], "n", t["a"].n + 1), Count(n=2)),
    (Count, lambda t: t["a"].seen.append(5), Count(seen=[5, 5])),
    (lambda: [0], lambda t: t["a"].append(1), [0, 1, 1]),
    (lambda: Count(n=10), lambda t: setattr(t["a"], "n", t["a"].n + 1), Count(n=12)),
]


@pytest.mark.parametrize(("default", "change", "expected"), IN_PLACE)
async def test_a_value_changed_in_place_is_stored(shop: Shop, default: Any, change: Body, expected: Any) -> None:
    """In one run, where the second change finds the value in the cache, ..."""
    await steps(shop, default, change, change)
    assert await rows(shop, default) == {"a": expected}


@pytest.mark.parametrize(("default", "change", "expected"), IN_PLACE)
async def test_a_value_changed_in_place_is_stored_after_a_restart(
    shop: Shop, default: Any, change: Body, expected: Any
) -> None:
    """... and in two, where it comes from the disk."""
    assert await rows(shop, default, change, change) == {"a": expected}


async def test_a_table_whose_default_says_nothing_about_its_values_notices_changes_in_place(shop: Shop) -> None:
    """None cannot be changed in place, but what replaces it can; also when it comes from the disk."""
    append: Body = lambda t: t["a"].append(2)  # noqa: E731
    assert await rows(shop, lambda: None, lambda t: t.update(a=[1]), append, append) == {"a": [1, 2, 2]}


async def test_a_row_that_was_read_and_changed_back_is_not_lost(shop: Shop) -> None:
    def there_and_back(table: Table[Any]) -> None:
        table["a"].append(2)
        table["a"].pop()

    assert await rows(shop, list, lambda t: t.update(a=[1]), there_and_back) == {"a": [1]}


async def test_a_row_changed_back_to_the_default_keeps_its_place(shop: Shop) -> None:
    assert await rows(shop, list, lambda t: t["a"].append(1), lambda t: t["a"].pop()) == {"a": []}


KEPT: list[list[int]] = []


def one_value(table: Table[Any]) -> None:
    table["a"] = table["b"] = [[1]]


def one_inside(table: Table[Any]) -> None:
    inner = [1]
    table["a"], table["b"] = [inner], [inner]


def one_kept(table: Table[Any]) -> None:
    if "a" not in table:
        KEPT[:] = [[1]]
    table["b" if "a" in table else "a"] = KEPT


@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize("alias", [one_value, one_inside, one_kept])
async def test_one_value_in_two_rows_is_two_once_it_is_stored(shop: Shop, alias: Body, *, restart: bool) -> None:
    """A table cannot know that they are one, and so must not depend on what happens to be in memory."""
    twice = alias is one_kept
    bodies: list[Body] = [*[alias] * (1 + twice), lambda t: t["a"][0].append(2), lambda t: list(t["b"])]
    if restart:
        found = [await steps(shop, list, body) for body in bodies][-1]
    else:
        found = await steps(shop, list, *bodies, apart=True)
    assert found[-1] == [[1]]


# Deletion.


async def test_a_deleted_row_is_gone(shop: Shop) -> None:
    def fill_and_delete(table: Table[Any]) -> list[Any]:
        table["a"], table["b"] = 1, 2
        del table["a"]
        return ["a" in table, table["a"], list(table), len(table), table.get("a"), table.pop("b"), list(table)]

    assert await steps(shop, int, fill_and_delete) == [[False, 0, ["b"], 1, None, 2, []]]
    assert await rows(shop, int, lambda t: t.update(a=1, b=2), lambda t: t.pop("a")) == {"b": 2}


async def test_deleting_a_row_that_is_not_there_is_a_key_error(shop: Shop) -> None:
    def delete(table: Table[Any]) -> str:
        with pytest.raises(KeyError) as missing:
            del table["a"]
        with pytest.raises(KeyError):
            table.pop("a")
        return str(missing.value)

    assert await steps(shop, list, delete, lambda t: t["a"].append(1), lambda t: t.pop("a"), delete) == [
        *("'a'", None, [1], "'a'"),
    ]
    assert await rows(shop, list) == {}


@pytest.mark.parametrize("default", [int, list], ids=["immutable", "mutable"])
@pytest.mark.parametrize("restart", [True, False])
async def test_a_row_can_be_deleted_and_set_read_or_changed_again(shop: Shop, default: Any, *, restart: bool) -> None:
    new = default((5,)) if default is list else 5

    def change(table: Table[Any]) -> None:
        del table["deleted"], table["set"], table["read"], table["changed"]
        table["set"] = new
        assert table["read"] == default()
        if default is list:
            table["changed"].append(5)
        else:
            table["changed"] += 5

    bodies: list[Body] = [lambda t: t.update(dict.fromkeys(["deleted", "set", "read", "changed"], new)), change]
    expected = {"set": new, "changed": new}
    if not restart:
        await steps(shop, default, *bodies)
        bodies = []
    assert await rows(shop, default, *bodies) == expected


# Iteration.


async def test_an_agent_sees_its_own_uncommitted_rows(shop: Shop) -> None:
    """In `len`, `in` and iteration: stored rows in the order of their bytes, then new ones."""

    def look(table: Table[Any]) -> Any:
        table["z"] = 26
        del table["b"]
        table["a"] += 1
        return list(table.items()), len(table), [key in table for key in "abcz"], list(table.values())

    await steps(shop, int, lambda t: t.update(b=2, a=1))
    assert await steps(shop, int, look) == [([("a", 2), ("z", 26)], 2, [True, False, False, True], [2, 26])]


async def test_rows_may_change_while_they_are_iterated(shop: Shop) -> None:
    def move(table: Table[Any]) -> None:
        for key in table:
            table[f"new-{key}"] = table.pop(key)

    assert await rows(shop, int, lambda t: t.update(a=1, b=2), move) == {"new-a": 1, "new-b": 2}


async def test_clear_and_popitem_work_as_for_any_mapping(shop: Shop) -> None:
    found = await steps(shop, int, lambda t: t.update(a=1, b=2), lambda t: t.popitem(), lambda t: t.clear(), len)
    assert found[1:] == [("a", 1), None, 0]
    assert await rows(shop, int) == {}


class Place(BaseModel, frozen=True):
    town: str
    area: int


@pytest.mark.parametrize(
    ("key_type", "keys"),
    [
        (str, ["", "a", "ü", "a\0b"]),
        (bytes, [b"", b"\0", b"\xff"]),
        (int, [-1, 0, 1 << 40]),
        (tuple[str, int], [("a", 1), ("a", 2)]),
        (Place, [Place(town="x", area=1), Place(town="x", area=2)]),
    ],
    ids=str,
)
async def test_keys_of_any_type_come_back_as_they_were(shop: Shop, key_type: Any, keys: list[Any]) -> None:
    fill: Body = lambda t: [t.update({key: repr(key)}) for key in keys]  # noqa: E731
    change: Body = lambda t: [t.update({key: t[key] + "!"}) for key in t]  # noqa: E731
    assert await rows(shop, str, fill, change, key_type=key_type) == {key: repr(key) + "!" for key in keys}


async def test_tables_whose_names_begin_alike_are_apart(shop: Shop) -> None:
    app = shop.app()
    numbers, one, two = app.topic("numbers", int), app.table("a", int), app.table("ab", int)

    @app.agent(numbers)
    def fill(number: int) -> None:
        one["bc"], two["c"] = 1, 2

    shop.send(numbers, [1])
    await shop.run(app)
    assert (shop.rows(one), shop.rows(two)) == ({"bc": 1}, {"c": 2})


# Who may touch what.


async def test_a_row_of_another_partition_is_refused(shop: Shop) -> None:
    app, errors = shop.app(), list[str]()
    numbers, table = app.topic("numbers", int, partitions=2), app.table("table", int)
    mine, other = (next(k for k in "abcdef" if partition_of(k.encode(), 2) == partition) for partition in (0, 1))

    @app.agent(numbers)
    def touch(number: int) -> None:
        table[mine] = number
        for wrong in (lambda: table[other], lambda: table.update({other: 1}), lambda: other in table):
            with pytest.raises(WrongPartition) as refused:
                wrong()
            errors.append(str(refused.value))

    shop.send(numbers, [5], key=mine)
    await shop.run(app)
    text = (
        f"table 'table': key '{other}' belongs to partition 1, but 'touch' touched it while handling partition 0. "
        "Bring the records of a key together first, with stream.group_by(...), or with key= on the topic"
    )
    assert set(errors) == {text}
    assert len(errors) == 3
    assert shop.rows(table) == {mine: 5}


def two_agents(app: App) -> Table[int]:
    """One writes the table; the other writes, or reads into a topic, what comes to its own."""
    table: Table[int] = app.table("table", int)
    read = app.topic("read", list)

    @app.agent(app.topic("one", str), name="first")
    def first(key: str) -> None:
        table[key] += 1

    @app.agent(app.topic("two", str), name="second")
    def touch(key: str) -> None:
        if key.startswith("read"):
            read.send([key, table[key.removeprefix("read ")], len(table)])
        else:
            table[key] += 1

    return table


async def test_a_second_writer_of_a_table_is_refused(shop: Shop) -> None:
    for app in (shop.app(), shop.app()):  # Of one that has just become the owner, and of one that was before.
        table = two_agents(app)
        shop.send(app.topics["one"], ["a"])
        await shop.run(app)
        shop.send(app.topics["two"], ["a"])
        await shop.run(app)
        letter = shop.dead(app, "second")[-1]
        assert letter.headers["dead-letter.error"].decode() == (
            "TableOwned: table 'table' is written by 'first'; 'second' may only read it. Give each agent its own "
            "table, or send the change to a topic that one agent reads"
        )
    assert shop.rows(table) == {"a": 2}


async def test_another_agent_reads_what_is_committed(shop: Shop) -> None:
    """Each time anew, so it sees what the owner commits later."""
    app = shop.app()
    two_agents(app)
    worker = Worker(app)
    async with worker.running():
        for topic, key in (("one", "a"), ("two", "read a"), ("one", "a"), ("one", "b"), ("two", "read a")):
            sent = await app.topics[topic].send(key)
            end = (sent.offset or 0) + 1
            task = next(task for task in worker.tasks if task.agent.source is app.topics[topic])
            await shop.until(lambda: task.committed == end and worker.idle)  # noqa: B023
    assert shop.values(app.topics["read"]) == [["read a", 1, 1], ["read a", 2, 2]]


async def test_an_agent_of_a_topic_with_other_partitions_is_not_shown_defaults(shop: Shop) -> None:
    """The rows lie where the owner's topic puts them: it sees them, or it is told that it cannot."""
    app, seen = shop.app(), dict[str, Any]()
    one, two = app.topic("one", str, key=str, partitions=4), app.topic("two", str, key=str, partitions=2)
    table = app.table("table", int)

    @app.agent(one)
    def write(key: str) -> None:
        table[key] = 1

    @app.agent(two)
    def read(key: str) -> None:
        try:
            seen[key] = table[key]
        except WrongPartition:
            seen[key] = 1

    shop.send(one, "abcdefgh")
    await shop.run(app)
    shop.send(two, "abcdefgh")
    await shop.run(app)
    assert seen == dict.fromkeys("abcdefgh", 1)


async def test_outside_agents_a_table_shows_committed_rows_and_takes_no_writes(shop: Shop) -> None:
    app = shop.app(partitions=3)
    words = app.topic("words", str, key=str)
    table: Table[list[int]] = app.table("table", list)

    @app.agent(words)
    def collect(word: str) -> None:
        table[word].append(1)

    with app.opened():
        assert (table["a"], "a" in table, list(table), table.get("a")) == ([], False, [], None)
    shop.send(words, "abcab")
    await shop.run(app)
    with app.opened():
        assert (table["a"], table["z"], "c" in table, "z" in table, len(table)) == ([1, 1], [], True, False, 3)
        assert table.get("z", "nothing") == "nothing"
        table["a"].append(9)
        assert table["a"] == [1, 1]
        for write in (lambda: table.update(a=[]), lambda: table.pop("a"), table.clear):
            with pytest.raises(TypeError, match="table 'table' is written by its agent only; send it a record"):
                write()


def test_a_table_is_declared_once_and_its_default_must_be_storable(shop: Shop) -> None:
    app = shop.app()
    app.table("table", int)
    with pytest.raises(DeclarationError, match="named 'table': give one of them another name"):
        app.table("table", int)
    with pytest.raises((DeclarationError, EncodeError), match="cannot be stored"):
        app.table("objects", object)


@pytest.mark.parametrize(
    ("default", "change"),
    [
        (Counter, lambda value: value.update("aab")),
        (set, lambda value: value.add(1)),
        (deque, lambda value: value.append(1)),
        (lambda: (0, 0), lambda value: None),
    ],
)
async def test_what_is_more_than_json_comes_back_as_it_was(
    shop: Shop, default: Callable[[], Any], change: Callable[[Any], None]
) -> None:
    """A Counter once came back as a dict, which raised for a key that was not counted yet."""
    app = shop.app()
    words = app.topic("words", str, key=lambda word: word)
    kept = app.table("kept", default)

    @app.agent(words)
    def keep(word: str) -> None:
        value = kept[word]
        change(value)
        kept[word] = value

    shop.send(words, "aa")
    await shop.run(app)
    expected = default()
    change(expected)
    change(expected)
    [found] = shop.rows(kept).values()
    assert (type(found), found) == (type(expected), expected)
