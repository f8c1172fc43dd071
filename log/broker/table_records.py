"""The table, part one: writing and reading records, and where in a partition they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from framework.log.broker.schema import NO_UUID, Struct, chunks, i8, i16, i32, i64, prose, records, uuid

# Produce.


class ProducePartition(Struct):
    """The batches for one partition."""

    index: i32
    records: records | None


class ProduceTopic(Struct):
    """The partitions of one topic that are written to."""

    name: Annotated[str, "0-12"]
    topic_id: Annotated[uuid, "13+"] = NO_UUID
    partitions: Sequence[ProducePartition]


class ProduceRequest(Struct):
    """Append these batches; with acks of 0 there is no response."""

    transactional_id: Annotated[str | None, "3+"] = None
    acks: i16
    timeout_ms: i32
    topics: Sequence[ProduceTopic]


class RecordFault(Struct):
    """Which record of a refused batch is at fault."""

    batch_index: i32
    error_message: prose | None = None


class Leader(Struct):
    """Who leads a partition, if the client has it wrong."""

    leader_id: i32 = -1
    leader_epoch: i32 = -1


class ProducedPartition(Struct):
    """What became of the batches of one partition."""

    index: i32
    error_code: i16 = 0
    base_offset: i64 = -1
    log_append_time_ms: Annotated[i64, "2+"] = -1
    log_start_offset: Annotated[i64, "5+"] = -1
    record_errors: Annotated[Sequence[RecordFault], "8+"] = ()
    error_message: Annotated[prose | None, "8+"] = None
    current_leader: Annotated[Leader, "10+ tag 0"] = Leader()


class ProducedTopic(Struct):
    """The partitions of one topic that were written to."""

    name: Annotated[str, "0-12"]
    topic_id: Annotated[uuid, "13+"] = NO_UUID
    partitions: Sequence[ProducedPartition]


class Endpoint(Struct):
    """Where a broker is that was named as a leader."""

    node_id: i32
    host: str
    port: i32
    rack: str | None = None


class ProduceResponse(Struct):
    """Where the batches are, or why not."""

    topics: Sequence[ProducedTopic]
    throttle_time_ms: Annotated[i32, "1+"] = 0
    node_endpoints: Annotated[Sequence[Endpoint], "10+ tag 0"] = ()


# Fetch.


class ReplicaState(Struct):
    """Who asks, if it is a broker."""

    replica_id: i32 = -1
    replica_epoch: i64 = -1


class FetchPartition(Struct):
    """From where to read in one partition, and how much."""

    index: i32
    current_leader_epoch: Annotated[i32, "9+"] = -1
    fetch_offset: i64
    last_fetched_epoch: Annotated[i32, "12+"] = -1
    log_start_offset: Annotated[i64, "5+"] = -1
    partition_max_bytes: i32


class FetchTopic(Struct):
    """The partitions of one topic to read from."""

    name: Annotated[str, "0-12"]
    topic_id: Annotated[uuid, "13+"] = NO_UUID
    partitions: Sequence[FetchPartition]


class ForgottenTopic(Struct):
    """Partitions that the client takes out of its fetch session."""

    name: Annotated[str, "7-12"]
    topic_id: Annotated[uuid, "13+"] = NO_UUID
    partitions: Annotated[Sequence[i32], "7+"]


class FetchRequest(Struct):
    """Give me batches: at least so many bytes, or what there is after so long."""

    cluster_id: Annotated[str | None, "12+ tag 0"] = None
    replica_id: Annotated[i32, "0-14"] = -1
    replica_state: Annotated[ReplicaState, "15+ tag 1"] = ReplicaState()
    max_wait_ms: i32
    min_bytes: i32
    max_bytes: Annotated[i32, "3+"] = 0x7FFFFFFF
    isolation_level: Annotated[i8, "4+"] = 0
    session_id: Annotated[i32, "7+"] = 0
    session_epoch: Annotated[i32, "7+"] = -1
    topics: Sequence[FetchTopic]
    forgotten_topics: Annotated[Sequence[ForgottenTopic], "7+"] = ()
    rack_id: Annotated[str, "11+"] = ""


class DivergingEpoch(Struct):
    """Where the log of a follower leaves the leader's."""

    epoch: i32 = -1
    end_offset: i64 = -1


class SnapshotId(Struct):
    """Which snapshot to read instead."""

    end_offset: i64 = -1
    epoch: i32 = -1


class AbortedTransaction(Struct):
    """Records of this producer from this offset on were taken back."""

    producer_id: i64
    first_offset: i64


