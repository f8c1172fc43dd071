"""Answers that are being read: they count as soon as they take memory, not only when they are sent."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

from framework.log import Log
from tests.log.broker.client import batch_of, bytes_of, fetching
from tests.log.broker.conftest import Connect, Start

CLIENTS, PARTITIONS, BATCH_BYTES = 40, 40, 50_000
LIMIT_BYTES = 8 << 20


async def test_all_answers_that_are_read_at_once_share_the_memory(
    log: Log, start: Start, connect: Connect, report: Callable[[str], None]
) -> None:
    """Each of them may have an eighth of what is left, and forty of them had five times all of it."""
    info = log.create_topic("flights", PARTITIONS)
    batch = batch_of(bytes(BATCH_BYTES))
    for number in range(PARTITIONS):
        log.append(log.partition(info, number), [bytearray(batch)]).result(30)
    broker = await start(queued_max_request_bytes=LIMIT_BYTES)
    clients = [await connect(broker) for _ in range(CLIENTS)]
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for client in clients:
        client.send("Fetch", 12, fetching("flights", dict.fromkeys(range(PARTITIONS), 0)))
    total = 0
    for client in clients:
        _, response = await client.receive()
        found = sum(len(bytes_of(part)) for topic in response.topics for part in topic.partitions)
        assert found >= BATCH_BYTES
        total += found
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    report(f"{(most - before) / LIMIT_BYTES:.2f} of the memory, {total / LIMIT_BYTES:.2f} in all")
    # The clients are in this process too, each with as much as it takes from its socket at once.
    assert most - before < 2.5 * LIMIT_BYTES
    assert broker.node.memory.unsent_bytes == 0
