"""Clients that ask for much and take nothing, beside others that write and read as fast as they can.

Rates are counted, not timed: the others need no more requests for what they do, and the broker does nothing meanwhile
for those who take nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from framework.log import Log, TopicSettings
from framework.log.broker.context import Context
from framework.log.broker.handlers import HANDLERS
from framework.log.broker.table_records import FetchRequest
from tests.log.broker.client import RawClient, batch_of, bytes_of, fetching
from tests.log.broker.conftest import Connect, Start
from tests.until import until

STUCK, ASKED, ANSWER_BYTES = 10, 50, 4 << 20
WRITES, WRITE_BYTES, READ_BYTES = 300, 20_000, 100_000

pytestmark = pytest.mark.slow


@pytest.fixture
def handled(monkeypatch: pytest.MonkeyPatch) -> Counter[str | None]:
    """How many fetches were begun, by client id."""
    counts, fetch = Counter[str | None](), HANDLERS["Fetch"]

    def counted(context: Context, version: int, body: FetchRequest) -> Any:
        counts[context.client.client_id] += 1
        return fetch(context, version, body)

    monkeypatch.setitem(HANDLERS, "Fetch", counted)
    return counts


async def write(client: RawClient, offset: int) -> int:
    """Write some batches, each when the one before is acknowledged; how many requests that took."""
    batch = batch_of(bytes(WRITE_BYTES))
    for number in range(WRITES):
        assert (await client.produce("flights", batch)).base_offset == offset + number
    return WRITES


async def read(client: RawClient, offset: int) -> int:
    """Read as many records as are being written; how many requests that took that had something to read."""
    requests, end = 0, offset + WRITES
    while offset < end:
        part = await client.fetch("flights", offset, max_wait_ms=10_000, partition_max_bytes=READ_BYTES)
        assert part.error_code == 0
        size = len(bytes_of(part))
        assert size <= READ_BYTES
        offset += size // (WRITE_BYTES + 61)
        requests += 1
    return requests


async def test_clients_that_take_nothing_cost_others_nothing(
    log: Log, start: Start, connect: Connect, handled: Counter[str | None], report: Callable[[str], None]
) -> None:
    log.create_topic("flights", 1)
    partition = log.partition(log.create_topic("large", 1, TopicSettings(max_message_bytes=1 << 25)), 0)
    log.append(partition, [batch_of(bytes(ANSWER_BYTES))]).result(30)
    broker = await start()
    writer, reader = await connect(broker), await connect(broker)
    alone = await write(writer, 0), await read(reader, 0)

    stuck = [await connect(broker) for _ in range(STUCK)]
    for client in stuck:
        for _ in range(ASKED):
            client.send("Fetch", 12, fetching("large", {0: 0}, partition_max_bytes=2 * ANSWER_BYTES), "stuck")
    memory = broker.node.memory
    await until(lambda: handled["stuck"] >= STUCK and memory.unsent_bytes > ANSWER_BYTES)
    # What the system takes of an answer for its client may let another one begin, once.
    beside = await write(writer, WRITES), await read(reader, WRITES)
    begun, unsent = handled["stuck"], memory.unsent_bytes
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(write(writer, 2 * WRITES))
        reading = group.create_task(read(reader, 2 * WRITES))

    assert beside == alone
    assert writing.result() == WRITES
    assert reading.result() <= WRITES  # Never one that found nothing.
    assert handled["stuck"] == begun
    assert memory.unsent_bytes <= unsent
    assert begun <= 2 * STUCK
    report(f"{alone} requests alone and {beside} beside; {begun} of {STUCK * ASKED} begun for those who take nothing")
