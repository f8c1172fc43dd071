"""Topics, and the one broker that has them all: Metadata, making and removing topics, sizes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from framework.log.broker import configs
from framework.log.broker.codes import Code, Refusal, code_of
from framework.log.broker.context import Context, Node, is_internal
from framework.log.broker.schema import NO_UUID
from framework.log.broker.table_topics import (
    Broker,
    CreatedPartitions,
    CreatedTopic,
    CreatePartitionsRequest,
    CreatePartitionsResponse,
    CreatePartitionsTopic,
    CreateTopicsRequest,
    CreateTopicsResponse,
    DeletedTopic,
    DeleteTopic,
    DeleteTopicsRequest,
    DeleteTopicsResponse,
    DescribeClusterRequest,
    DescribeClusterResponse,
    DescribedBroker,
    DescribeLogDirsRequest,
    DescribeLogDirsResponse,
    LogDir,
    LogDirPartition,
    LogDirTopic,
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponse,
    NewTopic,
    PartitionMetadata,
    TopicMetadata,
)
from framework.log.catalogue import TopicInfo
from framework.log.errors import Error, InvalidName, InvalidSetting, TopicExists
from framework.log.outside import log_bytes
from framework.log.settings import check_partitions, check_topic_name

AS_USUAL = -1
"""What stands for the usual number of partitions, or of replicas."""
NULL_NAMES_FROM = 12
"""The first version of Metadata that can say that a topic has no name."""


# Metadata.


def metadata(context: Context, version: int, body: MetadataRequest) -> MetadataResponse | Awaitable[MetadataResponse]:
    """Which topics there are; those that are not are made, if the client and the broker want that."""
    node, names = context.node, [key for key in map(_key, body.topics or ()) if isinstance(key, str)]
    topics = node.log.topics()
    missing = [name for name in dict.fromkeys(names) if name not in topics]
    if body.topics is None or (version == 0 and not body.topics):
        return _metadata(node, [_topic_metadata(node, info) for info in topics.values()])
    if missing and body.allow_auto_topic_creation and node.settings.auto_create_topics_enable:
        return _metadata_with(node, version, body.topics, missing)
    return _metadata(node, _asked_topics(node, version, body.topics, {}))


async def _metadata_with(
    node: Node, version: int, asked: Sequence[MetadataRequestTopic], missing: Sequence[str]
) -> MetadataResponse:
    """The metadata of *asked*, after *missing* have been made."""
    failed = await node.in_thread(_make_missing, node, missing)
    return _metadata(node, _asked_topics(node, version, asked, failed))


def _make_missing(node: Node, names: Sequence[str]) -> dict[str, Code]:
    """Make topics; why those are not that were not made."""
    failed = {}
    for number, name in enumerate(names):
        try:
            if number >= node.settings.max_created_topics:
                raise Refusal(Code.LEADER_NOT_AVAILABLE, "the client asks again, and the next ones are made")
            _check_name(name)
            node.log.create_topic(name, node.settings.num_partitions)
        except TopicExists:
            pass  # Somebody else was faster.
        except (Error, OSError) as error:
            failed[name] = code_of(error)
    return failed


def _metadata(node: Node, topics: Sequence[TopicMetadata]) -> MetadataResponse:
    host, port = node.address
    return MetadataResponse(
        brokers=[Broker(node_id=node.settings.broker_id, host=host, port=port)],
        cluster_id=node.cluster_id,
        controller_id=node.settings.broker_id,
        topics=topics,
    )


def _asked_topics(
    node: Node, version: int, asked: Sequence[MetadataRequestTopic], failed: Mapping[str, Code]
) -> list[TopicMetadata]:
    """Each topic once, however often it is asked for: a small request for a large topic would be a huge answer."""
    topics = node.log.topics()
    keys = dict.fromkeys(map(_key, asked))
    by_id = {_id_of(info): info for info in topics.values()} if any(isinstance(key, bytes) for key in keys) else {}
    found = []
    for key in keys:
        name, topic_id = (key, NO_UUID) if isinstance(key, str) else (None, key)
        info = by_id.get(topic_id) if name is None else topics.get(name)
        if info is not None:
            found.append(_topic_metadata(node, info))
        else:
            shown = "" if name is None and version < NULL_NAMES_FROM else name
            found.append(TopicMetadata(error_code=_why_missing(name, failed), name=shown, topic_id=topic_id))
    return found


def _key(asked: MetadataRequestTopic) -> str | bytes:
    """The name of a topic that is asked about, or its id: beside that, Java's client leaves the name empty."""
    if asked.name is None or (not asked.name and asked.topic_id != NO_UUID):
        return asked.topic_id
    return asked.name


def _why_missing(name: str | None, failed: Mapping[str, Code]) -> Code:
    if name is None:
        return Code.UNKNOWN_TOPIC_ID
    try:
        check_topic_name(name)
    except InvalidName as error:
        return code_of(error)
    return failed.get(name, Code.UNKNOWN_TOPIC_OR_PARTITION)


