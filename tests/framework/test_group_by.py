"""group_by: what comes before runs as a stage; what comes behind has the records of a key together, exactly once."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from framework import App, Retry, Stream
from framework.errors import DeclarationError
from framework.log import Partition
from framework.repartition import trim
from framework.worker import Worker

if TYPE_CHECKING:
    from tests.framework.conftest import Shop

STAMP = datetime(2024, 5, 6, 7, 8, tzinfo=UTC)


class Flight(BaseModel):
    """What is grouped."""

    origin: str
    dest: str


def key(number: int) -> str:
    """A key that has nothing to do with the partition of the number."""
    return f"k{number % 5}"


def counting(data: Path, partitions: int) -> App:
    """A loop and a pipeline that both count the odd numbers by key and send each count."""
    app = App("shop", data=data, partitions=partitions)
    numbers, looped, piped = app.topic("numbers", int), app.topic("looped", list), app.topic("piped", list)
    by_loop, by_pipe = app.table("by-loop", int), app.table("by-pipe", int)

    @app.agent(numbers)
    async def loop(stream: Stream[int]) -> None:
        async for number in stream.filter(lambda n: n % 2).group_by(key):
            by_loop[key(number)] += 1
            looped.send([key(number), by_loop[key(number)]])

    def count(number: int) -> list[Any]:
        by_pipe[key(number)] += 1
        return [key(number), by_pipe[key(number)]]

    app.stream(numbers, name="pipe").filter(lambda n: n % 2).group_by(key).map(count).to(piped)
    return app


async def run_until_killed(app: App, numbers: list[int], turns: int, *, kill: bool) -> None:
    """A worker that is stopped, or killed, after *numbers* were sent and the loop has turned so often."""
    worker = Worker(app)
    try:
        async with worker.running():
            for number in numbers:
                app.topics["numbers"].send(number)
            for _ in range(turns):
                await asyncio.sleep(0)
            if kill:
                worker.kill()
    except asyncio.CancelledError:
        assert kill


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(
        st.tuples(st.lists(st.integers(0, 30), max_size=30), st.integers(0, 400), st.booleans()), max_size=4
    ),
    partitions=st.integers(1, 5),
)
def test_restarts_in_the_middle_of_random_inputs_leave_every_count_exact(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[list[int], int, bool]], partitions: int
) -> None:
    data = tmp_path_factory.mktemp("data")
    for numbers, turns, kill in parts:
        asyncio.run(run_until_killed(counting(data, partitions), numbers, turns, kill=kill))
    app = counting(data, partitions)

    async def finish() -> None:
        async with asyncio.timeout(20):
            await Worker(app).run(until_idle=True)

    asyncio.run(finish())
    with app.opened():
        sent: list[int] = list(app.topics["numbers"].read())
        expected = Counter(key(number) for number in sent if number % 2)
        outputs = Counter((name, n) for name, count in expected.items() for n in range(1, count + 1))
        for table, topic in (("by-loop", "looped"), ("by-pipe", "piped")):
            assert dict(app.tables[table].items()) == expected
            assert Counter(map(tuple, app.topics[topic].read())) == outputs


async def test_records_keep_order_timestamp_and_headers_and_get_the_new_key(shop: Shop) -> None:
    app = shop.app(partitions=3)
    flights, seen = app.topic("flights", Flight, key=lambda f: f.origin), list[tuple[Any, ...]]()

    @app.agent(flights)
    async def watch(stream: Stream[Flight]) -> None:
        async for record in stream.group_by(lambda flight: flight.dest).records():
            seen.append((record.key, record.value, record.timestamp, dict(record.headers), record.topic))

    sent = [Flight(origin="JFK", dest=dest) for dest in ("LAX", "SFO", "LAX")]
    with app.opened():
        for number, flight in enumerate(sent):
            flights.send(flight, timestamp=STAMP + timedelta(seconds=number), headers={"n": b"%d" % number})
    await shop.run(app)
    topic = "shop.watch.group-1.repartition"
    expected = [
        (flight.dest, flight, STAMP + timedelta(seconds=n), {"n": b"%d" % n}, topic) for n, flight in enumerate(sent)
    ]
    for dest in ("LAX", "SFO"):
        assert [row for row in seen if row[0] == dest] == [row for row in expected if row[0] == dest]
    assert len(seen) == len(expected)
    with app.opened():
        assert app.log.topic(topic).partitions == 3


async def test_two_groups_in_a_row_are_three_stages(shop: Shop) -> None:
    app = shop.app(partitions=2)
    numbers, by_five, by_three = app.topic("numbers", int), app.table("by-five", int), app.table("by-three", int)

    def count(number: int) -> int:
        by_five[key(number)] += 1
        return number

    @app.agent(numbers)
    async def loop(stream: Stream[int]) -> None:
        async for number in stream.group_by(key).map(count).group_by(lambda n: f"m{n % 3}"):
            by_three[f"m{number % 3}"] += 1

    shop.send(numbers, range(50))
    worker = await shop.run(app)
    assert {task.agent.name for task in worker.tasks} == {"loop.group-1", "loop.group-2", "loop"}
    assert shop.rows(by_five) == Counter(map(key, range(50)))
    assert shop.rows(by_three) == Counter(f"m{n % 3}" for n in range(50))


async def test_what_fails_or_cannot_be_decoded_before_the_group_is_a_dead_letter_of_the_stage(shop: Shop) -> None:
    app = shop.app(on_error=Retry(times=0))
    numbers, out = app.topic("numbers", int), list[int]()

    def check(number: int) -> int:
        if number == 3:
            raise ValueError(number)
        return number

    @app.agent(numbers)
    async def loop(stream: Stream[int]) -> None:
        async for number in stream.filter(check).group_by(lambda n: None if n == 5 else key(n)):
            out.append(number)

    for value in (b"1", b"2", b"3", b"?", b"4", b"5", b"6"):
        shop.send_raw(numbers, value)
    shop.send_raw(numbers, None)
    shop.send_raw(numbers, b"7")
    await shop.run(app)
    assert set(out) == {1, 2, 4, 6, 7}
    assert [letter.value for letter in shop.dead(app, "loop.group-1")] == [b"3", b"?", b"5"]


async def test_what_fails_behind_the_group_is_a_dead_letter_of_the_agent(shop: Shop) -> None:
    app = shop.app(on_error=Retry(times=1, wait=timedelta(0)))
    numbers, counts = app.topic("numbers", int), app.table("counts", int)

    @app.agent(numbers)
    async def loop(stream: Stream[int]) -> None:
        async for number in stream.group_by(key):
            counts[key(number)] += 1
            if number == 7:
                raise ValueError

    shop.send(numbers, range(10))
    await shop.run(app)
    assert shop.rows(counts) == Counter(key(number) for number in range(10) if number != 7)
    [letter] = shop.dead(app, "loop")
    assert (letter.value, letter.key) == (b"7", b"k2")


async def test_functions_made_inside_the_agent_are_those_of_the_loop_that_runs(shop: Shop) -> None:
    """After an exception the function begins anew, and with it what it gave to its stage."""
    app = shop.app(on_error=Retry(times=3, wait=timedelta(0)))
    numbers, out, runs = app.topic("numbers", int), app.topic("out", list), iter(range(10))

    @app.agent(numbers)
    async def loop(stream: Stream[int]) -> None:
        run = next(runs)
        async for number in stream.map(lambda n: [run, n]).group_by(lambda pair: key(pair[1])):
            if number[1] == 1 and run == 0:
                raise ValueError
            out.send([run, *number])

    worker = Worker(app)
    async with worker.running():
        await numbers.send(0)
        await shop.until(lambda: worker.idle)
        await numbers.send(1)
        await shop.until(lambda: worker.idle)
        await numbers.send(2)
        await shop.until(lambda: worker.idle)
    # The record that failed had been through its stage already.
    assert shop.values(out) == [[0, 0, 0], [1, 0, 1], [1, 1, 2]]


async def test_an_agent_that_is_grouped_later_goes_on_where_it_was(shop: Shop) -> None:
    for first, group in ((0, False), (10, True)):
        app = shop.app()
        numbers, counts = app.topic("numbers", int), app.table("counts", int)

        @app.agent(numbers)
        async def loop(stream: Stream[int]) -> None:
            async for number in stream.group_by(key) if group else stream:  # noqa: B023
                counts[key(number)] += 1  # noqa: B023

        shop.send(numbers, range(first, first + 10))
        await shop.run(app)
    assert shop.rows(counts) == dict.fromkeys(map(key, range(5)), 4)


async def test_the_topic_between_takes_no_more_than_what_is_not_committed(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("framework.repartition.SEGMENT_BYTES", 1 << 14)
    app = shop.app()
    numbers, counts = app.topic("numbers", int), app.table("counts", int)

    @app.agent(numbers)
    async def loop(stream: Stream[int]) -> None:
        async for number in stream.group_by(key):
            counts[key(number)] += 1

    sizes, starts = list[int](), list[int]()
    for turn in range(4):
        worker = Worker(app)
        async with worker.running():
            await numbers.send_many(range(turn * 5_000, (turn + 1) * 5_000))
            await shop.until(lambda: worker.idle)  # noqa: B023
            await trim(worker.tasks)
            partition = app.log.partition(app.log.topic("shop.loop.group-1.repartition"), 0)
            sizes.append(size_of(partition))
            starts.append(partition.log_start)
    assert starts == sorted(set(starts))
    assert max(sizes) < 5 << 14 < 20_000 * 14
    assert shop.rows(counts) == dict.fromkeys(map(key, range(5)), 4_000)


def size_of(partition: Partition) -> int:
    """The bytes of its segments."""
    return sum(path.stat().st_size for path in partition.directory.glob("*.log"))


async def test_retention_does_not_pass_a_stage_whose_loop_has_not_begun(shop: Shop) -> None:
    """It is the agent's own offset that is not known before, and `start` may be the end."""
    app = shop.app()
    numbers, entered = app.topic("numbers", int), asyncio.Event()
    waits: list[asyncio.Event] = []

    @app.agent(numbers, start="end")
    async def loop(stream: Stream[int]) -> None:
        entered.set()
        for event in waits:
            await event.wait()
        async for _ in stream.group_by(key):
            pass

    async with app.worker():
        await entered.wait()
    shop.send(numbers, range(5))
    waits.append(asyncio.Event())
    entered.clear()
    worker = Worker(app, stop_timeout_s=0.01)
    async with worker.running():
        await entered.wait()
        worker.publish_holds()
        hold = app.log.shared.hold(app.log.partition(app.log.topic("numbers"), 0).slot)
    assert hold == 0


