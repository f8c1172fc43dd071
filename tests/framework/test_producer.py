"""Sending outside agents: batches, limits, many threads, and what is flushed, or fails, at the end."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import framework
from framework import Ack, App
from framework.log import Files, Log, NewRecord, Partition
from framework.log.errors import LogClosed, PartitionFailed
from framework.log.sending import Producer

if TYPE_CHECKING:
    from tests.framework.conftest import Shop

LIMIT = timedelta(seconds=10)


class Watched(Log):
    """A log that tells what it is given, and waits when it is told to."""

    def __init__(self, path: Path) -> None:
        """Open; nothing is held."""
        super().__init__(path, create=True)
        self.appends: list[int] = []
        self.free = threading.Event()
        self.free.set()

    def append(self, partition: Partition, batches: list[bytearray], *, durable: bool = False) -> Future[int]:
        """Count, wait until free, then append in order."""
        self.appends.append(len(batches))
        if self.free.is_set():
            return super().append(partition, batches)
        held: Future[int] = Future()

        def release() -> None:
            self.free.wait()
            held.set_result(super(Watched, self).append(partition, batches).result())

        threading.Thread(target=release).start()
        return held


def test_without_a_loop_records_wait_for_company_but_not_for_long(shop: Shop) -> None:
    """Nobody waits for these acks, and yet they come."""
    app = shop.app()
    numbers = app.topic("numbers", int)
    log = Watched(shop.data)
    app.open(create=True, log=log)
    with app.opened():
        acks = [numbers.send(number) for number in range(10)]
        came = acks[-1]._done
        assert came is not None
        assert came.result(10) == 0
        assert sum(log.appends) < 10


async def test_what_one_turn_of_the_loop_sends_travels_together(shop: Shop) -> None:
    app = shop.app()
    numbers = app.topic("numbers", int)
    log = Watched(shop.data)
    app.open(create=True, log=log)
    async with app:
        acks = [numbers.send(number) for number in range(1000)]
        assert [(await ack).offset for ack in acks] == list(range(1000))
        assert log.appends == [1]


def test_a_batch_that_is_full_goes_at_once(shop: Shop) -> None:
    with closing(Watched(shop.data)) as log:
        topic = log.create_topic("t", 1)
        producer = Producer(log, linger_ms=3_600_000, batch_bytes=3000)
        acks = [producer.send_to(topic, 0, NewRecord(None, b"x" * 1000, 0)) for _ in range(7)]
        assert log.appends == [1, 1]
        assert not acks[6].done
        assert acks[6].result(LIMIT).offset == 6
        producer.close()


async def test_what_was_flushed_early_leaves_the_next_its_whole_linger(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of the first is over while the second waits: that one has a time of its own."""
    scheduled: list[Callable[[], None]] = []

    def call_later(delay: float, call: Callable[..., None], *arguments: object) -> None:
        scheduled.append(partial(call, *arguments))

    with closing(Watched(shop.data)) as log:
        topic = log.create_topic("t", 1)
        producer = Producer(log, linger_ms=1000)
        with monkeypatch.context() as patched:
            patched.setattr(asyncio.get_running_loop(), "call_later", call_later)
            producer.send_to(topic, 0, NewRecord(None, b"first", 0))
            producer.flush()
            producer.send_to(topic, 0, NewRecord(None, b"second", 0))
        scheduled[0]()
        assert log.appends == [1]
        scheduled[1]()
        assert log.appends == [1, 1]
        producer.close()


def test_a_full_buffer_makes_send_wait(shop: Shop) -> None:
    with closing(Watched(shop.data)) as log:
        topic = log.create_topic("t", 1)
        producer = Producer(log, batch_bytes=1, buffer_bytes=10_000)
        log.free.clear()
        acks = list[Ack]()

        def fill() -> None:
            acks.extend(producer.send_to(topic, 0, NewRecord(None, b"x" * 1000, 0)) for _ in range(100))

        thread = threading.Thread(target=fill)
        thread.start()
        thread.join(0.1)
        sent = len(acks)
        log.free.set()
        thread.join(10)
        assert 8 <= sent <= 11
        assert len(acks) == 100
        producer.close()
        assert all(ack.done for ack in acks)