def _topic_metadata(node: Node, info: TopicInfo) -> TopicMetadata:
    me = node.settings.broker_id
    return TopicMetadata(
        name=info.name,
        topic_id=_id_of(info),
        is_internal=is_internal(info.name),
        partitions=[
            PartitionMetadata(index=number, leader_id=me, leader_epoch=0, replica_nodes=[me], isr_nodes=[me])
            for number in range(info.partitions)
        ],
    )


def _id_of(info: TopicInfo) -> bytes:
    return bytes.fromhex(info.id)


def describe_cluster(context: Context, _: int, __: DescribeClusterRequest) -> DescribeClusterResponse:
    """The one broker."""
    node, (host, port) = context.node, context.node.address
    me = node.settings.broker_id
    return DescribeClusterResponse(
        cluster_id=node.cluster_id, controller_id=me, brokers=[DescribedBroker(broker_id=me, host=host, port=port)]
    )


# Making and removing.


def create_topics(context: Context, _: int, body: CreateTopicsRequest) -> Awaitable[CreateTopicsResponse]:
    """Make topics, durably."""
    node = context.node
    counts = Counter(topic.name for topic in body.topics)

    def create() -> CreateTopicsResponse:
        made = [_create(node, topic, counts[topic.name], body) for topic in body.topics]
        return CreateTopicsResponse(topics=list({topic.name: topic for topic in made}.values()))

    return node.in_thread(create)


def _create(node: Node, asked: NewTopic, count: int, body: CreateTopicsRequest) -> CreatedTopic:
    try:
        _check_named_once(asked.name, count)
        _check_number(node, len(body.topics))
        _check_name(asked.name)
        partitions = _partitions_of(node, asked)
        settings = configs.settings_of({each.name: each.value for each in asked.configs}, node.log.defaults)
        if asked.name in node.log.topics():
            raise TopicExists(f"topic {asked.name!r} exists")
        topic_id = NO_UUID
        if not body.validate_only:
            topic_id = _id_of(node.log.create_topic(asked.name, partitions, settings))
    except (Error, OSError) as error:
        return CreatedTopic(name=asked.name, error_code=code_of(error), error_message=str(error))
    return CreatedTopic(
        name=asked.name,
        topic_id=topic_id,
        num_partitions=partitions,
        replication_factor=1,
        configs=configs.created(settings, node.log.defaults),
    )


def _partitions_of(node: Node, asked: NewTopic) -> int:
    """How many partitions a new topic gets.

    Raises:
        Refusal: It cannot be as it is asked for.
    """
    if asked.assignments:
        if asked.num_partitions != AS_USUAL or asked.replication_factor != AS_USUAL:
            raise Refusal(Code.INVALID_REQUEST, "with an assignment, partitions and replication factor must be -1")
        if sorted(each.index for each in asked.assignments) != list(range(len(asked.assignments))):
            raise Refusal(Code.INVALID_REPLICA_ASSIGNMENT, "the partitions are not numbered from 0 on without a gap")
        for each in asked.assignments:
            _check_replicas(node, each.index, each.broker_ids)
        return check_partitions(len(asked.assignments))
    if asked.replication_factor not in (1, AS_USUAL):
        raise Refusal(
            Code.INVALID_REPLICATION_FACTOR,
            f"replication factor is {asked.replication_factor}, but there is one broker: say 1, or -1",
        )
    count = node.settings.num_partitions if asked.num_partitions == AS_USUAL else asked.num_partitions
    return _checked_partitions(count)


def _checked_partitions(count: int) -> int:
    try:
        return check_partitions(count)
    except InvalidSetting as error:
        raise Refusal(Code.INVALID_PARTITIONS, str(error)) from error


def _check_replicas(node: Node, index: int, broker_ids: Sequence[int]) -> None:
    if list(broker_ids) != [node.settings.broker_id]:
        raise Refusal(
            Code.INVALID_REPLICA_ASSIGNMENT,
            f"partition {index} is for brokers {list(broker_ids)}, but there is only {node.settings.broker_id}",
        )


def delete_topics(context: Context, _: int, body: DeleteTopicsRequest) -> Awaitable[DeleteTopicsResponse]:
    """Remove topics and their records."""
    node = context.node
    asked = body.topics or [DeleteTopic(name=name) for name in body.topic_names]
    counts = Counter((topic.name, topic.topic_id) for topic in asked)

    def delete() -> DeleteTopicsResponse:
        gone = {topic: _delete(node, topic, counts[topic.name, topic.topic_id], len(asked)) for topic in asked}
        return DeleteTopicsResponse(topics=list(gone.values()))

    return node.in_thread(delete)


