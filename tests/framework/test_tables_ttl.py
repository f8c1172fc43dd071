"""Tables with a ttl: rows that were not written for that long are gone, for everybody and after every replay alike."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from framework import App, Stream, Table
from framework.errors import DeclarationError
from framework.expiring import SWEEP_ROWS
from framework.log.clock import EPOCH
from framework.state import rows
from framework.state.database import Database
from framework.state.errors import StateFailed
from framework.worker import Worker

if TYPE_CHECKING:
    from tests.framework.conftest import Shop

TTL = timedelta(seconds=60)
Body = Callable[[Table[Any, Any]], object]


def stored(shop: Shop, table: str = "table", partition: int = 0) -> dict[bytes, bytes]:
    """The rows as they lie in the database of a partition, gone or not."""
    database = Database(shop.data / "state" / str(partition))
    prefix = rows.table_prefix(table, partition)
    try:
        return {key[len(prefix) :]: value for key, value in database.scan(prefix)}
    finally:
        database.close()


def send(shop: Shop, app: App, *steps: tuple[int, int]) -> None:
    """Send numbers, each with the second at which it is stamped."""
    with app.opened():
        for number, second in steps:
            app.topics["numbers"].send(number, timestamp=EPOCH + timedelta(seconds=1_000 + second))


class Ttl:
    """An agent that calls `bodies[number](table)` for each number, and keeps what they return."""

    def __init__(self, shop: Shop, default: Callable[[], Any], *bodies: Body, ttl: timedelta | None = TTL) -> None:
        self.shop, self.app, self.found = shop, shop.app(), list[Any]()
        self.table: Table[Any] = self.app.table("table", default, ttl=ttl)

        @self.app.agent(self.app.topic("numbers", int))
        async def do(stream: Stream[int]) -> None:
            async for number in stream:
                self.found.append(bodies[number](self.table))

    async def run(self, *steps: tuple[int, int]) -> list[Any]:
        """Handle *steps*; what the bodies returned."""
        send(self.shop, self.app, *steps)
        await self.shop.run(self.app)
        assert self.shop.dead(self.app, "do") == []
        return self.found


def put(table: Table[Any]) -> None:
    """Write a row."""
    table["a"] = 1


def look(table: Table[Any]) -> Any:
    """Every way to ask for a row."""
    return [
        table["a"],
        "a" in table,
        table.get("a"),
        list(table),
        list(table.items()),
        list(table.range()),
        len(table),
        table.setdefault("b", 0) if "b" in table else None,
    ]


def nothing(_: Table[Any]) -> None:
    """Let time pass."""


THERE = [1, True, 1, ["a"], [("a", 1)], [("a", 1)], 1, None]
GONE: list[Any] = [0, False, None, [], [], [], 0, None]


@pytest.mark.parametrize("restart", [False, True], ids=["in memory", "after a restart"])
async def test_a_row_is_gone_when_it_was_not_written_for_the_ttl(shop: Shop, *, restart: bool) -> None:
    """Exactly then, and every way of asking says so."""
    steps = [(0, 0), (1, 59), (1, 60)]
    if restart:
        found = [(await Ttl(shop, int, put, look).run(step))[0] for step in steps]
    else:
        found = await Ttl(shop, int, put, look).run(*steps)
    assert found[1:] == [THERE, GONE]


async def test_a_row_that_is_written_again_lives_on_and_one_that_is_read_does_not(shop: Shop) -> None:
    steps = [(0, 0), (1, 50), (0, 55), (1, 110), (1, 114), (1, 115)]
    assert [row[1] for row in await Ttl(shop, int, put, look).run(*steps) if row] == [True, True, True, False]


async def test_a_late_record_does_not_turn_the_time_back(shop: Shop) -> None:
    """Nor does a restart: the time is that of the latest record, and committed."""
    await Ttl(shop, int, put, look).run((0, 0))
    await Ttl(shop, int, put, look, nothing).run((2, 60))
    assert await Ttl(shop, int, put, look).run((1, 5)) == [GONE]
    # What is written by a late record is written now.
    assert (await Ttl(shop, int, put, look).run((0, 5), (1, 119)))[1] == THERE


@pytest.mark.parametrize("default", [dict, list], ids=["dict", "list"])
async def test_changing_a_row_in_place_is_writing_it_and_looking_at_it_is_not(shop: Shop, default: Any) -> None:
    def change(table: Table[Any]) -> None:
        value = table["a"]
        if default is dict:
            value["n"] = value.get("n", 0) + 1
        else:
            value.append(1)

    steps = [(0, 0), (1, 30), (0, 50), (1, 90), (1, 109), (1, 110)]
    found = await Ttl(shop, default, change, lambda t: len(t["a"]) and "a" in t).run(*steps)
    assert [bool(there) for number, there in zip([n for n, _ in steps], found, strict=True) if number] == [
        *(True, True, True, False),
    ]


async def test_a_row_that_is_gone_begins_anew(shop: Shop) -> None:
    """As if it had never been: its default, its deletion, and what is changed in place."""

    def missing(table: Table[Any]) -> str:
        with pytest.raises(KeyError) as error:
            del table["a"]
        return str(error.value) + repr(table.pop("a", "none"))

    append: Body = lambda t: t["a"].append(1) or list(t["a"])  # noqa: E731
    assert await Ttl(shop, list, append, missing).run((0, 0), (0, 10), (1, 70), (0, 70), (0, 80)) == [
        *([1], [1, 1], "'a''none'", [1], [1, 1]),
    ]


async def test_others_see_that_a_row_is_gone_while_its_bytes_are_still_there(shop: Shop, tmp_path: Path) -> None:
    """Another agent, and a program beside the worker."""
    app, seen = shop.app(), list[Any]()
    numbers, reads = app.topic("numbers", int), app.topic("reads", int)
    table = app.table("table", int, ttl=TTL)

    @app.agent(numbers)
    def write(number: int) -> None:
        table[f"k{number}"] = number

    @app.agent(reads)
    def read(number: int) -> None:
        seen.append((table[f"k{number}"], f"k{number}" in table, len(table), [k for k, _ in table.range("k1")]))

    many = [(number, number // 10) for number in range(2 * SWEEP_ROWS)]
    send(shop, app, *many[: SWEEP_ROWS + 1])
    await shop.run(app)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("framework.expiring.SWEEP_ROWS", 0)
        send(shop, app, (9_999, 10_000))
        shop.send(reads, [1, 9_999])
        await shop.run(app)
        shop.send(reads, [1, 9_999])
        await shop.run(app)
    assert seen[-2:] == [(0, False, 1, ["k9999"]), (9_999, True, 1, ["k9999"])]
    assert len(stored(shop)) == SWEEP_ROWS + 2
    with app.opened():
        assert (table["k1"], "k1" in table, dict(table.items()), list(table.range())) == (
            *(0, False, {"k9999": 9_999}, [("k9999", 9_999)]),
        )


async def test_the_bytes_of_what_is_gone_are_removed_in_steps(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few with each commit, and the task goes on committing as long as there are some."""
    removed = list[int]()
    write = Database.write

    def counted(self: Database, changes: Any) -> None:
        removed.append(sum(key.startswith(b"t") and value is None for key, value in changes))
        write(self, changes)

    app = shop.app()
    table = app.table("table", int, ttl=TTL)

    @app.agent(app.topic("numbers", int))
    def fill(number: int) -> None:
        table[f"k{number}"] = number

    send(shop, app, *((number, 0) for number in range(3 * SWEEP_ROWS)))
    await shop.run(app)
    monkeypatch.setattr(Database, "write", counted)
    send(shop, app, (9_999, 100))
    await shop.run(app)
    assert [count for count in removed if count] == [SWEEP_ROWS] * 3
    assert list(stored(shop)) == [b"k9999"]