class FetchedPartition(Struct):
    """Batches of one partition."""

    index: i32
    error_code: i16 = 0
    high_watermark: i64
    last_stable_offset: Annotated[i64, "4+"] = -1
    log_start_offset: Annotated[i64, "5+"] = -1
    diverging_epoch: Annotated[DivergingEpoch, "12+ tag 0"] = DivergingEpoch()
    current_leader: Annotated[Leader, "12+ tag 1"] = Leader()
    snapshot_id: Annotated[SnapshotId, "12+ tag 2"] = SnapshotId()
    aborted_transactions: Annotated[Sequence[AbortedTransaction] | None, "4+"] = None
    preferred_read_replica: Annotated[i32, "11+"] = -1
    records: chunks | None = ()


class FetchedTopic(Struct):
    """The partitions of one topic that were read from."""

    name: Annotated[str, "0-12"]
    topic_id: Annotated[uuid, "13+"] = NO_UUID
    partitions: Sequence[FetchedPartition]


class FetchResponse(Struct):
    """What there is to read."""

    throttle_time_ms: Annotated[i32, "1+"] = 0
    error_code: Annotated[i16, "7+"] = 0
    session_id: Annotated[i32, "7+"] = 0
    topics: Sequence[FetchedTopic]
    node_endpoints: Annotated[Sequence[Endpoint], "16+ tag 0"] = ()


# ListOffsets.


class ListOffsetsPartition(Struct):
    """The time that is looked for in one partition: -1 the end, -2 the beginning, -3 the latest record."""

    index: i32
    current_leader_epoch: Annotated[i32, "4+"] = -1
    timestamp: i64


class ListOffsetsTopic(Struct):
    """The partitions of one topic to look into."""

    name: str
    partitions: Sequence[ListOffsetsPartition]


class ListOffsetsRequest(Struct):
    """Which offset has which time?"""

    replica_id: i32 = -1
    isolation_level: Annotated[i8, "2+"] = 0
    topics: Sequence[ListOffsetsTopic]


class ListedOffset(Struct):
    """The first record with that time or a later one; -1 where there is none."""

    index: i32
    error_code: i16 = 0
    timestamp: i64 = -1
    offset: i64 = -1
    leader_epoch: Annotated[i32, "4+"] = -1


class ListedTopic(Struct):
    """The partitions of one topic that were looked into."""

    name: str
    partitions: Sequence[ListedOffset]


class ListOffsetsResponse(Struct):
    """The offsets found."""

    throttle_time_ms: Annotated[i32, "2+"] = 0
    topics: Sequence[ListedTopic]


# InitProducerId, OffsetForLeaderEpoch, DeleteRecords.


class InitProducerIdRequest(Struct):
    """Give me an id to number my batches under."""

    transactional_id: str | None = None
    transaction_timeout_ms: i32
    producer_id: Annotated[i64, "3+"] = -1
    producer_epoch: Annotated[i16, "3+"] = -1


class InitProducerIdResponse(Struct):
    """The id and its epoch."""

    throttle_time_ms: i32 = 0
    error_code: i16 = 0
    producer_id: i64 = -1
    producer_epoch: i16 = -1


class EpochPartition(Struct):
    """Which epoch of a leader is asked about."""

    index: i32
    current_leader_epoch: Annotated[i32, "2+"] = -1
    leader_epoch: i32


class EpochTopic(Struct):
    """The partitions of one topic that are asked about."""

    name: str
    partitions: Sequence[EpochPartition]


class OffsetForLeaderEpochRequest(Struct):
    """Where did an epoch of a leader end?"""

    replica_id: Annotated[i32, "3+"] = -2
    topics: Sequence[EpochTopic]


class EpochEnd(Struct):
    """Where the epoch ended."""

    error_code: i16 = 0
    index: i32
    leader_epoch: Annotated[i32, "1+"] = -1
    end_offset: i64 = -1


class EpochEndTopic(Struct):
    """The ends in one topic."""

    name: str
    partitions: Sequence[EpochEnd]


class OffsetForLeaderEpochResponse(Struct):
    """Where the epochs ended."""

    throttle_time_ms: Annotated[i32, "2+"] = 0
    topics: Sequence[EpochEndTopic]


class DeleteRecordsPartition(Struct):
    """Records of one partition before this offset; -1 is the high watermark."""

    index: i32
    offset: i64


class DeleteRecordsTopic(Struct):
    """The partitions of one topic to delete from."""

    name: str
    partitions: Sequence[DeleteRecordsPartition]


class DeleteRecordsRequest(Struct):
    """Delete the records before these offsets."""

    topics: Sequence[DeleteRecordsTopic]
    timeout_ms: i32


class DeletedPartition(Struct):
    """Where one partition begins now; Kafka calls that its low watermark."""

    index: i32
    log_start_offset: i64 = -1
    error_code: i16 = 0


class DeletedRecordsTopic(Struct):
    """The partitions of one topic that were deleted from."""

    name: str
    partitions: Sequence[DeletedPartition]


class DeleteRecordsResponse(Struct):
    """Where the partitions begin now."""

    throttle_time_ms: i32 = 0
    topics: Sequence[DeletedRecordsTopic]
