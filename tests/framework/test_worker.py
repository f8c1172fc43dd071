"""The worker: where agents begin and go on, how it stops, who may run beside it, and what it counts."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import framework
from framework import App, Stream
from framework.errors import DeclarationError
from framework.state.errors import ShardBusy
from framework.task import Task
from framework.worker import Progress, Worker

if TYPE_CHECKING:
    from tests.framework.conftest import Shop


def summing(app: App) -> tuple[Any, Any]:
    """An agent that adds numbers up."""
    numbers, sums = app.topic("numbers", int), app.table("sums", int)

    @app.agent(numbers)
    async def add(stream: Stream[int]) -> None:
        async for number in stream:
            sums["all"] += number

    return numbers, sums


# Going on.


async def test_a_restart_goes_on_at_the_committed_offset(shop: Shop) -> None:
    for total in (10, 20, 30):
        numbers, sums = summing(app := shop.app())
        shop.send(numbers, [1] * 10)
        worker = await shop.run(app)
        assert worker.progress == Progress(records=10, lag=0)
        assert shop.rows(sums) == {"all": total}
    worker = await shop.run(app)
    assert worker.progress == Progress(records=0, lag=0)


async def test_agents_that_feed_each_other_are_idle_together(shop: Shop) -> None:
    app = shop.app()
    topics = [app.topic(f"t{number}", int, partitions=number + 1) for number in range(4)]
    for source, sink in pairwise(topics):

        @app.agent(source, sink=sink, name=f"from-{source.name}")
        def forward(number: int) -> int:
            return number + 1

    shop.send(topics[0], range(100))
    await shop.run(app)
    assert sorted(shop.values(topics[-1])) == list(range(3, 103))


async def test_an_agent_may_feed_itself(shop: Shop) -> None:
    app = shop.app()
    numbers = app.topic("numbers", int)

    @app.agent(numbers, sink=numbers)
    def count_down(number: int) -> int | None:
        return number - 1 if number else None

    shop.send(numbers, [5])
    await shop.run(app)
    assert shop.values(numbers) == [5, 4, 3, 2, 1, 0]


async def test_a_worker_that_is_told_to_stop_finishes_the_record_in_hand(shop: Shop) -> None:
    app, in_hand, go = shop.app(), asyncio.Event(), asyncio.Event()
    numbers, out = app.topic("numbers", int), app.topic("out", int)
    worker = Worker(app)

    @app.agent(numbers)
    async def slowly(number: int) -> None:
        in_hand.set()
        await go.wait()
        out.send(number)

    shop.send(numbers, range(10))
    async with asyncio.TaskGroup() as group:
        running = group.create_task(worker.run())
        await in_hand.wait()
        worker.stop()
        await asyncio.sleep(0)
        assert not running.done()
        go.set()
    assert shop.values(out) == [0]
    await shop.run(app)
    assert shop.values(out) == list(range(10))


async def test_a_record_that_does_not_end_is_given_up_uncommitted(shop: Shop) -> None:
    app, in_hand = shop.app(), asyncio.Event()
    numbers, out = app.topic("numbers", int), app.topic("out", int)
    forever = asyncio.Event()
    worker = Worker(app, stop_timeout_s=0.01)

    @app.agent(numbers)
    async def stuck(number: int) -> None:
        out.send(number)
        if number == 2 and not forever.is_set():
            in_hand.set()
            await forever.wait()

    shop.send(numbers, range(4))
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.run())
        await in_hand.wait()
        worker.stop()
    forever.set()
    await shop.run(app)
    assert shop.values(out) == list(range(4))


@pytest.mark.slow
async def test_an_agent_that_waits_in_every_record_is_committed_in_intervals(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is never out of input, and at a boundary for a moment only; still others see what it has done."""
    monkeypatch.setattr("framework.commit.COMMIT_INTERVAL_S", 0.001)
    app, seen = shop.app(), list[int]()
    numbers, out = app.topic("numbers", int), app.topic("out", int)
    worker = Worker(app)

    @app.agent(numbers)
    async def wait(number: int) -> None:
        [task] = worker.tasks
        assert isinstance(task, Task)
        out.send(number)
        # An interval ends while the record is in hand; its slice is over with it, and the commit is due.
        await shop.until(lambda: task.feed.end == number + 1)
        for _ in range(10):
            await asyncio.sleep(0)
        if number == 20:
            seen.append(task.committed)

    shop.send(numbers, range(30))
    async with asyncio.timeout(10):
        await worker.run(until_idle=True)
    assert 0 < seen[0] <= 20
    assert shop.values(out) == list(range(30))