# Replays.


def random_steps(seed: int, count: int) -> list[tuple[int, int]]:
    """Numbers, and seconds that mostly rise."""
    chance = random.Random(seed)
    return [(chance.randrange(12), at * 7 + chance.randrange(-60, 60)) for at in range(count)]


def fold(steps: list[tuple[int, int]]) -> tuple[list[Any], dict[str, list[int]]]:
    """What `folding` should find: the rows seen at each step, and those at the end."""
    now, found = -60, list[Any]()
    values: dict[str, list[int]] = {}
    written: dict[str, int] = {}
    for at, (number, second) in enumerate(steps):
        now = max(now, second)
        key = f"k{number % 4}"
        for old in [old for old in written if written[old] + 60 <= now]:
            del written[old], values[old]
        if number < 8:
            values.setdefault(key, []).append(at)
            written[key] = now
        found.append([at, sorted(values), len(values.get(key, []))])
    return found, values


def folding(shop: Shop, fails: Callable[[int], bool] = lambda at: False) -> tuple[App, Table[list[int]]]:
    """An agent that changes rows in place, or only looks, and sends what it sees."""
    app = shop.app()
    table: Table[list[int]] = app.table("table", list, ttl=TTL)
    seen = app.topic("seen", list)

    @app.agent(app.topic("numbers", int))
    async def do(stream: Stream[int]) -> None:
        async for record in stream.records():
            key = f"k{record.value % 4}"
            if record.value < 8:
                table[key].append(record.offset)
            count = len(table[key])
            if fails(record.offset):
                raise ValueError("again")
            seen.send([record.offset, sorted(table), count])

    return app, table


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("chunk", [1, 3, 50])
async def test_rows_grow_old_alike_however_the_records_are_committed(shop: Shop, seed: int, chunk: int) -> None:
    """In one commit, in one for each few records with a restart between, and with failures that are replayed."""
    steps, chance = random_steps(seed, 50), random.Random(seed)
    failing = {at: 2 for at in range(50) if chance.random() < 0.2}

    def fails(at: int) -> bool:
        failing[at] = failing.get(at, 0) - 1
        return failing[at] >= 0

    for start in range(0, len(steps), chunk):
        app, table = folding(shop, fails)
        send(shop, app, *steps[start : start + chunk])
        await shop.run(app)
    found, values = fold(steps)
    assert shop.values(app.topics["seen"]) == found
    assert shop.rows(table) == values


