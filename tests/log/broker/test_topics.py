"""Topics over the protocol: which there are, making, changing and removing them; the broker and its sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from framework.log import Log, TopicSettings
from framework.log.broker import NO_UUID, Code
from framework.log.broker.server import Broker
from framework.log.broker.table_topics import (
    CreatePartitionsRequest,
    CreatePartitionsTopic,
    CreateTopicsRequest,
    DeleteTopic,
    DeleteTopicsRequest,
    DescribeClusterRequest,
    DescribeLogDirsRequest,
    DescribeLogDirsTopic,
    MetadataRequest,
    MetadataRequestTopic,
    NewPartitionAssignment,
    NewTopic,
    NewTopicConfig,
    ReplicaAssignment,
)
from tests.log.broker.client import RawClient, batch_of, connected
from tests.log.broker.conftest import Connect, Start


@pytest.fixture
async def broker(log: Log, start: Start) -> Broker:
    """Of a log with the topic `flights`, of two partitions, and an internal one."""
    log.create_topic("flights", 2)
    log.create_topic("__control", 1)
    return await start(num_partitions=3, max_created_topics=5)


@pytest.fixture
async def client(broker: Broker, connect: Connect) -> RawClient:
    return await connect(broker)


async def metadata(client: RawClient, *names: str, version: int = 12, create: bool = False) -> dict[str, Any]:
    """The metadata of the topics *names*."""
    topics = [MetadataRequestTopic(name=name) for name in names]
    body = MetadataRequest(topics=topics, allow_auto_topic_creation=create)
    return {topic.name: topic for topic in (await client.ask("Metadata", version, body)).topics}


# Metadata.


@pytest.mark.parametrize("version", range(13))
async def test_metadata_names_the_one_broker_and_all_topics(
    broker: Broker, client: RawClient, log: Log, version: int
) -> None:
    response = await client.ask("Metadata", version, MetadataRequest(topics=None if version else ()))
    assert [(each.node_id, each.host, each.port) for each in response.brokers] == [(1, *broker.address)]
    assert response.controller_id == (1 if version >= 1 else -1)
    topics = {topic.name: topic for topic in response.topics}
    assert set(topics) == {"flights", "__control"}
    parts = [(p.index, p.leader_id, list(p.replica_nodes), list(p.isr_nodes)) for p in topics["flights"].partitions]
    assert parts == [(0, 1, [1], [1]), (1, 1, [1], [1])]
    if version >= 1:
        assert [topics[name].is_internal for name in ("flights", "__control")] == [False, True]
    if version >= 10:
        assert topics["flights"].topic_id.hex() == log.topic("flights").id


async def test_no_topics_are_asked_for_by_none(client: RawClient) -> None:
    assert (await client.ask("Metadata", 1, MetadataRequest(topics=()))).topics == ()


async def test_a_topic_is_made_when_it_is_asked_for(log: Log, client: RawClient) -> None:
    found = await metadata(client, "new", "flights", create=True)
    assert [len(found[name].partitions) for name in ("new", "flights")] == [3, 2]
    assert log.topic("new").partitions == 3
    assert (await client.produce("new", batch_of(b"x"), 2)).base_offset == 0


async def test_a_topic_is_not_made_when_the_client_or_the_broker_does_not_want_it(
    log: Log, start: Start, connect: Connect, client: RawClient, open_log: Any, tmp_path: Any
) -> None:
    assert (await metadata(client, "new"))["new"].error_code == Code.UNKNOWN_TOPIC_OR_PARTITION
    strict = await connect(await start(open_log(tmp_path / "other"), auto_create_topics_enable=False))
    assert (await metadata(strict, "new", create=True))["new"].error_code == Code.UNKNOWN_TOPIC_OR_PARTITION
    assert "new" not in log.topics()


async def test_names_that_no_topic_may_have_make_none(log: Log, client: RawClient) -> None:
    found = await metadata(client, "no/slash", "", "__mine", create=True)
    assert {topic.error_code for topic in found.values()} == {Code.INVALID_TOPIC_EXCEPTION}
    assert set(log.topics()) == {"flights", "__control"}


async def test_one_request_makes_so_many_topics_and_not_more(log: Log, client: RawClient) -> None:
    names = [f"new-{number}" for number in range(7)]
    found = await metadata(client, *names, create=True)
    assert [found[name].error_code for name in names] == [0] * 5 + [Code.LEADER_NOT_AVAILABLE] * 2
    found = await metadata(client, *names, create=True)
    assert [found[name].error_code for name in names] == [0] * 7


@pytest.mark.parametrize("name", [None, ""])
@pytest.mark.parametrize(("version", "nameless"), [(10, ""), (11, ""), (12, None)])
async def test_a_topic_is_found_by_its_id(
    log: Log, client: RawClient, version: int, nameless: str | None, name: str | None
) -> None:
    """In the versions that ask by id, of which the first cannot answer that a topic has no name.

    Java's client leaves the name empty, and does not mean a topic of no name.
    """
    ids = [bytes.fromhex(log.topic("flights").id), b"?" * 16]
    topics = [MetadataRequestTopic(topic_id=topic_id, name=name) for topic_id in ids]
    response = await client.ask("Metadata", version, MetadataRequest(topics=topics))
    assert [(t.name, t.topic_id, t.error_code) for t in response.topics] == [
        ("flights", ids[0], 0),
        (nameless, ids[1], Code.UNKNOWN_TOPIC_ID),
    ]


async def test_a_topic_is_told_of_once_however_often_it_is_asked_for(log: Log, client: RawClient) -> None:
    topics = [MetadataRequestTopic(name="flights", topic_id=b"%016d" % number) for number in range(50_000)]
    response = await client.ask("Metadata", 12, MetadataRequest(topics=topics))
    assert [topic.name for topic in response.topics] == ["flights"]


async def test_the_cluster_keeps_its_id(log: Log, start: Start) -> None:
    seen = set()
    for _ in range(2):
        broker = await start()
        async with connected(broker) as client:
            for version in (0, 1):
                described = await client.ask("DescribeCluster", version, DescribeClusterRequest())
                assert [(b.broker_id, b.host, b.port) for b in described.brokers] == [(1, *broker.address)]
                assert described.controller_id == 1
                seen.add(described.cluster_id)
            seen.add((await client.ask("Metadata", 12, MetadataRequest(topics=()))).cluster_id)
        await broker.__aexit__(None, None, None)
    assert len(seen) == 1
    assert len(seen.pop()) == 22


# Making.


async def created(client: RawClient, *topics: NewTopic, version: int = 7, **options: Any) -> list[Any]:
    """What became of *topics*."""
    response = await client.ask("CreateTopics", version, CreateTopicsRequest(topics=topics, **options))
    return list(response.topics)


@pytest.mark.parametrize("version", range(8))
async def test_topics_are_made_as_they_are_asked_for(log: Log, client: RawClient, version: int) -> None:
    configs = [NewTopicConfig(name="retention.ms", value="1000"), NewTopicConfig(name="segment.bytes", value=None)]
    [made] = await created(
        client, NewTopic(name="new", num_partitions=2, replication_factor=1, configs=configs), version=version
    )
    assert made.error_code == 0
    info = log.topic("new")
    assert (info.partitions, info.settings) == (2, TopicSettings(retention_ms=1000))
    if version >= 5:
        assert (made.num_partitions, made.replication_factor) == (2, 1)
        own = [(c.name, c.value, c.config_source) for c in made.configs if c.config_source == 1]
        assert own == [("retention.ms", "1000", 1)]
    if version >= 7:
        assert made.topic_id.hex() == info.id


async def test_what_is_not_said_is_as_usual(log: Log, client: RawClient) -> None:
    assignments = [ReplicaAssignment(index=index, broker_ids=[1]) for index in (1, 0)]
    made = await created(
        client,
        NewTopic(name="usual", num_partitions=-1, replication_factor=-1),
        NewTopic(name="assigned", num_partitions=-1, replication_factor=-1, assignments=assignments),
    )
    assert [(each.error_code, each.num_partitions) for each in made] == [(0, 3), (0, 2)]


async def test_a_topic_can_be_tried_without_being_made(log: Log, client: RawClient) -> None:
    good = NewTopic(name="new", num_partitions=4, replication_factor=1)
    bad = NewTopic(name="bad", num_partitions=0, replication_factor=1)
    tried = await created(client, good, bad, validate_only=True)
    assert [(each.error_code, each.topic_id) for each in tried] == [(0, NO_UUID), (Code.INVALID_PARTITIONS, NO_UUID)]
    assert "new" not in log.topics()


def new(name: str = "new", partitions: int = 1, replicas: int = 1, **options: Any) -> NewTopic:
    """A topic to make."""
    configs = [NewTopicConfig(name=key, value=value) for key, value in options.pop("configs", {}).items()]
    return NewTopic(name=name, num_partitions=partitions, replication_factor=replicas, configs=configs, **options)


def assigned(*brokers: Sequence[int], first: int = 0, **options: Any) -> NewTopic:
    """A topic to make with its partitions on these brokers."""
    assignments = [ReplicaAssignment(index=index, broker_ids=each) for index, each in enumerate(brokers, first)]
    return new(partitions=-1, assignments=assignments, **{"replicas": -1, **options})


@pytest.mark.parametrize(
    ("topic", "code", "text"),
    [
        (new("flights"), Code.TOPIC_ALREADY_EXISTS, "exists"),
        (new("no/slash"), Code.INVALID_TOPIC_EXCEPTION, "only letters"),
        (new("__mine"), Code.INVALID_TOPIC_EXCEPTION, "begins with '__'"),
        (new(partitions=0), Code.INVALID_PARTITIONS, "between 1 and"),
        (new(partitions=10_001), Code.INVALID_PARTITIONS, "between 1 and 10000"),
        (new(replicas=3), Code.INVALID_REPLICATION_FACTOR, "replication factor is 3, but there is one broker"),
        (new(configs={"retention.m": "1"}), Code.INVALID_CONFIG, "retention.m"),
        (new(configs={"retention.ms": "soon"}), Code.INVALID_CONFIG, "whole number"),
        (new(configs={"segment.bytes": "1"}), Code.INVALID_CONFIG, "between 4096"),
        (new(configs={"min.insync.replicas": "2"}), Code.INVALID_CONFIG, "can only be '1'"),
        (assigned([1], [2]), Code.INVALID_REPLICA_ASSIGNMENT, "there is only 1"),
        (assigned([1], first=1), Code.INVALID_REPLICA_ASSIGNMENT, "without a gap"),
        (assigned([1], replicas=1), Code.INVALID_REQUEST, "must be -1"),
    ],
)
async def test_what_cannot_be_made_is_refused_with_the_reason(
    log: Log, client: RawClient, topic: NewTopic, code: Code, text: str
) -> None:
    [made] = await created(client, topic)
    assert Code(made.error_code) == code
    assert text in made.error_message
    assert set(log.topics()) == {"flights", "__control"}


async def test_kafkas_settings_may_be_what_they_are(client: RawClient) -> None:
    topic = new(configs={"min.insync.replicas": "1", "message.timestamp.type": "CreateTime"})
    assert (await created(client, topic))[0].error_code == 0


async def test_a_topic_named_twice_is_refused(log: Log, client: RawClient) -> None:
    made = await created(client, new("twice"), new("twice"), new("once"))
    assert {each.name: Code(each.error_code).name for each in made} == {"twice": "INVALID_REQUEST", "once": "NONE"}


async def test_a_request_for_too_many_topics_makes_none(log: Log, client: RawClient) -> None:
    made = await created(client, *(new(f"new-{number}") for number in range(6)))
    assert {each.error_code for each in made} == {Code.POLICY_VIOLATION}


@pytest.mark.parametrize("version", range(4))
async def test_partitions_are_added(log: Log, client: RawClient, version: int) -> None:
    async def added(name: str, count: int, *brokers: list[int], validate_only: bool = False) -> str:
        given = [NewPartitionAssignment(broker_ids=each) for each in brokers] or None
        topics = [CreatePartitionsTopic(name=name, count=count, assignments=given)]
        body = CreatePartitionsRequest(topics=topics, timeout_ms=1, validate_only=validate_only)
        [found] = (await client.ask("CreatePartitions", version, body)).topics
        assert found.name == name
        return Code(found.error_code).name

    assert await added("flights", 4, validate_only=True) == "NONE"
    assert log.topic("flights").partitions == 2
    assert await added("flights", 4) == "NONE"
    assert await added("flights", 5, [1]) == "NONE"
    assert log.topic("flights").partitions == 5
    assert await added("flights", 5) == "INVALID_PARTITIONS"
    assert await added("flights", 10_001) == "INVALID_PARTITIONS"
    assert await added("flights", 6, [2]) == "INVALID_REPLICA_ASSIGNMENT"
    assert await added("flights", 6, [1], [1]) == "INVALID_REPLICA_ASSIGNMENT"
    assert await added("nowhere", 2) == "UNKNOWN_TOPIC_OR_PARTITION"
    assert await added("__control", 2) == "INVALID_TOPIC_EXCEPTION"
    assert (await client.produce("flights", batch_of(b"x"), 4)).base_offset == 0


# Removing.


@pytest.mark.parametrize("version", range(7))
async def test_topics_are_removed_by_name(log: Log, client: RawClient, version: int) -> None:
    names = ["flights", "nowhere", "__control"]
    body = DeleteTopicsRequest(topic_names=names, topics=[DeleteTopic(name=name) for name in names], timeout_ms=1)
    response = await client.ask("DeleteTopics", version, body)
    assert {each.name: Code(each.error_code).name for each in response.topics} == {
        "flights": "NONE",
        "nowhere": "UNKNOWN_TOPIC_OR_PARTITION",
        "__control": "INVALID_TOPIC_EXCEPTION",
    }
    assert set(log.topics()) == {"__control"}
    assert (await client.produce("flights", batch_of(b"x"))).error_code == Code.UNKNOWN_TOPIC_OR_PARTITION


async def test_topics_are_removed_by_id(log: Log, client: RawClient) -> None:
    ids = [bytes.fromhex(log.topic("flights").id), b"?" * 16]
    body = DeleteTopicsRequest(topics=[DeleteTopic(topic_id=each) for each in ids], timeout_ms=1)
    response = await client.ask("DeleteTopics", 6, body)
    assert [(each.name, Code(each.error_code).name) for each in response.topics] == [
        ("flights", "NONE"),
        (None, "UNKNOWN_TOPIC_ID"),
    ]


async def test_a_topic_that_is_asked_for_by_name_and_by_an_id_stays(log: Log, client: RawClient) -> None:
    """The two may be different topics, and only one of them is to go."""
    body = DeleteTopicsRequest(topics=[DeleteTopic(name="flights", topic_id=b"?" * 16)], timeout_ms=1)
    [gone] = (await client.ask("DeleteTopics", 6, body)).topics
    assert Code(gone.error_code) == Code.INVALID_REQUEST
    assert "flights" in log.topics()


async def test_a_name_can_be_used_again(log: Log, client: RawClient) -> None:
    assert (await client.produce("flights", batch_of(b"old"))).base_offset == 0
    await client.fetch("flights", 0)
    log.delete_topic("flights")
    assert (await created(client, new("flights")))[0].error_code == 0
    assert Code((await client.fetch("flights", 1)).error_code) == Code.OFFSET_OUT_OF_RANGE
    assert (await client.produce("flights", batch_of(b"new"))).base_offset == 0
    assert (await client.fetch("flights", 0)).high_watermark == 1


# Sizes.


@pytest.mark.parametrize("version", range(1, 5))
async def test_sizes_of_partitions(log: Log, client: RawClient, version: int) -> None:
    batch = batch_of(bytes(1000))
    await client.produce("flights", batch, 1)
    asked = [
        DescribeLogDirsTopic(name="flights", partitions=[1, 9]),
        DescribeLogDirsTopic(name="nowhere", partitions=[0]),
    ]
    for topics in (asked, None):
        response = await client.ask("DescribeLogDirs", version, DescribeLogDirsRequest(topics=topics))
        [log_dir] = response.log_dirs
        assert log_dir.log_dir == str(log.path)
        sizes = {(topic.name, part.index): part.partition_size for topic in log_dir.topics for part in topic.partitions}
        assert sizes["flights", 1] == len(batch)
        assert len(sizes) == (1 if topics else 3)
        if version >= 4:
            assert 0 < log_dir.usable_bytes < log_dir.total_bytes
