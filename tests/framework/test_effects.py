"""What an agent did and has not committed: kept together, refused when it comes too late, undone as one."""

from __future__ import annotations

import asyncio
import copy
import random
import re
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from framework import Stream, Table
from framework.errors import StaleTask
from framework.log.errors import RecordTooLarge
from framework.state.database import Database
from framework.state.rows import Change
from framework.worker import Worker

if TYPE_CHECKING:
    from tests.framework.conftest import Shop


# Code that outlives its record.


async def test_a_task_that_outlives_its_discarded_run_is_refused(shop: Shop) -> None:
    app, go = shop.app(), asyncio.Event()
    numbers, out, sums = app.topic("numbers", int), app.topic("out", int), app.table("sums", int)
    left: list[asyncio.Task[None]] = []
    refused: list[str] = []

    async def later() -> None:
        await go.wait()
        for late in (lambda: out.send(1), lambda: sums["a"], lambda: sums.update(a=1), lambda: "a" in sums):
            with pytest.raises(StaleTask) as error:
                late()
            refused.append(str(error.value))

    @app.agent(numbers)
    async def start_and_fail(stream: Stream[int]) -> None:
        async for _ in stream:
            if not left:
                left.append(asyncio.get_running_loop().create_task(later()))
                raise ValueError("and yet something goes on")

    shop.send(numbers, [1])
    worker = Worker(app)
    async with worker.running():
        await shop.until(lambda: bool(left) and worker.idle)
        go.set()
        await left[0]
    table = "table 'sums' is used after its record was finished or discarded"
    assert refused == [
        "start_and_fail sent to 'out' after its record was finished or discarded",
        *[table] * 3,
    ]
    assert shop.values(out) == []


async def test_a_task_that_outlives_its_record_is_refused(shop: Shop) -> None:
    """What it did would be committed with another record, or never."""
    app, go = shop.app(), asyncio.Event()
    numbers, out, sums = app.topic("numbers", int), app.topic("out", int), app.table("sums", int)
    left: list[asyncio.Task[None]] = []

    async def later() -> None:
        await go.wait()
        with pytest.raises(StaleTask):
            out.send(1)
        with pytest.raises(StaleTask):
            sums["a"] = 1

    @app.agent(numbers)
    async def start(stream: Stream[int]) -> None:
        async for _ in stream:
            sums["b"] += 1
            left.append(asyncio.get_running_loop().create_task(later()))

    shop.send(numbers, [1])
    worker = Worker(app)
    async with worker.running():
        await shop.until(lambda: bool(left) and worker.idle)
        go.set()
        await left[0]
    assert shop.values(out) == []


async def test_a_task_that_ends_with_its_record_takes_part_in_its_commit(shop: Shop) -> None:
    app = shop.app()
    numbers, out, sums = app.topic("numbers", int), app.topic("out", int), app.table("sums", int)

    async def part(number: int) -> None:
        await asyncio.sleep(0)
        out.send(number)
        sums["all"] += number

    @app.agent(numbers)
    async def split(number: int) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(part(number))
            group.create_task(part(10 * number))

    shop.send(numbers, [1, 2])
    await shop.run(app)
    assert shop.values(out) == [1, 10, 2, 20]
    assert shop.rows(sums) == {"all": 33}


# Commits in the middle.


async def test_no_commit_takes_the_half_of_a_record_that_waits(shop: Shop) -> None:
    app = shop.app()
    numbers, out, sums = app.topic("numbers", int), app.topic("out", int), app.table("sums", int)
    tries: list[int] = []
    worker = Worker(app)

    @app.agent(numbers)
    async def halves(number: int) -> None:
        sums["first half"] += 1
        out.send(number)
        await shop.commit(worker)
        if number == 2:
            tries.append(number)
            if len(tries) < 3:
                raise ValueError
        sums["second half"] += 1

    shop.send(numbers, range(4))
    async with asyncio.timeout(10):
        await worker.run(until_idle=True)
    assert shop.rows(sums) == {"first half": 4, "second half": 4}
    assert shop.values(out) == [0, 1, 2, 3]


@pytest.mark.parametrize("count", [2, 10], ids=["full", "timed out"])
async def test_no_commit_takes_the_half_of_a_list_that_waits(shop: Shop, count: int) -> None:
    """Neither of a list that is full, nor of one whose time is over."""
    app = shop.app()
    numbers, sums = app.topic("numbers", int), app.table("sums", int)
    tries: list[int] = []
    worker = Worker(app)

    @app.agent(numbers)
    async def halves(stream: Stream[int]) -> None:
        async for taken in stream.take(count, timedelta(milliseconds=5)):
            sums["first half"] += len(taken)
            await shop.commit(worker)
            tries.append(1)
            if len(tries) == 1:
                raise ValueError
            sums["second half"] += len(taken)

    shop.send(numbers, range(4))
    async with asyncio.timeout(10):
        await worker.run(until_idle=True)
    assert shop.rows(sums) == {"first half": 4, "second half": 4}