@pytest.mark.slow
def test_eight_threads_lose_and_double_nothing(shop: Shop) -> None:
    app = shop.app()
    numbers = app.topic("numbers", list, partitions=3)

    def send(thread: int) -> None:
        acks = [numbers.send([thread, number], key=f"{thread}") for number in range(500)]
        offsets = [ack.result(LIMIT).offset or 0 for ack in acks]
        assert offsets == sorted(set(offsets))

    with app.opened():
        app.topic_info(numbers)
        threads = [threading.Thread(target=send, args=[thread]) for thread in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = list(numbers.read())
    for sender in range(8):
        assert [number for by, number in found if by == sender] == list(range(500))


def test_eight_threads_may_be_the_first_to_send(shop: Shop) -> None:
    """They open the app and make the topic between them."""
    app = shop.app()
    numbers = app.topic("numbers", int)
    start = threading.Barrier(8)

    def send(thread: int) -> None:
        start.wait()
        numbers.send(thread)

    threads = [threading.Thread(target=send, args=[thread]) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    app.close()
    assert sorted(shop.values(numbers)) == list(range(8))


def test_closing_brings_everything_to_disk(shop: Shop) -> None:
    app = shop.app()
    numbers = app.topic("numbers", int)
    with app.opened():
        acks = [numbers.send(number) for number in range(100)]
    assert all(ack.done for ack in acks)
    assert shop.values(numbers) == list(range(100))


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["", "sys.exit(3)", "raise ValueError"])
@pytest.mark.parametrize("loop", [False, True])
def test_a_program_that_ends_leaves_nothing_unsent(shop: Shop, ending: str, *, loop: bool) -> None:
    """It neither waits for its acks nor closes the app."""
    send = "[numbers.send(n) for n in range(100)]"
    program = f"""
import asyncio, sys
from framework import App
numbers = App("shop", data={str(shop.data)!r}).topic("numbers", int)
async def main():
    {send}
    {ending if loop else ""}
{"asyncio.run(main())" if loop else send}
{ending}
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(framework.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == {"": 0, "sys.exit(3)": 3}.get(ending, 1), done.stderr
    assert shop.values(shop.app().topic("numbers", int)) == list(range(100))


class FailingDisk(Files):
    """Files of which a sync fails once it is told to."""

    fails = False

    def fdatasync(self, fd: int) -> None:
        """Fail, or not."""
        if self.fails:
            raise OSError(errno.EIO, "Input/output error")
        super().fdatasync(fd)


@pytest.mark.parametrize("waits", [True, False])
def test_a_failed_append_fails_its_acks_and_the_close(shop: Shop, *, waits: bool) -> None:
    """So that nobody who did not wait for an ack takes it for sent."""
    files = FailingDisk()
    app = App("shop", data=shop.data)
    numbers = app.topic("numbers", int)
    app.open(create=True, log=Log(shop.data, create=True, files=files))
    numbers.send(1).result(LIMIT)
    files.fails = True
    ack = numbers.send(2)
    if waits:
        with pytest.raises((PartitionFailed, OSError)):
            ack.result(LIMIT)
    with pytest.raises((PartitionFailed, OSError)):
        app.close()
    with pytest.raises((PartitionFailed, OSError)):
        ack.result(LIMIT)
    assert app._log is None


def test_a_closed_producer_takes_nothing(shop: Shop) -> None:
    with Log(shop.data, create=True) as log:
        topic = log.create_topic("t", 1)
        producer = Producer(log)
        producer.close()
        with pytest.raises(LogClosed, match="the producer is closed"):
            producer.send_to(topic, 0, NewRecord(None, b"x", 0))


async def test_an_app_can_be_opened_again(shop: Shop) -> None:
    app = shop.app()
    numbers = app.topic("numbers", int)
    for number in range(3):
        async with app:
            numbers.send(number)
    numbers.send(3)  # Opens it, too.
    app.close()
    app.close()
    assert shop.values(numbers) == [0, 1, 2, 3]


async def test_a_loop_that_is_blocked_keeps_nobody_else_waiting(shop: Shop) -> None:
    """A thread waits for its ack while the loop, which has sent before, does not turn."""
    app = shop.app()
    numbers = app.topic("numbers", int)
    async with app:
        numbers.send(1)
        found = list[int | None]()
        thread = threading.Thread(target=lambda: found.append(numbers.send(2).result(LIMIT).offset))
        thread.start()
        thread.join()  # Blocks the loop.
        assert found == [1]
        await asyncio.sleep(0)
        assert list(numbers.read()) == [1, 2]
