"""Where records are and are not: ListOffsets, OffsetForLeaderEpoch and DeleteRecords; and all handlers of records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from framework.log.broker.codes import Code, Refusal, code_of
from framework.log.broker.context import Context, Node, is_internal
from framework.log.broker.fetch import check_epoch, fetch
from framework.log.broker.produce import init_producer_id, produce
from framework.log.broker.table_records import (
    DeletedPartition,
    DeletedRecordsTopic,
    DeleteRecordsRequest,
    DeleteRecordsResponse,
    EpochEnd,
    EpochEndTopic,
    EpochPartition,
    ListedOffset,
    ListedTopic,
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsResponse,
    OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
)
from framework.log.codec import decode
from framework.log.cursor import first_record_at
from framework.log.errors import Error
from framework.log.partition import Partition

LATEST, EARLIEST, MAX_TIMESTAMP, EARLIEST_LOCAL = -1, -2, -3, -4
"""What stands for a place in ListOffsets, where else there is a time; nothing here lies elsewhere than on this disk."""
HIGH_WATERMARK = -1
"""What stands for it in DeleteRecords."""


def list_offsets(
    context: Context, _: int, body: ListOffsetsRequest
) -> ListOffsetsResponse | Awaitable[ListOffsetsResponse]:
    """The ends of partitions at once; looking for a time takes reading."""
    node = context.node
    if all(part.timestamp in (LATEST, EARLIEST, EARLIEST_LOCAL) for topic in body.topics for part in topic.partitions):
        return _listed(node, body)
    return node.in_thread(_listed, node, body)


def _listed(node: Node, body: ListOffsetsRequest) -> ListOffsetsResponse:
    counts = Counter((topic.name, part.index) for topic in body.topics for part in topic.partitions)
    once = {(topic.name, part.index): part for topic in body.topics for part in topic.partitions}
    found: dict[str, list[ListedOffset]] = {topic.name: [] for topic in body.topics}
    for (topic, index), part in once.items():
        twice = counts[topic, index] > 1
        found[topic].append(
            ListedOffset(index=index, error_code=Code.INVALID_REQUEST) if twice else _listed_offset(node, topic, part)
        )
    return ListOffsetsResponse(topics=[ListedTopic(name=name, partitions=parts) for name, parts in found.items()])


def _listed_offset(node: Node, topic: str, asked: ListOffsetsPartition) -> ListedOffset:
    try:
        partition = node.log.partition(node.log.topic(topic), asked.index)
        check_epoch(asked.current_leader_epoch)
        found = _find(node, partition, asked.timestamp)
    except (Error, OSError) as error:
        return ListedOffset(index=asked.index, error_code=code_of(error))
    if found is None:
        return ListedOffset(index=asked.index)
    return ListedOffset(index=asked.index, offset=found[0], timestamp=found[1], leader_epoch=0)


def _find(node: Node, partition: Partition, timestamp: int) -> tuple[int, int] | None:
    """Offset and timestamp of what *timestamp* stands for; an end of the partition has no timestamp."""
    partition.check_exists()
    if timestamp == LATEST:
        return partition.high_watermark, -1
    if timestamp in (EARLIEST, EARLIEST_LOCAL):
        return partition.log_start, -1
    end = partition.high_watermark
    if timestamp == MAX_TIMESTAMP:
        return _last_in_time(node, partition, end)
    if timestamp < 0:
        raise Refusal(Code.INVALID_REQUEST, f"{timestamp} stands for no place in a partition")
    return first_record_at(node.log.reader, partition, timestamp, end)


def _last_in_time(node: Node, partition: Partition, end: int) -> tuple[int, int] | None:
    """The first of the records with the largest timestamp."""
    if partition.log_start >= end:
        return None
    # The headers of the segment that is appended to are only known once somebody has walked them.
    reader = node.log.reader(partition, end - 1)
    try:
        last = reader.read().batches
    finally:
        reader.close()
    largest = max([header.max_timestamp for header, _ in last] + [each.max_timestamp for each in partition.segments()])
    found = first_record_at(node.log.reader, partition, largest, end)
    # It may be of a record before the log start, or of one that cannot be read yet.
    return found or first_record_at(node.log.reader, partition, max(_times(node, partition, end), default=-1), end)


def _times(node: Node, partition: Partition, end: int) -> Iterator[int]:
    """The largest timestamp of each batch below *end*."""
    start = partition.log_start
    reader = node.log.reader(partition, start)
    try:
        while reader.offset < end:
            for header, batch in reader.read().batches:
                if start <= header.base_offset and header.next_offset <= end:
                    yield header.max_timestamp
                else:
                    records = decode(batch, partition.topic.settings.most_uncompressed_bytes)
                    yield from (record.timestamp for record in records if start <= record.offset < end)
    finally:
        reader.close()


def offset_for_leader_epoch(
    context: Context, _: int, body: OffsetForLeaderEpochRequest
) -> OffsetForLeaderEpochResponse:
    """Where an epoch ended: that of this broker is 0, and has not."""
    topics = [
        EpochEndTopic(
            name=topic.name, partitions=[_epoch_end(context.node, topic.name, part) for part in topic.partitions]
        )
        for topic in body.topics
    ]
    return OffsetForLeaderEpochResponse(topics=topics)


def _epoch_end(node: Node, topic: str, asked: EpochPartition) -> EpochEnd:
    try:
        partition = node.log.partition(node.log.topic(topic), asked.index)
        check_epoch(asked.current_leader_epoch)
        partition.check_exists()
    except (Error, OSError) as error:
        return EpochEnd(index=asked.index, error_code=code_of(error))
    if asked.leader_epoch != 0:
        return EpochEnd(index=asked.index)
    return EpochEnd(index=asked.index, leader_epoch=0, end_offset=partition.high_watermark)


def delete_records(context: Context, _: int, body: DeleteRecordsRequest) -> Awaitable[DeleteRecordsResponse]:
    """Move the starts of partitions up; which is durable when it is answered."""
    return context.node.in_thread(_delete_records, context.node, body)


def _delete_records(node: Node, body: DeleteRecordsRequest) -> DeleteRecordsResponse:
    once = {(topic.name, part.index): part.offset for topic in body.topics for part in topic.partitions}
    gone: dict[str, list[DeletedPartition]] = {topic.name: [] for topic in body.topics}
    for (topic, index), offset in once.items():
        gone[topic].append(_deleted(node, topic, index, offset))
    return DeleteRecordsResponse(
        topics=[DeletedRecordsTopic(name=name, partitions=parts) for name, parts in gone.items()]
    )


def _deleted(node: Node, topic: str, index: int, before: int) -> DeletedPartition:
    try:
        if is_internal(topic):
            raise Refusal(Code.INVALID_TOPIC_EXCEPTION, f"{topic!r} is an internal topic, which clients only read")
        partition = node.log.partition(node.log.topic(topic), index)
        before = partition.high_watermark if before == HIGH_WATERMARK else before
        if before < 0:
            raise Refusal(Code.OFFSET_OUT_OF_RANGE, f"{before} is no offset")
        return DeletedPartition(index=index, log_start_offset=partition.delete_records(before))
    except (Error, OSError) as error:
        return DeletedPartition(index=index, error_code=code_of(error))


HANDLERS: Mapping[str, Callable[[Context, int, Any], Any]] = {
    "Produce": produce,
    "Fetch": fetch,
    "ListOffsets": list_offsets,
    "InitProducerId": init_producer_id,
    "OffsetForLeaderEpoch": offset_for_leader_epoch,
    "DeleteRecords": delete_records,
}