async def test_an_agent_whose_loop_has_not_begun_commits_no_offset(shop: Shop) -> None:
    """It would be one of the topic that its stage reads, and an agent of the app would be listed twice."""
    app = shop.app()
    numbers, entered, may_begin = app.topic("numbers", int), asyncio.Event(), asyncio.Event()
    begun = app.table("begun", int)

    @app.agent(numbers)
    async def loop(stream: Stream[int]) -> None:
        begun["loops"] += 1
        entered.set()
        await may_begin.wait()
        async for _ in stream.group_by(key):
            pass

    worker = Worker(app)
    async with worker.running():
        await entered.wait()
        await shop.commit(worker)
        may_begin.set()
        await shop.until(lambda: worker.idle)
        info = app.log.topic("numbers")
        offsets = {task.agent.name: task.effects.store.offset(task.agent.name, info, 0) for task in worker.tasks}
    assert offsets == {"loop": None, "loop.group-1": 0}
    assert shop.rows(begun) == {"loops": 1}


@pytest.mark.parametrize("name", ["other", None])
async def test_a_stage_that_goes_away_is_refused_before_its_records_are_handled_twice(
    shop: Shop, name: str | None
) -> None:
    for first in (True, False):
        app = shop.app()
        numbers = app.topic("numbers", int)

        @app.agent(numbers)
        async def loop(stream: Stream[int]) -> None:
            grouped = stream if not first and name is None else stream.group_by(key, name=None if first else name)  # noqa: B023
            async for _ in grouped:
                pass

        if first:
            shop.send(numbers, range(3))
            await shop.run(app)
    with pytest.raises(DeclarationError, match=r"has read 'numbers' by its stage 'loop.group-1' so far"):
        await shop.run(app)
