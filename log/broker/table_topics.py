"""The table, part four: topics, their settings, and the brokers that have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from framework.log.broker.schema import NO_UUID, Struct, i8, i16, i32, i64, prose, uuid
from framework.log.broker.table_group_admin import NOT_SAID

# Metadata.


class MetadataRequestTopic(Struct):
    """A topic that is asked about, by name or, from version 10 on, by id."""

    topic_id: Annotated[uuid, "10+"] = NO_UUID
    name: Annotated[str | None, "0+ null 10+"] = ""


class MetadataRequest(Struct):
    """Which topics and brokers are there? Topics of null are all; in version 0 none is all."""

    topics: Annotated[Sequence[MetadataRequestTopic] | None, "0+ null 1+"] = ()
    allow_auto_topic_creation: Annotated[bool, "4+"] = True
    include_cluster_authorized_operations: Annotated[bool, "8-10"] = False
    include_topic_authorized_operations: Annotated[bool, "8+"] = False


class Broker(Struct):
    """Where a broker is."""

    node_id: i32
    host: str
    port: i32
    rack: Annotated[str | None, "1+"] = None


class PartitionMetadata(Struct):
    """Who has one partition."""

    error_code: i16 = 0
    index: i32
    leader_id: i32
    leader_epoch: Annotated[i32, "7+"] = -1
    replica_nodes: Sequence[i32]
    isr_nodes: Sequence[i32]
    offline_replicas: Annotated[Sequence[i32], "5+"] = ()


class TopicMetadata(Struct):
    """Who has one topic."""

    error_code: i16 = 0
    name: Annotated[str | None, "0+ null 12+"]
    topic_id: Annotated[uuid, "10+"] = NO_UUID
    is_internal: Annotated[bool, "1+"] = False
    partitions: Sequence[PartitionMetadata] = ()
    topic_authorized_operations: Annotated[i32, "8+"] = NOT_SAID


class MetadataResponse(Struct):
    """The brokers, and who of them has what."""

    throttle_time_ms: Annotated[i32, "3+"] = 0
    brokers: Sequence[Broker]
    cluster_id: Annotated[str | None, "2+"] = None
    controller_id: Annotated[i32, "1+"] = -1
    topics: Sequence[TopicMetadata]
    cluster_authorized_operations: Annotated[i32, "8-10"] = NOT_SAID


class DescribeClusterRequest(Struct):
    """Which brokers are there?"""

    include_cluster_authorized_operations: bool = False
    endpoint_type: Annotated[i8, "1+"] = 1


class DescribedBroker(Struct):
    """Where a broker is."""

    broker_id: i32
    host: str
    port: i32
    rack: str | None = None


class DescribeClusterResponse(Struct):
    """The brokers."""

    throttle_time_ms: i32 = 0
    error_code: i16 = 0
    error_message: prose | None = None
    endpoint_type: Annotated[i8, "1+"] = 1
    cluster_id: str
    controller_id: i32 = -1
    brokers: Sequence[DescribedBroker]
    cluster_authorized_operations: i32 = NOT_SAID


# Making and removing topics.


class ReplicaAssignment(Struct):
    """Who shall have one partition."""

    index: i32
    broker_ids: Sequence[i32]


class NewTopicConfig(Struct):
    """A setting of a new topic."""

    name: str
    value: str | None


class NewTopic(Struct):
    """A topic to make; -1 partitions or replicas are as many as usual."""

    name: str
    num_partitions: i32
    replication_factor: i16
    assignments: Sequence[ReplicaAssignment] = ()
    configs: Sequence[NewTopicConfig] = ()


class CreateTopicsRequest(Struct):
    """Make these topics, or only say whether they could be."""

    topics: Sequence[NewTopic]
    timeout_ms: i32 = 60_000
    validate_only: Annotated[bool, "1+"] = False


class CreatedTopicConfig(Struct):
    """A setting of the topic made; for the source see `ConfigSource` of Kafka: 1 topic, 5 default."""

    name: str
    value: str | None
    read_only: bool = False
    config_source: i8 = -1
    is_sensitive: bool = False


class CreatedTopic(Struct):
    """Whether one was made."""

    name: str
    topic_id: Annotated[uuid, "7+"] = NO_UUID
    error_code: i16 = 0
    error_message: Annotated[prose | None, "1+"] = None
    topic_config_error_code: Annotated[i16, "5+ tag 0"] = 0
    num_partitions: Annotated[i32, "5+"] = -1
    replication_factor: Annotated[i16, "5+"] = -1
    configs: Annotated[Sequence[CreatedTopicConfig] | None, "5+"] = ()


class CreateTopicsResponse(Struct):
    """Whether they were made."""

    throttle_time_ms: Annotated[i32, "2+"] = 0
    topics: Sequence[CreatedTopic]


class DeleteTopic(Struct):
    """A topic to remove, by name or by id."""

    name: str | None = None
    topic_id: uuid = NO_UUID


class DeleteTopicsRequest(Struct):
    """Remove these topics: `topics` from version 6 on, `topic_names` before."""

    topics: Annotated[Sequence[DeleteTopic], "6+"] = ()
    topic_names: Annotated[Sequence[str], "0-5"] = ()
    timeout_ms: i32


class DeletedTopic(Struct):
    """Whether one was removed."""

    name: Annotated[str | None, "0+ null 6+"]
    topic_id: Annotated[uuid, "6+"] = NO_UUID
    error_code: i16 = 0
    error_message: Annotated[prose | None, "5+"] = None


class DeleteTopicsResponse(Struct):
    """Whether they were removed."""

    throttle_time_ms: Annotated[i32, "1+"] = 0
    topics: Sequence[DeletedTopic]


class NewPartitionAssignment(Struct):
    """Who shall have one partition more."""

    broker_ids: Sequence[i32]


class CreatePartitionsTopic(Struct):
    """How many partitions a topic shall have."""

    name: str
    count: i32
    assignments: Sequence[NewPartitionAssignment] | None = None


class CreatePartitionsRequest(Struct):
    """Give these topics more partitions, or only say whether they could have them."""

    topics: Sequence[CreatePartitionsTopic]
    timeout_ms: i32
    validate_only: bool = False


class CreatedPartitions(Struct):
    """Whether a topic has them."""

    name: str
    error_code: i16 = 0
    error_message: prose | None = None


class CreatePartitionsResponse(Struct):
    """Whether the topics have them."""

    throttle_time_ms: i32 = 0
    topics: Sequence[CreatedPartitions]


# Where the files are.


class DescribeLogDirsTopic(Struct):
    """The partitions of one topic that are asked about."""

    name: str
    partitions: Sequence[i32]


class DescribeLogDirsRequest(Struct):
    """How large is what is in the data directories? Topics of null are all."""

    topics: Sequence[DescribeLogDirsTopic] | None = None


class LogDirPartition(Struct):
    """How large one partition is."""

    index: i32
    partition_size: i64
    offset_lag: i64 = 0
    is_future_key: bool = False


class LogDirTopic(Struct):
    """How large one topic is."""

    name: str
    partitions: Sequence[LogDirPartition]


class LogDir(Struct):
    """A data directory, its disk, and what is in it."""

    error_code: i16 = 0
    log_dir: str
    topics: Sequence[LogDirTopic] = ()
    total_bytes: Annotated[i64, "4+"] = -1
    usable_bytes: Annotated[i64, "4+"] = -1


class DescribeLogDirsResponse(Struct):
    """The data directories."""

    throttle_time_ms: i32 = 0
    error_code: Annotated[i16, "3+"] = 0
    log_dirs: Sequence[LogDir]