@pytest.mark.parametrize("after", [False, True], ids=["before a write", "after a write"])
async def test_rows_grow_old_alike_when_a_worker_dies_at_a_commit(shop: Shop, *, after: bool) -> None:
    """At every third write to the state, until one run comes through; small slices make many commits."""
    steps, deaths, left = random_steps(5, 50), 0, [0]

    class Dying(Database):
        def write(self, changes: Any) -> None:
            left[0] -= 1
            if left[0] == 0 and not after:
                raise StateFailed("died before")
            super().write(changes)
            if left[0] == 0:
                raise StateFailed("died after")

    for start in range(0, len(steps), 10):
        app, table = folding(shop)
        send(shop, app, *steps[start : start + 10])
        for dies_at in (1, 2, 3, 0):
            left[0] = dies_at
            app, table = folding(shop)
            try:
                await Worker(app, open_database=Dying).run(until_idle=True)
            except StateFailed:
                deaths += 1
    found, values = fold(steps)
    assert deaths >= 5
    assert shop.values(app.topics["seen"]) == found
    assert shop.rows(table) == values


# A ttl that comes, goes, or changes.


async def test_a_ttl_can_be_taken_away_and_given_again(shop: Shop) -> None:
    """Every row says by itself whether it has a stamp."""
    peek: Body = lambda t: dict(t.items())  # noqa: E731
    await Ttl(shop, int, put).run((0, 0))
    assert await Ttl(shop, int, peek, ttl=None).run((0, 500)) == [{"a": 1}]
    app = shop.app()
    assert shop.rows(app.table("table", int)) == {"a": 1}
    # It has aged meanwhile, but what the table is now told is that time of its agent.
    assert await Ttl(shop, int, peek).run((0, 501)) == [{}]


async def test_rows_from_before_a_ttl_have_it_before_them(shop: Shop) -> None:
    def fill(table: Table[Any]) -> None:
        table["a"] = table["b"] = 1

    await Ttl(shop, int, fill, ttl=None).run((0, 0))
    assert not any(value.startswith(rows.STAMPED) for value in stored(shop).values())
    peek: Body = lambda t: dict(t.items())  # noqa: E731
    write: Body = lambda t: t.update(b=2)  # noqa: E731
    assert (await Ttl(shop, int, peek, write).run((0, 500), (1, 510)))[0] == {"a": 1, "b": 1}
    assert all(value.startswith(rows.STAMPED) for value in stored(shop).values())
    assert (await Ttl(shop, int, peek).run((0, 569), (0, 570))) == [{"a": 1, "b": 2}, {}]


async def test_another_ttl_holds_for_the_rows_that_are_there(shop: Shop) -> None:
    peek: Body = lambda t: dict(t.items())  # noqa: E731
    await Ttl(shop, int, put).run((0, 0))
    assert await Ttl(shop, int, peek, ttl=2 * TTL).run((0, 119), (0, 120)) == [{"a": 1}, {}]


@pytest.mark.parametrize("value", [b"", b"\xff", b"\xffrow\0tt", b"{}", b"\0" * 40])
async def test_bytes_of_any_kind_come_back_from_tables_with_and_without_a_ttl(shop: Shop, value: bytes) -> None:
    setting: Body = lambda t: t.update(a=value)  # noqa: E731
    for ttl in (None, TTL, None):
        assert (await Ttl(shop, bytes, setting, lambda t: t["a"], ttl=ttl).run((0, 0), (1, 1)))[1] == value
        assert await Ttl(shop, bytes, setting, lambda t: t["a"], ttl=ttl).run((1, 2)) == [value]


def test_a_ttl_must_be_a_time(shop: Shop) -> None:
    with pytest.raises(DeclarationError, match="table 'table' has a ttl of 0:00:00: it must be a millisecond or more"):
        shop.app().table("table", int, ttl=timedelta(0))