# What cannot be committed.


@pytest.mark.parametrize("failing", [0, 5, 9])
async def test_a_row_that_cannot_be_stored_is_the_fault_of_its_record(shop: Shop, failing: int) -> None:
    """That is found at the commit, after the record; the others are committed one by one to find it."""
    app = shop.app()
    numbers, out = app.topic("numbers", int), app.topic("out", int)
    lists: Table[list[Any]] = app.table("lists", list)
    tried: list[int] = []

    @app.agent(numbers, sink=out)
    async def collect(stream: Stream[int]) -> AsyncGenerator[int, None]:
        async for number in stream:
            tried.append(number)
            lists["all"].append({number} if number == failing else number)
            yield number

    shop.send(numbers, range(10))
    await shop.run(app)
    good = [number for number in range(10) if number != failing]
    assert shop.rows(lists) == {"all": good}
    assert shop.values(out) == good
    [letter] = shop.dead(app, "collect")
    assert letter.value == str(failing).encode()
    assert letter.headers["dead-letter.error"].startswith(b"EncodeError: table 'lists', key 'all': ")
    assert 4 <= tried.count(failing) <= 5


@pytest.mark.slow
async def test_a_record_over_the_topics_limit_is_refused_where_it_is_sent(shop: Shop) -> None:
    """By `send`, however little it is over: what it took, the log takes."""
    app = shop.app()
    numbers, out, errors = app.topic("numbers", int), app.topic("out", str), list[str]()
    sizes = [3, (1 << 20) - 500, *range((1 << 20) - 110, (1 << 20) - 50), 1 << 20]

    @app.agent(numbers)
    def send(number: int) -> None:
        try:
            out.send("x" * number)
        except RecordTooLarge as error:
            errors.append(str(error))

    shop.send(numbers, sizes)
    await shop.run(app)
    sent = [len(text) for text in shop.values(out)]
    assert shop.dead(app, "send") == []
    assert sent[:2] == sizes[:2]
    assert sizes[: len(sent)] == sent
    assert len(errors) == len(sizes) - len(sent) >= 1
    assert re.fullmatch(r"a record of 104\d{4} bytes to 'out' is over its max\.message\.bytes, 1048576", errors[-1])


@pytest.mark.parametrize("headers", [{"h": b"x" * (1 << 20)}, {"h": "text"}, {1: b"x"}], ids=["large", "str", "name"])
async def test_headers_that_cannot_be_stored_are_the_fault_of_their_record(shop: Shop, headers: Any) -> None:
    """The first of its two records is in the commit already when the second is refused: neither may stay."""
    app = shop.app()
    numbers, one, two = app.topic("numbers", int), app.topic("one", int), app.topic("two", int)

    @app.agent(numbers)
    async def send(stream: Stream[int]) -> None:
        async for number in stream:
            one.send(number)
            two.send(number, headers=headers if number == 2 else None)

    shop.send(numbers, range(4))
    await shop.run(app)
    assert shop.values(one) == shop.values(two) == [0, 1, 3]
    assert [letter.value for letter in shop.dead(app, "send")] == [b"2"]


