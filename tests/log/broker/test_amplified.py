"""Small requests that name one thing very often: their answers are as large as if it was named once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from framework.log import Log
from framework.log.broker.codes import Code
from framework.log.broker.table_group_admin import DescribeGroupsRequest
from framework.log.broker.table_groups import OffsetFetchGroup, OffsetFetchRequest, OffsetFetchTopic
from framework.log.broker.table_records import ProducePartition, ProduceRequest, ProduceTopic
from tests.log.broker.client import TIMEOUT_S, RawClient
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
