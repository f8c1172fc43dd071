"""Where records are: offsets by time, epochs of the leader, deleting from the beginning."""

from __future__ import annotations

import pytest

from framework.log import Log, NewRecord, Partition, TopicSettings, encode
from framework.log.broker import Code
from framework.log.broker.table_records import (
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    DeleteRecordsTopic,
    EpochPartition,
    EpochTopic,
    OffsetForLeaderEpochRequest,
)
from tests.log.broker.client import RawClient, batch_of
from tests.log.broker.conftest import Connect, Start

BEFORE_ALL = 0


def append_at(log: Log, partition: Partition, *timestamps: int) -> None:
    """A batch of records stamped so."""
    records = [NewRecord(None, bytes(300), timestamp) for timestamp in timestamps]
    log.append(partition, encode(records, max_batch_bytes=1 << 20)).result(30)


@pytest.fixture
def partition(log: Log) -> Partition:
    """Three segments or more; the times go up and down."""
    partition = log.partition(log.create_topic("flights", 1, TopicSettings(segment_bytes=4096)), 0)
    for timestamps in ((10, 20, 15), (30, 30), (5,), *(((40, 41),) * 12), (35,), (90, 39)):
        append_at(log, partition, *timestamps)
    return partition


@pytest.fixture
async def client(partition: Partition, start: Start, connect: Connect) -> RawClient:
    return await connect(await start())


@pytest.mark.parametrize("version", range(1, 9))
async def test_the_ends_of_a_partition(partition: Partition, client: RawClient, version: int) -> None:
    partition.delete_records(2)
    for stands_for, offset in ((-1, 33), (-2, 2), (-4, 2)):
        found = await client.list_offset("flights", stands_for, version=version)
        assert (found.error_code, found.offset, found.timestamp) == (0, offset, -1)


@pytest.mark.parametrize(
    ("timestamp", "found"),
    [(BEFORE_ALL, (0, 10)), (11, (1, 20)), (20, (1, 20)), (21, (3, 30)), (31, (6, 40)), (42, (31, 90)), (91, (-1, -1))],
)
async def test_the_first_record_of_a_time_or_later(client: RawClient, timestamp: int, found: tuple[int, int]) -> None:
    listed = await client.list_offset("flights", timestamp)
    assert (listed.error_code, listed.offset, listed.timestamp) == (0, *found)
    assert listed.leader_epoch == (0 if found[0] >= 0 else -1)


async def test_the_record_with_the_largest_time(log: Log, partition: Partition, client: RawClient) -> None:
    listed = await client.list_offset("flights", -3)
    assert (listed.offset, listed.timestamp) == (31, 90)
    partition.delete_records(33)
    listed = await client.list_offset("flights", -3)
    assert (listed.error_code, listed.offset, listed.timestamp) == (0, -1, -1)
    append_at(log, partition, 7, 9, 8)
    listed = await client.list_offset("flights", -3)
    assert (listed.offset, listed.timestamp) == (34, 9)


@pytest.mark.parametrize(
    ("topic", "timestamp", "code"),
    [
        ("nowhere", -1, Code.UNKNOWN_TOPIC_OR_PARTITION),
        ("nowhere", 5, Code.UNKNOWN_TOPIC_OR_PARTITION),
        ("flights", -5, Code.INVALID_REQUEST),
    ],
)
async def test_what_has_no_place_is_refused(client: RawClient, topic: str, timestamp: int, code: Code) -> None:
    assert (await client.list_offset(topic, timestamp)).error_code == code


@pytest.mark.parametrize("version", range(2, 5))
async def test_the_epoch_of_the_leader_is_0_for_ever(client: RawClient, version: int) -> None:
    asked = [("flights", 0, -1), ("flights", 1, -1), ("flights", 0, 1), ("nowhere", 0, -1)]
    topics = [
        EpochTopic(name=name, partitions=[EpochPartition(index=0, leader_epoch=epoch, current_leader_epoch=current)])
        for name, epoch, current in asked
    ]
    response = await client.ask("OffsetForLeaderEpoch", version, OffsetForLeaderEpochRequest(topics=topics))
    ends = [topic.partitions[0] for topic in response.topics]
    assert [(Code(end.error_code).name, end.leader_epoch, end.end_offset) for end in ends] == [
        ("NONE", 0, 33),
        ("NONE", -1, -1),
        ("UNKNOWN_LEADER_EPOCH", -1, -1),
        ("UNKNOWN_TOPIC_OR_PARTITION", -1, -1),
    ]


@pytest.mark.parametrize("version", range(3))
async def test_records_are_deleted_from_the_beginning(
    log: Log, partition: Partition, client: RawClient, version: int
) -> None:
    log.create_topic("__control", 1)

    async def deleted(topic: str, offset: int, index: int = 0) -> tuple[str, int]:
        parts = [DeleteRecordsPartition(index=index, offset=offset)]
        body = DeleteRecordsRequest(topics=[DeleteRecordsTopic(name=topic, partitions=parts)], timeout_ms=1)
        [found] = (await client.ask("DeleteRecords", version, body)).topics[0].partitions
        return Code(found.error_code).name, found.log_start_offset

    assert await deleted("flights", 4) == ("NONE", 4)
    assert await deleted("flights", 2) == ("NONE", 4)
    assert await deleted("flights", 34) == ("OFFSET_OUT_OF_RANGE", -1)
    assert await deleted("flights", -2) == ("OFFSET_OUT_OF_RANGE", -1)
    assert await deleted("flights", 0, 1) == ("UNKNOWN_TOPIC_OR_PARTITION", -1)
    assert await deleted("__control", 0) == ("INVALID_TOPIC_EXCEPTION", -1)
    assert await deleted("flights", -1) == ("NONE", 33)
    assert partition.log_start == 33
    assert (await client.produce("flights", batch_of(b"next"))).base_offset == 33
