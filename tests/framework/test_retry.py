"""What becomes of a record that fails: how often it is tried, when it is given up, when its task stalls instead."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from framework import Retry, Stream
from framework.declare import AgentOptions
from framework.errors import AgentFailed, DeclarationError
from framework.task import Task
from framework.worker import Worker
from tests.framework.conftest import AT_ONCE

if TYPE_CHECKING:
    from tests.framework.conftest import Shop

ZERO = timedelta(0)


class Refused(Exception):
    """What the agents of this file raise."""


async def test_a_record_is_tried_as_often_as_its_agent_says(shop: Shop) -> None:
    app = shop.app()
    numbers, tried = app.topic("numbers", int), list[int]()

    @app.agent(numbers, on_error=Retry(5, wait=ZERO))
    def handle(number: int) -> None:
        tried.append(number)
        if number == 3:
            raise Refused(number)

    shop.send(numbers, range(6))
    await shop.run(app)
    assert tried.count(3) == 6
    assert [letter.offset for letter in shop.dead(app, "handle")] == [0]


async def test_an_error_that_is_not_to_be_tried_again_is_given_up_at_once(shop: Shop) -> None:
    """The record runs once, whether it came alone or in the middle of others, and those are not lost."""
    app = shop.app()
    numbers, out, tried = app.topic("numbers", int), app.topic("out", int), list[int]()

    @app.agent(numbers, sink=out, on_error=Retry(3, wait=ZERO, on=OSError))
    def handle(number: int) -> int:
        tried.append(number)
        if number in (4, 5, 8):
            raise Refused(number)
        return number

    shop.send(numbers, range(10))
    await shop.run(app)
    assert [tried.count(number) for number in (4, 5, 8)] == [1, 1, 1]
    assert shop.values(out) == [0, 1, 2, 3, 6, 7, 9]
    assert [letter.value for letter in shop.dead(app, "handle")] == [b"4", b"5", b"8"]


async def test_a_skipped_record_is_logged_and_nowhere_else(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    app = shop.app()
    numbers, out = app.topic("numbers", int), app.topic("out", int)

    @app.agent(numbers, sink=out, on_error=Retry(1, wait=ZERO, then="skip"))
    def handle(number: int) -> int:
        if number == 2:
            raise Refused(number)
        return number

    shop.send(numbers, range(4))
    shop.send_raw(numbers, b"no number")
    shop.send(numbers, [5])
    await shop.run(app)
    assert shop.values(out) == [0, 1, 3, 5]
    assert shop.dead(app, "handle") == []
    skipped = [record.getMessage() for record in caplog.records if "is skipped" in record.getMessage()]
    assert [text.partition(":")[2].split()[0] for text in skipped] == ["numbers-0@2", "numbers-0@4"]


@pytest.mark.parametrize("bad", [b"2", b"no number"])
async def test_stop_ends_the_worker_at_the_record_and_keeps_what_came_before(shop: Shop, bad: bytes) -> None:
    """The next worker begins with that record."""
    broken = True
    app = shop.app()
    numbers, out = app.topic("numbers", int), app.topic("out", int)

    @app.agent(numbers, sink=out, on_error=Retry(1, wait=ZERO, then="stop"))
    def handle(number: int) -> int:
        if number == 2 and broken:
            raise Refused(number)
        return number

    shop.send(numbers, range(2))
    shop.send_raw(numbers, bad)
    shop.send(numbers, [3])
    with pytest.raises(AgentFailed, match=r"agent 'handle' failed at numbers-0@2, and its on_error says stop"):
        await shop.run(app)
    if bad == b"2":
        assert shop.values(out) == [0, 1]
    broken = False
    if bad == b"2":
        await shop.run(app)
        assert shop.values(out) == [0, 1, 2, 3]


@pytest.mark.parametrize("then", ["dead-letter", "skip"])
@pytest.mark.parametrize("form", ["loop", "call", "take"])
async def test_an_outage_stalls_the_task_and_gives_up_no_record(
    shop: Shop, caplog: pytest.LogCaptureFixture, form: str, then: Any
) -> None:
    """A dependency is down for a thousand records: none is a dead letter, none is lost, none is done twice."""
    app = shop.app()
    numbers, out = app.topic("numbers", int), app.topic("out", int)
    calls = 0

    def use(number: int) -> int:
        nonlocal calls
        calls += 1
        if 200 < calls < 300:
            raise ConnectionError("down")
        return number

    retry = Retry(2, wait=ZERO, max_wait=ZERO, outage_after=10, then=then)
    if form == "call":

        @app.agent(numbers, sink=out, name="it", on_error=retry)
        def call(number: int) -> int:
            return use(number)
    elif form == "loop":

        @app.agent(numbers, name="it", on_error=retry)
        async def loop(stream: Stream[int]) -> None:
            async for number in stream:
                out.send(use(number))
    else:

        @app.agent(numbers, name="it", on_error=retry)
        async def lists(stream: Stream[int]) -> None:
            async for taken in stream.take(3, within=timedelta(seconds=5)):
                for number in taken:
                    out.send(use(number))

    shop.send(numbers, range(1200))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("framework.supervision.MIN_STALLED_WAIT_S", 0.0)
        worker = Worker(app)
        async with asyncio.timeout(20), worker.running():
            await shop.until(lambda: any("stalled at" in record.getMessage() for record in caplog.records))
            await shop.until(lambda: not worker.progress.lag)
    assert shop.values(out) == list(range(1200))
    assert shop.dead(app, "it") == []
    assert any("the outage is over" in record.getMessage() for record in caplog.records)


async def test_failures_with_successes_between_them_are_no_outage(shop: Shop) -> None:
    app = shop.app()
    numbers, out = app.topic("numbers", int), app.topic("out", int)

    @app.agent(numbers, sink=out, on_error=Retry(0, outage_after=3))
    def handle(number: int) -> int:
        if number % 3:
            raise Refused(number)
        return number

    shop.send(numbers, range(30))
    await shop.run(app)
    assert shop.values(out) == list(range(0, 30, 3))
    assert [int(letter.value) for letter in shop.dead(app, "handle")] == [n for n in range(30) if n % 3]


async def test_suspects_survive_a_restart_in_the_middle(shop: Shop) -> None:
    """A record that failed for good, and was not given up yet, comes again."""
    out_of_order = True
    app = shop.app()
    numbers = app.topic("numbers", int)
    handled = list[int]()

    @app.agent(numbers, on_error=Retry(0, outage_after=3))
    def handle(number: int) -> None:
        if number >= 2 and out_of_order:
            raise Refused(number)
        handled.append(number)

    shop.send(numbers, range(9))
    worker = Worker(app)
    async with asyncio.timeout(10), worker.running():
        [task] = worker.tasks
        assert isinstance(task, Task)
        await shop.until(lambda: task.failing.stalled)
    out_of_order = False
    await shop.run(app)
    assert sorted(set(handled)) == list(range(9))
    assert shop.dead(app, "handle") == []


@pytest.mark.parametrize("form", ["loop", "call", "yields"])
async def test_a_record_in_hand_for_too_long_fails(shop: Shop, form: str) -> None:
    app = shop.app()
    numbers, out = app.topic("numbers", int), app.topic("out", int)
    limits: AgentOptions = {"timeout": timedelta(milliseconds=40), "on_error": Retry(1, wait=ZERO), "name": "it"}

    async def use(number: int) -> int:
        await (asyncio.get_running_loop().create_future() if number == 3 else asyncio.sleep(0))
        return number

    if form == "call":

        @app.agent(numbers, sink=out, **limits)
        async def call(number: int) -> int:
            return await use(number)
    elif form == "yields":

        @app.agent(numbers, sink=out, **limits)
        async def yields(stream: Stream[int]) -> Any:
            async for number in stream:
                yield await use(number)
    else:

        @app.agent(numbers, **limits)
        async def loop(stream: Stream[int]) -> None:
            async for number in stream:
                out.send(await use(number))

    shop.send(numbers, range(6))
    await shop.run(app)
    assert shop.values(out) == [0, 1, 2, 4, 5]
    [letter] = shop.dead(app, "it")
    assert letter.headers["dead-letter.error"] == b"TimeoutError: the record was in hand for more than 0.04 s"


async def test_a_timeout_of_the_agents_own_is_an_error_like_any_other(shop: Shop) -> None:
    app = shop.app()
    numbers = app.topic("numbers", int)

    @app.agent(numbers, timeout=timedelta(seconds=9))
    async def handle(number: int) -> None:
        raise TimeoutError("its own")

    shop.send(numbers, [1])
    await shop.run(app)
    [letter] = shop.dead(app, "handle")
    assert letter.headers["dead-letter.error"] == b"TimeoutError: its own"


async def test_stopping_does_not_wait_for_a_retry(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    app = shop.app(on_error=Retry(wait=timedelta(hours=1), max_wait=timedelta(hours=1)))
    numbers = app.topic("numbers", int)

    @app.agent(numbers)
    def handle(number: int) -> None:
        raise Refused(number)

    shop.send(numbers, [1])
    caplog.set_level(logging.WARNING)
    async with asyncio.timeout(10), Worker(app).running():
        await shop.until(lambda: any("first attempt" in record.getMessage() for record in caplog.records))


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0), (5, 5.0), (10_000, 5.0)])
def test_each_wait_is_twice_the_one_before_up_to_the_longest(attempt: int, seconds: float) -> None:
    assert Retry(wait=timedelta(seconds=1), max_wait=timedelta(seconds=5)).wait_s(attempt) == seconds


@pytest.mark.parametrize(
    "options",
    [{"times": -1}, {"outage_after": -1}, {"wait": timedelta(-1)}, {"max_wait": ZERO}, {"then": "bury"}],
    ids=str,
)
def test_a_retry_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(DeclarationError, match="Retry: "):
        Retry(**options)


def test_a_timeout_that_cannot_be_kept_is_refused(shop: Shop) -> None:
    app = shop.app()
    numbers = app.topic("numbers", int)

    def plain(number: int) -> None: ...
    async def loop(stream: Stream[int]) -> None: ...

    with pytest.raises(DeclarationError, match="needs `async def`"):
        app.agent(numbers, timeout=timedelta(seconds=1))(plain)
    with pytest.raises(DeclarationError, match="must be positive"):
        app.agent(numbers, timeout=ZERO)(loop)


def test_an_agent_that_does_not_say_does_what_the_app_says(shop: Shop) -> None:
    app = shop.app()
    numbers = app.topic("numbers", int)
    own = Retry(7)

    def one(number: int) -> None: ...
    def two(number: int) -> None: ...

    assert app.agent(numbers)(one).on_error is AT_ONCE
    assert app.agent(numbers, on_error=own)(two).on_error is own
