"""Offsets of groups over the protocol, with the store that `framework broker` has."""

from __future__ import annotations

from pathlib import Path

import pytest

from framework.broker import serving
from framework.log import Log
from framework.log.broker.settings import BrokerSettings
from framework.log.broker.table_groups import OffsetFetchRequest, OffsetFetchResponse, OffsetFetchTopic
from tests.log.broker.client import connected


@pytest.mark.parametrize("number", [-1, 2, 1 << 30])
async def test_who_asks_for_a_partition_that_there_is_not_is_told_that_nothing_is_committed(
    tmp_path: Path, number: int
) -> None:
    """The store has no place for a number below zero, and once the broker hung up."""
    with Log(tmp_path / "data", create=True) as log:
        log.create_topic("flights", 2)
        async with serving(log, BrokerSettings(port=0)) as broker, connected(broker) as client:
            topics = [OffsetFetchTopic(name="flights", partitions=[0, number])]
            answer = await client.ask("OffsetFetch", 5, OffsetFetchRequest(group_id="readers", topics=topics))
    assert isinstance(answer, OffsetFetchResponse)
    assert [part.committed_offset for part in answer.topics[0].partitions] == [-1, -1]
