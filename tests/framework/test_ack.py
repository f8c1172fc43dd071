"""Waiting for acknowledgements: many tasks for one batch, in other loops and threads, and those who give up."""

from __future__ import annotations

import asyncio
import signal
import threading
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from framework import Ack
from framework.log import Log, NewRecord, Partition
from framework.log.ack import Delivery
from framework.log.errors import LogClosed
from framework.log.sending import Producer

if TYPE_CHECKING:
    from tests.framework.conftest import Shop

LIMIT = timedelta(seconds=10)


class Counted(Log):
    """A log that remembers how many appends it was given."""

    appends = 0

    def append(self, partition: Partition, batches: list[bytearray], *, durable: bool = False) -> Future[int]:
        """Count and append."""
        self.appends += 1
        return super().append(partition, batches, durable=durable)


class Held:
    """A sender that keeps its batch."""

    def flush(self) -> None:
        """Keep it."""

    def hurry(self) -> None:
        """Keep it."""


async def test_tasks_that_each_await_their_send_share_a_batch(shop: Shop) -> None:
    app = shop.app()
    numbers = app.topic("numbers", int)
    log = Counted(shop.data, create=True)
    app.open(create=True, log=log)

    async def send(number: int) -> int | None:
        return (await numbers.send(number)).offset

    async with app, asyncio.TaskGroup() as group:
        tasks = [group.create_task(send(number)) for number in range(100)]
    assert [task.result() for task in tasks] == list(range(100))
    assert log.appends == 1


async def test_who_gives_up_waiting_takes_nobody_along() -> None:
    delivery = Delivery(Held())

    async def wait(index: int) -> int | None:
        return (await Ack("topic", 0, delivery, index)).offset

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(wait(index)) for index in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.sleep(0)
        threading.Thread(target=delivery.set_result, args=[40]).start()
    assert tasks[1].cancelled()
    assert [tasks[0].result(), tasks[2].result()] == [40, 42]


async def test_an_error_reaches_everybody_who_waits() -> None:
    delivery = Delivery(Held())

    async def wait() -> None:
        with pytest.raises(OSError, match="disk"):
            await Ack("topic", 0, delivery)

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(wait())
        await asyncio.sleep(0)
        delivery.set_exception(OSError("disk"))


def test_whose_loop_has_ended_is_not_waited_for() -> None:
    """The batch is acknowledged behind it, and nothing is printed about that."""
    delivery = Delivery(Held())

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(delivery, 0.001)

    asyncio.run(give_up())
    delivery.set_result(1)
    assert Ack("topic", 0, delivery, 1).result().offset == 2


def test_what_was_sent_without_a_loop_is_hurried_by_one_that_waits(shop: Shop) -> None:
    with Log(shop.data, create=True) as log:
        topic = log.create_topic("t", 1)
        producer = Producer(log, linger_ms=3_600_000)
        ack = producer.send_to(topic, 0, NewRecord(None, b"x", 0))

        async def wait() -> int | None:
            return (await ack).offset

        assert asyncio.run(asyncio.wait_for(wait(), 10)) == 0
        producer.close()


async def test_another_loop_does_not_wait_for_one_that_is_blocked(shop: Shop) -> None:
    app = shop.app()
    numbers = app.topic("numbers", int)

    async def wait(ack: Ack) -> None:
        found.append((await ack).offset)

    found = list[int | None]()
    async with app:
        ack = numbers.send(1)
        thread = threading.Thread(target=lambda: asyncio.run(wait(ack)))
        thread.start()
        thread.join()  # Blocks this loop.
    assert found == [0]


async def test_a_batch_that_the_log_does_not_take_fails_those_who_await_it(tmp_path: Path) -> None:
    log = Log(tmp_path / "data", create=True)
    topic = log.create_topic("t", 1)
    producer = Producer(log)
    ack = producer.send_to(topic, 0, NewRecord(None, b"x", 0))
    log.close()
    with pytest.raises(LogClosed):
        await ack
    with pytest.raises(LogClosed):
        producer.close()


async def test_a_signal_arrives_although_a_thousand_batches_are_acknowledged_meanwhile(tmp_path: Path) -> None:
    """What wakes the loop is a socket that takes a few hundred bytes, and signals go through it, too."""
    loop, heard = asyncio.get_running_loop(), asyncio.Event()
    with Log(tmp_path, create=True) as log, log.producer() as producer:
        log.create_topic("numbers", 1)
        loop.add_signal_handler(signal.SIGUSR1, heard.set)
        try:
            waiting = []
            for number in range(1_000):
                ack = producer.send("numbers", b"%d" % number)
                waiting.append(ack.__await__())
                next(waiting[-1])  # As a task that awaits it.
                producer.flush()
            ack.result(LIMIT)  # The loop does nothing until then.
            signal.raise_signal(signal.SIGUSR1)
            async with asyncio.timeout(LIMIT.total_seconds()):
                await heard.wait()
        finally:
            loop.remove_signal_handler(signal.SIGUSR1)


class Nobody:
    """Holds no batch back."""

    def flush(self) -> None: ...

    def hurry(self) -> None: ...


async def test_of_what_is_called_back_one_that_raises_keeps_nobody_from_being_called(tmp_path: Path) -> None:
    loop, told, called = asyncio.get_running_loop(), list[object](), asyncio.Event()
    loop.set_exception_handler(lambda _, context: told.append(context.get("exception")))

    def fail() -> None:
        raise ValueError("on purpose")

    first, second = Delivery(Nobody()), Delivery(Nobody())
    for delivery, call in ((first, fail), (first, fail), (second, called.set)):
        delivery.call_back(call)
    first.set_result(0)
    second.set_result(1)
    async with asyncio.timeout(LIMIT.total_seconds()):
        await called.wait()
    assert [str(error) for error in told] == ["on purpose"] * 2
