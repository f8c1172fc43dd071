"""Small requests that name one thing very often: they cost as much as if it was named once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from framework.log import Log
from framework.log.broker.codes import Code
from framework.log.broker.table_configs import (
    IncrementalAlterConfigsRequest,
    IncrementalConfig,
    IncrementalResource,
)
from framework.log.broker.table_group_admin import DescribeGroupsRequest
from framework.log.broker.table_groups import OffsetFetchGroup, OffsetFetchRequest, OffsetFetchTopic
from framework.log.broker.table_records import (
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    DeleteRecordsTopic,
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsTopic,
    ProducePartition,
    ProduceRequest,
    ProduceTopic,
)
from tests.log.broker.client import TIMEOUT_S, RawClient, batch_of
from tests.log.broker.conftest import Connect, Start
from tests.log.broker.office import Office, StillClock

OFTEN = 5_000


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    """Handlers of groups, one of which has a member and an offset with much metadata."""
    clock = StillClock()
    with Log(tmp_path / "data", create=True, clock=clock) as log:
        yield Office(log, clock)


async def test_a_group_is_described_once(office: Office) -> None:
    await office.member()
    groups = (await office.ask(DescribeGroupsRequest(groups=["readers", "none"] * OFTEN))).groups
    assert [group.group_id for group in groups] == ["readers", "none"]


@pytest.mark.parametrize("version", [1, 7, 8])
async def test_an_offset_is_fetched_once(office: Office, version: int) -> None:
    await office.codes(("flights", 0, 3), metadata="x" * 4_000)
    topics = [OffsetFetchTopic(name=name, partitions=[0] * OFTEN + [1]) for name in ("flights", "gates") * 2]
    if version < 8:
        answer = await office.ask(OffsetFetchRequest(group_id="readers", topics=topics), version)
    else:
        groups = [OffsetFetchGroup(group_id="readers", topics=each) for each in (topics, None, topics)]
        [answer] = (await office.ask(OffsetFetchRequest(groups=groups), version)).groups
    found = {(topic.name, part.index): part.committed_offset for topic in answer.topics for part in topic.partitions}
    assert sum(len(topic.partitions) for topic in answer.topics) == len(found)
    assert found == {("flights", 0): 3, ("flights", 1): -1, ("gates", 0): -1, ("gates", 1): -1}


async def test_what_is_refused_often_is_explained_a_few_times(start: Start, connect: Connect) -> None:
    """With the name of a topic in each text, a request of a megabyte was answered with a gigabyte."""
    client: RawClient = await connect(await start())
    parts = [ProducePartition(index=index, records=b"") for index in range(OFTEN)]
    topic = ProduceTopic(name="n" * 30_000, partitions=parts)
    response = await client.ask("Produce", 9, ProduceRequest(acks=-1, timeout_ms=TIMEOUT_S, topics=[topic]))
    [produced] = response.topics
    assert {part.error_code for part in produced.partitions} == {Code.UNKNOWN_TOPIC_OR_PARTITION}
    assert [part.index for part in produced.partitions] == list(range(OFTEN))
    texts = [part.error_message for part in produced.partitions if part.error_message is not None]
    assert 0 < len(texts) <= 100
    assert texts[0].startswith("there is no topic 'nnn")


async def test_settings_that_are_altered_twice_in_a_request_are_refused(
    log: Log, start: Start, connect: Connect
) -> None:
    """As Kafka does; each change is a write of the catalogue, and there could be a hundred thousand."""
    before = log.create_topic("flights", 1)
    client = await connect(await start())
    configs = [IncrementalConfig(name="retention.ms", config_operation=0, value="1")]
    resources = [IncrementalResource(resource_type=2, resource_name=name, configs=configs) for name in ["flights"] * 3]
    body = IncrementalAlterConfigsRequest(resources=resources)
    [altered] = (await client.ask("IncrementalAlterConfigs", 1, body)).resources
    assert Code(altered.error_code) == Code.INVALID_REQUEST
    assert log.topic("flights").settings == before.settings


async def test_an_offset_that_is_asked_for_twice_in_a_request_is_refused(
    log: Log, start: Start, connect: Connect
) -> None:
    """As Kafka does; each may be looked for on the disk."""
    log.create_topic("flights", 2)
    client = await connect(await start())
    parts = [ListOffsetsPartition(index=index, timestamp=at) for index, at in ((0, 5), (1, 5), (0, 6), (0, 5))]
    topics = [
        ListOffsetsTopic(name="flights", partitions=parts),
        ListOffsetsTopic(name="flights", partitions=parts[:1]),
    ]
    listed = (await client.ask("ListOffsets", 8, ListOffsetsRequest(topics=topics))).topics
    codes = [(part.index, Code(part.error_code)) for topic in listed for part in topic.partitions]
    assert codes == [(0, Code.INVALID_REQUEST), (1, Code.NONE)]


async def test_records_that_are_deleted_twice_in_a_request_are_deleted_once(
    log: Log, start: Start, connect: Connect
) -> None:
    """As Kafka does, the last one counts."""
    partition = log.partition(log.create_topic("flights", 1), 0)
    log.append(partition, [batch_of(b"a", b"b", b"c")]).result(TIMEOUT_S)
    client = await connect(await start())
    parts = [DeleteRecordsPartition(index=0, offset=offset) for offset in (3, 1)]
    topics = [DeleteRecordsTopic(name="flights", partitions=parts)]
    deleted = (await client.ask("DeleteRecords", 2, DeleteRecordsRequest(topics=topics, timeout_ms=1))).topics
    assert [(part.index, part.log_start_offset) for topic in deleted for part in topic.partitions] == [(0, 1)]
