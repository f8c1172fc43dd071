"""Looking through records that producers sent: in the event loop for a moment, in threads of its own for longer."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager

import pytest

from framework.log import Log, NewRecord, encode
from framework.log.broker import Code
from framework.log.broker.server import CHECKING_THREADS, WORKING_THREADS, Broker
from tests.log.broker.client import batch_of, producing
from tests.log.broker.conftest import Connect, Start
from tests.until import until

PARTITIONS = 3


@pytest.fixture
async def broker(log: Log, start: Start) -> Broker:
    """Of a log with one topic."""
    log.create_topic("flights", PARTITIONS)
    return await start()


@asynccontextmanager
async def busy(threads: Executor, count: int) -> AsyncIterator[None]:
    """All *threads* have something to do, until the end of the body."""
    begun, done = threading.Semaphore(0), threading.Event()

    def work() -> None:
        begun.release()
        done.wait(60)

    for _ in range(count):
        threads.submit(work)
    await until(lambda: begun.acquire(blocking=False))
    try:
        yield
    finally:
        done.set()


async def test_who_compresses_does_not_wait_for_those_who_make_topics(broker: Broker, connect: Connect) -> None:
    """Nor for retention: what takes long for others has other threads."""
    client = await connect(broker)
    async with busy(broker.node.working, WORKING_THREADS):
        part = await client.produce("flights", batch_of(b"packed" * 1000, compression="gzip"))
        assert (part.error_code, part.base_offset) == (0, 0)


async def test_of_a_request_with_many_batches_only_the_first_are_looked_through_at_once(
    broker: Broker, connect: Connect
) -> None:
    client, other = await connect(broker), await connect(broker)
    large = batch_of(bytes(600_000))
    async with busy(broker.node.checking, CHECKING_THREADS):
        assert (await client.produce("flights", large)).error_code == 0
        client.send("Produce", 9, producing("flights", dict.fromkeys(range(PARTITIONS), large)))
        await until(lambda: any(each._held for each in broker._connections))
        assert (await other.produce("flights", batch_of(b"small"), 1)).base_offset == 0
    _, response = await client.receive()
    assert [part.base_offset for part in response.topics[0].partitions] == [1, 1, 0]


@pytest.mark.parametrize("timestamp", [1_700_000_000_000_000_000, 1 << 62, -(1 << 50)])
async def test_a_time_that_no_reader_could_name_is_refused(broker: Broker, connect: Connect, timestamp: int) -> None:
    """Such as one in nanoseconds: the rows of a table with a ttl would all be over at once."""
    client = await connect(broker)
    for stamps in ([timestamp], [timestamp, 0]):
        [batch] = encode([NewRecord(None, b"x", each) for each in stamps], max_batch_bytes=1 << 20)
        part = await client.produce("flights", batch)
        assert (Code(part.error_code).name, part.base_offset) == ("INVALID_TIMESTAMP", -1)
        assert part.error_message is not None
        assert str(timestamp) in part.error_message


@pytest.mark.parametrize("timestamp", [-1, 0, 253_402_300_799_999])
async def test_a_time_of_any_year_is_taken(broker: Broker, connect: Connect, timestamp: int) -> None:
    """-1 is what a client says that has none."""
    [batch] = encode([NewRecord(None, b"x", timestamp)], max_batch_bytes=1 << 20)
    assert (await (await connect(broker)).produce("flights", batch)).error_code == 0