async def test_more_than_a_commit_may_hold_is_refused(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framework.effects.RECORD_LIMIT_BYTES", 100_000)
    app = shop.app()
    numbers, out = app.topic("numbers", int), app.topic("out", str)

    @app.agent(numbers)
    async def flood(number: int) -> None:
        for _ in range(number):
            out.send("x" * 35_000)

    shop.send(numbers, [1, 2, 3, 2])
    await shop.run(app)
    assert len(shop.values(out)) == 5
    [letter] = shop.dead(app, "flood")
    error = letter.headers["dead-letter.error"].decode()
    assert re.fullmatch(
        r"OutboxTooLarge: flood sent 10\d{4} bytes without a commit, 100000 is most: send less for one record", error
    )


async def test_a_flood_is_committed_in_parts_between_records(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the soft limit a commit comes before the next record, so many small ones do not meet the hard one."""
    monkeypatch.setattr("framework.effects.SOFT_LIMIT_BYTES", 1000)
    monkeypatch.setattr("framework.effects.RECORD_LIMIT_BYTES", 2000)
    app = shop.app()
    numbers, out = app.topic("numbers", int), app.topic("out", str)

    @app.agent(numbers, sink=out)
    def forward(number: int) -> str:
        return "x" * 200 + str(number)

    shop.send(numbers, range(50))
    await shop.run(app)
    assert shop.values(out) == ["x" * 200 + str(number) for number in range(50)]
    assert shop.dead(app, "forward") == []


# While a commit is written.


class HeldDatabase(Database):
    """A database whose writes wait while they are held."""

    def __init__(self, path: Path) -> None:
        """Nothing is held."""
        super().__init__(path)
        self.free, self.writing = threading.Event(), threading.Event()
        self.free.set()

    def write(self, changes: Sequence[Change]) -> None:
        """Write, once it is free to."""
        self.writing.set()
        self.free.wait(10)
        super().write(changes)


@pytest.mark.parametrize("cache_rows", [1, 100_000], ids=["small cache", "large cache"])
@pytest.mark.parametrize("fails", [False, True])
async def test_an_agent_goes_on_while_its_commit_is_written(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, *, fails: bool, cache_rows: int
) -> None:
    """It sees what is in the commit and not in the store yet; the row it holds is its own when the write is done."""
    monkeypatch.setattr("framework.view.CACHE_ROWS", cache_rows)
    app, seen = shop.app(), list[Any]()
    numbers = app.topic("numbers", int)
    lists: Table[list[int]] = app.table("lists", list)
    worker = Worker(app, open_database=HeldDatabase)

    @app.agent(numbers)
    async def fold(number: int) -> None:
        if number == 0:
            lists["kept"], lists["deleted"], lists["later"] = [0], [0], [0]
        elif number == 1:
            lists["kept"].append(1)
            del lists["deleted"]
            lists["new"] = [1]
        else:
            seen.append([copy.deepcopy(dict(lists)), [key in lists for key in ("kept", "deleted", "later", "new")]])
            lists["kept"].append(2)
            database.free.set()
            await shop.until(lambda: not worker._commits[store].busy)
            lists["deleted"].append(2)
            if fails and len(seen) == 1:
                raise ValueError

    async with worker.running():
        [store] = worker._commits
        database: Any = store.database
        await numbers.send(0)
        await shop.until(lambda: worker.tasks[0].committed == 1 and worker.idle)
        database.writing.clear()
        database.free.clear()
        await numbers.send(1)
        await shop.until(database.writing.is_set)
        await numbers.send(2)
        await shop.until(lambda: worker.tasks[0].committed == 3 and worker.idle)
    rows = {"kept": [0, 1], "later": [0], "new": [1]}
    assert seen == [[rows, [True, False, True, True]]] * (2 if fails else 1)
    assert shop.rows(lists) == {**rows, "kept": [0, 1, 2], "deleted": [2]}


# Random sequences.


class Failed(Exception):
    """A record that is undone."""


def change_at_random(draw: random.Random, rows: Any, default: Callable[[], Any], keys: range) -> None:
    """A few changes, the same for a table and for a plain dict when *draw* is."""
    for _ in range(draw.randint(1, 4)):
        key, number, what = f"k{draw.choice(keys)}", draw.randrange(100), draw.randrange(7)
        if what == 0:
            rows[key] = [number] if default is list else number
        elif what == 1 and key in rows:
            del rows[key]
        elif what == 2:
            rows.pop(key, None)
        elif what == 3:
            assert sorted(rows) == sorted(rows.keys())
            assert len(rows) == len(list(rows))
        elif what == 4:
            rows.get(key)
        elif default is list:
            rows.setdefault(key, []).append(number) if what == 5 else [*rows.get(key, [])].append(number)
        else:
            rows[key] = rows.get(key, 0) + number


@pytest.mark.slow
@pytest.mark.parametrize("default", [int, list], ids=["immutable", "mutable"])
@pytest.mark.parametrize("cache_rows", [3, 100_000], ids=["small cache", "large cache"])
async def test_a_table_is_a_dict_through_failures_commits_and_restarts(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, seed: int, default: Any, cache_rows: int
) -> None:
    monkeypatch.setattr("framework.view.CACHE_ROWS", cache_rows)
    monkeypatch.setattr("framework.commit.COMMIT_INTERVAL_S", 0.001)
    model: dict[str, Any] = {}
    draw, next_number = random.Random(seed), 0
    for _ in range(5):
        app = shop.app()
        numbers, table = app.topic("numbers", int), app.table("table", default)

        @app.agent(numbers)
        async def do(stream: Stream[int]) -> None:
            async for number in stream:
                change_at_random(random.Random(seed + number), table, default, range(8))  # noqa: B023
                assert dict(table) == dict(table.items())  # noqa: B023
                if number % 9 == 0:
                    raise Failed
                if number % 5 == 0:
                    await asyncio.sleep(0)

        count = draw.randint(1, 60)
        for number in range(next_number, next_number + count):
            changed = copy.deepcopy(model)
            change_at_random(random.Random(seed + number), changed, default, range(8))
            if number % 9:
                model = changed
        shop.send(numbers, range(next_number, next_number + count))
        next_number += count
        await shop.run(app)
        assert shop.rows(table) == model
