"""Connections that end in the same moment in which a request of theirs begins: nothing of it is left."""

from __future__ import annotations

import pytest

from framework.log import Log
from framework.log.broker.table_configs import DescribeConfigsRequest
from framework.log.broker.table_topics import CreateTopicsRequest, MetadataRequest, MetadataRequestTopic
from tests.log.broker.client import BY_NAME, batch_of, connected, fetching, producing
from tests.log.broker.conftest import Start
from tests.log.broker.test_limits import is_well
from tests.until import until

WORK = {
    "Produce": producing("flights", {0: batch_of(b"packed" * 1000, compression="gzip")}),
    "Fetch": fetching("flights", {0: 0}, max_wait_ms=60_000),
    "Metadata": MetadataRequest(topics=[MetadataRequestTopic(name="new")]),
    "CreateTopics": CreateTopicsRequest(topics=[]),
}
"""Requests that others wait for."""


@pytest.mark.parametrize("name", WORK)
@pytest.mark.filterwarnings("error")
async def test_a_request_that_is_called_off_before_its_first_step_is_forgotten(
    log: Log, start: Start, name: str
) -> None:
    """The answer to the one before it, in the same packet, is that the broker hangs up."""
    log.create_topic("flights", 1)
    broker = await start()
    async with connected(broker) as client:
        client.send("Produce", 9, producing("flights", {0: b"no batch"}, acks=0))
        client.send(name, BY_NAME[name].served[-1], WORK[name])
        assert await client.ended() == b""
    await is_well(broker)


async def test_a_client_that_goes_behind_a_fetch_that_waits_is_noticed(log: Log, start: Start) -> None:
    """Also when it has asked for something else behind that: found by chance, by a Fetch that waited for minutes."""
    log.create_topic("flights", 1)
    broker = await start()
    async with connected(broker) as client:
        client.send("Fetch", 4, fetching("flights", {0: 0}, max_wait_ms=227_735))
        client.send("DescribeConfigs", 1, DescribeConfigsRequest(resources=[]))
        await until(lambda: broker.node.bell.waiting)
    await until(lambda: not (broker.connections or broker.node.bell.waiting))
    await is_well(broker)


async def test_what_was_sent_with_acks_0_is_kept_when_the_client_goes_at_once(log: Log, start: Start) -> None:
    """It has come whole: that its records are looked through in a thread must not make the difference."""
    partition = log.partition(log.create_topic("flights", 1), 0)
    broker = await start()
    for number in range(20):
        async with connected(broker) as client:
            batch = batch_of(b"packed" * 1000, compression="gzip")
            client.send("Produce", 9, producing("flights", {0: batch}, acks=0))
        await until(lambda number=number: partition.high_watermark == number + 1)  # type: ignore[misc]
    await is_well(broker)