# Records that come while it runs.


async def test_records_sent_while_it_runs_arrive(shop: Shop) -> None:
    app, seen = shop.app(), list[int]()
    numbers = app.topic("numbers", int, partitions=3)

    @app.agent(numbers)
    def collect(number: int) -> None:
        seen.append(number)

    async with app.worker():
        for number in range(20):
            numbers.send(number)
            await shop.until(lambda: len(seen) == number + 1)  # noqa: B023
    assert seen == list(range(20))


@pytest.mark.slow
async def test_records_of_another_process_arrive(shop: Shop) -> None:
    app, seen = shop.app(), list[int]()
    numbers = app.topic("numbers", int)

    @app.agent(numbers)
    def collect(number: int) -> None:
        seen.append(number)

    program = f"""
from framework import App
numbers = App("other", data={str(shop.data)!r}).topic("numbers", int)
for number in range(5):
    print(numbers.send(number).result().offset, flush=True)
    input()
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(framework.__file__).parents[1])}
    async with app.worker():
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(5):
            assert int(await process.stdout.readline()) == number
            await shop.until(lambda: seen == list(range(number + 1)))  # noqa: B023
            process.stdin.write(b"\n")
        assert await process.wait() == 0


# Who may run.


async def test_a_second_worker_is_told_who_has_the_directory(shop: Shop) -> None:
    app, second = shop.app(), shop.app()
    summing(app)
    summing(second)
    async with app.worker():
        with pytest.raises(ShardBusy) as refused:
            await Worker(second).run()
    assert str(refused.value) == (
        f"this process owns shard 0 of {shop.data}: a worker is running there. "
        "Stop it, or wait for it with --wait SECONDS"
    )
    await shop.run(second)


async def test_an_app_without_agents_has_nothing_to_run(shop: Shop) -> None:
    app = shop.app()
    app.topic("numbers", int)
    with pytest.raises(DeclarationError) as refused:
        await Worker(app).run()
    assert str(refused.value) == "app 'shop' declares no agents, jobs or timers: there is nothing to run"
    assert not shop.data.exists()


async def send_and_raise(app: App, numbers: Any) -> None:
    async with app.worker():
        await numbers.send(3)
        raise KeyError("mine")


async def test_a_body_that_raises_ends_the_worker_with_its_error(shop: Shop) -> None:
    numbers, sums = summing(app := shop.app())
    with pytest.raises(KeyError, match="mine"):
        await send_and_raise(app, numbers)
    assert app._log is None
    await shop.run(app)
    assert shop.rows(sums) == {"all": 3}


# Lifespan.


@asynccontextmanager
async def noting(app: App) -> AsyncIterator[None]:
    """A lifespan that notes when it begins and ends."""
    app.state.notes = [*getattr(app.state, "notes", []), "begins"]
    try:
        yield
    finally:
        app.state.notes.append("ends")


async def test_the_lifespan_wraps_the_time_a_worker_runs(shop: Shop) -> None:
    app = shop.app(lifespan=noting)
    numbers = app.topic("numbers", int)

    @app.agent(numbers)
    def look(number: int) -> None:
        app.state.notes.append(number)

    shop.send(numbers, [1, 2])
    await shop.run(app)
    assert app.state.notes == ["begins", 1, 2, "ends"]


async def test_the_lifespan_wraps_the_time_an_app_is_open(shop: Shop) -> None:
    app = shop.app(lifespan=noting)
    numbers = app.topic("numbers", int)
    async with app:
        assert app.state.notes == ["begins"]
        await numbers.send(1)
    assert app.state.notes == ["begins", "ends"]


async def test_a_worker_inside_an_open_app_shares_its_lifespan(shop: Shop) -> None:
    """One client, not two; and the app stays open when the worker is done."""
    app = shop.app(lifespan=noting)
    numbers, _ = summing(app)
    async with app:
        log = app.log
        async with app.worker():
            await numbers.send(1)
        assert app.log is log
        assert app.state.notes == ["begins"]
        await numbers.send(2)
    assert app.state.notes == ["begins", "ends"]


async def test_an_app_whose_lifespan_fails_is_closed(shop: Shop) -> None:
    @asynccontextmanager
    async def failing(app: App) -> AsyncIterator[None]:
        raise ConnectionError("no database")
        yield

    app = shop.app(lifespan=failing)
    with pytest.raises(ConnectionError, match="no database"):
        async with app:
            pass
    assert app._log is None


async def test_a_worker_whose_lifespan_fails_leaves_the_directory_to_others(shop: Shop) -> None:
    @asynccontextmanager
    async def failing(app: App) -> AsyncIterator[None]:
        raise ConnectionError("no database")
        yield

    app = shop.app(lifespan=failing)
    summing(app)
    with pytest.raises(ConnectionError, match="no database"):
        await Worker(app).run()
    numbers, sums = summing(other := shop.app())
    shop.send(numbers, [1])
    await shop.run(other)
    assert shop.rows(sums) == {"all": 1}


# Where an agent begins.


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("beginning", [0, 1, 2, 3]),
        ("end", []),
        (0, [0, 1, 2, 3]),
        (3, [3]),
        (99, []),
        (datetime(2024, 1, 1, 2, tzinfo=UTC), [2, 3]),
        (datetime(2024, 1, 1, 1, 30, tzinfo=UTC), [2, 3]),
        (datetime(2030, 1, 1, tzinfo=UTC), []),
        (timedelta(hours=1), [3]),
        (timedelta(days=365), [0, 1, 2, 3]),
    ],
    ids=str,
)
async def test_a_new_agent_begins_where_start_says(shop: Shop, start: Any, expected: list[int]) -> None:
    """The records are stamped at 0, 1, 2 and 3 o'clock; it is half past three."""

    class HalfPastThree:
        def now_ms(self) -> int:
            return int(datetime(2024, 1, 1, 3, 30, tzinfo=UTC).timestamp() * 1000)

        def monotonic(self) -> float:
            return 0.0

    app, seen = shop.app(clock=HalfPastThree()), list[int]()
    numbers = app.topic("numbers", int)

    @app.agent(numbers, start=start)
    def collect(number: int) -> None:
        seen.append(number)

    async with app:
        for hour in range(4):
            numbers.send(hour, timestamp=datetime(2024, 1, 1, hour, tzinfo=UTC))
    await shop.run(app)
    assert seen == expected


async def test_start_is_forgotten_once_an_offset_is_committed(shop: Shop) -> None:
    seen = list[int]()
    for number, start in enumerate(["beginning", "end", "end"]):
        app = shop.app()
        numbers = app.topic("numbers", int)

        @app.agent(numbers, start=start)  # type: ignore[call-overload, untyped-decorator]
        def collect(number: int) -> None:
            seen.append(number)

        shop.send(numbers, [number])
        await shop.run(app)
    assert seen == [0, 1, 2]


async def test_an_agent_that_began_at_the_end_goes_on_from_there_after_a_restart(shop: Shop) -> None:
    """It had nothing to handle and yet has a place: what comes while no worker runs is not skipped."""
    seen = list[int]()
    for number in range(2):
        app = shop.app()
        numbers = app.topic("numbers", int)

        @app.agent(numbers, start="end")
        def collect(number: int) -> None:
            seen.append(number)

        shop.send(numbers, [number])
        await shop.run(app)
    assert seen == [1]
