"""Agents that handle many records at once: each record by itself, records of a key in order, nothing done twice."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from framework import Record, Retry, Stream
from framework.concurrency import ConcurrentTask
from framework.errors import AgentFailed, DeclarationError, StaleTask
from framework.state.errors import StateAhead
from framework.worker import Worker

if TYPE_CHECKING:
    from tests.framework.conftest import Shop

ZERO = timedelta(0)


class Refused(Exception):
    """What the agents of this file raise."""


class Gate:
    """Records wait here until a test lets them go on."""

    def __init__(self) -> None:
        self.waiting: dict[int, asyncio.Event] = {}
        self.most = 0

    async def passing(self, number: int) -> None:
        self.waiting[number] = asyncio.Event()
        self.most = max(self.most, len(self.waiting))
        await self.waiting[number].wait()
        del self.waiting[number]

    def open(self, *numbers: int) -> None:
        for number in numbers:
            self.waiting[number].set()


async def test_as_many_records_are_in_hand_as_the_agent_says(shop: Shop) -> None:
    app, gate = shop.app(), Gate()
    numbers, out = app.topic("numbers", int), app.topic("out", int)

    @app.agent(numbers, sink=out, concurrency=4)
    async def handle(number: int) -> int:
        await gate.passing(number)
        return number

    shop.send(numbers, range(10))
    async with asyncio.timeout(10), Worker(app).running():
        await shop.until(lambda: len(gate.waiting) == 4)
        gate.open(2)
        await shop.until(lambda: 4 in gate.waiting)
        for number in (0, 1, 3, 4, 5, 6, 7, 8, 9):
            await shop.until(lambda number=number: number in gate.waiting)  # type: ignore[misc]
            gate.open(number)
    assert gate.most == 4
    assert sorted(shop.values(out)) == list(range(10))


@pytest.mark.parametrize("seed", range(4))
async def test_records_of_a_key_are_handled_in_order_and_counted_once(shop: Shop, seed: int) -> None:
    """Whatever fails in between, and however long each takes; the fold of the table is that of plain Python."""
    chance = random.Random(seed)
    app = shop.app(partitions=2)
    numbers = app.topic("numbers", int, key=lambda n: f"k{n % 5}")
    out = app.topic("out", int, key=lambda n: f"k{n % 5}")
    lists = app.table("lists", list[int])
    failures: Counter[int] = Counter()

    @app.agent(numbers, concurrency=8, on_error=Retry(3, wait=ZERO))
    async def handle(number: int) -> None:
        lists[f"k{number % 5}"].append(number)
        out.send(number)
        for _ in range(chance.randrange(5)):
            await asyncio.sleep(0)
        if chance.random() < 0.3 and failures[number] < 3:
            failures[number] += 1
            raise Refused(number)

    shop.send(numbers, range(300))
    await shop.run(app)
    expected = {f"k{rest}": list(range(rest, 300, 5)) for rest in range(5)}
    assert shop.rows(lists) == expected, f"seed {seed}"
    sent: dict[str, list[int]] = defaultdict(list)
    for number in shop.values(out):
        sent[f"k{number % 5}"].append(number)
    assert sent == expected, f"seed {seed}"
    assert not shop.dead(app, "handle")


async def test_f24_a_restart_runs_only_what_was_not_finished(shop: Shop) -> None:
    """The commit says the oldest unfinished offset and the finished ones above it: no finished call is paid twice."""
    app, gate, calls = shop.app(), Gate(), Counter[int]()
    numbers, out = app.topic("numbers", int), app.topic("out", int)
    sums = app.table("sums", int)

    @app.agent(numbers, sink=out, concurrency=6, name="it")
    async def handle(record: Record[int]) -> int:
        calls[record.value] += 1
        if record.value in (1, 4):
            await gate.passing(record.value)
        sums[str(record.key)] += record.value
        return record.value

    with app.opened():
        for number in range(8):
            numbers.send(number, key=f"k{number}")
    worker = Worker(app, stop_timeout_s=0.01)
    async with asyncio.timeout(10), worker.running():
        await shop.until(lambda: worker.progress.records == 6)
        await shop.commit(worker)
    assert sorted(shop.values(out)) == [0, 2, 3, 5, 6, 7]
    gate.passing = _at_once  # type: ignore[method-assign]
    await shop.run(app)
    assert sorted(shop.values(out)) == list(range(8))
    assert calls == Counter({0: 1, 1: 2, 2: 1, 3: 1, 4: 2, 5: 1, 6: 1, 7: 1})
    assert shop.rows(sums) == {f"k{number}": number for number in range(8)}


async def _at_once(number: int) -> None: ...


async def test_what_a_failed_record_did_is_undone_alone(shop: Shop) -> None:
    app = shop.app()
    numbers, out = app.topic("numbers", int, key=str), app.topic("out", int)
    seen = app.table("seen", int)

    @app.agent(numbers, concurrency=3)
    async def handle(number: int) -> None:
        seen[str(number)] = 1
        out.send(number)
        await asyncio.sleep(0)
        if number % 3 == 0:
            raise Refused(number)

    shop.send(numbers, range(12))
    await shop.run(app)
    left = [number for number in range(12) if number % 3]
    assert sorted(shop.values(out)) == left
    assert sorted(map(int, shop.rows(seen))) == left
    assert sorted(int(letter.value) for letter in shop.dead(app, "handle")) == [0, 3, 6, 9]


async def test_a_record_touches_only_the_row_of_its_own_key(shop: Shop) -> None:
    app = shop.app()
    numbers, rows = app.topic("numbers", int, key=str), app.table("rows", int)

    @app.agent(numbers, concurrency=2, on_error=Retry(0))
    async def handle(number: int) -> None:
        if number == 1:
            rows["2"] += 1
        elif number == 2:
            list(rows)
        else:
            rows[str(number)] += 1

    shop.send(numbers, range(4))
    await shop.run(app)
    assert shop.rows(rows) == {"0": 1, "3": 1}
    errors = [letter.headers["dead-letter.error"].decode() for letter in shop.dead(app, "handle")]
    assert [error.partition(":")[0] for error in errors] == ["WrongPartition", "WrongPartition"]
    assert "touched key '2' while handling a record of another key" in errors[0]
    assert "a record sees only the row of its own key" in errors[1]


async def test_an_outage_stalls_the_agent_and_gives_up_no_record(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = shop.app()
    monkeypatch.setattr("framework.concurrency.MIN_STALLED_WAIT_S", 0.0)
    numbers, out = app.topic("numbers", int, key=lambda n: f"k{n % 30}"), app.topic("out", int)
    calls = 0

    @app.agent(numbers, sink=out, concurrency=16, on_error=Retry(2, wait=ZERO, max_wait=ZERO, outage_after=10))
    async def handle(number: int) -> int:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        if 200 < calls < 1400:
            raise ConnectionError("down")
        return number

    shop.send(numbers, range(1200))
    await shop.run(app)
    assert sorted(shop.values(out)) == list(range(1200))
    assert not shop.dead(app, "handle")
    texts = [record.getMessage() for record in caplog.records]
    assert any("stalled" in text for text in texts)
    assert any("the outage is over" in text for text in texts)


async def test_a_record_in_hand_for_too_long_fails_and_holds_up_nobody(shop: Shop) -> None:
    app = shop.app()
    numbers, out = app.topic("numbers", int), app.topic("out", int)

    @app.agent(numbers, sink=out, concurrency=2, timeout=timedelta(milliseconds=30), on_error=Retry(1, wait=ZERO))
    async def handle(number: int) -> int:
        await (asyncio.get_running_loop().create_future() if number == 3 else asyncio.sleep(0))
        return number

    shop.send(numbers, range(6))
    await shop.run(app)
    assert sorted(shop.values(out)) == [0, 1, 2, 4, 5]
    [letter] = shop.dead(app, "handle")
    assert letter.headers["dead-letter.error"] == b"TimeoutError: the record was in hand for more than 0.03 s"


async def test_what_a_record_leaves_running_cannot_touch_a_later_one(shop: Shop) -> None:
    app = shop.app()
    numbers, out, left = app.topic("numbers", int), app.topic("out", int), list[asyncio.Task[None]]()
    go_on = asyncio.Event()

    async def late() -> None:
        await go_on.wait()
        out.send(99)

    @app.agent(numbers, concurrency=2)
    async def handle(number: int) -> None:
        left.append(asyncio.create_task(late()))  # noqa: TID251  # an agent may do what we do not

    shop.send(numbers, [1])
    async with asyncio.timeout(10), Worker(app).running():
        await shop.until(lambda: bool(left))
        go_on.set()
        await asyncio.wait(left)
    assert isinstance(left[0].exception(), StaleTask)


async def test_undecodable_records_and_tombstones_are_what_they_are_elsewhere(shop: Shop) -> None:
    app = shop.app()
    numbers, out = app.topic("numbers", int), app.topic("out", int)

    @app.agent(numbers, sink=out, concurrency=2)
    async def handle(number: int) -> int:
        return number

    shop.send(numbers, [1])
    shop.send_raw(numbers, b"no number")
    shop.send_raw(numbers, None, key=b"k")
    shop.send(numbers, [2])
    await shop.run(app)
    assert sorted(shop.values(out)) == [1, 2]
    assert [letter.value for letter in shop.dead(app, "handle")] == [b"no number"]


async def test_stop_ends_the_worker_at_the_record(shop: Shop) -> None:
    app = shop.app()
    numbers, out = app.topic("numbers", int), app.topic("out", int)

    @app.agent(numbers, sink=out, concurrency=2, on_error=Retry(0, then="stop"))
    async def handle(number: int) -> int:
        if number == 2:
            raise Refused(number)
        return number

    shop.send(numbers, range(4))
    with pytest.raises(AgentFailed, match="failed at numbers-0@2"):
        await shop.run(app)


async def test_a_loop_does_not_take_over_what_was_finished_out_of_order(shop: Shop) -> None:
    app, gate = shop.app(), Gate()
    numbers = app.topic("numbers", int)

    async def concurrent(number: int) -> None:
        if number == 0:
            await gate.passing(number)

    async def loop(stream: Stream[int]) -> None:
        async for _ in stream:
            pass

    app.agent(numbers, concurrency=2, name="it")(concurrent)
    shop.send(numbers, range(3))
    worker = Worker(app, stop_timeout_s=0.01)
    async with asyncio.timeout(10), worker.running():
        await shop.until(lambda: worker.progress.records == 2)
        await shop.commit(worker)
    again = shop.app()
    again.agent(again.topic("numbers", int), name="it")(loop)
    with pytest.raises(StateAhead, match="finished records of numbers-0 above offset 0"):
        await shop.run(again)


async def test_records_in_flight_are_bounded(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framework.concurrency.MAX_IN_FLIGHT", 10)
    app, gate = shop.app(), Gate()
    numbers, out = app.topic("numbers", int), app.topic("out", int)

    @app.agent(numbers, sink=out, concurrency=4)
    async def handle(number: int) -> int:
        if number == 0:
            await gate.passing(number)
        return number

    shop.send(numbers, range(50))
    worker = Worker(app)
    async with asyncio.timeout(10), worker.running():
        await shop.until(lambda: worker.progress.records == 9)
        [task] = worker.tasks
        assert isinstance(task, ConcurrentTask)
        assert task.fetch.offset == 10
        gate.open(0)
        await shop.until(lambda: worker.progress.records == 50)
    assert sorted(shop.values(out)) == list(range(50))


@pytest.mark.parametrize("concurrency", [0, 2])
def test_a_concurrency_that_cannot_be_is_refused(shop: Shop, concurrency: int) -> None:
    app = shop.app()
    numbers: Any = app.topic("numbers", int)

    def plain(number: int) -> None: ...
    async def loop(stream: Stream[int]) -> None: ...

    for function in (plain, loop):
        with pytest.raises(DeclarationError, match=r"concurrency(=2 needs| is 0)"):
            app.agent(numbers, concurrency=concurrency)(function)