def _delete(node: Node, asked: DeleteTopic, count: int, total: int) -> DeletedTopic:
    name = asked.name
    try:
        _check_named_once(name or asked.topic_id.hex(), count)
        _check_number(node, total)
        if name is not None and asked.topic_id != NO_UUID:
            raise Refusal(Code.INVALID_REQUEST, f"topic {name!r} is asked for by an id, too: say one of both")
        if name is None:
            info = next((info for info in node.log.topics().values() if _id_of(info) == asked.topic_id), None)
            if info is None:
                raise Refusal(Code.UNKNOWN_TOPIC_ID, f"there is no topic of id {asked.topic_id.hex()}")
            name = info.name
        else:
            info = node.log.topic(name)
        if is_internal(name):
            raise Refusal(Code.INVALID_TOPIC_EXCEPTION, f"{name!r} is an internal topic")
        # That one, or none: somebody else may just have made another one of this name.
        node.log.delete_topic(name, topic_id=info.id)
    except (Error, OSError) as error:
        return DeletedTopic(name=name, topic_id=asked.topic_id, error_code=code_of(error), error_message=str(error))
    return DeletedTopic(name=name, topic_id=_id_of(info))


def create_partitions(context: Context, _: int, body: CreatePartitionsRequest) -> Awaitable[CreatePartitionsResponse]:
    """Give topics more partitions."""
    node, counts = context.node, Counter(topic.name for topic in body.topics)

    def create() -> CreatePartitionsResponse:
        made = {
            topic.name: _create_partitions(node, topic, counts[topic.name], validate_only=body.validate_only)
            for topic in body.topics
        }
        return CreatePartitionsResponse(topics=list(made.values()))

    return node.in_thread(create)


def _create_partitions(
    node: Node, asked: CreatePartitionsTopic, count: int, *, validate_only: bool
) -> CreatedPartitions:
    try:
        _check_named_once(asked.name, count)
        if is_internal(asked.name):
            raise Refusal(Code.INVALID_TOPIC_EXCEPTION, f"{asked.name!r} is an internal topic")
        have = node.log.topic(asked.name).partitions
        if asked.count <= have:
            raise Refusal(
                Code.INVALID_PARTITIONS, f"topic {asked.name!r} has {have} partitions, {asked.count} are not more"
            )
        _checked_partitions(asked.count)
        if asked.assignments is not None:
            if len(asked.assignments) != asked.count - have:
                raise Refusal(
                    Code.INVALID_REPLICA_ASSIGNMENT,
                    f"{asked.count - have} partitions are new, {len(asked.assignments)} are assigned",
                )
            for index, each in enumerate(asked.assignments, have):
                _check_replicas(node, index, each.broker_ids)
        if not validate_only:
            node.log.alter_topic(asked.name, partitions=asked.count)
    except (Error, OSError) as error:
        return CreatedPartitions(name=asked.name, error_code=code_of(error), error_message=str(error))
    return CreatedPartitions(name=asked.name)


def _check_named_once(name: str, count: int) -> None:
    if count > 1:
        raise Refusal(Code.INVALID_REQUEST, f"topic {name!r} is named {count} times")


def _check_number(node: Node, count: int) -> None:
    if count > node.settings.max_created_topics:
        limit = node.settings.max_created_topics
        raise Refusal(Code.POLICY_VIOLATION, f"{count} topics in one request, max.created.topics is {limit}")


def _check_name(name: str) -> None:
    check_topic_name(name)
    if is_internal(name):
        raise Refusal(Code.INVALID_TOPIC_EXCEPTION, f"topic name {name!r} is not for clients: it begins with '__'")


# Sizes.


def describe_log_dirs(context: Context, _: int, body: DescribeLogDirsRequest) -> Awaitable[DescribeLogDirsResponse]:
    """How large partitions are on the disk."""
    return context.node.in_thread(_log_dirs, context.node, body)


def _log_dirs(node: Node, body: DescribeLogDirsRequest) -> DescribeLogDirsResponse:
    there = node.log.topics()
    asked: dict[str, Sequence[int]]
    if body.topics is None:
        asked = {name: range(info.partitions) for name, info in there.items()}
    else:
        asked = {topic.name: topic.partitions for topic in body.topics if topic.name in there}
    topics = [
        LogDirTopic(
            name=name,
            partitions=[
                LogDirPartition(
                    index=number, partition_size=log_bytes(node.log.partition(there[name], number).directory)
                )
                for number in sorted(set(numbers))
                if 0 <= number < there[name].partitions
            ],
        )
        for name, numbers in asked.items()
    ]
    disk = os.statvfs(node.log.path)
    total, usable = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
    log_dir = LogDir(log_dir=str(node.log.path), topics=topics, total_bytes=total, usable_bytes=usable)
    return DescribeLogDirsResponse(log_dirs=[log_dir])


HANDLERS: Mapping[str, Callable[[Context, int, Any], Any]] = {
    "Metadata": metadata,
    "DescribeCluster": describe_cluster,
    "CreateTopics": create_topics,
    "DeleteTopics": delete_topics,
    "CreatePartitions": create_partitions,
    "DescribeLogDirs": describe_log_dirs,
}
